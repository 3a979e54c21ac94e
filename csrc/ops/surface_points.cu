// surface_points: points on faces, sum_k bary_k v_k of the face that each of them names.
#include "core/op.h"
#include "math/scatter.h"
#include "math/triangle.h"

namespace recon {

namespace {

// On a GPU what a point names is not looked at first, which would mean waiting for the device: it is NaN.
template <class T>
struct Surface {
  const T* verts;
  const int64_t *faces, *face_idx;
  const T* bary;
  int64_t V, F;

  RECON_HD const int64_t* face(int64_t s) const {
    const int64_t f = face_idx[s];
    if (f < 0 || f >= F) return nullptr;
    for (int k = 0; k < 3; ++k)
      if (faces[3 * f + k] < 0 || faces[3 * f + k] >= V) return nullptr;
    return faces + 3 * f;
  }

  void check(int64_t S) const {
    for (int64_t s = 0; s < S; ++s)
      if (!face(s))
        throw std::invalid_argument("surface_points: face_idx[" + std::to_string(s) + "] is " +
                                    std::to_string(face_idx[s]) + ", which is not one of " + std::to_string(F) +
                                    " faces with corners among " + std::to_string(V) + " vertices");
  }
};

template <class T>
struct SurfacePoint {
  Surface<T> surface;
  T* points;

  RECON_HD void operator()(int64_t s) const {
    const int64_t* face = surface.face(s);
    Vec3<T> p{T(NAN), T(NAN), T(NAN)};
    if (face) {
      p = surface.bary[3 * s] * Vec3<T>::load(surface.verts + 3 * face[0]);
      p += surface.bary[3 * s + 1] * Vec3<T>::load(surface.verts + 3 * face[1]);
      p += surface.bary[3 * s + 2] * Vec3<T>::load(surface.verts + 3 * face[2]);
    }
    p.store(points + 3 * s);
  }
};

template <class T>
struct SurfacePointBackward {
  Surface<T> surface;
  const T* grad_points;
  T *grad_verts, *grad_bary;  // null where nobody needs it
  bool atomic;

  RECON_HD void operator()(int64_t s) const {
    const int64_t* face = surface.face(s);
    if (!face) return;
    const Vec3<T> g = Vec3<T>::load(grad_points + 3 * s);
    for (int k = 0; k < 3; ++k) {
      if (grad_bary) grad_bary[3 * s + k] = dot(g, Vec3<T>::load(surface.verts + 3 * face[k]));
      if (!grad_verts || !atomic) continue;
      const Vec3<T> share = surface.bary[3 * s + k] * g;
      T* out = grad_verts + 3 * face[k];
      atomic_add(out, share.x), atomic_add(out + 1, share.y), atomic_add(out + 2, share.z);
    }
  }
};

// The gradient of one vertex, in the order of the points.
template <class T>
struct GatherPoints {
  Surface<T> surface;
  const T* grad_points;
  int64_t S;
  T* grad_verts;

  RECON_HD void operator()(int64_t v) const {
    Vec3<T> sum{T(0), T(0), T(0)};
    for (int64_t s = 0; s < S; ++s) {
      const int64_t* face = surface.face(s);
      for (int k = 0; face && k < 3; ++k)
        if (face[k] == v) sum += surface.bary[3 * s + k] * Vec3<T>::load(grad_points + 3 * s);
    }
    sum.store(grad_verts + 3 * v);
  }
};

template <class T>
void add_points(const Surface<T>& surface, const T* grad_points, int64_t S, int64_t begin, int64_t end, T* grad_verts) {
  for (int64_t s = 0; s < S; ++s) {
    const int64_t* face = surface.face(s);
    const Vec3<T> g = Vec3<T>::load(grad_points + 3 * s);
    for (int k = 0; k < 3; ++k) {
      if (face[k] < begin || face[k] >= end) continue;
      T* out = grad_verts + 3 * face[k];
      (Vec3<T>::load(out) + surface.bary[3 * s + k] * g).store(out);
    }
  }
}

template <class T>
Surface<T> surface_of(const Tensor& verts, const Tensor& faces, const Tensor& face_idx, const Tensor& bary) {
  return {verts.packed<T>(), faces.packed<int64_t>(), face_idx.packed<int64_t>(),
          bary.packed<T>(),  verts.shape[0],          faces.shape[0]};
}

}  // namespace

void surface_points(Tensor verts, Tensor faces, Tensor face_idx, Tensor bary, Tensor points) {
  dispatch_float(verts.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto surface = surface_of<T>(verts, faces, face_idx, bary);
    if (!verts.device.cuda) surface.check(face_idx.shape[0]);
    parallel_for(verts.device, face_idx.shape[0], SurfacePoint<T>{surface, points.packed<T>()}, 8192);
  });
}
RECON_OP(surface_points, "verts: V 3, faces: i64 F 3, face_idx: i64 S, bary: S 3, points: S 3");

void surface_points_backward(Tensor verts, Tensor faces, Tensor face_idx, Tensor bary, Tensor, Tensor grad_points,
                             std::optional<Tensor> grad_verts, std::optional<Tensor> grad_bary) {
  dispatch_float(verts.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto surface = surface_of<T>(verts, faces, face_idx, bary);
    const int64_t S = face_idx.shape[0];
    const T* g = grad_points.packed<T>();
    T* to_verts = grad_verts ? grad_verts->packed<T>() : nullptr;
    T* to_bary = grad_bary ? grad_bary->packed<T>() : nullptr;
    const bool cuda = verts.device.cuda, gather = cuda && verts.shape[0] * S < small_scatter;
    if (gather && to_verts) parallel_for(verts.device, verts.shape[0], GatherPoints<T>{surface, g, S, to_verts});
    if ((cuda && !gather) || to_bary)
      parallel_for(verts.device, S, SurfacePointBackward<T>{surface, g, to_verts, to_bary, cuda && !gather}, 8192);
    if (!cuda && to_verts)
      for_each_row_range(verts.shape[0], S,
                         [&](int64_t begin, int64_t end) { add_points(surface, g, S, begin, end, to_verts); });
  });
}
RECON_OP(surface_points_backward,
         "verts: V 3, faces: i64 F 3, face_idx: i64 S, bary: S 3, points: S 3, grad_points: S 3, grad_verts?: V 3, "
         "grad_bary?: S 3");

}  // namespace recon
