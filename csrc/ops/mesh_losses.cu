// edge_loss, uniform_laplacian_loss, cot_laplacian_loss, normal_consistency_loss: regularisers of a batch of meshes.
//
// The loss of a mesh is one number, so that its gradient is known up to one factor: each op computes both in one pass
// over the topology, in the form of a gather (every row is written by one thread, in a fixed order), and going back is
// a product. `segments` are the first rows of each mesh, and the end of the last; `mesh_of` is the mesh of each vertex,
// None for one mesh.
#include "core/op.h"
#include "core/scratch.h"
#include "math/sum.h"
#include "math/triangle.h"

namespace recon {

namespace {

constexpr int64_t grain = 2048;

// Lists of different lengths: row i is index[offsets[i]] ... index[offsets[i + 1] - 1].
struct Rows {
  const int64_t *offsets, *index;
};

Rows rows_of(const Tensor& offsets, const Tensor& index) {
  return {offsets.packed<int64_t>(), index.packed<int64_t>()};
}

template <class T>
RECON_HD Vec3<T> unit_or_zero(Vec3<T> v, T length) {
  return length > T(0) ? v * (T(1) / length) : Vec3<T>{T(0), T(0), T(0)};
}

// Edges (|a - b| - target)^2. Each edge is in the lists of both of its ends, half of it counted at each.
template <class T>
struct EdgeTerm {
  const T* verts;
  Rows neighbors;
  T target, *terms, *grad;

  RECON_HD void operator()(int64_t v) const {
    const Vec3<T> p = Vec3<T>::load(verts + 3 * v);
    T sum(0);
    Vec3<T> g{T(0), T(0), T(0)};
    for (int64_t n = neighbors.offsets[v]; n < neighbors.offsets[v + 1]; ++n) {
      const Vec3<T> edge = p - Vec3<T>::load(verts + 3 * neighbors.index[n]);
      const T length = norm(edge), error = length - target;
      sum += error * error;
      if (length > T(0)) g += edge * (T(2) * error / length);
    }
    terms[v] = T(0.5) * sum;
    if (grad) g.store(grad + 3 * v);
  }
};

// |mean of neighbours - v|. `share` keeps r / |r| / degree, what each neighbour gets of it.
template <class T>
struct UniformTerm {
  const T* verts;
  Rows neighbors;
  T *terms, *share;

  RECON_HD void operator()(int64_t v) const {
    const Vec3<T> p = Vec3<T>::load(verts + 3 * v);
    Vec3<T> sum{T(0), T(0), T(0)};
    const int64_t begin = neighbors.offsets[v], end = neighbors.offsets[v + 1];
    for (int64_t n = begin; n < end; ++n) sum += Vec3<T>::load(verts + 3 * neighbors.index[n]);
    const T by_degree = end > begin ? T(1) / static_cast<T>(end - begin) : T(1);
    const Vec3<T> r = sum * by_degree - p;
    const T length = norm(r);
    terms[v] = length;
    if (share) (unit_or_zero(r, length) * by_degree).store(share + 3 * v);
  }
};

template <class T>
struct UniformGradient {
  Rows neighbors;
  const T* share;
  T* grad;

  RECON_HD void operator()(int64_t v) const {
    const int64_t begin = neighbors.offsets[v], end = neighbors.offsets[v + 1];
    Vec3<T> g = Vec3<T>::load(share + 3 * v) * -static_cast<T>(end > begin ? end - begin : 1);
    for (int64_t n = begin; n < end; ++n) g += Vec3<T>::load(share + 3 * neighbors.index[n]);
    g.store(grad + 3 * v);
  }
};

// The cotangents of the half-edges k * F + f, opposite to corner k of face f, and the areas of the faces.
template <class T>
struct FaceCotangents {
  const T* verts;
  const int64_t* faces;
  int64_t F;
  T *cot, *area;

  RECON_HD void operator()(int64_t f) const {
    const Cotangents<T> c = cotangents(Triangle<T>::load(verts, faces, f));
    for (int k = 0; k < 3; ++k) cot[k * F + f] = c.cot[k];
    area[f] = c.area;
  }
};

// The weight of an edge: the sum of the cotangents opposite to it.
template <class T>
struct EdgeWeight {
  Rows half_edges;
  const T* cot;
  T* weight;

  RECON_HD void operator()(int64_t e) const {
    T sum(0);
    for (int64_t i = half_edges.offsets[e]; i < half_edges.offsets[e + 1]; ++i) sum += cot[half_edges.index[i]];
    weight[e] = sum;
  }
};

// The neighbours of the vertices, and the edges to them.
template <class T>
struct WeightedNeighbors {
  Rows neighbors;
  const int64_t* edge_at;
  const T* weight;  // by edge

