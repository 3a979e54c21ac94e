// nearest: for every point of x the K nearest points of y, exactly, nearest first, the lower index first at equal
// distances. nearest_both: the nearest in both directions, each cloud put in order once.
//
//   dist = sum_d (x_d - y_d)^2 or, with l1, sum_d |x_d - y_d|
//
// On a CPU small clouds are compared point by point and large ones searched through a tree of boxes.
#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "core/op.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "ops/nearest/kernels.h"
#include "ops/nearest/tree.h"

namespace recon {

namespace {

constexpr int64_t queries_per_task = 512;

// Measured: a search costs about 0.1 ns for each point compared, about 100 ns in a tree, which costs 20 ns a point to
// build.
bool tree_pays(int64_t D, int64_t queries, int64_t points) { return D <= 3 && points > 768 && queries > 64; }

// The clouds of a batch in the forms that the searches need.
template <class T>
class Clouds {
 public:
  // `order`: queries will start from these clouds; `search`: they will be searched.
  Clouds(const T* points, int64_t B, int64_t size, int64_t D, bool tree, bool order, bool search, int64_t K,
         const Device& device)
      : points_(points), size_(size), D_(D), tree_(tree && search), order_(tree && order), columns_(!tree && K > 1) {
    if (tree_) values_ = std::make_unique<Scratch<T>>(B * tree_values<T>(size), device);
    if (tree_ || order_) {
      ids_ = std::make_unique<Scratch<int32_t>>(B * tree_ids(size), device);
      entries_ = std::make_unique<Scratch<CurveEntry>>(B * 2 * size, device);
    }
    stride_ = (size + PointColumns<T>::step - 1) / PointColumns<T>::step * PointColumns<T>::step;
    if (columns_) values_ = std::make_unique<Scratch<T>>(B * D * stride_, device);
    if (tree_) trees_.resize(static_cast<size_t>(B));
  }

  bool needs_work() const { return tree_ || order_ || columns_; }

  void prepare(int64_t b, int64_t count) {
    const T* points = points_ + b * size_ * D_;
    if (tree_)
      trees_[b] = build_tree(points, count, D_, values_->data() + b * tree_values<T>(size_), ids(b), entries(b));
    else if (order_)
      curve_order(points, count, D_, ids(b), entries(b));
    if (!columns_) return;
    T* columns = values_->data() + b * D_ * stride_;
    for (int64_t d = 0; d < D_; ++d)
      for (int64_t j = 0; j < stride_; ++j)
        columns[d * stride_ + j] = j < count ? points[j * D_ + d] : std::numeric_limits<T>::quiet_NaN();
  }

  const int32_t* order(int64_t b) const { return order_ ? ids(b) : nullptr; }
  const PointTree<T>& tree(int64_t b) const { return trees_[b]; }
  PointColumns<T> columns(int64_t b) const {
    return columns_ ? PointColumns<T>{values_->data() + b * D_ * stride_, stride_} : PointColumns<T>{};
  }

 private:
  int32_t* ids(int64_t b) const { return ids_->data() + b * tree_ids(size_); }
  CurveEntry* entries(int64_t b) const { return entries_->data() + b * 2 * size_; }

