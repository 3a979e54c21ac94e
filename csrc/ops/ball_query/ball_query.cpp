// ball_query: for every point of x the first K points of y, by index, at a squared distance below radius^2.
#include <algorithm>

#include "core/op.h"
#include "core/parallel.h"
#include "ops/ball_query/kernels.h"
#include "ops/nearest/clouds.h"

namespace recon {

namespace {

constexpr int64_t queries_per_task = 256, points_for_tree = 16384;

template <class T>
void write_empty(const Nearest<T>& p, int64_t b, int64_t first_query) {
  const int64_t begin = (b * p.N + first_query) * p.K, end = (b + 1) * p.N * p.K;
  std::fill(p.dist + begin, p.dist + end, T(0));
  std::fill(p.idx + begin, p.idx + end, int64_t{-1});
}

template <class T>
void ball_query_cpu(const BallQuery<T>& ball) {
  const Nearest<T>& p = ball.search;
  if (p.N > INT32_MAX || p.M > INT32_MAX)
    throw std::invalid_argument("ball_query: clouds hold at most 2^31 - 1 points, got " +
                                std::to_string(std::max(p.N, p.M)) + ": split the cloud");
  const Device cpu;
  const bool tree = tree_pays(p.D, p.N, p.M) && p.M >= points_for_tree;
  Clouds<T> x(p.x, p.B, p.N, p.D, {tree, true, false, false, nullptr}, cpu);
  Clouds<T> y(p.y, p.B, p.M, p.D, {tree, false, true, true, nullptr}, cpu);
  const int64_t tasks_each = (p.N + queries_per_task - 1) / queries_per_task;
  const auto prepare = [&](int64_t i) {
    i < p.B ? y.prepare(i, p.count_y(i)) : x.prepare(i - p.B, p.count_x(i - p.B));
  };
  const auto search = [&](int64_t i) {
    const int64_t b = i / tasks_each, begin = i % tasks_each * queries_per_task;
    if (begin == 0) write_empty(p, b, p.count_x(b));
    const NearestTask<T> task{b, begin, std::min(p.count_x(b), begin + queries_per_task), x.order(b)};
    if (begin >= task.end) return;
    RECON_SIMD_CALL(search_balls, ball, y.columns(b), tree ? &y.tree(b) : nullptr, task);
  };
  const int64_t preparations = p.B * (tree ? 2 : 1), tasks = p.B * tasks_each;
  if (p.B * p.N * (p.M * p.D + p.K) < 200000) {  // waking threads would cost more
    for (int64_t i = 0; i < preparations; ++i) prepare(i);
    for (int64_t i = 0; i < tasks; ++i) search(i);
  } else {
    for_each_task(preparations, [&](int64_t i, int) { prepare(i); });
    for_each_task(tasks, [&](int64_t i, int) { search(i); });
  }
}

template <class T>
Nearest<T> search_of(const Tensor& x, const Tensor& y, const std::optional<Tensor>& lengths_x,
                     const std::optional<Tensor>& lengths_y, int64_t K, T* dist, const Tensor& idx) {
  return {x.packed<T>(),
          y.packed<T>(),
          lengths_x ? lengths_x->packed<int64_t>() : nullptr,
          lengths_y ? lengths_y->packed<int64_t>() : nullptr,
          false,
          x.shape[0],
          x.shape[1],
          y.shape[1],
          x.shape[2],
          K,
          dist,
          idx.packed<int64_t>()};
}

}  // namespace

void ball_query(Tensor x, Tensor y, std::optional<Tensor> lengths_x, std::optional<Tensor> lengths_y, int64_t K,
                double radius, Tensor dist, Tensor idx) {
  dispatch_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T r = static_cast<T>(radius);
    const BallQuery<T> ball{search_of(x, y, lengths_x, lengths_y, K, dist.packed<T>(), idx), r * r};
    if (!x.device.cuda) return ball_query_cpu(ball);
#ifdef RECON_CUDA
    ball_query_cuda(ball, x.device);
#endif
  });
}
RECON_OP(ball_query,
         "x: B N D, y: B M D, lengths_x?: i64 B, lengths_y?: i64 B, K: int>=1, radius: real>=0, dist: B N K, "
         "idx: i64 B N K");

void ball_query_backward(Tensor x, Tensor y, std::optional<Tensor> lengths_x, std::optional<Tensor> lengths_y,
                         int64_t K, double, std::optional<Tensor>, Tensor idx, Tensor grad_dist,
                         std::optional<Tensor> grad_x, std::optional<Tensor> grad_y) {
  dispatch_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto search = search_of<T>(x, y, lengths_x, lengths_y, K, nullptr, idx);
    search_backward<T>(
        {search, grad_dist.packed<T>(), grad_x ? grad_x->packed<T>() : nullptr, grad_y ? grad_y->packed<T>() : nullptr},
        nullptr, x.device);
  });
}
RECON_OP(ball_query_backward,
         "x: B N D, y: B M D, lengths_x?: i64 B, lengths_y?: i64 B, K: int>=1, radius: real>=0, dist?: B N K, "
         "idx: i64 B N K, grad_dist: B N K, grad_x?: B N D, grad_y?: B M D");

}  // namespace recon
