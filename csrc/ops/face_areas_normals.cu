// face_areas_normals: the area |c| / 2 and the normal c / max(|c|, 1e-6) of every face, c = (v1 - v0) x (v2 - v0).
#include "core/op.h"
#include "core/scratch.h"
#include "math/scatter.h"
#include "math/triangle.h"

namespace recon {

namespace {

constexpr double least_length = 1e-6;  // of c, below which the normal is shorter than 1

void check_faces(const int64_t* faces, int64_t F, int64_t V) {
  uint64_t worst = 0;
  for (int64_t i = 0; i < 3 * F; ++i) worst = std::max(worst, static_cast<uint64_t>(faces[i]));
  if (worst < static_cast<uint64_t>(V) || F == 0) return;
  for (int64_t i = 0; i < 3 * F; ++i)
    if (faces[i] < 0 || faces[i] >= V)
      throw std::invalid_argument("face_areas_normals: faces has index " + std::to_string(faces[i]) + " in row " +
                                  std::to_string(i / 3) + " but there are " + std::to_string(V) + " vertices");
}

// On a GPU a face that names no vertex gets NaN; looking at it first would mean waiting for the device.
RECON_HD bool is_face(const int64_t* faces, int64_t f, int64_t V) {
  for (int k = 0; k < 3; ++k)
    if (faces[3 * f + k] < 0 || faces[3 * f + k] >= V) return false;
  return true;
}

template <class T>
struct FaceAreasNormals {
  const T* verts;
  const int64_t* faces;
  int64_t V;
  T *areas, *normals;

  RECON_HD void operator()(int64_t f) const {
    if (!is_face(faces, f, V)) {
      areas[f] = T(NAN);
      return Vec3<T>{T(NAN), T(NAN), T(NAN)}.store(normals + 3 * f);
    }
    const Vec3<T> c = area_vector(Triangle<T>::load(verts, faces, f));
    const T length = norm(c), divisor = length < T(least_length) ? T(least_length) : length;
    areas[f] = length / T(2);
    Vec3<T>{c.x / divisor, c.y / divisor, c.z / divisor}.store(normals + 3 * f);
  }
};

// The gradient in c: half of c / |c| by the area; through the normal n = c / |c| what of its gradient is across n.
template <class T>
struct AreaVectorGradient {
  const T* verts;
  const int64_t* faces;
  const T *grad_areas, *grad_normals;

  RECON_HD Vec3<T> operator()(const Triangle<T>& t, int64_t f) const {
    const Vec3<T> c = area_vector(t), g = Vec3<T>::load(grad_normals + 3 * f);
    const T length = norm(c);
    const Vec3<T> unit = length > T(0) ? c * (T(1) / length) : c;
    const Vec3<T> by_area = unit * (T(0.5) * grad_areas[f]);
    if (length < T(least_length)) return by_area + g * T(1 / least_length);
    return by_area + (g - unit * dot(unit, g)) * (T(1) / length);
  }
};

template <class T>
struct AddFace {
  AreaVectorGradient<T> gradient;
  int64_t V;
  T* grad_verts;

  RECON_HD void operator()(int64_t f) const {
    if (!is_face(gradient.faces, f, V)) return;
    const Triangle<T> t = Triangle<T>::load(gradient.verts, gradient.faces, f);
    const Vec3<T> g = gradient(t, f);
    for (int k = 0; k < 3; ++k) {
      const Vec3<T> corner = area_vector_vjp(t, k, g);
      T* out = grad_verts + 3 * gradient.faces[3 * f + k];
      atomic_add(out, corner.x), atomic_add(out + 1, corner.y), atomic_add(out + 2, corner.z);
    }
  }
};

// The same for one vertex, in the order of the faces.
template <class T>
struct GatherFaces {
  AreaVectorGradient<T> gradient;
  int64_t V, F;
  T* grad_verts;

  RECON_HD void operator()(int64_t v) const {
    Vec3<T> sum{T(0), T(0), T(0)};
    for (int64_t f = 0; f < F; ++f)
      for (int k = 0; k < 3; ++k) {
        if (gradient.faces[3 * f + k] != v || !is_face(gradient.faces, f, V)) continue;
        const Triangle<T> t = Triangle<T>::load(gradient.verts, gradient.faces, f);
        sum += area_vector_vjp(t, k, gradient(t, f));
      }
    sum.store(grad_verts + 3 * v);
  }
};

template <class T>
void add_faces(const AreaVectorGradient<T>& gradient, int64_t F, int64_t begin, int64_t end, T* grad_verts) {
  for (int64_t f = 0; f < F; ++f) {
    const int64_t* face = gradient.faces + 3 * f;
    bool mine[3];
    for (int k = 0; k < 3; ++k) mine[k] = face[k] >= begin && face[k] < end;
    if (!(mine[0] || mine[1] || mine[2])) continue;
    const Triangle<T> t = Triangle<T>::load(gradient.verts, gradient.faces, f);
    const Vec3<T> g = gradient(t, f);
    for (int k = 0; k < 3; ++k)
      if (mine[k]) (Vec3<T>::load(grad_verts + 3 * face[k]) + area_vector_vjp(t, k, g)).store(grad_verts + 3 * face[k]);
  }
}

}  // namespace

void face_areas_normals(Tensor verts, Tensor faces, Tensor areas, Tensor normals) {
  if (!faces.device.cuda) check_faces(faces.packed<int64_t>(), faces.shape[0], verts.shape[0]);
  dispatch_float(verts.dtype, [&](auto zero) {
    using T = decltype(zero);
    parallel_for(verts.device, faces.shape[0],
                 FaceAreasNormals<T>{verts.packed<T>(), faces.packed<int64_t>(), verts.shape[0], areas.packed<T>(),
                                     normals.packed<T>()},
                 4096);
  });
}
RECON_OP(face_areas_normals, "verts: V 3, faces: i64 F 3, areas: F, normals: F 3");

void face_areas_normals_backward(Tensor verts, Tensor faces, Tensor, Tensor, Tensor grad_areas, Tensor grad_normals,
                                 Tensor grad_verts) {
  dispatch_float(verts.dtype, [&](auto zero) {
    using T = decltype(zero);
    const AreaVectorGradient<T> gradient{verts.packed<T>(), faces.packed<int64_t>(), grad_areas.packed<T>(),
                                         grad_normals.packed<T>()};
    const int64_t V = verts.shape[0], F = faces.shape[0];
    T* out = grad_verts.packed<T>();
    if (verts.device.cuda && V * F < small_scatter)
      return parallel_for(verts.device, V, GatherFaces<T>{gradient, V, F, out});
    if (verts.device.cuda) return parallel_for(verts.device, F, AddFace<T>{gradient, V, out});
    for_each_row_range(V, F, [&](int64_t begin, int64_t end) { add_faces(gradient, F, begin, end, out); });
  });
}
RECON_OP(face_areas_normals_backward,
         "verts: V 3, faces: i64 F 3, areas: F, normals: F 3, grad_areas: F, grad_normals: F 3, grad_verts: V 3");

}  // namespace recon
