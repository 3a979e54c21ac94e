#pragma once
// What march_volume.cpp hands to the kernels of each device, and where a point lies among the voxels of an axis.
#include <algorithm>

#include "core/select.h"
#include "core/simd.h"
#include "core/tensor.h"

namespace recon {

template <class T>
struct MarchVolume {
  const T* densities;                      // V D H W
  const T* features;                       // V C D H W
  const T* origins;                        // N R 3
  const T* directions;                     // N R 3
  const T* lengths;                        // N R S, or S where length_step is 0
  int64_t length_step;                     // from the lengths of one ray to those of the next
  T full;                                  // 1 + eps: what a sample of no density lets through
  T least;                                 // a ray ends when less light than this is left
  int64_t shift;                           // at most S
  int64_t nearest, border, align_corners;  // truth values
  int64_t V, N, R, S, C;
  int64_t size[3];    // W H D: of x, y, z
  T* out;             // N R C+1; null in the backward pass
  const T* grad_out;  // N R C+1; the rest is for the backward pass only and may be null
  T *grad_densities, *grad_features, *grad_origins, *grad_directions, *grad_lengths;

  RECON_HD int64_t rays() const { return N * R; }
  RECON_HD int64_t voxels() const { return size[0] * size[1] * size[2]; }
  RECON_HD int64_t volume_of(int64_t ray) const { return V == 1 ? 0 : ray / R; }
  // From a voxel to its neighbour along an axis; 0 where there is none.
  RECON_HD int64_t step(int axis) const {
    if (size[axis] == 1) return 0;
    return axis == 0 ? 1 : axis == 1 ? size[0] : size[0] * size[1];
  }
  bool wants_voxels() const { return grad_densities || grad_features; }
  bool wants_rays() const { return grad_origins || grad_directions || grad_lengths; }
};

// The nearest integer, the even one of two, of numbers up to 2^22, or 2^51 in float64.
template <class T, class P>
RECON_HD P nearest_integer(P x) {
  const P magic(sizeof(T) == 4 ? T(12582912) : T(6755399441055744));  // its last digit is worth 1
  return (x + magic) - magic;
}

// Two neighbouring voxels of an axis and what they weigh at a coordinate; P is T or a register of T.
template <class T, class P>
struct Neighbours {
  P first, low, high;  // the index of the first, its weight, that of the one behind it

  // What voxel 0 weighs at x: 1 - |x| and not below 0.
  static RECON_HD P weight(P x) {
    const P w = P(T(1)) - maximum(x, -x);
    return select(w > P(T(0)), w, P(T(0)));
  }
  // Its derivative, from the right where there are two.
  static RECON_HD P slope(P x) {
    const P one(T(1)), none(T(0));
    return select(x >= none, select(x < one, -one, none), select(x >= -one, one, none));
  }

  // The coordinate that counts voxels, of one from -1 to 1 over the volume.
  static RECON_HD P coordinate(const MarchVolume<T>& p, int axis, P local) {
    const P one(T(1)), half(T(0.5)), n(static_cast<T>(p.size[axis]));
    return p.align_corners ? (local + one) * half * (n - one) : ((local + one) * n - one) * half;
  }

  RECON_HD Neighbours(const MarchVolume<T>& p, int axis, P x) {
    const P none(T(0)), one(T(1)), last(static_cast<T>(p.size[axis] - 1));
    // NaN becomes 0 where it would be an index.
    x = p.border ? minimum(maximum(none, x), last) : minimum(maximum(P(T(-2)), x), last + P(T(2)));
    if (p.nearest) x = nearest_integer<T>(x);
    const P inside = minimum(maximum(none, x), maximum(none, last - one));
    const P rounded = nearest_integer<T>(inside);
    first = select(rounded > inside, rounded - one, rounded);
    low = weight(x - first);
    high = p.size[axis] > 1 ? weight(x - first - one) : none;
  }

  // How the two weights change with the local coordinate.
  RECON_HD void slopes(const MarchVolume<T>& p, int axis, P x, P& of_low, P& of_high) const {
    const P none(T(0)), one(T(1)), last(static_cast<T>(p.size[axis] - 1));
    const P scale(static_cast<T>(p.align_corners ? p.size[axis] - 1 : p.size[axis]) * T(0.5));
    of_low = scale * slope(x - first);
    of_high = p.size[axis] > 1 ? scale * slope(x - first - one) : none;
    if (!p.border) return;
    of_low = select(x > none, select(x < last, of_low, none), none);
    of_high = select(x > none, select(x < last, of_high, none), none);
  }
};

// The light that is left of a ray.
template <class T>
struct Light {
  T left = 1, but_one = 1, darkest = 1;  // the product of all factors, that without the smallest one, the smallest one

  RECON_HD void pass(T factor) {
    left *= factor;
    but_one *= factor < darkest ? darkest : factor;
    if (factor < darkest) darkest = factor;
  }
};

RECON_SIMD_DECLARE(template <class T> void march_volume_cpu(const MarchVolume<T>& p))
RECON_SIMD_DECLARE(template <class T> void march_volume_backward_cpu(const MarchVolume<T>& p))

template <class T>
void march_volume_cuda(const MarchVolume<T>& p, const Device& device);

}  // namespace recon
