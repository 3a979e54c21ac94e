#pragma once
// What the entry points of points_to_volumes hand to the kernels of each device.
//
// Along an axis with S voxels a point with the coordinate p in [-1, 1] lies at the voxel coordinate
//
//   (p + 1) / 2 (S - 1)          with align_corners: -1 and 1 are the centres of the first and the last voxel
//   (p + 1) / 2 S - 1 / 2        without: they are their outer faces
//
// It votes for the 8 voxels around it with the weights w of trilinear interpolation, or for the nearest one with w = 1:
//
//   density_v = initial_v + sum_p w_pv            feature_v = n_v (initial_v + sum_p w_pv f_p)
//   n_v = 1, or with `rescale` 1 / max(density_v, least)
//
// Backward, with the gradients g_v of the densities and G_v of the features, a vote passes on
//
//   to f_p        w_pv n_v G_v
//   to w_pv       g_v + n_v <G_v, f_p - feature_v>       without feature_v where n_v is held or 1
#include <cmath>

#include "core/simd.h"
#include "core/tensor.h"

namespace recon {

template <class T>
struct Votes {
  const T *points, *features;                     // N P 3, x first; N P C
  const T *initial_densities, *initial_features;  // N V; N C V
  const int64_t* grid_sizes;                      // N 3, depth first, or null: the whole volume
  const bool* mask;                               // N P, or null: all points
  int64_t N, P, C, size[3], V;                    // depth, height, width, and their product
  bool trilinear, align_corners, rescale;
  T least, weight;
  T *densities, *volumes;                             // N V; N C V
  const T *grad_densities, *grad_volumes;             // like them, backward only
  T *grad_points, *grad_features;                     // zero; may be null
  T *grad_initial_densities, *grad_initial_features;  // may be null

  // The voxels of volume n that votes may go to.
  RECON_HD int64_t grid(int64_t n, int axis) const {
    const int64_t wanted = grid_sizes ? grid_sizes[3 * n + axis] : size[axis];
    return wanted < size[axis] ? wanted : size[axis];
  }
  // Voxel coordinates per unit of a point's coordinate.
  RECON_HD T per_unit(int64_t n, int axis) const { return T(0.5) * static_cast<T>(grid(n, axis) - align_corners); }
  RECON_HD bool counts(int64_t n, int64_t i) const { return !mask || mask[n * P + i]; }
  RECON_HD T divisor(T density) const { return rescale ? (density < least ? least : density) : T(1); }
};

// Where a point votes along each axis: the first of two voxels, and the share of the second one.
template <class T>
struct Place {
  int32_t first[3];  // -1 where the point lies between the border and the first voxel
  T up[3];
};

// False for a point that no voxel gets a vote of: outside of the grid, left out, or not finite.
template <class T>
RECON_HD bool find_place(const Votes<T>& v, int64_t n, int64_t i, Place<T>& place) {
  if (!v.counts(n, i)) return false;
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t grid = v.grid(n, axis);
    // Rounded as in grid_sample: what lies on a voxel up to the rounding of its coordinates votes for that one alone.
    const T p = (v.points[3 * (n * v.P + i) + 2 - axis] + T(1)) * T(0.5);
    const T at = v.align_corners ? p * T(grid - 1) : p * T(grid) - T(0.5);
    const T first = v.trilinear ? std::floor(at) : std::round(at);
    if (!(first >= T(v.trilinear ? -1 : 0) && first < T(grid))) return false;
    place.first[axis] = static_cast<int32_t>(first);
    place.up[axis] = v.trilinear ? at - first : T(0);
  }
  return true;
}