  // sum_j w_ij x_j over the neighbours j of vertex i, and sum_j w_ij.
  RECON_HD Vec3<T> sum(const T* x, int64_t v, T& total) const {
    Vec3<T> sum{T(0), T(0), T(0)};
    total = T(0);
    for (int64_t n = neighbors.offsets[v]; n < neighbors.offsets[v + 1]; ++n) {
      const T w = weight[edge_at[n]];
      total += w;
      sum += w * Vec3<T>::load(x + 3 * neighbors.index[n]);
    }
    return sum;
  }
};

// The sum of rows of (F, 3, 3), those of the corners 3 * f + k at vertex v.
template <class T>
RECON_HD Vec3<T> corner_sum(const Rows& corners, const T* rows, int64_t v) {
  Vec3<T> sum{T(0), T(0), T(0)};
  for (int64_t n = corners.offsets[v]; n < corners.offsets[v + 1]; ++n)
    sum += Vec3<T>::load(rows + 3 * corners.index[n]);
  return sum;
}

// The area that cotangents() keeps all areas above.
template <class T>
constexpr T least_area = T(1e-6);

// The term of a vertex changes by share . x_j + by_weight with the weight of its neighbour j, and by by_area with the
// area of its faces.
template <class T>
struct WeightGradient {
  T by_weight, by_area;
};

// |L v / sum_j w_ij - v|, or with `curvature` |L v - (sum_j w_ij) v| / (4 area).
// `share` keeps what the neighbours get, `grad` what the vertex itself gets, both with the weights as constants.
template <class T>
struct CotTerm {
  const T* verts;
  WeightedNeighbors<T> around;
  Rows corners;
  const T* face_area;
  bool curvature;
  T *terms, *share, *grad;
  WeightGradient<T>* weights;  // null where they count as constants

  RECON_HD void operator()(int64_t v) const {
    T total, area(0);
    const Vec3<T> sum = around.sum(verts, v, total), p = Vec3<T>::load(verts + 3 * v);
    for (int64_t n = corners.offsets[v]; curvature && n < corners.offsets[v + 1]; ++n)
      area += face_area[corners.index[n] / 3];
    // A sum of weights that is not positive is not divided by, but multiplied with: so is PyTorch3D's.
    const T scale = curvature ? (area > T(0) ? T(0.25) / area : T(0)) : (total > T(0) ? T(1) / total : total);
    const Vec3<T> r = curvature ? (sum - p * total) * scale : sum * scale - p;
    const T length = norm(r);
    terms[v] = length;
    if (!share) return;
    const Vec3<T> direction = unit_or_zero(r, length);
    (direction * scale).store(share + 3 * v);
    (direction * (curvature ? -total * scale : T(-1))).store(grad + 3 * v);
    if (!weights) return;
    const T along = dot(direction, curvature ? p : sum);
    const T by_total = curvature ? -scale : total > T(0) ? -scale * scale : T(1);
    weights[v] = {by_total * along, curvature && area > T(0) ? -length / area : T(0)};
  }
};

// What the corners of a face get through its cotangents and its area. With l_k the squared length of the side opposite
// to corner k and N_k = l_0 + l_1 + l_2 - 2 l_k:
//   cot_k = N_k / (4 area),   d area / d l_k = cot_k / 4
template <class T>
struct CotangentsBackward {
  const T* verts;
  const int64_t* faces;
  int64_t F;
  const T *cot, *area, *share;
  const WeightGradient<T>* weights;
  T* corners;  // F 3 3

  RECON_HD void operator()(int64_t f) const {
    const int64_t* face = faces + 3 * f;
    const Triangle<T> t = Triangle<T>::load(verts, faces, f);
    T by_cot[3], by_area(0), all(0);
    for (int k = 0; k < 3; ++k) {
      const int next = (k + 1) % 3, last = (k + 2) % 3;
      by_cot[k] = dot(Vec3<T>::load(share + 3 * face[next]), t.v[last]) + weights[face[next]].by_weight +
                  dot(Vec3<T>::load(share + 3 * face[last]), t.v[next]) + weights[face[last]].by_weight;
      by_area += weights[face[k]].by_area - by_cot[k] * cot[k * F + f] / area[f];
      all += by_cot[k];
    }
    // The area of a face without one is kept at a constant.
    if (!(area[f] > least_area<T>)) by_area = T(0);
    Vec3<T> by_side[3];
    for (int k = 0; k < 3; ++k) {
      const T by_length = (all - T(2) * by_cot[k]) / (T(4) * area[f]) + by_area * cot[k * F + f] * T(0.25);
      by_side[k] = (t.v[(k + 1) % 3] - t.v[(k + 2) % 3]) * (T(2) * by_length);
    }
    for (int k = 0; k < 3; ++k) (by_side[(k + 2) % 3] - by_side[(k + 1) % 3]).store(corners + 9 * f + 3 * k);
  }
};

template <class T>
struct CotGradient {
  WeightedNeighbors<T> around;
  Rows corners;
  const T *share, *by_corner;  // `by_corner` may be null
  T* grad;

