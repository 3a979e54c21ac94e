#pragma once
// What the entry points of render_points hand to the kernels of each device.
//
// With q = |(x, y) - c|^2 / scale for a point that hits the pixel centre c, its opacity and its slope are
//
//   parabola   alpha = 1 - q                                      d alpha / d q = -1
//   cone       alpha = b^tau, b = 1 - sqrt(clamp(q, 1e-3, 1))     d alpha / d q = -tau b^(tau-1) / (2 sqrt(q)) within
//                                                                 the clamp, else 0
//
// and the weights of a pixel's points follow from their opacities as in math/composite.h.
#include <cmath>

#include "core/simd.h"
#include "math/composite.h"
#include "raster/points.h"

namespace recon {

enum class Falloff { parabola, cone };

template <class T>
struct PointImage {
  Falloff falloff;
  T tau;
  Compositing mode;
  int64_t K, C;
  const T *scale, *features;                    // P; P C
  T* image;                                     // N H W C, forward only
  bool* covered;                                // N H W, forward only
  const T* grad_image;                          // N H W C, backward only
  T *grad_points, *grad_scale, *grad_features;  // P 3; P; P C: zero; each may be null

  RECON_HD bool wants_opacity() const { return grad_points || grad_scale; }
};

template <class V>
struct Opacity {
  V alpha, slope;
};

// base^exponent for numbers in (0, 1]; cpu.cpp has the same for registers.
RECON_HD float power(float base, float exponent) { return ::powf(base, exponent); }
RECON_HD double power(double base, double exponent) { return ::pow(base, exponent); }

template <class T, class V>
RECON_HD Opacity<V> opacity(const PointImage<T>& s, V q) {
  using std::sqrt;
  const V zero(T(0)), one(T(1)), least(T(1e-3));
  if (s.falloff == Falloff::parabola) return {one - q, -one};
  const auto clamped = (q < least) | (q > one);
  const V root = sqrt(minimum(maximum(q, least), one)), base = one - root;
  V alpha = base, steepness = one;  // d alpha / d base
  if (s.tau != T(1)) {
    const auto empty = base <= zero;
    const V safe = select(empty, one, base);
    alpha = select(empty, zero, power(safe, V(s.tau)));
    steepness = select(empty, zero, V(s.tau) * alpha / safe);
  }
  return {alpha, select(clamped, zero, -steepness / (root + root))};
}

RECON_SIMD_DECLARE(template <class T> void render_points_cpu(const PointsInput<T>& in, const PointImage<T>& s))
RECON_SIMD_DECLARE(template <class T> void render_points_backward_cpu(const PointsInput<T>& in, const PointImage<T>& s))

template <class T>
void render_points_cuda(const PointsInput<T>& in, const PointImage<T>& s, const Device& device);
template <class T>
void render_points_backward_cuda(const PointsInput<T>& in, const PointImage<T>& s, const Device& device);

}  // namespace recon
