// render_points: the K nearest discs of every pixel and one image of their features, without writing K of anything.
//
//   points (P,3) x, y in NDC and z in view space; radius (P) says which pixels a point hits, as in rasterize_points;
//   scale (P) what squared distances are divided by; features (P,C)
//   -> image (N,H,W,C): sum_k w_k features[idx_k] over the K nearest points of a pixel, with weights by falloff and
//      mode (kernels.h); covered (N,H,W): whether a point hits the pixel
//
// The backward pass finds the hits again.
//
// Cost: proportional to the points, plus the pixels in their bounding boxes, times the channels where they are hit.
#include <string>

#include "core/op.h"
#include "core/parallel.h"
#include "ops/render_points/kernels.h"

namespace recon {

namespace {

template <class T>
PointsInput<T> points_input(const Tensor& points, const Tensor& first, const Tensor& count, const Tensor& radius,
                            const Tensor& image) {
  return {points.packed<T>(),      radius.packed<T>(), points.shape[0], first.packed<int64_t>(),
          count.packed<int64_t>(), image.shape[0],     image.shape[1],  image.shape[2]};
}

template <class T>
PointImage<T> point_image(const Tensor& scale, const Tensor& features, int64_t K, int64_t mode, int64_t falloff,
                          double tau) {
  PointImage<T> s = {};
  s.falloff = static_cast<Falloff>(falloff), s.tau = static_cast<T>(tau), s.mode = static_cast<Compositing>(mode);
  s.K = K, s.C = features.shape[1];
  s.scale = scale.packed<T>(), s.features = features.packed<T>();
  return s;
}

template <class T>
void check_scale(const PointsInput<T>& in, const T* scale) {
  for (int64_t p = 0; p < in.P; ++p)
    if (in.radius[p] > T(0) && !(scale[p] > T(0)) && in.radius[p] * in.radius[p] > T(0))
      throw std::invalid_argument("scale must be > 0 where the radius is, got " + std::to_string(scale[p]) +
                                  " for point " + std::to_string(p));
}

template <class T>
T* packed_or_null(const std::optional<Tensor>& t) {
  return t ? t->packed<T>() : nullptr;
}

}  // namespace

#define RENDER_POINTS_ARGUMENTS                                                                               \
  "points: P 3, cloud_to_packed_first_idx: i64 N, num_points_per_cloud: i64 N, radius: P, scale: P, "         \
  "features: P C, height: int>0, width: int>0, points_per_pixel: int>0, mode: weighted|norm_weighted|alpha, " \
  "falloff: parabola|cone, tau: real>0"

void render_points(Tensor points, Tensor first, Tensor count, Tensor radius, Tensor scale, Tensor features, int64_t,
                   int64_t, int64_t K, int64_t mode, int64_t falloff, double tau, Tensor image, Tensor covered) {
  dispatch_float(points.dtype, [&](auto number) {
    using T = decltype(number);
    const auto in = points_input<T>(points, first, count, radius, image);
    auto s = point_image<T>(scale, features, K, mode, falloff, tau);
    s.image = image.packed<T>(), s.covered = covered.packed<bool>();
    if (!points.device.cuda) {
      check_scale(in, s.scale);
      return RECON_SIMD_CALL(render_points_cpu, in, s);
    }
#ifdef RECON_CUDA
    render_points_cuda(in, s, points.device);
#endif
  });
}
RECON_OP(render_points, RENDER_POINTS_ARGUMENTS ", image: N H W C, covered: b8 N H W");

void render_points_backward(Tensor points, Tensor first, Tensor count, Tensor radius, Tensor scale, Tensor features,
                            int64_t, int64_t, int64_t K, int64_t mode, int64_t falloff, double tau,
                            std::optional<Tensor>, std::optional<Tensor>, Tensor grad_image,
                            std::optional<Tensor> grad_points, std::optional<Tensor> grad_scale,
                            std::optional<Tensor> grad_features) {
  dispatch_float(points.dtype, [&](auto number) {
    using T = decltype(number);
    const auto in = points_input<T>(points, first, count, radius, grad_image);
    auto s = point_image<T>(scale, features, K, mode, falloff, tau);
    s.grad_image = grad_image.packed<T>();
    s.grad_points = packed_or_null<T>(grad_points), s.grad_scale = packed_or_null<T>(grad_scale);
    s.grad_features = packed_or_null<T>(grad_features);
    if (!points.device.cuda) return RECON_SIMD_CALL(render_points_backward_cpu, in, s);
#ifdef RECON_CUDA
    render_points_backward_cuda(in, s, points.device);
#endif
  });
}
RECON_OP(render_points_backward, RENDER_POINTS_ARGUMENTS
         ", image?: N H W C, covered?: b8 N H W, grad_image: N H W C, grad_points?: P 3, grad_scale?: P, "
         "grad_features?: P C");

}  // namespace recon
