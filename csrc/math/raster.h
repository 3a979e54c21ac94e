#pragma once
// The geometry of one face at one pixel, for CPU lanes (V = Pack<T>), one pixel (V = T) and the GPU alike.
//
// Conventions are PyTorch3D's: x, y in NDC (+x left, +y up, the short image side spans [-1, 1]), z in view space,
// distances squared in NDC. The order of the operations is part of the contract: in float32 without contraction the
// results equal PyTorch3D's CPU kernel bit for bit.
#include <cmath>

#include "core/select.h"

namespace recon {

// PyTorch3D compares floats with the double 1e-8; rounding it to T first gives the same answers for <=.
template <class T>
constexpr T raster_epsilon = T(1e-8);

// NDC coordinate of the centre of pixel i of `size`, when the other side has `other` pixels.
template <class T>
RECON_HD T pixel_center(int64_t i, int64_t size, int64_t other) {
  const T range = size > other ? (T(size) * T(2)) / T(other) : T(2);
  const T offset = range / T(2);
  return -offset + (range * T(i) + offset) / T(size);
}

template <class T>
struct RasterFace {
  T x0, y0, z0, x1, y1, z1, x2, y2, z2;
  T area;                    // signed, with the epsilon that barycentric coordinates divide by
  T sq01, sq02, sq12;        // squared edge lengths
  T z_scale;                 // 1, or what keeps products of two depths from overflowing
  T reach0, reach1, reach2;  // no pixel is hit whose edge function, times the sign of the area, is below these
};

// Why a face takes part or not.
enum class FaceKind { visible, skipped, not_finite };

template <class T>
RECON_HD bool is_finite(T v) {
  return v - v == T(0);
}

// Fills `f` from three vertices (x, y, z). Skipped: a vertex at or behind the camera plane, no area, culled back faces,
// edges so long that their squares overflow.
template <class T>
RECON_HD FaceKind make_raster_face(const T* v0, const T* v1, const T* v2, T blur_radius, bool cull_backfaces,
                                   RasterFace<T>& f) {
  using std::sqrt;
  f.x0 = v0[0], f.y0 = v0[1], f.z0 = v0[2];
  f.x1 = v1[0], f.y1 = v1[1], f.z1 = v1[2];
  f.x2 = v2[0], f.y2 = v2[1], f.z2 = v2[2];
  const T zmin = minimum(f.z0, minimum(f.z1, f.z2)), zmax = maximum(f.z0, maximum(f.z1, f.z2));
  if (static_cast<double>(zmin) < 1e-8) return FaceKind::skipped;
  const T total = ((f.x0 + f.x1 + f.x2) + (f.y0 + f.y1 + f.y2)) + (f.z0 + f.z1 + f.z2);
  if (!is_finite(total) &&
      !(is_finite(f.x0) && is_finite(f.x1) && is_finite(f.x2) && is_finite(f.y0) && is_finite(f.y1) &&
        is_finite(f.y2) && is_finite(f.z0) && is_finite(f.z1) && is_finite(f.z2)))
    return FaceKind::not_finite;
  const T area = (f.x0 - f.x1) * (f.y2 - f.y1) - (f.y0 - f.y1) * (f.x2 - f.x1);
  if (cull_backfaces && area < T(0)) return FaceKind::skipped;
  if (area <= raster_epsilon<T> && area >= -raster_epsilon<T>) return FaceKind::skipped;
  const T cross_a = (f.x2 - f.x0) * (f.y1 - f.y0), cross_b = (f.y2 - f.y0) * (f.x1 - f.x0);
  f.area = static_cast<T>(static_cast<double>(cross_a - cross_b) + 1e-8);
  if (f.area == T(0)) return FaceKind::skipped;
  const auto sq = [](T ax, T ay, T bx, T by) { return (bx - ax) * (bx - ax) + (by - ay) * (by - ay); };
  f.sq01 = sq(f.x0, f.y0, f.x1, f.y1), f.sq02 = sq(f.x0, f.y0, f.x2, f.y2), f.sq12 = sq(f.x1, f.y1, f.x2, f.y2);
  if (!is_finite(f.sq01 + f.sq02 + f.sq12)) return FaceKind::skipped;  // no distance to its edges can be measured
  f.z_scale = zmax > T(1e15) ? T(1) / zmax : T(1);
  // |edge function| / length is the distance to the line of an edge: a pixel further out than the blur is not hit. The
  // slack covers rounding, so that the exact test decides alone.
  const auto largest = [](T a, T b, T c) { return maximum(maximum(a, -a), maximum(maximum(b, -b), maximum(c, -c))); };
  const T extent = largest(f.x0, f.x1, f.x2) + largest(f.y0, f.y1, f.y2) + T(2);
  const T reach = blur_radius > T(0) ? sqrt(blur_radius) * T(1.001) + T(4e-6) * extent : T(0);
  f.reach0 = -reach * sqrt(f.sq12), f.reach1 = -reach * sqrt(f.sq02), f.reach2 = -reach * sqrt(f.sq01);
  // The sign of the area of a needle may be rounding: then nothing is known about the side of an edge.
  const T noise = T(4) * raster_epsilon<T> + T(1e-6) * (maximum(cross_a, -cross_a) + maximum(cross_b, -cross_b));
  if (blur_radius > T(0) && f.area <= noise && f.area >= -noise) f.reach0 = f.reach1 = f.reach2 = T(-3e38);
  return FaceKind::visible;
}

// Columns and rows of the pixels whose centres may lie within the blurred bounding box of a face; empty if i1 < i0.
struct PixelBox {
  int32_t i0, i1, j0, j1;
};

// Centres of the pixels of one image side, in descending order, as pixel i of that side.
template <class T>
struct PixelCenters {
  int64_t size, other;
  RECON_HD T operator()(int64_t i) const { return pixel_center<T>(size - 1 - i, size, other); }
};

// The first and last pixel of a side whose centre lies in [lo, hi]. Estimated, then corrected with the centres
// themselves, so that no pixel is lost to rounding.
template <class T, class Centers>
RECON_HD void pixel_range(const Centers& center, int64_t size, T lo, T hi, int32_t& first, int32_t& last) {
  const T top = center(0), per_unit = size > 1 ? T(size - 1) / (top - center(size - 1)) : T(1);
  const auto estimate = [&](T v) {
    return static_cast<int64_t>(minimum(maximum((top - v) * per_unit, T(-2)), T(size + 1)));
  };
  int64_t i = estimate(hi) + 1, j = estimate(lo);
  i = i < 0 ? 0 : i > size ? size : i;
  j = j > size - 1 ? size - 1 : j < -1 ? -1 : j;
  while (j + 1 < size && center(j + 1) >= lo) ++j;
  while (i > 0 && center(i - 1) <= hi) --i;
  while (i <= j && center(i) > hi) ++i;
  while (j >= i && center(j) < lo) --j;
  first = static_cast<int32_t>(i), last = static_cast<int32_t>(j);
}

// The pixels of a face, given the centres of an image's columns and rows.
template <class T, class Columns, class Rows>
RECON_HD PixelBox pixel_box(const RasterFace<T>& f, const Columns& columns, const Rows& rows, int64_t H, int64_t W,
                            T blur_radius) {
  using std::sqrt;
  const T reach = sqrt(blur_radius);
  PixelBox b;
  pixel_range(columns, W, minimum(f.x0, minimum(f.x1, f.x2)) - reach, maximum(f.x0, maximum(f.x1, f.x2)) + reach, b.i0,
              b.i1);
  pixel_range(rows, H, minimum(f.y0, minimum(f.y1, f.y2)) - reach, maximum(f.y0, maximum(f.y1, f.y2)) + reach, b.j0,
              b.j1);
  if (b.j1 < b.j0) b.i0 = 0, b.i1 = -1;
  return b;
}

template <class V>
struct Triple {
  V a, b, c;
};

// Twice the signed area of (p, a, b): on which side of the line a b the point p lies.
template <class V>
RECON_HD V edge_function(V px, V py, V ax, V ay, V bx, V by) {
  return (px - ax) * (by - ay) - (py - ay) * (bx - ax);
}

template <class V>
RECON_HD Triple<V> edge_functions(V px, V py, V x0, V y0, V x1, V y1, V x2, V y2) {
  return {edge_function(px, py, x1, y1, x2, y2), edge_function(px, py, x2, y2, x0, y0),
          edge_function(px, py, x0, y0, x1, y1)};
}

// Barycentric coordinates on the screen -> on the face seen in perspective: w_i / z_i, normalised.
template <class T, class V>
RECON_HD Triple<V> perspective_correct(const Triple<V>& w, V z0, V z1, V z2) {
  const V t0 = w.a * z1 * z2, t1 = w.b * z0 * z2, t2 = w.c * z0 * z1;
  const V sum = maximum(t0 + t1 + t2, V(raster_epsilon<T>));
  return {t0 / sum, t1 / sum, t2 / sum};
}

// Negative coordinates become zero and the rest sum to one: the nearest place on the face, roughly.
template <class T, class V>
RECON_HD Triple<V> clip_barycentric(const Triple<V>& w) {
  const V c0 = maximum(w.a, V(T(0))), c1 = maximum(w.b, V(T(0))), c2 = maximum(w.c, V(T(0)));
  const V sum = maximum(c0 + c1 + c2, V(T(1e-5)));
  return {c0 / sum, c1 / sum, c2 / sum};
}

// Squared distance of p to the segment a b, and the place a + t (b - a) of the nearest point; a segment shorter than
// the epsilon is its end b.
template <class T, class V>
RECON_HD V segment_sq_distance(V px, V py, V ax, V ay, V bx, V by, V sq_length, V& t) {
  const V ex = bx - ax, ey = by - ay;
  t = (ex * (px - ax) + ey * (py - ay)) / sq_length;
  t = minimum(maximum(t, V(T(0))), V(T(1)));
  const auto tiny = sq_length <= V(raster_epsilon<T>);
  t = select(tiny, V(T(1)), t);
  const V qx = select(tiny, bx, ax + t * ex), qy = select(tiny, by, ay + t * ey);
  return (px - qx) * (px - qx) + (py - qy) * (py - qy);
}

template <class T, class V>
RECON_HD V segment_sq_distance(V px, V py, V ax, V ay, V bx, V by, V sq_length) {
  V t;
  return segment_sq_distance<T>(px, py, ax, ay, bx, by, sq_length, t);
}

template <class T, class V>
RECON_HD V depth_at(const Triple<V>& w, V z0, V z1, V z2) {
  return w.a * z0 + w.b * z1 + w.c * z2;
}

// What one face is at one pixel.
template <class T>
struct FaceAtPixel {
  T z, dist;  // dist is signed
  Triple<T> weights;
};

// Whether the face hits the pixel centre (px, py), and how. The pixel must lie in the face's pixel box.
template <class T>
RECON_HD bool face_at_pixel(const RasterFace<T>& f, T px, T py, T blur_radius, bool perspective, bool clip,
                            FaceAtPixel<T>& at) {
  const Triple<T> e = edge_functions(px, py, f.x0, f.y0, f.x1, f.y1, f.x2, f.y2);
  const T sign = f.area > T(0) ? T(1) : T(-1);
  if (!(e.a * sign >= f.reach0 && e.b * sign >= f.reach1 && e.c * sign >= f.reach2)) return false;
  Triple<T> w = {e.a / f.area, e.b / f.area, e.c / f.area};
  if (perspective) w = perspective_correct<T>(w, f.z0 * f.z_scale, f.z1 * f.z_scale, f.z2 * f.z_scale);
  const bool inside = w.a > T(0) && w.b > T(0) && w.c > T(0);
  at.weights = clip ? clip_barycentric<T>(w) : w;
  at.z = depth_at<T>(at.weights, f.z0, f.z1, f.z2);
  if (!(at.z >= T(0))) return false;
  const T d01 = segment_sq_distance<T>(px, py, f.x0, f.y0, f.x1, f.y1, f.sq01);
  const T d02 = segment_sq_distance<T>(px, py, f.x0, f.y0, f.x2, f.y2, f.sq02);
  const T d12 = segment_sq_distance<T>(px, py, f.x1, f.y1, f.x2, f.y2, f.sq12);
  const T dist = minimum(minimum(d01, d02), d12);
  at.dist = inside ? -dist : dist;
  return inside || dist < blur_radius;
}

// Gradients of g * (squared distance of p to the nearest edge) in the corners; of 01, 02, 12 the first where they tie.
template <class T, class V>
RECON_HD void nearest_edge_vjp(V px, V py, const V* x, const V* y, V sq01, V sq02, V sq12, V g, V* gx, V* gy) {
  const V zero(T(0));
  V t01, t02, t12;
  const V d01 = segment_sq_distance<T>(px, py, x[0], y[0], x[1], y[1], sq01, t01);
  const V d02 = segment_sq_distance<T>(px, py, x[0], y[0], x[2], y[2], sq02, t02);
  const V d12 = segment_sq_distance<T>(px, py, x[1], y[1], x[2], y[2], sq12, t12);
  const auto is01 = (d01 <= d02) & (d01 <= d12);
  const auto from0 = is01 | ((d02 <= d01) & (d02 <= d12));
  // The distance to a + t (b - a): t is where it is smallest, or at an end, so it moves without effect.
  const V ax = select(from0, x[0], x[1]), ay = select(from0, y[0], y[1]);
  const V bx = select(is01, x[1], x[2]), by = select(is01, y[1], y[2]);
  const V t = select(is01, t01, select(from0, t02, t12)), s = V(T(1)) - t;
  const V dx = V(T(2)) * g * (s * ax + t * bx - px), dy = V(T(2)) * g * (s * ay + t * by - py);
  const V gax = s * dx, gay = s * dy, gbx = t * dx, gby = t * dy;
  gx[0] = select(from0, gax, zero), gy[0] = select(from0, gay, zero);
  gx[1] = select(is01, gbx, select(from0, zero, gax)), gy[1] = select(is01, gby, select(from0, zero, gay));
  gx[2] = select(is01, zero, gbx), gy[2] = select(is01, zero, gby);
}

// Gradients in the nine coordinates of a face (x0 y0 z0 x1 ...) from those of its depth, barycentric coordinates and
// signed distance at pixel p. `out` is overwritten. PyTorch3D's CPU formulas, except that a clamped denominator has no
// gradient (there it divides by the clamped value squared, which is how its NaN come about).
template <class T, class V>
RECON_HD void raster_vjp(V px, V py, const V* x, const V* y, const V* z, bool perspective, bool clip, V grad_z,
                         const Triple<V>& grad_bary, V grad_dist, V* out) {
  const V zero(T(0)), one(T(1)), epsilon(raster_epsilon<T>);
  const V area = edge_function(x[2], y[2], x[0], y[0], x[1], y[1]) + epsilon;
  const Triple<V> e = edge_functions(px, py, x[0], y[0], x[1], y[1], x[2], y[2]);
  const V inverse_area = one / area;
  const Triple<V> screen = {e.a * inverse_area, e.b * inverse_area, e.c * inverse_area};
  const V zmax = maximum(z[0], maximum(z[1], z[2]));
  const V scale = select(zmax > V(T(1e15)), one / zmax, one);
  const V z0 = z[0] * scale, z1 = z[1] * scale, z2 = z[2] * scale;
  const Triple<V> w = perspective ? perspective_correct<T>(screen, z0, z1, z2) : screen;
  const auto inside = (w.a > zero) & (w.b > zero) & (w.c > zero);

  const auto sq = [&](int a, int b) { return (x[b] - x[a]) * (x[b] - x[a]) + (y[b] - y[a]) * (y[b] - y[a]); };
  V gx[3], gy[3];
  nearest_edge_vjp<T>(px, py, x, y, sq(0, 1), sq(0, 2), sq(1, 2), select(inside, -grad_dist, grad_dist), gx, gy);

  // Through the depth and the barycentric coordinates: clip, then perspective, then the edge functions over the area.
  const Triple<V> clipped = clip ? clip_barycentric<T>(w) : w;
  V gz0 = grad_z * clipped.a, gz1 = grad_z * clipped.b, gz2 = grad_z * clipped.c;
  Triple<V> gw = {grad_bary.a + grad_z * z[0], grad_bary.b + grad_z * z[1], grad_bary.c + grad_z * z[2]};
  if (clip) {
    const V c0 = maximum(w.a, zero), c1 = maximum(w.b, zero), c2 = maximum(w.c, zero);
    const V raw_sum = c0 + c1 + c2, least(T(1e-5));
    const V sum = maximum(raw_sum, least);
    const V through_sum = select(raw_sum < least, zero, -(c0 * gw.a + c1 * gw.b + c2 * gw.c) / (sum * sum));
    gw.a = select(w.a < zero, zero, gw.a / sum + through_sum);
    gw.b = select(w.b < zero, zero, gw.b / sum + through_sum);
    gw.c = select(w.c < zero, zero, gw.c / sum + through_sum);
  }
  if (perspective) {
    const V t0 = screen.a * z1 * z2, t1 = screen.b * z0 * z2, t2 = screen.c * z0 * z1;
    const V raw_sum = t0 + t1 + t2;
    const V sum = maximum(raw_sum, epsilon);
    const V through_sum =
        select(raw_sum < epsilon, zero, -((t0 / sum) * gw.a + (t1 / sum) * gw.b + (t2 / sum) * gw.c) / sum);
    const V gt0 = through_sum + gw.a / sum, gt1 = through_sum + gw.b / sum, gt2 = through_sum + gw.c / sum;
    gz0 += scale * (gt1 * screen.b * z2 + gt2 * screen.c * z1);
    gz1 += scale * (gt0 * screen.a * z2 + gt2 * screen.c * z0);
    gz2 += scale * (gt0 * screen.a * z1 + gt1 * screen.b * z0);
    gw = {gt0 * z1 * z2, gt1 * z0 * z2, gt2 * z0 * z1};
  }
  // w_i = e_i / area:  dL/de_i = g_i / area,  dL/darea = -sum g_i e_i / area^2.
  const V l0 = gw.a * inverse_area, l1 = gw.b * inverse_area, l2 = gw.c * inverse_area;
  const V s = -(l0 * screen.a + l1 * screen.b + l2 * screen.c);
  gx[0] += l1 * (y[2] - py) + l2 * (py - y[1]) + s * (y[2] - y[1]);
  gy[0] += l1 * (px - x[2]) + l2 * (x[1] - px) + s * (x[1] - x[2]);
  gx[1] += l0 * (py - y[2]) + l2 * (y[0] - py) + s * (y[0] - y[2]);
  gy[1] += l0 * (x[2] - px) + l2 * (px - x[0]) + s * (x[2] - x[0]);
  gx[2] += l0 * (y[1] - py) + l1 * (py - y[0]) + s * (y[1] - y[0]);
  gy[2] += l0 * (px - x[1]) + l1 * (x[0] - px) + s * (x[0] - x[1]);
  out[0] = gx[0], out[1] = gy[0], out[2] = gz0;
  out[3] = gx[1], out[4] = gy[1], out[5] = gz1;
  out[6] = gx[2], out[7] = gy[2], out[8] = gz2;
}

}  // namespace recon
