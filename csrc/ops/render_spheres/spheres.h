#pragma once
// A sphere seen through a pixel, for CPU lanes (V = Pack<T>), one pixel (V = T) and the GPU alike.
//
// Cameras are four vectors in the world: the eye, the centre of pixel (0, 0) on the sensor, and the steps to the next
// pixel to the right and downwards. A ray goes from the eye through the pixel, or along the optical axis from a sensor
// whose centre is the eye.
#include <cmath>

#include "core/select.h"
#include "math/raster.h"
#include "math/vec.h"

namespace recon {

// The arguments of the op.
template <class T>
struct SpheresInput {
  const T *points, *radii, *colors, *opacity;  // B N [3 or C]
  const T *camera, *background;                // B 4 3; C
  const int64_t* order;                        // B N: the spheres of an image by the depth at which they begin
  const int32_t* offset;                       // B 2: of the principal point, in pixels
  int64_t B, N, C, H, W, K;                    // K: tracked spheres of a pixel
  T gamma, min_depth, max_depth, background_depth;
  bool orthogonal, right_handed, average, count_all;
  int64_t max_hits;

  // The exponent of a sphere of opacity 1 at this depth.
  RECON_HD T exponent(T depth) const { return (max_depth - depth) / ((max_depth - min_depth) * gamma); }
};

template <class T>
struct SphereCamera {
  Vec3<T> eye, corner, right, down;  // corner: from the eye to the centre of the first pixel of the image
  Vec3<T> x, y, z;                   // unit vectors of right, down and of the optical axis
  T pixel, pixel_y, focal;           // lengths of right and down; distance of the sensor
  T column0, row0;  // of the first pixel's ray, in pixels: from pixel (0, 0), or from the sensor's centre

  RECON_HD SphereCamera(const SpheresInput<T>& in, int64_t image) {
    const T* vectors = in.camera + 12 * image;
    eye = Vec3<T>::load(vectors), right = Vec3<T>::load(vectors + 6), down = Vec3<T>::load(vectors + 9);
    column0 = T(in.offset[2 * image]), row0 = T(in.offset[2 * image + 1]);
    if (in.orthogonal) {
      // Parallel rays leave a pixel at its first corner, as PyTorch3D has it, and not in its centre.
      column0 -= T(0.5) * T(in.W), row0 -= T(0.5) * T(in.H);
      corner = right * (column0 + T(0.5)) + down * (row0 + T(0.5));
    } else {
      corner = Vec3<T>::load(vectors + 3) - eye + right * column0 + down * row0;
    }
    pixel = norm(right), pixel_y = norm(down);
    x = {right.x / pixel, right.y / pixel, right.z / pixel};
    y = {down.x / pixel_y, down.y / pixel_y, down.z / pixel_y};
    const Vec3<T> normal = cross(down, right);
    z = normal * ((in.right_handed ? T(-1) : T(1)) / norm(normal));
    focal = dot(corner, z);
  }