  const T* points_;
  int64_t size_, D_, stride_;
  bool tree_, order_, columns_;
  std::unique_ptr<Scratch<T>> values_;
  std::unique_ptr<Scratch<int32_t>> ids_;
  std::unique_ptr<Scratch<CurveEntry>> entries_;
  std::vector<PointTree<T>> trees_;
};

template <class T>
void write_padding(const Nearest<T>& p, int64_t b) {
  const int64_t begin = (b * p.N + p.count_x(b)) * p.K, end = (b + 1) * p.N * p.K;
  std::fill(p.dist + begin, p.dist + end, T(0));
  std::fill(p.idx + begin, p.idx + end, int64_t{0});
}

template <class T>
void search_range(const Nearest<T>& p, const Clouds<T>& x, const Clouds<T>& y, bool tree, int64_t task) {
  const int64_t tasks_each = (p.N + queries_per_task - 1) / queries_per_task, b = task / tasks_each;
  const int64_t begin = task % tasks_each * queries_per_task;
  const NearestTask<T> part{b, begin, std::min(p.count_x(b), begin + queries_per_task), x.order(b)};
  if (begin == 0) write_padding(p, b);
  if (begin >= part.end) return;
  if (p.count_y(b) == 0) {
    std::fill(p.dist + b * p.N * p.K, p.dist + (b + 1) * p.N * p.K, T(0));
    std::fill(p.idx + b * p.N * p.K, p.idx + (b + 1) * p.N * p.K, int64_t{0});
  } else if (tree) {
    RECON_SIMD_CALL(search_tree, p, y.tree(b), part);
  } else {
    RECON_SIMD_CALL(search_columns, p, y.columns(b), part);
  }
}

template <class T>
void check_sizes(const Nearest<T>& p) {
  if (p.N > INT32_MAX || p.M > INT32_MAX)
    throw std::invalid_argument("nearest: clouds hold at most 2^31 - 1 points, got " +
                                std::to_string(std::max(p.N, p.M)) + ": split the cloud");
}

// Both searches, when there are two: xy from x into y and yx the other way round.
template <class T>
void nearest_cpu(const Nearest<T>& xy, const Nearest<T>* yx) {
  check_sizes(xy);
  const Device cpu;
  const bool tree_y = tree_pays(xy.D, xy.N, xy.M), tree_x = yx && tree_pays(xy.D, xy.M, xy.N);
  const bool tree = tree_y || tree_x;  // one way to look at both clouds is enough
  Clouds<T> x(xy.x, xy.B, xy.N, xy.D, tree, true, yx != nullptr, 1, cpu);
  Clouds<T> y(xy.y, xy.B, xy.M, xy.D, tree, yx != nullptr, true, xy.K, cpu);
  const int64_t preparations = xy.B * (x.needs_work() ? 2 : y.needs_work() ? 1 : 0);
  const auto prepare = [&](int64_t i) {
    const int64_t b = i % xy.B;
    i < xy.B ? y.prepare(b, xy.count_y(b)) : x.prepare(b, xy.count_x(b));
  };
  const int64_t tasks_xy = xy.B * ((xy.N + queries_per_task - 1) / queries_per_task);
  const int64_t tasks_yx = yx ? xy.B * ((xy.M + queries_per_task - 1) / queries_per_task) : 0;
  const auto search = [&](int64_t i) {
    i < tasks_xy ? search_range(xy, x, y, tree, i) : search_range(*yx, y, x, tree, i - tasks_xy);
  };
  // Waking threads costs more than a small search.
  const int64_t comparisons = xy.B * (tree ? (xy.N + xy.M) * 500 : xy.N * xy.M * xy.D);
  if (comparisons < 200000) {
    for (int64_t i = 0; i < preparations; ++i) prepare(i);
    for (int64_t i = 0; i < tasks_xy + tasks_yx; ++i) search(i);
  } else {
    for_each_task(preparations, [&](int64_t i, int) { prepare(i); });
    for_each_task(tasks_xy + tasks_yx, [&](int64_t i, int) { search(i); });
  }
}

// d dist / d (a - b), times g.
template <class T>
T pull(T difference, T g, bool l1) {
  if (!l1) return T(2) * g * difference;
  return difference > T(0) ? g : difference < T(0) ? -g : T(0);
}

// Adds to rows [begin, end) of grad_x what their own distances give. `dims` is D where it is known here, else 0.
template <int dims, class T>
void add_own(const Nearest<T>& p, const T* grad_dist, T* grad_x, int64_t b, int64_t begin, int64_t end) {
  const int64_t D = dims ? dims : p.D, available = std::min(p.K, p.count_y(b));
  end = std::min(end, p.count_x(b));
  for (int64_t i = b * p.N + begin; i < b * p.N + end; ++i)
    for (int64_t k = i * p.K; k < i * p.K + available; ++k)
      for (int64_t d = 0; d < D; ++d)
        grad_x[i * D + d] += pull(p.x[i * D + d] - p.y[(b * p.M + p.idx[k]) * D + d], grad_dist[k], p.l1);
}

// Adds to rows [begin, end) of grad_y what the distances of all points of x to them give, in the order of x: the sum
// does not depend on how the rows are shared out.
template <int dims, class T>
void add_others(const Nearest<T>& p, const T* grad_dist, T* grad_y, int64_t b, int64_t begin, int64_t end) {
  const int64_t D = dims ? dims : p.D, available = std::min(p.K, p.count_y(b));
  for (int64_t i = b * p.N; i < b * p.N + p.count_x(b); ++i)
    for (int64_t k = i * p.K; k < i * p.K + available; ++k) {
      if (p.idx[k] < begin || p.idx[k] >= end) continue;
      const int64_t j = b * p.M + p.idx[k];
      for (int64_t d = 0; d < D; ++d) grad_y[j * D + d] -= pull(p.x[i * D + d] - p.y[j * D + d], grad_dist[k], p.l1);
    }
}

// xy gives to grad_x by its own points and to grad_y by the others; yx, when there is one, the other way round.
template <int dims, class T>
void nearest_backward_in(const NearestBackward<T>& xy, const NearestBackward<T>* yx) {
  const Nearest<T>& p = xy.search;
  const int64_t work = p.B * (p.N + (yx ? p.M : 0)) * p.K;
  const int64_t parts = work < 20000 || p.B >= num_threads() ? 1 : num_threads();
  const auto run = [&](int64_t task) {
    const int64_t b = task / 2 / parts, part = task / 2 % parts, size = task % 2 ? p.M : p.N;
    const int64_t begin = size * part / parts, end = size * (part + 1) / parts;
    if (task % 2 == 0 && xy.grad_x) {
      add_own<dims>(p, xy.grad_dist, xy.grad_x, b, begin, end);
      if (yx) add_others<dims>(yx->search, yx->grad_dist, xy.grad_x, b, begin, end);
    }
    if (task % 2 == 1 && xy.grad_y) {
      if (yx) add_own<dims>(yx->search, yx->grad_dist, xy.grad_y, b, begin, end);
      add_others<dims>(p, xy.grad_dist, xy.grad_y, b, begin, end);
    }
  };
  const int64_t tasks = p.B * 2 * parts;
  if (work < 20000) {
    for (int64_t i = 0; i < tasks; ++i) run(i);
  } else {
    for_each_task(tasks, [&](int64_t i, int) { run(i); });
  }
}

template <class T>
void nearest_backward_cpu(const NearestBackward<T>& xy, const NearestBackward<T>* yx) {
  xy.search.D == 3 ? nearest_backward_in<3>(xy, yx) : nearest_backward_in<0>(xy, yx);
}

template <class T>
Nearest<T> search_of(const Tensor& x, const Tensor& y, const std::optional<Tensor>& lengths_x,
                     const std::optional<Tensor>& lengths_y, bool l1, int64_t K, T* dist, int64_t* idx) {
  return {x.packed<T>(),
          y.packed<T>(),
          lengths_x ? lengths_x->packed<int64_t>() : nullptr,
          lengths_y ? lengths_y->packed<int64_t>() : nullptr,
          l1,
          x.shape[0],
          x.shape[1],
          y.shape[1],
          x.shape[2],
          K,
          dist,
          idx};
}

template <class T>
T* packed_or_null(const std::optional<Tensor>& t) {
  return t ? t->packed<T>() : nullptr;
}

template <class T>
void run(const Nearest<T>& xy, const Nearest<T>* yx, const Device& device) {
  if (!device.cuda) return nearest_cpu(xy, yx);
#ifdef RECON_CUDA
  check_sizes(xy);
  nearest_cuda(xy, device);
  if (yx) nearest_cuda(*yx, device);
#endif
}

template <class T>
void run(const NearestBackward<T>& xy, const NearestBackward<T>* yx, const Device& device) {
  if (!device.cuda) return nearest_backward_cpu(xy, yx);
#ifdef RECON_CUDA
  nearest_backward_cuda(xy, device);
  if (yx) nearest_backward_cuda(*yx, device);
#endif
}

}  // namespace

void nearest(Tensor x, Tensor y, std::optional<Tensor> lengths_x, std::optional<Tensor> lengths_y, bool l1, int64_t K,
             Tensor dist, Tensor idx) {
  dispatch_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    run<T>(search_of(x, y, lengths_x, lengths_y, l1, K, dist.packed<T>(), idx.packed<int64_t>()), nullptr, x.device);
  });
}
RECON_OP(nearest,
         "x: B N D, y: B M D, lengths_x?: i64 B, lengths_y?: i64 B, l1: bool, K: int>=1, dist: B N K, idx: i64 B N K");

