// nearest: for every point of x the K nearest points of y, exactly, nearest first, the lower index first at equal
// distances. nearest_both: the nearest in both directions, each cloud put in order once.
//
//   dist = sum_d (x_d - y_d)^2 or, with l1, sum_d |x_d - y_d|
//
// On a CPU small clouds are compared point by point and large ones searched through a tree of boxes. neighbor_index:
// the trees of a batch of clouds, to be searched again and again.
#include <algorithm>

#include "core/op.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "ops/nearest/clouds.h"
#include "ops/nearest/kernels.h"

namespace recon {

namespace {

constexpr int64_t queries_per_task = 512;

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

// Both searches, when there are two: xy from x into y and yx the other way round. `index`: the trees of y, or null.
template <class T>
void nearest_cpu(const Nearest<T>& xy, const Nearest<T>* yx, uint8_t* index) {
  check_sizes(xy);
  const Device cpu;
  const bool tree_y = index || tree_pays(xy.D, xy.N, xy.M), tree_x = yx && tree_pays(xy.D, xy.M, xy.N);
  const bool tree = tree_y || tree_x;  // one way to look at both clouds is enough
  Clouds<T> x(xy.x, xy.B, xy.N, xy.D, {tree, true, yx != nullptr, false, nullptr}, cpu);
  Clouds<T> y(xy.y, xy.B, xy.M, xy.D, {tree, yx != nullptr, true, !tree && xy.K > 1, index}, cpu);
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
    for (int64_t k = i * p.K; k < i * p.K + available && p.idx[k] >= 0; ++k)
      for (int64_t d = 0; d < D; ++d)
        grad_x[i * D + d] += pull(p.x[i * D + d] - p.y[(b * p.M + p.idx[k]) * D + d], grad_dist[k], p.l1);
}

// Adds to rows [begin, end) of grad_y what the distances of all points of x to them give, in the order of x: the sum
// does not depend on how the rows are shared out.
template <int dims, class T>
void add_others(const Nearest<T>& p, const T* grad_dist, T* grad_y, int64_t b, int64_t begin, int64_t end) {
  const int64_t D = dims ? dims : p.D, available = std::min(p.K, p.count_y(b));
  for (int64_t i = b * p.N; i < b * p.N + p.count_x(b); ++i)
    for (int64_t k = i * p.K; k < i * p.K + available && p.idx[k] >= 0; ++k) {
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
void run(const Nearest<T>& xy, const Nearest<T>* yx, uint8_t* index, const Device& device) {
  if (!device.cuda) return nearest_cpu(xy, yx, index);
#ifdef RECON_CUDA
  check_sizes(xy);
  nearest_cuda(xy, device);
  if (yx) nearest_cuda(*yx, device);
#endif
}

// The number of bytes of the index of clouds of M points: 0 where trees do not pay, and on a GPU, which has none.
template <class T>
int64_t index_bytes(int64_t M, int64_t D, const Device& device) {
  return device.cuda || !tree_pays(D, M) ? 0 : TreeBytes<T>{nullptr, M}.bytes_each();
}

template <class T>
void check_index(const Tensor& index, const Nearest<T>& p, const Device& device) {
  const int64_t expected = index_bytes<T>(p.M, p.D, device);
  if (expected == 0 || index.shape[1] != expected)
    throw std::invalid_argument("nearest: index holds " + std::to_string(index.shape[1]) +
                                " bytes for each cloud, but " + std::to_string(expected) + " belong to clouds of " +
                                std::to_string(p.M) + " such points: build it again from the points that are searched");
}

}  // namespace

template <class T>
void search_backward(const NearestBackward<T>& xy, const NearestBackward<T>* yx, const Device& device) {
  if (!device.cuda) return nearest_backward_cpu(xy, yx);
#ifdef RECON_CUDA
  nearest_backward_cuda(xy, device);
  if (yx) nearest_backward_cuda(*yx, device);
#endif
}
template void search_backward(const NearestBackward<float>&, const NearestBackward<float>*, const Device&);
template void search_backward(const NearestBackward<double>&, const NearestBackward<double>*, const Device&);

void neighbor_index_bytes(Tensor points, Tensor bytes) {
  dispatch_float(points.dtype, [&](auto zero) {
    using T = decltype(zero);
    *bytes.packed<int64_t>() = index_bytes<T>(points.shape[1], points.shape[2], points.device);
  });
}
RECON_OP(neighbor_index_bytes, "points: B M D, bytes: i64 1");

void neighbor_index(Tensor points, std::optional<Tensor> lengths, Tensor index) {
  dispatch_float(points.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto p = search_of<T>(points, points, std::nullopt, lengths, false, 1, nullptr, nullptr);
    check_sizes(p);
    check_index(index, p, points.device);
    const TreeBytes<T> bytes{index.packed<uint8_t>(), p.M};
    const Scratch<CurveEntry> entries(p.B * 2 * p.M, points.device);
    for_each_task(p.B, [&](int64_t b, int) {
      build_tree(p.y + b * p.M * p.D, p.count_y(b), p.D, bytes.values(b), bytes.ids(b), entries.data() + b * 2 * p.M);
    });
  });
}
RECON_OP(neighbor_index, "points: B M D, lengths?: i64 B, index: u8 B S");

void nearest(Tensor x, Tensor y, std::optional<Tensor> lengths_x, std::optional<Tensor> lengths_y,
             std::optional<Tensor> index, bool l1, int64_t K, Tensor dist, Tensor idx) {
  dispatch_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto search = search_of(x, y, lengths_x, lengths_y, l1, K, dist.packed<T>(), idx.packed<int64_t>());
    if (index) check_index(*index, search, x.device);
    run<T>(search, nullptr, index ? index->packed<uint8_t>() : nullptr, x.device);
  });
}
RECON_OP(nearest,
         "x: B N D, y: B M D, lengths_x?: i64 B, lengths_y?: i64 B, index?: u8 B S, l1: bool, K: int>=1, dist: B N K, "
         "idx: i64 B N K");

