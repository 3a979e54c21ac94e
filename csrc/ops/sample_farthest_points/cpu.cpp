// The farthest point of a cloud from those sampled so far, again and again.
#include <limits>

#include "ops/nearest/lanes.h"
#include "ops/nearest/walk.h"
#include "ops/sample_farthest_points/kernels.h"

namespace recon {
namespace RECON_SIMD {

namespace {

template <class T>
struct Farthest {
  T dist;
  int32_t id;
};

// The largest of 16 values; of equal ones that with the lowest id.
template <class T>
Farthest<T> farthest_of(const T* dist, const int32_t* ids) {
  T most[node_width];
  for (int i = 0; i < node_width; ++i) most[i] = dist[i];
  for (int width = node_width / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) most[i] = most[i] < most[i + width] ? most[i + width] : most[i];
  Farthest<T> farthest{most[0], std::numeric_limits<int32_t>::max()};
  for (int i = 0; i < packs_of_node<T>; ++i) {
    const auto equal = Pack<T>::load(dist + i * Pack<T>::lanes) == Pack<T>(most[0]);
    for (uint32_t bits = equal.bits(); bits; bits &= bits - 1) {
      const int32_t id = ids[i * Pack<T>::lanes + __builtin_ctz(bits)];
      if (id < farthest.id) farthest.id = id;
    }
  }
  return farthest;
}

// A sample changes nothing below a box that is at least as far from it as the points in the box are from the samples
// before. Rounding does not weaken this: see PointTree.
template <class T>
class TreeSampler {
  using P = Pack<T>;

 public:
  explicit TreeSampler(const FarthestTree<T>& far) : far_(far), tree_(far.tree) {}

  // The distances to the first sample, and what follows from them for all nodes.
  Farthest<T> start(const T* q, int64_t D) {
    for (int64_t i = 0; i < tree_.size[0] * node_width; ++i)
      far_.dist[i] = i < tree_.count ? std::numeric_limits<T>::infinity() : -std::numeric_limits<T>::infinity();
    return add<true>(q, D);
  }

  // Adds a sample; returns the farthest point from all of them.
  Farthest<T> next(const T* q, int64_t D) { return add<false>(q, D); }

 private:
  template <bool everywhere>
  Farthest<T> add(const T* q, int64_t D) {
    q_ = WalkPoint<T>(q, D);
    return visit<everywhere>(tree_.levels, 0);
  }

  template <bool everywhere>
  Farthest<T> visit(int level, int64_t node) {
    if (level == 0) return visit_leaf(node);
    T* far = far_.far[level] + node * node_width;
    int32_t* ids = far_.far_ids[level] + node * node_width;
    uint32_t bits = 0;
    if (everywhere) {
      bits = (1u << node_width) - 1;
      for (int i = 0; i < node_width; ++i) far[i] = -std::numeric_limits<T>::infinity(), ids[i] = 0;
    } else {
      const T* boxes = tree_.boxes[level] + node * 6 * node_width;
      for (int i = 0; i < packs_of_node<T>; ++i)
        bits |= (box_distance<false>(boxes, q_, i) < P::load(far + i * P::lanes)).bits() << i * P::lanes;
    }
    bits &= children_bits(tree_, level, node);
    for (; bits; bits &= bits - 1) {
      const int child = __builtin_ctz(bits);
      const Farthest<T> below = visit<everywhere>(level - 1, node * node_width + child);
      far[child] = below.dist, ids[child] = below.id;
    }
    return farthest_of(far, ids);
  }

  Farthest<T> visit_leaf(int64_t leaf) {
    T* dist = far_.dist + leaf * node_width;
    for (int i = 0; i < packs_of_node<T>; ++i) {
      const P now = point_distance<false>(tree_.points + leaf * 3 * node_width, q_, i);
      const P before = P::load(dist + i * P::lanes);
      select(now < before, now, before).store(dist + i * P::lanes);
    }
    return farthest_of(dist, tree_.ids + leaf * node_width);
  }