  // From the eye to where the ray of a pixel leaves the sensor.
  RECON_HD Vec3<T> place_of(T column, T row) const { return corner + right * column + down * row; }
  // What a pixel knows of its ray: the unit vector, or its place on the sensor when rays are parallel.
  RECON_HD Vec3<T> ray_of(bool orthogonal, T column, T row) const {
    if (orthogonal) return {(column + column0) * pixel, (row + row0) * pixel_y, T(0)};
    const Vec3<T> place = place_of(column, row);
    return place * (T(1) / norm(place));
  }
};

// One sphere in the frame of the camera.
template <class T>
struct Sphere {
  Vec3<T> center;     // seen from the eye; along the axes of the sensor and half a pixel when rays are parallel
  T distance;         // of the centre: from the eye, or along the optical axis
  T radius, near;     // no ray meets it before the depth `near`
  T reach;            // spheres smaller than a pixel fill the rays that pass by as near as this; 0 for others
  T weight, opacity;  // weight: of depth in the exponent, opacity / (gamma * range of depths)
  int32_t id;
};

// First and last pixel coordinate of a sphere's outline on the sensor, not rounded.
template <class T>
struct Outline {
  T x0, x1, y0, y1;
};

template <class T>
RECON_HD void outline_side(T across, T depth, T radius, T focal, T origin, T pixel, T& lo, T& hi) {
  using std::sqrt;
  const T far = T(1e9), room = (depth - radius) * (depth + radius);
  lo = -far, hi = far;
  if (!(depth > radius) || !(room > T(0))) return;  // it reaches the plane of the eye
  // Tangents of the two rays that touch the circle, from a quadratic equation.
  const T root = radius * sqrt(maximum(across * across + room, T(0)));
  lo = ((across * depth - root) / room * focal - origin) / pixel;
  hi = ((across * depth + root) / room * focal - origin) / pixel;
}

template <class T>
RECON_HD Outline<T> outline_of(const SphereCamera<T>& camera, bool orthogonal, const Sphere<T>& s, T radius) {
  Outline<T> o;
  const T x0 = dot(camera.corner, camera.x), y0 = dot(camera.corner, camera.y);
  if (orthogonal)
    return {(s.center.x - radius - x0) / camera.pixel, (s.center.x + radius - x0) / camera.pixel,
            (s.center.y - radius - y0) / camera.pixel_y, (s.center.y + radius - y0) / camera.pixel_y};
  const T depth = dot(s.center, camera.z);
  outline_side(dot(s.center, camera.x), depth, radius, camera.focal, x0, camera.pixel, o.x0, o.x1);
  outline_side(dot(s.center, camera.y), depth, radius, camera.focal, y0, camera.pixel_y, o.y0, o.y1);
  return o;
}

// The pixels of a side of the image whose rays are from `lo` to `hi`, up to what rounding makes of that.
template <class T>
RECON_HD void pixels_between(T lo, T hi, int64_t size, int32_t& first, int32_t& last) {
  using std::ceil;
  using std::floor;
  const T slack = T(0.05), end = T(size);
  first = static_cast<int32_t>(ceil(maximum(minimum(lo - slack, end), T(0))));
  last = static_cast<int32_t>(floor(minimum(maximum(hi + slack, T(-1)), end - T(1))));
}

// Fills `s`; false for spheres that are not drawn: outside of the range of depths, behind the camera, not finite.
template <class T>
RECON_HD bool make_sphere(const SpheresInput<T>& in, const SphereCamera<T>& camera, int64_t image, int64_t id,
                          Sphere<T>& s) {
  const int64_t at = image * in.N + id;
  const Vec3<T> seen = Vec3<T>::load(in.points + 3 * at) - camera.eye;
  const T length = norm(seen), depth = dot(seen, camera.z);
  s.radius = in.radii[at], s.opacity = in.opacity[at], s.id = static_cast<int32_t>(id);
  s.weight = s.opacity / ((in.max_depth - in.min_depth) * in.gamma);
  if (in.orthogonal) {
    // By way of the unit vector: rounding as in PyTorch3D, which shows where rays touch spheres.
    const Vec3<T> again = {seen.x / length * length, seen.y / length * length, seen.z / length * length};
    s.center = {dot(again, camera.x), dot(again, camera.y), T(0.5) * camera.pixel}, s.distance = depth;
    // A pixel, and what rounding may make of it.
    s.reach = s.radius < camera.pixel ? camera.pixel * (T(0.5) + T(1e-6)) : T(0);
  } else {
    s.center = seen, s.distance = length;
    const T pixel = camera.pixel * length / camera.focal;  // at this distance
    s.reach = s.radius < pixel ? T(0.75) * pixel : T(0);
  }
  s.near = s.distance - s.radius;
  return is_finite(length) && is_finite(s.radius) && s.radius > T(0) && s.near >= in.min_depth &&
         s.near <= in.max_depth && depth >= T(1e-6) * length;
}

// Whether a sphere ends before the centres of the first column or row. Parallel rays, which leave pixels before their
// centres, may meet it all the same: PyTorch3D does not draw it.
template <class T>
RECON_HD bool ends_outside(const Outline<T>& o) {
  return o.x1 <= T(0) || o.y1 <= T(0);
}

// The pixels that a drawn sphere may hit; empty if i1 < i0.
template <class T>
RECON_HD PixelBox sphere_box(const SpheresInput<T>& in, const SphereCamera<T>& camera, const Sphere<T>& s) {
  const Outline<T> o = outline_of(camera, in.orthogonal, s, maximum(s.radius, s.reach));
  // Parallel rays hit half a pixel further on, and the pixels of small spheres where they are.
  const T shift = in.orthogonal ? T(0.5) : T(0);
  PixelBox box = {0, -1, 0, -1};
  if (in.orthogonal && ends_outside(outline_of(camera, true, s, s.radius))) return box;
  pixels_between(o.x0, o.x1 + shift, in.W, box.i0, box.i1);
  pixels_between(o.y0, o.y1 + shift, in.H, box.j0, box.j1);
  if (box.j1 < box.j0) box.i0 = 0, box.i1 = -1;
  return box;
}

// The logarithm of how many times larger a denominator must be for what is added to it to be lost in rounding.
template <class T>
constexpr T unseen_share = sizeof(T) == 4 ? T(18) : T(39);

// Sums of weights count as no less than this, as in PyTorch3D: a pixel of which spheres cover less is dark. There it is
// 1e-6 for sums in which e^0 is approximated by 0.9713.
template <class T>
constexpr T least_total = T(1.03e-6);

// What the rays of some pixels find of a sphere.
template <class V, class M>
struct SphereHit {
  M hit, full;                   // full: closeness is 1 because the sphere is smaller than a pixel
  V closeness, depth;            // 1 in the middle, 0 at the border; where the ray enters
  V along, apart2, half_chord2;  // place on the ray nearest to the centre; squared distances (see hit_sphere)
};

// Whether rays lie between the pixels around the outline of a sphere. At the border of a wide picture rays are close to
// each other: many may pass by a sphere that is smaller than a pixel within the reach that it has.
template <class T, class V>
RECON_HD auto around_outline(const SphereCamera<T>& camera, const Sphere<T>& s, const Vec3<V>& ray) {
  const auto along = [&](const Vec3<T>& axis) { return ray.x * V(axis.x) + ray.y * V(axis.y) + ray.z * V(axis.z); };
  const Outline<T> o = outline_of(camera, false, s, s.radius);
  const V scale = V(camera.focal) / along(camera.z);
  const V column = (along(camera.x) * scale - V(dot(camera.corner, camera.x))) * V(T(1) / camera.pixel);
  const V row = (along(camera.y) * scale - V(dot(camera.corner, camera.y))) * V(T(1) / camera.pixel_y);
  return (V(o.x0 - T(1)) < column) & (column < V(o.x1 + T(1))) & (V(o.y0 - T(1)) < row) & (row < V(o.y1 + T(1)));
}

// apart: how far the point of the ray at the distance of the centre is from the centre; half_chord: from where the ray
// enters to where it is nearest to the centre. Differences of large numbers are avoided: with w = c - |c| u for a ray
// along the unit vector u, |c| - c.u = |w|^2 / 2 |c| and |c|^2 - (c.u)^2 = |w|^2 (1 - |w|^2 / 4 |c|^2).
// camera(): the camera, which only spheres smaller than a pixel ask for.
template <class T, class V, class F>
RECON_HD auto hit_sphere(bool orthogonal, const Sphere<T>& s, const Vec3<V>& ray, const F& camera) {
  using std::sqrt;
  using M = decltype(V(T(0)) < V(T(0)));
  SphereHit<V, M> h;
  const V zero(T(0)), one(T(1)), r2(s.radius * s.radius), distance(s.distance);
  h.closeness = h.depth = h.half_chord2 = zero;
  V nearest2;  // of the ray to the centre, squared
  if (orthogonal) {
    const V a = V(s.center.x) - ray.x, b = V(s.center.y) - ray.y, reach(s.reach);
    h.apart2 = a * a + b * b, nearest2 = h.apart2, h.along = distance;
    // Of the pixel's centre.
    const V x = a - V(s.center.z), y = b - V(s.center.z);
    h.full = (x < reach) & (-x < reach) & (y < reach) & (-y < reach);
  } else {
    const V a = V(s.center.x) - ray.x * distance, b = V(s.center.y) - ray.y * distance;
    const V c = V(s.center.z) - ray.z * distance;
    h.apart2 = a * a + b * b + c * c;
    h.full = h.apart2 < V(s.reach * s.reach);
    if (any(h.full)) h.full = h.full & around_outline(camera(), s, ray);
    const V share = h.apart2 * V(T(0.5) / s.distance);
    h.along = distance - share, nearest2 = h.apart2 * (one - share * V(T(0.5) / s.distance));
  }
  h.hit = (h.apart2 <= r2) | h.full;
  if (!any(h.hit)) return h;
  h.closeness = select(h.full, one, maximum(one - sqrt(h.apart2) * V(T(1) / s.radius), zero));
  h.half_chord2 = maximum(r2 - nearest2, zero);
  h.depth = h.along - sqrt(h.half_chord2);
  return h;
}

// Gradients through one hit.
template <class T>
struct SphereGrad {
  Vec3<T> center, place;  // in the world: of the sphere's centre and of the pixel's place on the sensor
  T radius;
};

// Given the derivatives of the loss in closeness and depth; `place` is seen from the eye.
template <class T>
RECON_HD SphereGrad<T> grad_sphere(bool orthogonal, const SphereCamera<T>& camera, const Sphere<T>& s,
                                   const Vec3<T>& ray, const Vec3<T>& place, const SphereHit<T, bool>& h,
                                   T grad_closeness, T grad_depth) {
  using std::sqrt;
  const T apart = sqrt(h.apart2), half_chord = sqrt(h.half_chord2);
  const T per_chord = half_chord > T(0) ? grad_depth / half_chord : T(0);
  // closeness = 1 - apart / radius
  const T per_apart = h.full || !(apart > T(0)) ? T(0) : -grad_closeness / (s.radius * apart);
  SphereGrad<T> g;
  g.radius = -per_chord * s.radius + (h.full ? T(0) : grad_closeness * apart / (s.radius * s.radius));
  if (orthogonal) {
    const T both = per_chord + per_apart, a = s.center.x - ray.x, b = s.center.y - ray.y;
    g.place = camera.x * (-both * a) + camera.y * (-both * b);
    g.center = camera.z * grad_depth - g.place;
    return g;
  }
  const Vec3<T> from_ray = s.center - ray * h.along, apart_vector = s.center - ray * s.distance;
  const T length = norm(place);
  g.center = ray * grad_depth + from_ray * per_chord + apart_vector * per_apart +
             s.center * (per_apart * h.apart2 / (T(2) * s.distance * s.distance));
  // In the unit vector of the ray, of which the part along the ray does not count.
  const Vec3<T> sideways = apart_vector + ray * (h.apart2 / (T(2) * s.distance));
  g.place = (from_ray * (grad_depth - per_chord * h.along) - sideways * (per_apart * s.distance)) * (T(1) / length);
  return g;
}

}  // namespace recon
