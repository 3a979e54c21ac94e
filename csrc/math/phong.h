#pragma once
// The light that a point of a surface reflects towards the camera, for CPU lanes (V = Pack<T>) and the GPU alike.
//
// With unit vectors n (normal), l (to the light), v (to the camera) and c = n . l:
//   colour = (ambient + diffuse max(0, c)) texel + specular s,    s = max(0, v . r)^shininess where c > 0, else 0,
//   r = 2 c n - l.
// Lambert; Phong, Illumination for Computer Generated Pictures, CACM 1975.
#include <cmath>

#include "core/select.h"
#include "math/vec.h"

namespace recon {

enum class Lighting { none, face, ambient, directional, point };

// What lights, material and camera are for one image; colours are those of the light times those of the material.
template <class V>
struct Light {
  static constexpr int size = 16;  // numbers of a row: this struct, in order
  Vec3<V> ambient, diffuse, specular;
  Vec3<V> place;  // direction towards the light, or where it is
  Vec3<V> eye;    // where the camera is
  V shininess;

  template <class U>
  RECON_HD static Light load(const U* p) {
    const auto vec = [p](int i) { return Vec3<V>{V(p[i]), V(p[i + 1]), V(p[i + 2])}; };
    return {vec(0), vec(3), vec(6), vec(9), vec(12), V(p[15])};
  }
};

template <class V>
RECON_HD Vec3<V> times(Vec3<V> a, Vec3<V> b) {
  return {a.x * b.x, a.y * b.y, a.z * b.z};
}

// A vector of length 1, or a shorter one where `v` is shorter than the epsilon, and 1 / the length it was divided by.
template <class V>
struct Unit {
  Vec3<V> direction;
  V inverse;
  RECON_HD V operator()(const Vec3<V>& v) const { return dot(direction, v); }
};

template <class T, class V>
RECON_HD Unit<V> unit(Vec3<V> v) {
  const V inverse = V(T(1)) / maximum(norm(v), V(T(1e-6)));
  return {v * inverse, inverse};
}

// d v / |v|: the part of the gradient across the direction; below the epsilon the divisor is a constant.
template <class T, class V>
RECON_HD Vec3<V> unit_vjp(const Unit<V>& u, Vec3<V> grad) {
  const V along = select(u.inverse < V(T(1e6)), u(grad), V(T(0)));
  return (grad - u.direction * along) * u.inverse;
}

// base^exponent for base >= 0, with 0^0 = 1.
template <class T, class V>
RECON_HD V power(V base, V exponent) {
  using std::exp;
  using std::log;
  const V zero(T(0)), one(T(1));
  const auto positive = base > zero;
  const V result = exp(exponent * log(select(positive, base, one)));
  return select(positive, result, select(exponent == zero, one, zero));
}

template <class V>
struct Reflection {
  Unit<V> normal, to_light, to_eye;
  Vec3<V> reflected;
  V cosine, lit, alignment, highlight;  // lit = max(0, cosine); highlight = alignment^shininess
  Vec3<V> factor;                       // of the texel
};

template <class T, class V>
RECON_HD Reflection<V> reflect(const Light<V>& light, bool is_point, Vec3<V> point, Vec3<V> normal) {
  const V zero(T(0));
  Reflection<V> r;
  r.normal = unit<T>(normal);
  r.to_light = unit<T>(is_point ? light.place - point : light.place);
  r.to_eye = unit<T>(light.eye - point);
  r.cosine = dot(r.normal.direction, r.to_light.direction);
  r.lit = maximum(r.cosine, zero);
  r.reflected = r.normal.direction * (r.cosine + r.cosine) - r.to_light.direction;
  r.alignment = select(r.cosine > zero, maximum(dot(r.to_eye.direction, r.reflected), zero), zero);
  r.highlight = power<T>(r.alignment, light.shininess);
  r.factor = light.ambient + light.diffuse * r.lit;
  return r;
}

// Gradients from that of the colour.
template <class V>
struct ReflectionGrads {
  Light<V> light;
  Vec3<V> point, normal, texel;
};

template <class T, class V>
RECON_HD ReflectionGrads<V> reflect_vjp(const Light<V>& light, bool is_point, const Reflection<V>& r, Vec3<V> texel,
                                        Vec3<V> grad) {
  using std::log;
  const V zero(T(0)), one(T(1));
  ReflectionGrads<V> g;
  const Vec3<V> grad_factor = times(grad, texel);
  g.texel = times(grad, r.factor);
  g.light.ambient = grad_factor;
  g.light.diffuse = grad_factor * r.lit;
  g.light.specular = grad * r.highlight;
  // highlight = alignment^shininess
  const V grad_highlight = dot(grad, light.specular);
  const auto shines = r.alignment > zero;
  const V alignment = select(shines, r.alignment, one);
  const V grad_alignment = select(shines, grad_highlight * light.shininess * r.highlight / alignment, zero);
  g.light.shininess = select(shines, grad_highlight * r.highlight * log(alignment), zero);
  // alignment = v . (2 c n - l), lit = c
  const Vec3<V> grad_reflected = r.to_eye.direction * grad_alignment;
  const V across = dot(grad_reflected, r.normal.direction);
  const V grad_cosine = select(r.cosine > zero, dot(grad_factor, light.diffuse), zero) + across + across;
  const Vec3<V> grad_normal = grad_reflected * (r.cosine + r.cosine) + r.to_light.direction * grad_cosine;
  const Vec3<V> grad_to_light = r.normal.direction * grad_cosine - grad_reflected;
  g.normal = unit_vjp<T>(r.normal, grad_normal);
  g.light.place = unit_vjp<T>(r.to_light, grad_to_light);
  g.light.eye = unit_vjp<T>(r.to_eye, r.reflected * grad_alignment);
  g.point = -g.light.eye;
  if (is_point) g.point = g.point - g.light.place;
  return g;
}

}  // namespace recon