  RECON_HD void operator()(int64_t v) const {
    T total;
    Vec3<T> g = Vec3<T>::load(grad + 3 * v) + around.sum(share, v, total);
    if (by_corner) g += corner_sum(corners, by_corner, v);
    g.store(grad + 3 * v);
  }
};

// The unit normal of a face and 1 / |area vector|; shorter area vectors than 1e-8 are divided by that, and are
// constants: the direction of a face without area means nothing.
template <class T>
struct UnitNormal {
  Vec3<T> n;
  T by_length;
};

template <class T>
struct FaceNormal {
  const T* verts;
  const int64_t* faces;
  UnitNormal<T>* out;
  RECON_HD void operator()(int64_t f) const {
    const Vec3<T> c = area_vector(Triangle<T>::load(verts, faces, f));
    const T length = norm(c);
    const bool flat = !(length > T(1e-8));
    out[f] = {c * (T(1) / (flat ? T(1e-8) : length)), flat ? T(0) : T(1) / length};
  }
};

// 1 - cos of the angle to each face across an edge. A pair is in the lists of both of its faces, half of it counted at
// each. An entry of `across` is 2 * face, + 1 where the two run along their edge in the same direction.
// `corners` keeps the gradient in each corner of the face.
template <class T>
struct NormalTerm {
  const T* verts;
  const int64_t* faces;
  Rows across;
  const UnitNormal<T>* normals;
  T *terms, *corners;

  RECON_HD void operator()(int64_t f) const {
    const Vec3<T> n = normals[f].n;
    const int64_t begin = across.offsets[f], end = across.offsets[f + 1];
    Vec3<T> others{T(0), T(0), T(0)};
    T sum(0);
    for (int64_t i = begin; i < end; ++i) {
      const uint64_t entry = static_cast<uint64_t>(across.index[i]);
      const Vec3<T> other = normals[entry >> 1].n * (entry & 1 ? T(-1) : T(1));
      sum += T(1) - dot(n, other);
      others += other;
    }
    if (!corners) {
      terms[f] = T(0.5) * sum;
      return;
    }
    // All loads come before all stores: a compiler cannot know that they are of different memory.
    const Triangle<T> t = Triangle<T>::load(verts, faces, f);
    const Vec3<T> g = (n * dot(n, others) - others) * normals[f].by_length;
    const Vec3<T> grads[3] = {area_vector_vjp(t, 0, g), area_vector_vjp(t, 1, g), area_vector_vjp(t, 2, g)};
    terms[f] = T(0.5) * sum;
    for (int k = 0; k < 3; ++k) grads[k].store(corners + 9 * f + 3 * k);
  }
};

template <class T>
struct NormalGradient {
  Rows corners;
  const T* by_corner;
  T* grad;
  RECON_HD void operator()(int64_t v) const { corner_sum(corners, by_corner, v).store(grad + 3 * v); }
};

template <class T>
struct ScaleRow {
  const T *grad_loss, *unit_grad;
  const int64_t* mesh_of;
  T* grad;
  RECON_HD void operator()(int64_t v) const {
    (Vec3<T>::load(grad + 3 * v) + Vec3<T>::load(unit_grad + 3 * v) * grad_loss[mesh_of ? mesh_of[v] : 0])
        .store(grad + 3 * v);
  }
};

// The way back of all four: the gradient that was kept, times the gradient of the mesh's loss.
void scale_gradient(const std::optional<Tensor>& mesh_of, const Tensor& unit_grad, const Tensor& grad_loss,
                    const Tensor& grad_verts) {
  if (unit_grad.shape[0] != grad_verts.shape[0])
    throw std::invalid_argument("mesh loss: it was computed with with_grad=False and has no gradient");
  dispatch_float(grad_verts.dtype, [&](auto zero) {
    using T = decltype(zero);
    parallel_for(grad_verts.device, grad_verts.shape[0],
                 ScaleRow<T>{grad_loss.packed<T>(), unit_grad.packed<T>(),
                             mesh_of ? mesh_of->packed<int64_t>() : nullptr, grad_verts.packed<T>()},
                 1 << 15);
  });
}

template <class T>
T* grad_or_null(const Tensor& unit_grad, bool with_grad) {
  return with_grad ? unit_grad.packed<T>() : nullptr;
}

}  // namespace

void edge_loss(Tensor verts, Tensor offsets, Tensor neighbors, Tensor segments, std::optional<Tensor>, double target,
               bool with_grad, Tensor loss, Tensor unit_grad) {
  dispatch_float(verts.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t V = verts.shape[0];
    const Scratch<T> terms(V, verts.device);
    parallel_for(verts.device, V,
                 EdgeTerm<T>{verts.packed<T>(), rows_of(offsets, neighbors), static_cast<T>(target), terms.data(),
                             grad_or_null<T>(unit_grad, with_grad)},
                 grain);
    ordered_sums(verts.device, terms.data(), segments.packed<int64_t>(), loss.shape[0], loss.packed<T>());
  });
}
RECON_OP(
    edge_loss,
    "verts: V 3, offsets: i64 O, neighbors: i64 E, segments: i64 S, mesh_of?: i64 V, target: real, with_grad: bool, "
    "loss: N, unit_grad: G 3");