void nearest_backward(Tensor x, Tensor y, std::optional<Tensor> lengths_x, std::optional<Tensor> lengths_y, bool l1,
                      int64_t K, Tensor, Tensor idx, Tensor grad_dist, std::optional<Tensor> grad_x,
                      std::optional<Tensor> grad_y) {
  dispatch_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto search = search_of<T>(x, y, lengths_x, lengths_y, l1, K, nullptr, idx.packed<int64_t>());
    run<T>({search, grad_dist.packed<T>(), packed_or_null<T>(grad_x), packed_or_null<T>(grad_y)}, nullptr, x.device);
  });
}
RECON_OP(nearest_backward,
         "x: B N D, y: B M D, lengths_x?: i64 B, lengths_y?: i64 B, l1: bool, K: int>=1, dist: B N K, idx: i64 B N K, "
         "grad_dist: B N K, grad_x?: B N D, grad_y?: B M D");

void nearest_both(Tensor x, Tensor y, std::optional<Tensor> lengths_x, std::optional<Tensor> lengths_y, bool l1,
                  Tensor dist_x, Tensor idx_x, Tensor dist_y, Tensor idx_y) {
  dispatch_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto xy = search_of(x, y, lengths_x, lengths_y, l1, 1, dist_x.packed<T>(), idx_x.packed<int64_t>());
    const auto yx = search_of(y, x, lengths_y, lengths_x, l1, 1, dist_y.packed<T>(), idx_y.packed<int64_t>());
    run<T>(xy, &yx, x.device);
  });
}
RECON_OP(nearest_both,
         "x: B N D, y: B M D, lengths_x?: i64 B, lengths_y?: i64 B, l1: bool, dist_x: B N, idx_x: i64 B N, "
         "dist_y: B M, idx_y: i64 B M");

