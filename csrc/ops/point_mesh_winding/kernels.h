#pragma once
// How often triangles surround a point, for the kernels of both devices.
#include <cmath>

#include "core/select.h"
#include "core/simd.h"
#include "math/vec.h"

namespace recon {

template <class T>
struct Winding {
  const T *points, *triangles;  // P 3, F 3 3
  int64_t P, F;
  T* winding;  // P
};

// A sum of angles in (-pi, pi]: the product of complex numbers of length one, whose angle is the sum, and the full
// turns that it has made. No arcus tangent is needed before the end. V is a number or a register of numbers.
//
// A triangle seen from the origin covers the solid angle 2 atan2(a . (b x c), |a||b||c| + ...): van Oosterom and
// Strackee, The Solid Angle of a Plane Triangle, IEEE Transactions on Biomedical Engineering, 1983. The generalised
// winding number is the sum over 4 pi: Jacobson et al., SIGGRAPH 2013.
template <class V>
struct AngleSum {
  V real = V(1), imaginary = V(0), turns = V(0);

  RECON_HD void add_triangle(Vec3<V> a, Vec3<V> b, Vec3<V> c) {
    using std::sqrt;
    a = a * (V(1) / norm(a)), b = b * (V(1) / norm(b)), c = c * (V(1) / norm(c));
    const V sine = dot(a, cross(b, c)), cosine = V(1) + dot(a, b) + dot(b, c) + dot(c, a);
    const V length = sqrt(sine * sine + cosine * cosine);
    const auto seen = length > V(0);  // not from a corner
    multiply(select(seen, cosine / length, V(1)), select(seen, sine / length, V(0)));
  }

  // The lower half of the circle is left through -1 downwards, the upper half upwards.
  RECON_HD void multiply(V re, V im) {
    const V before = imaginary, new_real = real * re - imaginary * im;
    imaginary = real * im + imaginary * re, real = new_real;
    const V up = select(im >= V(0), select(before >= V(0), select(imaginary < V(0), V(1), V(0)), V(0)), V(0));
    const V down = select(im < V(0), select(before < V(0), select(imaginary >= V(0), V(1), V(0)), V(0)), V(0));
    turns = turns + (up - down);
  }
};

// Adding 0 turns -0 into 0, whose angle beside -1 is the one that `multiply` means.
template <class T>
RECON_HD T full_turns(T real, T imaginary, T turns) {
  using std::atan2;
  return turns + atan2(imaginary + T(0), real) * T(0.15915494309189535);
}

RECON_SIMD_DECLARE(template <class T> void wind_points(const Winding<T>& in, int64_t begin, int64_t end))

template <class T>
void point_mesh_winding_cuda(const Winding<T>& in, const Device& device);

}  // namespace recon
