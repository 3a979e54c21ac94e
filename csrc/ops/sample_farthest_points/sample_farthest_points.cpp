// sample_farthest_points: indices of points, each the farthest from those before it; the lowest index at equal
// distances.
//
//   d_i(k) = min over samples s_0 .. s_k of sum_d (x_i - s)_d^2,   s_{k+1} = argmax_i d_i(k)
//
// Eldar, Lindenbaum, Porat, Zeevi, The farthest point strategy for progressive image sampling, 1997. On a CPU large
// clouds lie in a tree of boxes that knows its farthest points: a new sample looks only into boxes that it can change,
// after Han et al., QuickFPS: Architecture and algorithm co-design for farthest point sampling, 2023.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/op.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "ops/nearest/tree.h"
#include "ops/sample_farthest_points/kernels.h"

namespace recon {

namespace {

// Measured: a comparison costs about 0.15 ns, the tree 30 ns a point to build and to begin with.
bool tree_pays(int64_t D, int64_t points, int64_t samples) { return D <= 3 && points >= 2048 && samples > 200; }

template <class T>
void check_finite(const Sampling<T>& s, int64_t b) {
  const T* points = s.points + b * s.P * s.D;
  const int64_t values = s.count_points(b) * s.D;
  T sum(0);
  for (int64_t i = 0; i < values; ++i) sum += points[i] * T(0);  // NaN where something is not finite
  if (sum == T(0)) return;
  for (int64_t i = 0; i < values; ++i)
    if (!std::isfinite(points[i]))
      throw std::invalid_argument(
          "sample_farthest_points: points[" + std::to_string(b) + ", " + std::to_string(i / s.D) +
          "] is not finite, but distances must be comparable: " + "remove such points, or exclude them by lengths");
}

template <class T>
void sample_in_tree(const Sampling<T>& s, int64_t b) {
  const Device cpu;
  const int64_t count = s.count_points(b), slots = tree_ids(count);
  const Scratch<T> values(tree_values<T>(count) + slots, cpu);
  const Scratch<int32_t> ids(2 * slots, cpu);
  const Scratch<CurveEntry> entries(2 * count, cpu);
  FarthestTree<T> far;
  far.tree = build_tree(s.points + b * s.P * s.D, count, s.D, values.data(), ids.data(), entries.data());
  T* next = values.data() + tree_values<T>(count);
  int32_t* next_ids = ids.data() + slots;
  far.dist = next, next += far.tree.size[0] * node_width;
  for (int level = 1; level <= far.tree.levels; ++level) {
    far.far[level] = next, next += far.tree.size[level] * node_width;
    far.far_ids[level] = next_ids, next_ids += far.tree.size[level] * node_width;
  }
  RECON_SIMD_CALL(sample_by_tree, s, far, b);
}

template <class T>
void sample_in_columns(const Sampling<T>& s, int64_t b) {
  constexpr int64_t step = 4 * node_width;  // what a kernel handles at once, or a multiple
  const Device cpu;
  const int64_t count = s.count_points(b), stride = (count + step - 1) / step * step;
  const Scratch<T> columns((s.D + 1) * stride, cpu);
  for (int64_t d = 0; d < s.D; ++d)
    for (int64_t j = 0; j < stride; ++j)
      columns[d * stride + j] = j < count ? s.points[(b * s.P + j) * s.D + d] : std::numeric_limits<T>::quiet_NaN();
  RECON_SIMD_CALL(sample_by_comparing, s, columns.data(), stride, columns.data() + s.D * stride, b);
}

template <class T>
void sample_cpu(const Sampling<T>& s) {
  if (s.P > INT32_MAX)
    throw std::invalid_argument("sample_farthest_points: clouds hold at most 2^31 - 1 points, got " +
                                std::to_string(s.P) + ": split the cloud");
  const auto sample = [&](int64_t b) {
    const int64_t samples = s.count_samples(b);
    std::fill(s.idx + b * s.size + samples, s.idx + (b + 1) * s.size, int64_t{-1});
    check_finite(s, b);
    if (samples == 0) return;
    tree_pays(s.D, s.count_points(b), samples) ? sample_in_tree(s, b) : sample_in_columns(s, b);
  };
  if (s.B * s.P * s.size * s.D < 200000) {  // waking threads would cost more
    for (int64_t b = 0; b < s.B; ++b) sample(b);
  } else {
    for_each_task(s.B, [&](int64_t b, int) { sample(b); });
  }
}

}  // namespace

void sample_farthest_points(Tensor points, std::optional<Tensor> lengths, Tensor K, Tensor start, int64_t size,
                            Tensor idx) {
  if (idx.shape[1] != size)
    throw std::invalid_argument("sample_farthest_points: size is " + std::to_string(size) + " but idx holds " +
                                std::to_string(idx.shape[1]));
  dispatch_float(points.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Sampling<T> s{points.packed<T>(),   lengths ? lengths->packed<int64_t>() : nullptr,
                        K.packed<int64_t>(),  start.packed<int64_t>(),
                        points.shape[0],      points.shape[1],
                        points.shape[2],      size,
                        idx.packed<int64_t>()};
    if (!points.device.cuda) return sample_cpu(s);
#ifdef RECON_CUDA
    sample_farthest_points_cuda(s, points.device);
#endif
  });
}
RECON_OP(sample_farthest_points, "points: B P D, lengths?: i64 B, K: i64 B, start: i64 B, size: int>=0, idx: i64 B S");

}  // namespace recon
