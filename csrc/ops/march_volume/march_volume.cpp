// march_volume: what rays show of volumes: densities and features are read along a ray and marched as in march_rays,
// without writing the samples.
//
//   x_i = origin + length_i direction                             from -1 to 1 over the volume
//   a_i, f_i = sum_v w_v(x_i) (density_v, feature_v)              trilinear, or of the nearest voxel
//   out, opacity: see march_rays
//
// Backward, da_i and w_i are found by marching again; voxel v gets sum_i w_v(x_i) (da_i, w_i G). A ray ends where the
// product of all factors but the smallest has fallen below `least`: in every gradient one factor at most is missing.
#include <algorithm>

#include "core/op.h"
#include "core/parallel.h"
#include "ops/march_volume/kernels.h"

namespace recon {

namespace {

template <class T>
void run(const MarchVolume<T>& p, const Device& device) {
  if (device.cuda) {
#ifdef RECON_CUDA
    march_volume_cuda(p, device);
#endif
    return;
  }
  if (p.out)
    RECON_SIMD_CALL(march_volume_cpu, p);
  else
    RECON_SIMD_CALL(march_volume_backward_cpu, p);
}

template <class T>
MarchVolume<T> arguments(const Tensor& densities, const Tensor& features, const Tensor& origins,
                         const Tensor& directions, const Tensor& lengths, const Tensor& out, double eps, double least,
                         int64_t shift, int64_t mode, int64_t padding, bool align_corners) {
  MarchVolume<T> p = {};
  p.densities = densities.packed<T>(), p.features = features.packed<T>();
  p.origins = origins.packed<T>(), p.directions = directions.packed<T>(), p.lengths = lengths.packed<T>();
  p.V = features.shape[0], p.C = features.shape[1], p.N = origins.shape[0], p.R = origins.shape[1];
  p.S = lengths.shape[1];
  for (int axis = 0; axis < 3; ++axis) p.size[axis] = features.shape[4 - axis];
  if (p.V != 1 && p.V != p.N)
    throw std::invalid_argument("march_volume: densities must hold one volume, or one for each of the " +
                                std::to_string(p.N) + " sets of rays, got " + std::to_string(p.V));
  if (lengths.shape[0] != 1 && lengths.shape[0] != p.rays())
    throw std::invalid_argument("march_volume: lengths must have one row, or one for each of the " +
                                std::to_string(p.rays()) + " rays, got " + std::to_string(lengths.shape[0]));
  if (p.voxels() == 0) throw std::invalid_argument("march_volume: volumes must have voxels");
  const int64_t most = sizeof(T) == 4 ? int64_t{1} << 22 : int64_t{1} << 51;  // see nearest_integer
  if (*std::max_element(p.size, p.size + 3) > most)
    throw std::invalid_argument("march_volume: float32 cannot tell more than " + std::to_string(most) +
                                " voxels along an axis apart: convert to float64");
  if (out.shape[2] != p.C + 1) throw std::invalid_argument("march_volume: out must have C + 1 channels");
  p.length_step = lengths.shape[0] == 1 ? 0 : p.S;
  p.full = static_cast<T>(1 + eps), p.least = static_cast<T>(least), p.shift = std::min(shift, p.S);
  p.nearest = mode, p.border = padding, p.align_corners = align_corners;
  return p;
}

}  // namespace

void march_volume(Tensor densities, Tensor features, Tensor origins, Tensor directions, Tensor lengths, double eps,
                  double least, int64_t shift, int64_t mode, int64_t padding, bool align_corners, Tensor out) {
  dispatch_float(densities.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto p = arguments<T>(densities, features, origins, directions, lengths, out, eps, least, shift, mode, padding,
                          align_corners);
    p.out = out.packed<T>();
    run(p, densities.device);
  });
}
RECON_OP(march_volume,
         "densities: V D H W, features: V C D H W, origins: N R 3, directions: N R 3, lengths: L S, eps: real, "
         "least: real>=0, shift: int>=0, mode: bilinear|nearest, padding: zeros|border, align_corners: bool, "
         "out: N R E");

void march_volume_backward(Tensor densities, Tensor features, Tensor origins, Tensor directions, Tensor lengths,
                           double eps, double least, int64_t shift, int64_t mode, int64_t padding, bool align_corners,
                           std::optional<Tensor>, Tensor grad_out, std::optional<Tensor> grad_densities,
                           std::optional<Tensor> grad_features, std::optional<Tensor> grad_origins,
                           std::optional<Tensor> grad_directions, std::optional<Tensor> grad_lengths) {
  dispatch_float(densities.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto p = arguments<T>(densities, features, origins, directions, lengths, grad_out, eps, least, shift, mode, padding,
                          align_corners);
    const auto of = [](const std::optional<Tensor>& t) { return t ? t->packed<T>() : nullptr; };
    p.grad_out = grad_out.packed<T>();
    p.grad_densities = of(grad_densities), p.grad_features = of(grad_features);
    p.grad_origins = of(grad_origins), p.grad_directions = of(grad_directions), p.grad_lengths = of(grad_lengths);
    if (p.grad_lengths && lengths.shape[0] != p.rays())
      throw std::invalid_argument("march_volume: lengths that all rays share have no gradient here: expand them");
    run(p, densities.device);
  });
}
RECON_OP(march_volume_backward,
         "densities: V D H W, features: V C D H W, origins: N R 3, directions: N R 3, lengths: L S, eps: real, "
         "least: real>=0, shift: int>=0, mode: bilinear|nearest, padding: zeros|border, align_corners: bool, "
         "out?: N R E, grad_out: N R E, grad_densities?: V D H W, grad_features?: V C D H W, grad_origins?: N R 3, "
         "grad_directions?: N R 3, grad_lengths?: L S");

}  // namespace recon