void nearest_backward(Tensor x, Tensor y, std::optional<Tensor> lengths_x, std::optional<Tensor> lengths_y,
                      std::optional<Tensor>, bool l1, int64_t K, std::optional<Tensor>, Tensor idx, Tensor grad_dist,
                      std::optional<Tensor> grad_x, std::optional<Tensor> grad_y) {
  dispatch_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto search = search_of<T>(x, y, lengths_x, lengths_y, l1, K, nullptr, idx.packed<int64_t>());
    search_backward<T>({search, grad_dist.packed<T>(), packed_or_null<T>(grad_x), packed_or_null<T>(grad_y)}, nullptr,
                       x.device);
  });
}
RECON_OP(nearest_backward,
         "x: B N D, y: B M D, lengths_x?: i64 B, lengths_y?: i64 B, index?: u8 B S, l1: bool, K: int>=1, dist?: B N K, "
         "idx: i64 B N K, grad_dist: B N K, grad_x?: B N D, grad_y?: B M D");

void nearest_both(Tensor x, Tensor y, std::optional<Tensor> lengths_x, std::optional<Tensor> lengths_y, bool l1,
                  Tensor dist_x, Tensor idx_x, Tensor dist_y, Tensor idx_y) {
  dispatch_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto xy = search_of(x, y, lengths_x, lengths_y, l1, 1, dist_x.packed<T>(), idx_x.packed<int64_t>());
    const auto yx = search_of(y, x, lengths_y, lengths_x, l1, 1, dist_y.packed<T>(), idx_y.packed<int64_t>());
    run<T>(xy, &yx, nullptr, x.device);
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
    search_backward<T>({xy, grad_dist_x.packed<T>(), gx, gy}, &other, x.device);
  });
}
RECON_OP(nearest_both_backward,
         "x: B N D, y: B M D, lengths_x?: i64 B, lengths_y?: i64 B, l1: bool, dist_x: B N, idx_x: i64 B N, "
         "dist_y: B M, idx_y: i64 B M, grad_dist_x: B N, grad_dist_y: B M, grad_x?: B N D, grad_y?: B M D");

}  // namespace recon