void edge_loss_backward(Tensor, Tensor, Tensor, Tensor, std::optional<Tensor> mesh_of, double, bool, Tensor,
                        Tensor unit_grad, Tensor grad_loss, Tensor grad_verts) {
  scale_gradient(mesh_of, unit_grad, grad_loss, grad_verts);
}
RECON_OP(
    edge_loss_backward,
    "verts: V 3, offsets: i64 O, neighbors: i64 E, segments: i64 S, mesh_of?: i64 V, target: real, with_grad: bool, "
    "loss: N, unit_grad: G 3, grad_loss: N, grad_verts: V 3");

void uniform_laplacian_loss(Tensor verts, Tensor offsets, Tensor neighbors, Tensor segments, std::optional<Tensor>,
                            bool with_grad, Tensor loss, Tensor unit_grad) {
  dispatch_float(verts.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t V = verts.shape[0];
    const Scratch<T> terms(V, verts.device), share(with_grad ? 3 * V : 0, verts.device);
    const Rows rows = rows_of(offsets, neighbors);
    parallel_for(verts.device, V,
                 UniformTerm<T>{verts.packed<T>(), rows, terms.data(), with_grad ? share.data() : nullptr}, grain);
    if (with_grad) parallel_for(verts.device, V, UniformGradient<T>{rows, share.data(), unit_grad.packed<T>()}, grain);
    ordered_sums(verts.device, terms.data(), segments.packed<int64_t>(), loss.shape[0], loss.packed<T>());
  });
}
RECON_OP(uniform_laplacian_loss,
         "verts: V 3, offsets: i64 O, neighbors: i64 E, segments: i64 S, mesh_of?: i64 V, with_grad: bool, loss: N, "
         "unit_grad: G 3");

void uniform_laplacian_loss_backward(Tensor, Tensor, Tensor, Tensor, std::optional<Tensor> mesh_of, bool, Tensor,
                                     Tensor unit_grad, Tensor grad_loss, Tensor grad_verts) {
  scale_gradient(mesh_of, unit_grad, grad_loss, grad_verts);
}
RECON_OP(uniform_laplacian_loss_backward,
         "verts: V 3, offsets: i64 O, neighbors: i64 E, segments: i64 S, mesh_of?: i64 V, with_grad: bool, loss: N, "
         "unit_grad: G 3, grad_loss: N, grad_verts: V 3");