  const FarthestTree<T>& far_;
  const PointTree<T>& tree_;
  WalkPoint<T> q_;
};

// D is 0 when it is not known here.
template <class T, int D>
int64_t farthest_after(const T* columns, int64_t stride, int64_t dims, int64_t sample, T* dist) {
  using P = Pack<T>;
  constexpr int unroll = node_width / P::lanes > 2 ? 4 : 2;  // chains of comparisons that do not wait for each other
  static_assert(node_width % P::lanes == 0);
  constexpr T inf = std::numeric_limits<T>::infinity();
  P q[D ? D : 1];
  for (int d = 0; d < D; ++d) q[d] = P(columns[d * stride + sample]);
  P most[unroll];
  Ids<T> block[unroll];
  for (int u = 0; u < unroll; ++u) most[u] = P(-inf), block[u] = Ids<T>{};
  for (int64_t j = 0; j < stride; j += unroll * P::lanes)
    for (int u = 0; u < unroll; ++u) {
      const int64_t at = j + u * P::lanes;
      P sum(T(0));
      for (int64_t d = 0; d < (D ? D : dims); ++d) {
        const P difference = (D ? q[D ? d : 0] : P(columns[d * stride + sample])) - P::load(columns + d * stride + at);
        sum += difference * difference;
      }
      const P before = P::load(dist + at), now = select(sum < before, sum, before);
      now.store(dist + at);
      const Mask<T> farther = now > most[u];
      most[u] = select(farther, now, most[u]);
      block[u] = pick<T>(farther, Ids<T>{} + static_cast<IntOf<T>>(j), block[u]);
    }
  T farthest = -inf;
  int64_t id = 0;
  for (int u = 0; u < unroll; ++u)
    for (int lane = 0; lane < P::lanes; ++lane) {
      const int64_t at = block[u][lane] + u * P::lanes + lane;
      if (most[u][lane] > farthest || (most[u][lane] == farthest && at < id)) farthest = most[u][lane], id = at;
    }
  return id;
}

}  // namespace

template <class T>
void sample_by_tree(const Sampling<T>& s, const FarthestTree<T>& far, int64_t b) {
  const T* points = s.points + b * s.P * s.D;
  int64_t* idx = s.idx + b * s.size;
  const int64_t count = s.count_samples(b);
  TreeSampler<T> sampler(far);
  int64_t sample = s.first_sample(b);
  for (int64_t k = 0; k < count; ++k) {
    idx[k] = sample;
    if (k + 1 == count) return;
    const T* q = points + sample * s.D;
    sample = (k == 0 ? sampler.start(q, s.D) : sampler.next(q, s.D)).id;
  }
}

template <class T>
void sample_by_comparing(const Sampling<T>& s, const T* columns, int64_t stride, T* dist, int64_t b) {
  constexpr T inf = std::numeric_limits<T>::infinity();
  int64_t* idx = s.idx + b * s.size;
  const int64_t count = s.count_samples(b);
  for (int64_t j = 0; j < stride; ++j) dist[j] = j < s.count_points(b) ? inf : -inf;
  int64_t sample = s.first_sample(b);
  for (int64_t k = 0; k < count; ++k) {
    idx[k] = sample;
    if (k + 1 == count) return;
    sample = s.D == 3 ? farthest_after<T, 3>(columns, stride, 3, sample, dist)
                      : farthest_after<T, 0>(columns, stride, s.D, sample, dist);
  }
}

template void sample_by_tree(const Sampling<float>&, const FarthestTree<float>&, int64_t);
template void sample_by_tree(const Sampling<double>&, const FarthestTree<double>&, int64_t);
template void sample_by_comparing(const Sampling<float>&, const float*, int64_t, float*, int64_t);
template void sample_by_comparing(const Sampling<double>&, const double*, int64_t, double*, int64_t);

}  // namespace RECON_SIMD
}  // namespace recon
