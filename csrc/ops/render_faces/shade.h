#pragma once
// The colour of a face at a pixel and its gradients, once for CPU and GPU. `At` says where: it has
//   V            a register of numbers, or one number
//   lanes, n     how many places it holds, and how many of them count
//   w            barycentric coordinates
//   of_corner(c, table, width, j)   entry j of the row of `table` of corner c's vertex
//   of_face(table, width, j)        entry j of the row of `table` of the face
//   face(i), map_of(surface, i)     the face of a lane and its image, -1 for none
//   lane(v, i), pack(values)        between V and single numbers
#include "ops/render_faces/kernels.h"

namespace recon {

template <class V>
RECON_HD V interpolate(const Triple<V>& w, V a, V b, V c) {
  return w.a * a + w.b * b + w.c * c;
}

constexpr int most_attributes = 9;

template <class T, class At>
class Shade {
  using V = typename At::V;

 public:
  Vec3<V> color;

  RECON_HD Shade(const Surface<T>& surface, const At& at, const Light<V>& light) : surface_(surface), at_(at) {
    for (int j = 0; j < surface.A; ++j) {
      for (int c = 0; c < 3; ++c) corner_[c][j] = at.of_corner(c, surface.attributes, surface.A, j);
      value_[j] = interpolate(at.w, corner_[0][j], corner_[1][j], corner_[2][j]);
    }
    if (surface.texture == Texture::vertex)
      texel_ = values(surface.color_at());
    else
      look_up();
    switch (surface.lighting) {
      case Lighting::none:
        color = texel_;
        break;
      case Lighting::face:
        factor_ = of_face(0);
        color = times(texel_, factor_) + of_face(3);
        break;
      case Lighting::ambient:
        factor_ = light.ambient;
        color = times(texel_, factor_);
        break;
      default:
        reflection_ = reflect<T>(light, is_point(), values(0), values(3));
        color = times(texel_, reflection_.factor) + light.specular * reflection_.highlight;
    }
  }

  struct Grads {
    Triple<V> bary;
    V attributes[most_attributes];  // of the interpolated values
    V uv[2];
    V face_light[6];
  };

  // From the gradient of the colour. That of the light is added to light_sums; texel_sink(footprint, r, g, b) gets
  // those of the texels of each lane.
  template <class Sink>
  RECON_HD Grads vjp(const Light<V>& light, Vec3<V> grad, V (&light_sums)[Light<V>::size],
                     const Sink& texel_sink) const {
    const V zero(T(0));
    Grads g;
    for (auto& a : g.attributes) a = zero;
    Vec3<V> grad_texel = grad;
    switch (surface_.lighting) {
      case Lighting::none:
        break;
      case Lighting::face:
        grad_texel = times(grad, factor_);
        put(times(grad, texel_), g.face_light);
        put(grad, g.face_light + 3);
        break;
      case Lighting::ambient:
        grad_texel = times(grad, factor_);
        add(times(grad, texel_), light_sums);
        break;
      default: {
        const ReflectionGrads<V> r = reflect_vjp<T>(light, is_point(), reflection_, texel_, grad);
        grad_texel = r.texel;
        add(r.light.ambient, light_sums);
        add(r.light.diffuse, light_sums + 3);
        add(r.light.specular, light_sums + 6);
        add(r.light.place, light_sums + 9);
        add(r.light.eye, light_sums + 12);
        light_sums[15] += r.light.shininess;
        put(r.point, g.attributes);
        put(r.normal, g.attributes + 3);
      }
    }
    if (surface_.texture == Texture::vertex)
      put(grad_texel, g.attributes + surface_.color_at());
    else
      for (int i = 0; i < at_.n; ++i)
        texel_sink(footprint_[i], At::lane(grad_texel.x, i), At::lane(grad_texel.y, i), At::lane(grad_texel.z, i));
    V bary[3] = {zero, zero, zero};
    for (int j = 0; j < surface_.A; ++j)
      for (int c = 0; c < 3; ++c) bary[c] += g.attributes[j] * corner_[c][j];
    if (surface_.texture == Texture::image) {
      g.uv[0] = dot(grad_texel, per_u_), g.uv[1] = dot(grad_texel, per_v_);
      for (int c = 0; c < 3; ++c) bary[c] += g.uv[0] * uv_[c][0] + g.uv[1] * uv_[c][1];
    }
    g.bary = {bary[0], bary[1], bary[2]};
    return g;
  }

 private:
  RECON_HD bool is_point() const { return surface_.lighting == Lighting::point; }
  RECON_HD Vec3<V> values(int64_t first) const { return {value_[first], value_[first + 1], value_[first + 2]}; }
  RECON_HD Vec3<V> of_face(int first) const {
    return {at_.of_face(surface_.lights, 6, first), at_.of_face(surface_.lights, 6, first + 1),
            at_.of_face(surface_.lights, 6, first + 2)};
  }
  RECON_HD static void put(Vec3<V> v, V* to) { to[0] = v.x, to[1] = v.y, to[2] = v.z; }
  RECON_HD static void add(Vec3<V> v, V* to) { to[0] += v.x, to[1] += v.y, to[2] += v.z; }

  RECON_HD void look_up() {
    const bool is_image = surface_.texture == Texture::image;
    V u = at_.w.a, v = at_.w.b;
    if (surface_.uvs) {
      for (int c = 0; c < 3; ++c)
        for (int d = 0; d < 2; ++d) uv_[c][d] = at_.of_face(surface_.uvs, 6, 2 * c + d);
      u = interpolate(at_.w, uv_[0][0], uv_[1][0], uv_[2][0]);
      v = interpolate(at_.w, uv_[0][1], uv_[1][1], uv_[2][1]);
    }
    alignas(64) T value[3][At::lanes] = {}, per_u[3][At::lanes] = {}, per_v[3][At::lanes] = {};
    for (int i = 0; i < at_.n; ++i) {
      Footprint<T>& f = footprint_[i];
      const int64_t map = surface_.uvs ? at_.map_of(surface_, i) : at_.face(i);
      const T x = At::lane(u, i), y = At::lane(v, i);
      f = is_image ? footprint(map, x, y, surface_.rows, surface_.columns, surface_.sampling)
                   : atlas_footprint(map, x, y, surface_.rows);
      for_each_texel(f, surface_.rows, surface_.columns, [&](int64_t texel, T weight, T along_x, T along_y) {
        const T* rgb = surface_.maps + 3 * texel;
        for (int c = 0; c < 3; ++c)
          value[c][i] += weight * rgb[c], per_u[c][i] += along_x * rgb[c], per_v[c][i] += along_y * rgb[c];
      });
      for (int c = 0; c < 3; ++c) per_u[c][i] *= f.x_per_u, per_v[c][i] *= f.y_per_v;
    }
    const auto pack = [](const T(&of)[3][At::lanes]) {
      return Vec3<V>{At::pack(of[0]), At::pack(of[1]), At::pack(of[2])};
    };
    texel_ = pack(value), per_u_ = pack(per_u), per_v_ = pack(per_v);
  }

  const Surface<T>& surface_;
  const At& at_;
  V corner_[3][most_attributes], value_[most_attributes];
  V uv_[3][2];
  Footprint<T> footprint_[At::lanes];
  Vec3<V> texel_, per_u_, per_v_, factor_;
  Reflection<V> reflection_;
};

}  // namespace recon