void nearest_both_backward(Tensor x, Tensor y, std::optional<Tensor> lengths_x, std::optional<Tensor> lengths_y,
                           bool l1, Tensor, Tensor idx_x, Tensor, Tensor idx_y, Tensor grad_dist_x, Tensor grad_dist_y,
                           std::optional<Tensor> grad_x, std::optional<Tensor> grad_y) {
  dispatch_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    T *gx = packed_or_null<T>(grad_x), *gy = packed_or_null<T>(grad_y);
    const auto xy = search_of<T>(x, y, lengths_x, lengths_y, l1, 1, nullptr, idx_x.packed<int64_t>());
    const auto yx = search_of<T>(y, x, lengths_y, lengths_x, l1, 1, nullptr, idx_y.packed<int64_t>());
    const NearestBackward<T> other{yx, grad_dist_y.packed<T>(), gy, gx};
    run<T>({xy, grad_dist_x.packed<T>(), gx, gy}, &other, x.device);
  });
}
RECON_OP(nearest_both_backward,
         "x: B N D, y: B M D, lengths_x?: i64 B, lengths_y?: i64 B, l1: bool, dist_x: B N, idx_x: i64 B N, "
         "dist_y: B M, idx_y: i64 B M, grad_dist_x: B N, grad_dist_y: B M, grad_x?: B N D, grad_y?: B M D");

}  // namespace recon
