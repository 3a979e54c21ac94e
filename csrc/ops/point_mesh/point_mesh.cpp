// point_mesh: for every point the closest edge or triangle of its mesh, or for every edge or triangle the closest point
// of its cloud; exactly, the lower index first at equal distances.
//
//   dist = min over the weights w >= 0, sum_k w_k = 1 of |sum_k w_k v_k - p|^2
//
// On a CPU the targets of large searches are put into a tree of boxes, once for each element of the batch.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/op.h"
#include "core/parallel.h"
#include "ops/point_mesh/kernels.h"

namespace recon {

namespace {

constexpr int64_t queries_per_task = 256;
// Fewer pairs than that are searched in the order they come in: putting them in a better one would take longer.
constexpr int64_t pairs_worth_sorting = 50000;

void check_first(const char* name, const int64_t* first, int64_t N, int64_t count) {
  for (int64_t n = 0; n < N; ++n) {
    const int64_t least = n == 0 ? 0 : first[n - 1], most = n == 0 ? 0 : count;
    if (first[n] < least || first[n] > most)
      throw std::invalid_argument(std::string("point_mesh: ") + name + " must start with 0 and ascend up to " +
                                  std::to_string(count) + ", got " + std::to_string(first[n]) + " at " +
                                  std::to_string(n));
  }
  if (N == 0 && count > 0)
    throw std::invalid_argument(std::string("point_mesh: ") + name + " is empty: it must start with 0");
}

template <class T>
void check_finite(const char* name, const T* values, int64_t rows, int64_t row) {
  constexpr int64_t block = 4096;
  for_each_range(rows * row, 1 << 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += block) {
      const int64_t last = std::min(end, i + block);
      bool finite = true;
      for (int64_t j = i; j < last; ++j) finite &= std::abs(values[j]) <= std::numeric_limits<T>::max();
      for (int64_t j = i; !finite && j < last; ++j)
        if (!std::isfinite(values[j]))
          throw std::invalid_argument(std::string("point_mesh: ") + name + " must be finite, got " +
                                      std::to_string(values[j]) + " in row " + std::to_string(j / row));
    }
  });
}

template <class T>
PointMesh<T> input(const Tensor& points, const Tensor& points_first, const Tensor& simplices,
                   const Tensor& simplices_first, bool from_points, double min_area, const Tensor& idx) {
  const int64_t H = simplices.shape[1], queries = from_points ? points.shape[0] : simplices.shape[0];
  if (H != 2 && H != 3)
    throw std::invalid_argument("point_mesh: simplices must be edges (S, 2, 3) or triangles (S, 3, 3), got " +
                                std::to_string(H) + " corners");
  if (idx.shape[0] != queries)
    throw std::invalid_argument("point_mesh: idx must have a row for each of " + std::to_string(queries) + " queries");
  if (std::max(points.shape[0], simplices.shape[0]) > INT32_MAX)
    throw std::invalid_argument("point_mesh: at most 2^31 - 1 points and simplices: split the batch");
  const double smallest = min_area > 0 ? 4 * min_area * min_area : 0;
  return {points.packed<T>(),
          simplices.packed<T>(),
          points_first.packed<int64_t>(),
          simplices_first.packed<int64_t>(),
          points.shape[0],
          simplices.shape[0],
          points_first.shape[0],
          static_cast<int>(H),
          from_points,
          static_cast<T>(std::min(smallest, static_cast<double>(std::numeric_limits<T>::max()))),
          nullptr,
          idx.packed<int64_t>()};
}

// What one element of the batch is searched through, and in which order.
template <class T>
struct Element {
  SimplexTree<T> tree;
  std::vector<int32_t> order;
};

template <class T>
void prepare(const PointMesh<T>& in, int64_t n, Element<T>& element) {
  const auto targets = in.targets_of(n), queries = in.queries_of(n);
  const int64_t count = targets.end - targets.begin, asked = queries.end - queries.begin;
  const int H = in.from_points ? in.H : 1, query_H = in.from_points ? 1 : in.H;
  const T* rows = (in.from_points ? in.simplices : in.points) + targets.begin * 3 * H;
  const T* query_rows = (in.from_points ? in.points : in.simplices) + queries.begin * 3 * query_H;
  if (count == 0 || asked == 0) return;
  const bool sort = count * asked > pairs_worth_sorting;
  element.tree = simplex_tree(rows, count, H, sort ? simplex_order(rows, count, H) : std::vector<int32_t>());
  if (sort) element.order = simplex_order(query_rows, asked, query_H);
}

