#pragma once
// Looking up texture images, for CPU and GPU. Conventions are those of torch's grid_sample with v counted from the last
// row: with aligned corners u = 0 and 1 are the centres of the outer texels, without they are their outer edges.
#include <cmath>

#include "core/tensor.h"

namespace recon {

enum class Texture { vertex, image, atlas };
enum class Padding { zeros, border, reflection };

// How images are looked up.
struct Sampling {
  Padding padding;
  bool nearest, align_corners;
};

// The four texels around a place and how far it is from the first: value = lerp over fx and fy. A single texel where
// both are 0. The slopes are d fx / d u and d fy / d v.
template <class T>
struct Footprint {
  int64_t image;
  int32_t x, y;
  T fx, fy, x_per_u, y_per_v;
};

// A coordinate along `size` texels from one in [0, 1], kept inside the image if it is padded so; slope: its derivative.
template <class T>
RECON_HD T texel_coordinate(T unit, int64_t size, const Sampling& s, T& slope) {
  using std::floor;
  const T xy = unit * T(2) - T(1), n = static_cast<T>(size), last = n - T(1);
  T at = s.align_corners ? (xy + T(1)) / T(2) * last : ((xy + T(1)) * n - T(1)) / T(2);
  slope = s.align_corners ? last : n;
  if (s.padding == Padding::reflection) {
    // Mirrored at the centres of the outer texels, or at their edges, as often as it takes.
    const T low = s.align_corners ? T(0) : T(-0.5), span = s.align_corners ? last : n;
    if (span <= T(0)) {
      at = T(0), slope = T(0);
    } else {
      T from_low = at - low;
      if (from_low < T(0)) from_low = -from_low, slope = -slope;
      const T flips = floor(from_low / span), extra = from_low - flips * span;
      if (flips - T(2) * floor(flips / T(2)) == T(0)) {
        at = extra + low;
      } else {
        at = span - extra + low, slope = -slope;
      }
    }
  }
  if (s.padding != Padding::zeros) {
    if (!(at > T(0)))
      at = T(0), slope = T(0);
    else if (at >= last)
      at = last, slope = T(0);
  }
  // Beyond what an index can hold there are no texels, whatever the padding.
  if (!(at > T(-1e6) && at < T(1e9))) at = T(-1e6), slope = T(0);
  return at;
}

template <class T>
RECON_HD Footprint<T> footprint(int64_t image, T u, T v, int64_t rows, int64_t columns, const Sampling& s) {
  using std::floor;
  using std::nearbyint;
  Footprint<T> f;
  f.image = image;
  // Downward coordinate 1 - v.
  const T x = texel_coordinate(u, columns, s, f.x_per_u), y = texel_coordinate(T(1) - v, rows, s, f.y_per_v);
  f.y_per_v = -f.y_per_v;
  const T x0 = s.nearest ? nearbyint(x) : floor(x), y0 = s.nearest ? nearbyint(y) : floor(y);
  f.x = static_cast<int32_t>(x0), f.y = static_cast<int32_t>(y0);
  f.fx = s.nearest ? T(0) : x - x0, f.fy = s.nearest ? T(0) : y - y0;
  if (s.nearest) f.x_per_u = f.y_per_v = T(0);
  return f;
}

// The texel of a face's atlas: the square is cut along its diagonal, below it lies w1 R, w0 R and above its mirror.
template <class T>
RECON_HD Footprint<T> atlas_footprint(int64_t image, T w0, T w1, int64_t R) {
  const auto cell = [R](T w) {
    const T scaled = w * static_cast<T>(R);
    return scaled >= static_cast<T>(R) ? static_cast<int32_t>(R - 1) : scaled > T(0) ? static_cast<int32_t>(scaled) : 0;
  };
  const int32_t column = cell(w0), row = cell(w1), top = static_cast<int32_t>(R) - 1;
  // The cells at the border w0 + w1 = 1 have a lower half only, whatever rounding makes of the sum.
  const bool is_lower = (w0 + w1) * static_cast<T>(R) - static_cast<T>(column + row) <= T(1) || column + row == top;
  return {image, is_lower ? column : top - column, is_lower ? row : top - row, T(0), T(0), T(0), T(0)};
}

// Calls body(texel index, weight, d weight / d fx, d weight / d fy) for the texels of a footprint inside the image;
// none if it is -1.
template <class T, class F>
RECON_HD void for_each_texel(const Footprint<T>& f, int64_t rows, int64_t columns, const F& body) {
  if (f.image < 0) return;
  for (int dy = 0; dy < 2; ++dy)
    for (int dx = 0; dx < 2; ++dx) {
      const int64_t x = int64_t{f.x} + dx, y = int64_t{f.y} + dy;
      if (x < 0 || x >= columns || y < 0 || y >= rows) continue;
      const T along = dx ? f.fx : T(1) - f.fx, down = dy ? f.fy : T(1) - f.fy;
      body((f.image * rows + y) * columns + x, along * down, dx ? down : -down, dy ? along : -along);
    }
}

}  // namespace recon
