#pragma once
// Backward: pixels add to the sums of the spheres that they track; then the sums become gradients. For both devices.
#include "ops/render_spheres/spheres.h"

namespace recon {

template <class T>
struct SpheresGrads {
  const T *image, *stats;  // as in SpheresOutput
  const int32_t* ids;
  const T* grad_image;                                         // B H W C
  T *points, *radii, *colors, *opacity, *camera, *background;  // may be null
};

// What a sphere sums up over pixels, followed by the gradients of its colours: gradients of its centre; of the pixel's
// place, also times the pixel's column and row on the sensor; of radius and opacity; how many pixels took part.
struct SphereSums {
  enum { center = 0, place = 3, by_column = 6, by_row = 9, radius = 12, opacity = 13, pixels = 14, colors = 15 };
};

template <class T>
struct SpherePixel {
  int64_t at;
  T column, row;  // of the ray: see SphereCamera::column0
  Vec3<T> place, ray;
  T largest, per_total, varies;  // varies: whether the total follows its weights
  const T *image, *grad;

  RECON_HD SpherePixel(const SpheresInput<T>& in, const SpheresGrads<T>& g, const SphereCamera<T>& camera, int64_t n,
                       int64_t row, int64_t column)
      : at((n * in.H + row) * in.W + column),
        column(static_cast<T>(column) + camera.column0),
        row(static_cast<T>(row) + camera.row0),
        place(camera.place_of(static_cast<T>(column), static_cast<T>(row))),
        ray(camera.ray_of(in.orthogonal, static_cast<T>(column), static_cast<T>(row))),
        largest(g.stats[4 * at]),
        per_total(T(1) / maximum(g.stats[4 * at + 1], least_total<T>)),
        varies(g.stats[4 * at + 1] < least_total<T> ? T(0) : T(1)),
        image(g.image + at * in.C),
        grad(g.grad_image + at * in.C) {}

  // Calls add(entry of SphereSums, value) for what the pixel adds to a sphere of its image.
  template <class F>
  RECON_HD void add_hit(const SpheresInput<T>& in, const SphereCamera<T>& camera, const Sphere<T>& s, const T* color,
                        const F& add) const {
    using std::exp;
    const auto h = hit_sphere<T>(in.orthogonal, s, ray, [&]() -> const SphereCamera<T>& { return camera; });
    const T exponent = (in.max_depth - h.depth) * s.weight, excess = exponent - largest;
    // What weighs nothing may lie above the largest exponent.
    const T power = exp(excess < T(0) ? excess : T(0)) * per_total, share = h.closeness * s.opacity;
    T per_weight(0);
    for (int64_t c = 0; c < in.C; ++c) {
      per_weight += grad[c] * (color[c] - varies * image[c]);
      add(SphereSums::colors + static_cast<int>(c), share * power * grad[c]);
    }
    if (!h.hit) per_weight = T(0);
    const auto g = grad_sphere(in.orthogonal, camera, s, ray, place, h, per_weight * power * s.opacity,
                               -per_weight * power * share * s.weight);
    const auto add_vector = [&](int entry, const Vec3<T>& v) {
      add(entry, v.x), add(entry + 1, v.y), add(entry + 2, v.z);
    };
    add_vector(SphereSums::center, g.center);
    add_vector(SphereSums::place, g.place);
    add_vector(SphereSums::by_column, g.place * column);
    add_vector(SphereSums::by_row, g.place * row);
    add(SphereSums::radius, g.radius);
    add(SphereSums::opacity, per_weight * power * h.closeness * (T(1) + exponent));
    add(SphereSums::pixels, T(1));
  }
};

// Makes the gradients of sphere i of B N from its sums, and what it adds to that of the camera.
template <class T>
struct FinishSphere {
  static constexpr int camera_terms = 13;  // the camera's twelve numbers; whether the sphere counts

  SpheresInput<T> in;
  SpheresGrads<T> g;
  const T* sums;  // B N (15 + C)
  T* terms;       // B 13 N, null where nobody needs the gradient of the camera

  RECON_HD void operator()(int64_t i) const {
    const T* s = sums + i * (SphereSums::colors + in.C);
    const T pixels = s[SphereSums::pixels], scale = in.average && pixels > T(0) ? T(1) / pixels : T(1);
    for (int d = 0; g.points && d < 3; ++d) g.points[3 * i + d] += scale * s[SphereSums::center + d];
    if (g.radii) g.radii[i] += scale * s[SphereSums::radius];
    if (g.opacity) g.opacity[i] += scale * s[SphereSums::opacity];
    for (int64_t c = 0; g.colors && c < in.C; ++c) g.colors[i * in.C + c] += scale * s[SphereSums::colors + c];
    if (terms) add_camera_terms(i / in.N, i % in.N, s);
  }

