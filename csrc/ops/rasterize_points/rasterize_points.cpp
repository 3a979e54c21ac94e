// rasterize_points: the K nearest points whose disc covers the centre of each pixel.
//
//   points (P,3) x, y in NDC and z in view space; radius (P); cloud n owns points first[n] ... first[n] + count[n] - 1
//   a point hits a pixel centre c if z >= 0 and |(x, y) - c|^2 < radius^2
//   -> idx, zbuf, dists2 (N,H,W,K): sorted by depth, then by index; -1 where there is no point
//
// Cost: proportional to the points, plus the pixels in their bounding boxes, plus the output.
#include "core/op.h"
#include "ops/rasterize_points/kernels.h"

namespace recon {

namespace {

template <class T>
PointsInput<T> points_input(const Tensor& points, const Tensor& first, const Tensor& count, const Tensor& radius,
                            const Tensor& idx) {
  return {points.packed<T>(),      radius.packed<T>(), points.shape[0], first.packed<int64_t>(),
          count.packed<int64_t>(), idx.shape[0],       idx.shape[1],    idx.shape[2]};
}

}  // namespace

void rasterize_points(Tensor points, Tensor first, Tensor count, Tensor radius, int64_t, int64_t, int64_t, Tensor idx,
                      Tensor zbuf, Tensor dists2) {
  dispatch_float(points.dtype, [&](auto number) {
    using T = decltype(number);
    const auto in = points_input<T>(points, first, count, radius, idx);
    const PointHits<T> out = {idx.packed<int32_t>(), zbuf.packed<T>(), dists2.packed<T>(), idx.shape[3]};
    if (!points.device.cuda) return RECON_SIMD_CALL(rasterize_points_cpu, in, out);
#ifdef RECON_CUDA
    rasterize_points_cuda(in, out, points.device);
#endif
  });
}
RECON_OP(rasterize_points,
         "points: P 3, cloud_to_packed_first_idx: i64 N, num_points_per_cloud: i64 N, radius: P, height: int>0, "
         "width: int>0, points_per_pixel: int>0, idx: i32 N H W K, zbuf: N H W K, dists2: N H W K");

void rasterize_points_backward(Tensor points, Tensor first, Tensor count, Tensor radius, int64_t, int64_t, int64_t,
                               Tensor idx, std::optional<Tensor>, std::optional<Tensor>, Tensor grad_zbuf,
                               Tensor grad_dists2, Tensor grad_points) {
  dispatch_float(points.dtype, [&](auto number) {
    using T = decltype(number);
    const auto in = points_input<T>(points, first, count, radius, idx);
    const PointHitGrads<T> grads = {idx.packed<int32_t>(), grad_zbuf.packed<T>(), grad_dists2.packed<T>(),
                                    grad_points.packed<T>(), idx.shape[3]};
    if (!points.device.cuda) return RECON_SIMD_CALL(rasterize_points_backward_cpu, in, grads);
#ifdef RECON_CUDA
    rasterize_points_backward_cuda(in, grads, points.device);
#endif
  });
}
RECON_OP(rasterize_points_backward,
         "points: P 3, cloud_to_packed_first_idx: i64 N, num_points_per_cloud: i64 N, radius: P, height: int>0, "
         "width: int>0, points_per_pixel: int>0, idx: i32 N H W K, zbuf?: N H W K, dists2?: N H W K, "
         "grad_zbuf: N H W K, grad_dists2: N H W K, grad_points: P 3");

}  // namespace recon