template <class T>
void point_mesh_cpu(const PointMesh<T>& in) {
  std::vector<Element<T>> elements(static_cast<size_t>(in.N));
  std::vector<PointMeshTask> tasks;
  double work = 0;
  for (int64_t n = 0; n < in.N; ++n) {
    const auto queries = in.queries_of(n), targets = in.targets_of(n);
    const int64_t count = queries.end - queries.begin;
    if (targets.begin == targets.end) {
      std::fill(in.dist + queries.begin, in.dist + queries.end, std::numeric_limits<T>::infinity());
      std::fill(in.idx + queries.begin, in.idx + queries.end, int64_t{-1});
      continue;
    }
    for (int64_t begin = 0; begin < count; begin += queries_per_task)
      tasks.push_back({n, begin, std::min(count, begin + queries_per_task), nullptr});
    work += static_cast<double>(count) * static_cast<double>(targets.end - targets.begin);
  }
  const auto search = [&](int64_t i, int) {
    PointMeshTask& task = tasks[i];
    const Element<T>& element = elements[task.n];
    task.order = element.order.empty() ? nullptr : element.order.data();
    RECON_SIMD_CALL(search_simplices, in, element.tree, task);
  };
  // Waking threads costs more than a small search.
  if (work < 10000) {
    for (int64_t n = 0; n < in.N; ++n) prepare(in, n, elements[n]);
    for (size_t i = 0; i < tasks.size(); ++i) search(static_cast<int64_t>(i), 0);
  } else {
    for_each_task(in.N, [&](int64_t n, int) { prepare(in, n, elements[n]); });
    for_each_task(static_cast<int64_t>(tasks.size()), search);
  }
}

// Each query adds to its own row; what it has found is added up by the thread that owns that row, in order of queries.
template <class T>
void point_mesh_backward_cpu(const PointMeshBackward<T>& b) {
  const PointMesh<T>& in = b.in;
  const int64_t queries = in.queries(), targets = in.from_points ? in.S : in.P;
  const bool own = in.from_points ? b.grad_points : b.grad_simplices;
  const bool others = in.from_points ? b.grad_simplices : b.grad_points;
  const int64_t parts = queries < 5000 ? 1 : std::max(1, num_threads());
  for_each_task(parts, [&](int64_t part, int) {
    const int64_t begin = queries * part / parts, end = queries * (part + 1) / parts;
    const int64_t low = targets * part / parts, high = targets * (part + 1) / parts;
    for (int64_t q = begin; own && q < end; ++q)
      if (in.idx[q] >= 0) add_grad(b, q, true);
    for (int64_t q = 0; others && q < queries; ++q)
      if (in.idx[q] >= low && in.idx[q] < high) add_grad(b, q, false);
  });
}

template <class T>
T* packed_or_null(const std::optional<Tensor>& t) {
  return t ? t->packed<T>() : nullptr;
}

}  // namespace

void point_mesh(Tensor points, Tensor points_first, Tensor simplices, Tensor simplices_first, bool from_points,
                double min_area, Tensor dist, Tensor idx) {
  dispatch_float(points.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto in = input<T>(points, points_first, simplices, simplices_first, from_points, min_area, idx);
    in.dist = dist.packed<T>();
    if (points.device.cuda) {
#ifdef RECON_CUDA
      point_mesh_cuda(in, points.device);
#endif
      return;
    }
    check_first("points_first", in.points_first, in.N, in.P);
    check_first("simplices_first", in.simplices_first, in.N, in.S);
    check_finite("points", in.points, in.P, 3);
    check_finite("simplices", in.simplices, in.S, int64_t{3} * in.H);
    point_mesh_cpu(in);
  });
}
RECON_OP(point_mesh,
         "points: P 3, points_first: i64 N, simplices: S H 3, simplices_first: i64 N, from_points: bool, "
         "min_area: real, dist: Q, idx: i64 Q");

void point_mesh_backward(Tensor points, Tensor points_first, Tensor simplices, Tensor simplices_first, bool from_points,
                         double min_area, std::optional<Tensor>, Tensor idx, Tensor grad_dist,
                         std::optional<Tensor> grad_points, std::optional<Tensor> grad_simplices) {
  dispatch_float(points.dtype, [&](auto zero) {
    using T = decltype(zero);
    const PointMeshBackward<T> b = {
        input<T>(points, points_first, simplices, simplices_first, from_points, min_area, idx), grad_dist.packed<T>(),
        packed_or_null<T>(grad_points), packed_or_null<T>(grad_simplices)};
    if (!points.device.cuda) return point_mesh_backward_cpu(b);
#ifdef RECON_CUDA
    point_mesh_backward_cuda(b, points.device);
#endif
  });
}
RECON_OP(point_mesh_backward,
         "points: P 3, points_first: i64 N, simplices: S H 3, simplices_first: i64 N, from_points: bool, "
         "min_area: real, dist?: Q, idx: i64 Q, grad_dist: Q, grad_points?: P 3, grad_simplices?: S H 3");

}  // namespace recon
