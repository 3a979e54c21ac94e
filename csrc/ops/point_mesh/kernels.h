#pragma once
// What the entry points of point_mesh hand to the kernels of each device.
#include <cstdint>

#include "core/simd.h"
#include "math/triangle.h"
#include "ops/point_mesh/tree.h"

namespace recon {

// A batch of searches between points and simplices: edges (H = 2) or triangles (H = 3). Element n of the batch owns the
// points from points_first[n] to the next one's, and simplices in the same way.
template <class T>
struct PointMesh {
  const T *points, *simplices;  // P 3, S H 3
  const int64_t *points_first, *simplices_first;
  int64_t P, S, N;
  int H;
  bool from_points;  // each point looks for the closest simplex; otherwise each simplex for the closest point
  T smallest;        // squared area vectors of triangles below that: only the edges count
  T* dist;           // of each query
  int64_t* idx;      // of each query: a row of the other side, or -1 where that has none

  struct Range {
    int64_t begin, end;
  };
  RECON_HD int64_t queries() const { return from_points ? P : S; }
  RECON_HD Range points_of(int64_t n) const { return {points_first[n], n + 1 < N ? points_first[n + 1] : P}; }
  RECON_HD Range simplices_of(int64_t n) const { return {simplices_first[n], n + 1 < N ? simplices_first[n + 1] : S}; }
  RECON_HD Range queries_of(int64_t n) const { return from_points ? points_of(n) : simplices_of(n); }
  RECON_HD Range targets_of(int64_t n) const { return from_points ? simplices_of(n) : points_of(n); }
};

// Corner k of simplex s, relative to point p.
template <class T>
RECON_HD Vec3<T> corner_from(const PointMesh<T>& in, int64_t p, int64_t s, int k) {
  return Vec3<T>::load(in.simplices + 3 * (in.H * s + k)) - Vec3<T>::load(in.points + 3 * p);
}

// The squared distance of point p from simplex s.
template <int H, class T>
RECON_HD T pair_distance(const PointMesh<T>& in, int64_t p, int64_t s) {
  Vec3<T> corners[H];
  for (int k = 0; k < H; ++k) corners[k] = corner_from(in, p, s, k);
  return squared_distance<H>(corners, in.smallest);
}

template <class T>
struct PointMeshBackward {
  PointMesh<T> in;  // dist is not used
  const T* grad_dist;
  T *grad_points, *grad_simplices;  // null where nobody needs it
};

// What the squared distance of query q gives back to its two sides: d |x|^2 = 2 x . dx for the closest point
// x = sum_k w_k v_k - p, in which the weights stay as they are, since they are the best ones.
template <class T>
struct PairGrad {
  Vec3<T> pull;  // -gradient of the point; a corner's gradient is its weight times this
  T weights[3];
};

template <class T>
RECON_HD PairGrad<T> pair_grad(const PointMeshBackward<T>& b, int64_t q) {
  const PointMesh<T>& in = b.in;
  const int64_t p = in.from_points ? q : in.idx[q], s = in.from_points ? in.idx[q] : q;
  Vec3<T> corners[3];
  PairGrad<T> grad{};
  for (int k = 0; k < in.H; ++k) corners[k] = corner_from(in, p, s, k);
  const Vec3<T> x = in.H == 2 ? closest_point<2>(corners, in.smallest, grad.weights)
                              : closest_point<3>(corners, in.smallest, grad.weights);
  grad.pull = T(2) * b.grad_dist[q] * x;
  return grad;
}

// Adds it to the row of the query (`own`) or of what it has found.
template <class T>
RECON_HD void add_grad(const PointMeshBackward<T>& b, int64_t q, bool own) {
  const PairGrad<T> grad = pair_grad(b, q);
  const int64_t row = own ? q : b.in.idx[q];
  if (own == b.in.from_points) {
    T* out = b.grad_points + 3 * row;
    (Vec3<T>::load(out) - grad.pull).store(out);
    return;
  }
  for (int k = 0; k < b.in.H; ++k) {
    T* out = b.grad_simplices + 3 * (b.in.H * row + k);
    (Vec3<T>::load(out) + grad.weights[k] * grad.pull).store(out);
  }
}

// Queries order[begin..end) (order null: begin..end) of element n, both counted from its first one.
struct PointMeshTask {
  int64_t n, begin, end;
  const int32_t* order;
};

RECON_SIMD_DECLARE(template <class T> void search_simplices(const PointMesh<T>& in, const SimplexTree<T>& targets,
                                                            const PointMeshTask& task))

template <class T>
void point_mesh_cuda(const PointMesh<T>& in, const Device& device);
template <class T>
void point_mesh_backward_cuda(const PointMeshBackward<T>& b, const Device& device);

}  // namespace recon
