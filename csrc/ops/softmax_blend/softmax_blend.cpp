// softmax_blend: the colour of each pixel from the K faces near it, weighted by closeness to the pixel and the camera.
//
//   p_k = 1 / (1 + exp(dist_k / sigma))             0 where there is no face
//   z_k = (far - zbuf_k) / (far - near)             0 where there is no face
//   m = max(max_k z_k, eps)    w_k = p_k exp((z_k - m) / gamma)    w_b = max(exp((eps - m) / gamma), eps)
//   rgb = (sum_k w_k color_k + w_b background) / (sum_k w_k + w_b)      alpha = 1 - prod_k (1 - p_k)
//
// With D the denominator and q_k = grad_rgb . (color_k - rgb) / D:
//   d color_k = grad_rgb w_k / D      d z_k = q_k w_k / gamma      d m = -(sum_k q_k w_k + q_b w_b) / gamma
//   d dist_k = -(q_k w_k (1 - p_k) + grad_alpha prod_j (1 - p_j) p_k) / sigma
//
// Liu et al., Soft Rasterizer, ICCV 2019, equations 2 and 3.
#include "core/op.h"
#include "core/parallel.h"
#include "ops/softmax_blend/kernels.h"

namespace recon {

namespace {

template <class T>
void run(const SoftmaxBlend<T>& p, bool backward, const Device& device) {
  if (device.cuda) {
#ifdef RECON_CUDA
    softmax_blend_cuda(p, backward, device);
#endif
    return;
  }
  const int64_t groups = (p.pixels + blend_group - 1) / blend_group, grain = 1 + 8000 / blend_group / (p.K + 1);
  for_each_range(groups, grain, [&](int64_t begin, int64_t end) {
    if (backward)
      RECON_SIMD_CALL(softmax_blend_backward_groups, p, begin, end);
    else
      RECON_SIMD_CALL(softmax_blend_groups, p, begin, end);
  });
}

template <class T>
SoftmaxBlend<T> arguments(const Tensor& colors, const Tensor& pix_to_face, const Tensor& zbuf, const Tensor& dists,
                          const Tensor& planes, const Tensor& background, double sigma, double gamma,
                          const Tensor& image, const Tensor& sums) {
  const int64_t* shape = colors.shape;
  if (image.shape[3] != shape[4] + 1) throw std::invalid_argument("softmax_blend: image must have C + 1 channels");
  return {colors.packed<T>(),
          pix_to_face.packed<int64_t>(),
          zbuf.packed<T>(),
          dists.packed<T>(),
          planes.packed<T>(),
          background.packed<T>(),
          static_cast<T>(sigma),
          static_cast<T>(gamma),
          image.packed<T>(),
          reinterpret_cast<BlendSums<T>*>(sums.packed<T>()),
          nullptr,
          nullptr,
          nullptr,
          nullptr,
          shape[0] * shape[1] * shape[2],
          shape[3],
          shape[4],
          shape[1] * shape[2]};
}

}  // namespace

void softmax_blend(Tensor colors, Tensor pix_to_face, Tensor zbuf, Tensor dists, Tensor planes, Tensor background,
                   double sigma, double gamma, Tensor image, Tensor sums) {
  dispatch_float(colors.dtype, [&](auto number) {
    using T = decltype(number);
    run(arguments<T>(colors, pix_to_face, zbuf, dists, planes, background, sigma, gamma, image, sums), false,
        colors.device);
  });
}
RECON_OP(softmax_blend,
         "colors: N H W K C, pix_to_face: i64 N H W K, zbuf: N H W K, dists: N H W K, planes: N 2, background: C, "
         "sigma: real>0, gamma: real>0, image: N H W D, sums: N H W 6");

void softmax_blend_backward(Tensor colors, Tensor pix_to_face, Tensor zbuf, Tensor dists, Tensor planes,
                            Tensor background, double sigma, double gamma, Tensor image, Tensor sums, Tensor grad_image,
                            std::optional<Tensor> grad_colors, std::optional<Tensor> grad_zbuf,
                            std::optional<Tensor> grad_dists) {
  dispatch_float(colors.dtype, [&](auto number) {
    using T = decltype(number);
    auto p = arguments<T>(colors, pix_to_face, zbuf, dists, planes, background, sigma, gamma, image, sums);
    p.grad_image = grad_image.packed<T>();
    p.grad_colors = grad_colors ? grad_colors->packed<T>() : nullptr;
    p.grad_zbuf = grad_zbuf ? grad_zbuf->packed<T>() : nullptr;
    p.grad_dists = grad_dists ? grad_dists->packed<T>() : nullptr;
    run(p, true, colors.device);
  });
}
RECON_OP(softmax_blend_backward,
         "colors: N H W K C, pix_to_face: i64 N H W K, zbuf: N H W K, dists: N H W K, planes: N 2, background: C, "
         "sigma: real>0, gamma: real>0, image: N H W D, sums: N H W 6, grad_image: N H W D, grad_colors?: N H W K C, "
         "grad_zbuf?: N H W K, grad_dists?: N H W K");

}  // namespace recon