void cot_laplacian_loss(Tensor verts, Tensor faces, Tensor offsets, Tensor neighbors, Tensor edge_at, Tensor edge_first,
                        Tensor half_edges, Tensor corner_offsets, Tensor corners, Tensor segments,
                        std::optional<Tensor>, bool curvature, bool weights, bool with_grad, Tensor loss,
                        Tensor unit_grad) {
  dispatch_float(verts.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Device& device = verts.device;
    const int64_t V = verts.shape[0], F = faces.shape[0], E = edge_first.shape[0] - 1;
    const T* x = verts.packed<T>();
    const int64_t* face = faces.packed<int64_t>();
    T* grad = grad_or_null<T>(unit_grad, with_grad);
    const bool to_weights = weights && with_grad;
    const Scratch<T> terms(V, device), share(with_grad ? 3 * V : 0, device), cot(3 * F, device), area(F, device);
    const Scratch<T> weight(E, device), by_corner(to_weights ? 9 * F : 0, device);
    const Scratch<WeightGradient<T>> by_weights(to_weights ? V : 0, device);
    const Rows at = rows_of(corner_offsets, corners);
    const WeightedNeighbors<T> around{rows_of(offsets, neighbors), edge_at.packed<int64_t>(), weight.data()};
    parallel_for(device, F, FaceCotangents<T>{x, face, F, cot.data(), area.data()}, grain);
    parallel_for(device, E, EdgeWeight<T>{rows_of(edge_first, half_edges), cot.data(), weight.data()}, grain);
    parallel_for(device, V,
                 CotTerm<T>{x, around, at, area.data(), curvature, terms.data(), with_grad ? share.data() : nullptr,
                            grad, to_weights ? by_weights.data() : nullptr},
                 grain);
    if (to_weights)
      parallel_for(
          device, F,
          CotangentsBackward<T>{x, face, F, cot.data(), area.data(), share.data(), by_weights.data(), by_corner.data()},
          grain);
    if (with_grad)
      parallel_for(device, V, CotGradient<T>{around, at, share.data(), to_weights ? by_corner.data() : nullptr, grad},
                   grain);
    ordered_sums(device, terms.data(), segments.packed<int64_t>(), loss.shape[0], loss.packed<T>());
  });
}
RECON_OP(cot_laplacian_loss,
         "verts: V 3, faces: i64 F 3, offsets: i64 O, neighbors: i64 M, edge_at: i64 M, edge_first: i64 L, "
         "half_edges: i64 H, corner_offsets: i64 O, corners: i64 H, segments: i64 S, mesh_of?: i64 V, curvature: bool, "
         "weights: bool, with_grad: bool, loss: N, unit_grad: G 3");

void cot_laplacian_loss_backward(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                                 std::optional<Tensor> mesh_of, bool, bool, bool, Tensor, Tensor unit_grad,
                                 Tensor grad_loss, Tensor grad_verts) {
  scale_gradient(mesh_of, unit_grad, grad_loss, grad_verts);
}
RECON_OP(cot_laplacian_loss_backward,
         "verts: V 3, faces: i64 F 3, offsets: i64 O, neighbors: i64 M, edge_at: i64 M, edge_first: i64 L, "
         "half_edges: i64 H, corner_offsets: i64 O, corners: i64 H, segments: i64 S, mesh_of?: i64 V, curvature: bool, "
         "weights: bool, with_grad: bool, loss: N, unit_grad: G 3, grad_loss: N, grad_verts: V 3");

void normal_consistency_loss(Tensor verts, Tensor faces, Tensor across_offsets, Tensor across, Tensor corner_offsets,
                             Tensor corners, Tensor segments, std::optional<Tensor>, bool with_grad, Tensor loss,
                             Tensor unit_grad) {
  dispatch_float(verts.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t V = verts.shape[0], F = faces.shape[0];
    const Scratch<T> terms(F, verts.device), grad_corners(with_grad ? 9 * F : 0, verts.device);
    const Scratch<UnitNormal<T>> normals(F, verts.device);
    T* to_corners = with_grad ? grad_corners.data() : nullptr;
    parallel_for(verts.device, F, FaceNormal<T>{verts.packed<T>(), faces.packed<int64_t>(), normals.data()}, grain);
    parallel_for(verts.device, F,
                 NormalTerm<T>{verts.packed<T>(), faces.packed<int64_t>(), rows_of(across_offsets, across),
                               normals.data(), terms.data(), to_corners},
                 grain);
    if (with_grad)
      parallel_for(verts.device, V,
                   NormalGradient<T>{rows_of(corner_offsets, corners), to_corners, unit_grad.packed<T>()}, grain);
    ordered_sums(verts.device, terms.data(), segments.packed<int64_t>(), loss.shape[0], loss.packed<T>());
  });
}
RECON_OP(normal_consistency_loss,
         "verts: V 3, faces: i64 F 3, across_offsets: i64 A, across: i64 P, corner_offsets: i64 O, "
         "corners: i64 C, segments: i64 S, mesh_of?: i64 V, with_grad: bool, loss: N, unit_grad: G 3");

void normal_consistency_loss_backward(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                                      std::optional<Tensor> mesh_of, bool, Tensor, Tensor unit_grad, Tensor grad_loss,
                                      Tensor grad_verts) {
  scale_gradient(mesh_of, unit_grad, grad_loss, grad_verts);
}
RECON_OP(normal_consistency_loss_backward,
         "verts: V 3, faces: i64 F 3, across_offsets: i64 A, across: i64 P, corner_offsets: i64 O, "
         "corners: i64 C, segments: i64 S, mesh_of?: i64 V, with_grad: bool, loss: N, unit_grad: G 3, grad_loss: N, "
         "grad_verts: V 3");

}  // namespace recon