 private:
  RECON_HD void add_camera_terms(int64_t n, int64_t id, const T* s) const {
    const T pixels = s[SphereSums::pixels];
    T* out = terms + n * camera_terms * in.N + id;
    for (int e = 0; e < camera_terms; ++e) out[e * in.N] = T(0);
    if (!(pixels > T(0))) return;
    const SphereCamera<T> camera(in, n);
    const T scale = in.average ? importance(camera, n, id) / pixels : T(1);
    if (scale == T(0)) return;
    const Vec3<T> center = Vec3<T>::load(s + SphereSums::center), place = Vec3<T>::load(s + SphereSums::place);
    Vec3<T> right = Vec3<T>::load(s + SphereSums::by_column), down = Vec3<T>::load(s + SphereSums::by_row);
    if (in.orthogonal) add_frame(camera, n, id, center, place, right, down);
    // Parallel rays leave a sensor that moves with the eye.
    const Vec3<T> none = {T(0), T(0), T(0)}, first = in.orthogonal ? none : place;
    const Vec3<T> grads[4] = {(center + first) * -scale, first * scale, right * scale, down * scale};
    for (int e = 0; e < 4; ++e) {
      out[(3 * e) * in.N] = grads[e].x, out[(3 * e + 1) * in.N] = grads[e].y, out[(3 * e + 2) * in.N] = grads[e].z;
    }
    out[12 * in.N] = T(1);
  }

  // With parallel rays, distances are measured along the unit vectors of the sensor, which depend on right and down.
  RECON_HD void add_frame(const SphereCamera<T>& camera, int64_t n, int64_t id, const Vec3<T>& center,
                          const Vec3<T>& place, Vec3<T>& right, Vec3<T>& down) const {
    const Vec3<T> seen = Vec3<T>::load(in.points + 3 * (n * in.N + id)) - camera.eye;
    const Vec3<T> by_column = right, by_row = down;
    // The sum over pixels of the gradient along `axis` times the vector from the pixel to the sphere.
    const auto along = [&](const Vec3<T>& axis, T length) {
      const Vec3<T> sum =
          seen * -dot(place, axis) + camera.right * dot(by_column, axis) + camera.down * dot(by_row, axis);
      return (sum - axis * dot(sum, axis)) * (T(1) / length);
    };
    right += along(camera.x, camera.pixel), down += along(camera.y, camera.pixel_y);
    // The optical axis is that of down x right.
    const Vec3<T> normal = cross(camera.down, camera.right), in_z = seen * dot(center, camera.z);
    const Vec3<T> in_normal =
        (in_z - camera.z * dot(in_z, camera.z)) * ((in.right_handed ? T(-1) : T(1)) / norm(normal));
    down += cross(camera.right, in_normal), right += cross(in_normal, camera.down);
  }

  // A thousandth of the pixels of the sphere's bounding box; 0 if it is less than 3 pixels wide or high.
  RECON_HD T importance(const SphereCamera<T>& camera, int64_t n, int64_t id) const {
    using std::ceil;
    using std::floor;
    Sphere<T> s;
    make_sphere(in, camera, n, id, s);
    const Outline<T> o = outline_of(camera, in.orthogonal, s, s.radius);
    const auto side = [](T lo, T hi, int64_t size) {
      return minimum(ceil(hi) + T(1), static_cast<T>(size)) - floor(maximum(lo, T(0)));
    };
    const T across = side(o.x0, o.x1, in.W), along = side(o.y0, o.y1, in.H);
    return across >= T(3) && along >= T(3) ? T(1e-3) * across * along : T(0);
  }
};

// Adds the sums over spheres to the gradient of camera n.
template <class T>
struct FinishCamera {
  const T* totals;  // B 13
  T* camera;        // B 4 3
  bool average;

  RECON_HD void operator()(int64_t n) const {
    const T* of_image = totals + n * FinishSphere<T>::camera_terms;
    const T count = average && of_image[12] > T(0) ? of_image[12] : T(1);
    for (int e = 0; e < 12; ++e) camera[12 * n + e] += of_image[e] / count;
  }
};

// What pixel i adds to the gradient of the background.
template <class T>
struct BackgroundTerms {
  SpheresInput<T> in;
  SpheresGrads<T> g;
  T* terms;  // C, pixels

  RECON_HD void operator()(int64_t i) const {
    using std::exp;
    const T total = maximum(g.stats[4 * i + 1], least_total<T>);
    const T weight = exp(in.background_depth / in.gamma - g.stats[4 * i]) / total;
    for (int64_t c = 0; c < in.C; ++c) terms[c * (in.B * in.H * in.W) + i] = weight * g.grad_image[i * in.C + c];
  }
};

}  // namespace recon