// Calls body(voxel, share of it along each axis, whether it is the second voxel along each axis) for the votes of a
// point of volume n.
template <class T, class F>
RECON_HD void for_each_vote(const Votes<T>& v, int64_t n, const Place<T>& place, const F& body) {
  const int ends = v.trilinear ? 2 : 1;
  for (int up_z = 0; up_z < ends; ++up_z)
    for (int up_y = 0; up_y < ends; ++up_y)
      for (int up_x = 0; up_x < ends; ++up_x) {
        const int64_t z = place.first[0] + up_z, y = place.first[1] + up_y, x = place.first[2] + up_x;
        if (z < 0 || y < 0 || x < 0 || z >= v.grid(n, 0) || y >= v.grid(n, 1) || x >= v.grid(n, 2)) continue;
        const int up[3] = {up_z, up_y, up_x};
        const T share[3] = {up_z ? place.up[0] : 1 - place.up[0], up_y ? place.up[1] : 1 - place.up[1],
                            up_x ? place.up[2] : 1 - place.up[2]};
        body((z * v.size[1] + y) * v.size[2] + x, share, up);
      }
}

// The gradients of point i of volume n and of its features, which nobody else writes.
template <class T>
RECON_HD void vote_gradients(const Votes<T>& v, int64_t n, int64_t i, const Place<T>& place) {
  const T* features = v.features + (n * v.P + i) * v.C;
  T* grad_features = v.grad_features ? v.grad_features + (n * v.P + i) * v.C : nullptr;
  T grad_place[3] = {0, 0, 0};
  for_each_vote(v, n, place, [&](int64_t voxel, const T* share, const int* up) {
    const int64_t at = n * v.V + voxel;
    const T norm = T(1) / v.divisor(v.densities[at]), vote = share[0] * share[1] * share[2] * v.weight;
    const T moves = v.rescale && !(v.densities[at] < v.least) ? T(1) : T(0);
    T along(0);
    for (int64_t c = 0; c < v.C; ++c) {
      const int64_t k = (n * v.C + c) * v.V + voxel;
      const T grad = norm * v.grad_volumes[k];
      if (grad_features) grad_features[c] += vote * grad;
      if (v.grad_points) along += grad * (features[c] - moves * v.volumes[k]);
    }
    if (!v.grad_points) return;
    along = (along + v.grad_densities[at]) * v.weight;
    for (int axis = 0; axis < 3; ++axis)
      grad_place[axis] += along * share[(axis + 1) % 3] * share[(axis + 2) % 3] * (up[axis] ? T(1) : T(-1));
  });
  if (!v.grad_points || !v.trilinear) return;
  for (int axis = 0; axis < 3; ++axis)
    v.grad_points[3 * (n * v.P + i) + 2 - axis] = grad_place[axis] * v.per_unit(n, axis);
}

// The gradients of voxels [begin, end) of volume n before any vote.
template <class T>
RECON_HD void initial_gradients(const Votes<T>& v, int64_t n, int64_t begin, int64_t end) {
  for (int64_t voxel = begin; voxel < end; ++voxel)
    if (v.grad_initial_densities) v.grad_initial_densities[n * v.V + voxel] = v.grad_densities[n * v.V + voxel];
  for (int64_t c = 0; c < v.C; ++c)
    for (int64_t voxel = begin; voxel < end; ++voxel) {
      const int64_t at = n * v.V + voxel, k = (n * v.C + c) * v.V + voxel;
      const T grad = v.grad_volumes[k] / v.divisor(v.densities[at]);
      if (v.grad_initial_features) v.grad_initial_features[k] = grad;
      if (v.grad_initial_densities && v.rescale && !(v.densities[at] < v.least))
        v.grad_initial_densities[at] -= grad * v.volumes[k];
    }
}

RECON_SIMD_DECLARE(template <class T> void points_to_volumes_cpu(const Votes<T>& v))
RECON_SIMD_DECLARE(template <class T> void points_to_volumes_backward_cpu(const Votes<T>& v))

template <class T>
void points_to_volumes_cuda(const Votes<T>& v, const Device& device);
template <class T>
void points_to_volumes_backward_cuda(const Votes<T>& v, const Device& device);

}  // namespace recon
