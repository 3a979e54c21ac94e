// One thread for a pixel.
#include "core/parallel.h"
#include "math/blend.h"
#include "ops/sigmoid_alpha_blend/kernels.h"

namespace recon {

template <class T>
struct BlendPixel {
  SigmoidAlphaBlend<T> p;
  bool backward;

  RECON_HD void operator()(int64_t pixel) const {
    if (backward) {
      const T scale = p.grad_clear[pixel] * clear_dist_gradient(p.clear[pixel], T(1), p.sigma);
      for (int64_t at = pixel * p.K; at < (pixel + 1) * p.K; ++at) {
        const bool is_face = scale != T(0) && p.pix_to_face[at] >= 0;
        p.grad_dists[at] = is_face ? scale * coverage(p.dists[at], p.sigma) : T(0);
      }
      return;
    }
    T clear(1);
    for (int64_t at = pixel * p.K; at < (pixel + 1) * p.K; ++at)
      if (p.pix_to_face[at] >= 0) clear *= T(1) - coverage(p.dists[at], p.sigma);
    p.clear[pixel] = clear;
  }
};

template <class T>
void sigmoid_alpha_blend_cuda(const SigmoidAlphaBlend<T>& p, int64_t pixels, bool backward, const Device& device) {
  parallel_for(device, pixels, BlendPixel<T>{p, backward});
}

template void sigmoid_alpha_blend_cuda(const SigmoidAlphaBlend<float>&, int64_t, bool, const Device&);
template void sigmoid_alpha_blend_cuda(const SigmoidAlphaBlend<double>&, int64_t, bool, const Device&);

}  // namespace recon
