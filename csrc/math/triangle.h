#pragma once
// Triangles in space: normals, areas, cotangents.
#include "math/vec.h"

namespace recon {

template <class T>
struct Triangle {
  Vec3<T> v[3];

  // Face f of a mesh.
  RECON_HD static Triangle load(const T* verts, const int64_t* faces, int64_t f) {
    return {{Vec3<T>::load(verts + 3 * faces[3 * f]), Vec3<T>::load(verts + 3 * faces[3 * f + 1]),
             Vec3<T>::load(verts + 3 * faces[3 * f + 2])}};
  }
};

// (v1 - v0) x (v2 - v0): along the normal, twice the area long.
template <class T>
RECON_HD Vec3<T> area_vector(const Triangle<T>& t) {
  return cross(t.v[1] - t.v[0], t.v[2] - t.v[0]);
}

// Gradient of g . area_vector in corner k. The area vector is v0 x v1 + v1 x v2 + v2 x v0, the same from every corner.
template <class T>
RECON_HD Vec3<T> area_vector_vjp(const Triangle<T>& t, int k, Vec3<T> g) {
  return cross(t.v[(k + 1) % 3] - t.v[(k + 2) % 3], g);
}

// Cotangents of the three angles and the area, by Heron's formula with the area kept above 1e-6:
//   cot alpha = (b^2 + c^2 - a^2) / (4 area)
template <class T>
struct Cotangents {
  T cot[3], area;
};

template <class T>
RECON_HD Cotangents<T> cotangents(const Triangle<T>& t) {
  using std::sqrt;
  const T a = norm(t.v[1] - t.v[2]), b = norm(t.v[0] - t.v[2]), c = norm(t.v[0] - t.v[1]);
  const T s = T(0.5) * (a + b + c);
  const T squared = s * (s - a) * (s - b) * (s - c);
  const T area = sqrt(squared > T(1e-12) ? squared : T(1e-12));
  const T scale = T(0.25) / area;
  return {{(b * b + c * c - a * a) * scale, (a * a + c * c - b * b) * scale, (a * a + b * b - c * c) * scale}, area};
}

}  // namespace recon
