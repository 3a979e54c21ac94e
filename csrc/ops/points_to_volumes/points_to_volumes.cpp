// points_to_volumes: points vote for the voxels around them, with their features (kernels.h).
//
//   points (N,P,3) in [-1,1], features (N,P,C), initial volumes -> densities (N,1,D,H,W), volumes (N,C,D,H,W)
//
// Cost: P C + D H W C, forward; P C backward, and D H W C where the initial volumes need gradients.
#include <stdexcept>
#include <string>

#include "core/op.h"
#include "ops/points_to_volumes/kernels.h"

namespace recon {

namespace {

template <class T>
Votes<T> votes_of(const Tensor& points, const Tensor& features, const Tensor& volume_densities,
                  const std::optional<Tensor>& grid_sizes, const std::optional<Tensor>& mask, bool trilinear,
                  bool align_corners, bool rescale, double least, double weight) {
  Votes<T> v = {};
  v.points = points.packed<T>(), v.features = features.packed<T>();
  v.grid_sizes = grid_sizes ? grid_sizes->packed<int64_t>() : nullptr;
  v.mask = mask ? mask->packed<bool>() : nullptr;
  v.N = points.shape[0], v.P = points.shape[1], v.C = features.shape[2], v.V = 1;
  for (int axis = 0; axis < 3; ++axis) v.size[axis] = volume_densities.shape[2 + axis], v.V *= v.size[axis];
  v.trilinear = trilinear, v.align_corners = align_corners, v.rescale = rescale;
  v.least = static_cast<T>(least), v.weight = static_cast<T>(weight);
  return v;
}

// On a GPU grids are cut off at the volume: to look at them would mean waiting for the device.
template <class T>
void check_grids(const Votes<T>& v) {
  constexpr const char* names[] = {"depth", "height", "width"};
  for (int64_t i = 0; v.grid_sizes && i < 3 * v.N; ++i)
    if (v.grid_sizes[i] < 0 || v.grid_sizes[i] > v.size[i % 3])
      throw std::invalid_argument("points_to_volumes: grid_sizes[" + std::to_string(i / 3) + "] has a " + names[i % 3] +
                                  " of " + std::to_string(v.grid_sizes[i]) + " but the volumes have " +
                                  std::to_string(v.size[i % 3]));
}

}  // namespace

void points_to_volumes(Tensor points, Tensor features, Tensor volume_densities, Tensor volume_features,
                       std::optional<Tensor> grid_sizes, std::optional<Tensor> mask, bool trilinear, bool align_corners,
                       bool rescale, double least, double weight, Tensor densities, Tensor volumes) {
  dispatch_float(points.dtype, [&](auto zero) {
    using T = decltype(zero);
    Votes<T> v = votes_of<T>(points, features, volume_densities, grid_sizes, mask, trilinear, align_corners, rescale,
                             least, weight);
    v.initial_densities = volume_densities.packed<T>(), v.initial_features = volume_features.packed<T>();
    v.densities = densities.packed<T>(), v.volumes = volumes.packed<T>();
    if (!points.device.cuda) {
      check_grids(v);
      return RECON_SIMD_CALL(points_to_volumes_cpu, v);
    }
#ifdef RECON_CUDA
    points_to_volumes_cuda(v, points.device);
#endif
  });
}
RECON_OP(points_to_volumes,
         "points: N P 3, features: N P C, volume_densities: N 1 D H W, volume_features: N C D H W, "
         "grid_sizes?: i64 N 3, mask?: b8 N P, trilinear: bool, align_corners: bool, rescale: bool, least: real, "
         "weight: real, densities: N 1 D H W, volumes: N C D H W");

void points_to_volumes_backward(Tensor points, Tensor features, Tensor volume_densities, Tensor,
                                std::optional<Tensor> grid_sizes, std::optional<Tensor> mask, bool trilinear,
                                bool align_corners, bool rescale, double least, double weight, Tensor densities,
                                Tensor volumes, Tensor grad_densities, Tensor grad_volumes,
                                std::optional<Tensor> grad_points, std::optional<Tensor> grad_features,
                                std::optional<Tensor> grad_volume_densities,
                                std::optional<Tensor> grad_volume_features) {
  dispatch_float(points.dtype, [&](auto zero) {
    using T = decltype(zero);
    Votes<T> v = votes_of<T>(points, features, volume_densities, grid_sizes, mask, trilinear, align_corners, rescale,
                             least, weight);
    v.densities = densities.packed<T>(), v.volumes = volumes.packed<T>();
    v.grad_densities = grad_densities.packed<T>(), v.grad_volumes = grad_volumes.packed<T>();
    v.grad_points = grad_points ? grad_points->packed<T>() : nullptr;
    v.grad_features = grad_features ? grad_features->packed<T>() : nullptr;
    v.grad_initial_densities = grad_volume_densities ? grad_volume_densities->packed<T>() : nullptr;
    v.grad_initial_features = grad_volume_features ? grad_volume_features->packed<T>() : nullptr;
    if (!points.device.cuda) return RECON_SIMD_CALL(points_to_volumes_backward_cpu, v);
#ifdef RECON_CUDA
    points_to_volumes_backward_cuda(v, points.device);
#endif
  });
}
RECON_OP(points_to_volumes_backward,
         "points: N P 3, features: N P C, volume_densities: N 1 D H W, volume_features: N C D H W, "
         "grid_sizes?: i64 N 3, mask?: b8 N P, trilinear: bool, align_corners: bool, rescale: bool, least: real, "
         "weight: real, densities: N 1 D H W, volumes: N C D H W, grad_densities: N 1 D H W, "
         "grad_volumes: N C D H W, grad_points?: N P 3, grad_features?: N P C, grad_volume_densities?: N 1 D H W, "
         "grad_volume_features?: N C D H W");

}  // namespace recon
