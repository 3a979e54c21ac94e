// sigmoid_alpha_blend: how much of the background each pixel shows, from the signed distances of the K faces that may
// cover it.
//
//   p_k = 1 / (1 + exp(dist_k / sigma))      clear = prod_k (1 - p_k)      d clear / d dist_k = clear p_k / sigma
//
// The opacity is 1 - clear; the kernels keep `clear`, which does not lose its digits where the opacity is near one.
#include "core/op.h"
#include "core/parallel.h"
#include "ops/sigmoid_alpha_blend/kernels.h"

namespace recon {

namespace {

template <class T>
void run(const SigmoidAlphaBlend<T>& p, int64_t pixels, bool backward, const Device& device) {
  if (device.cuda) {
#ifdef RECON_CUDA
    sigmoid_alpha_blend_cuda(p, pixels, backward, device);
#endif
    return;
  }
  const int64_t grain = 1 + 20000 / (p.K + 1);
  for_each_range(pixels, grain, [&](int64_t begin, int64_t end) {
    if (backward)
      RECON_SIMD_CALL(sigmoid_alpha_blend_backward_range, p, begin, end);
    else
      RECON_SIMD_CALL(sigmoid_alpha_blend_range, p, begin, end);
  });
}

}  // namespace

void sigmoid_alpha_blend(Tensor dists, Tensor pix_to_face, double sigma, Tensor clear) {
  dispatch_float(dists.dtype, [&](auto zero) {
    using T = decltype(zero);
    run<T>({dists.packed<T>(), pix_to_face.packed<int64_t>(), static_cast<T>(sigma), clear.packed<T>(), nullptr,
            nullptr, dists.shape[3]},
           clear.numel(), false, dists.device);
  });
}
RECON_OP(sigmoid_alpha_blend, "dists: N H W K, pix_to_face: i64 N H W K, sigma: real>0, clear: N H W");

void sigmoid_alpha_blend_backward(Tensor dists, Tensor pix_to_face, double sigma, Tensor clear, Tensor grad_clear,
                                  Tensor grad_dists) {
  dispatch_float(dists.dtype, [&](auto zero) {
    using T = decltype(zero);
    run<T>({dists.packed<T>(), pix_to_face.packed<int64_t>(), static_cast<T>(sigma), clear.packed<T>(),
            grad_clear.packed<T>(), grad_dists.packed<T>(), dists.shape[3]},
           clear.numel(), true, dists.device);
  });
}
RECON_OP(sigmoid_alpha_blend_backward,
         "dists: N H W K, pix_to_face: i64 N H W K, sigma: real>0, clear: N H W, grad_clear: N H W, "
         "grad_dists: N H W K");

}  // namespace recon
