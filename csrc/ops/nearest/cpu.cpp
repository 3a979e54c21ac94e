// Exact nearest neighbours, a register of points at a time: all of a small cloud, or the leaves of a tree.
#include <algorithm>
#include <limits>
#include <vector>

#include "ops/nearest/candidates.h"
#include "ops/nearest/kernels.h"
#include "ops/nearest/lanes.h"
#include "ops/nearest/walk.h"

namespace recon {
namespace RECON_SIMD {

namespace {

template <bool L1, class T>
T distance(const T* a, const T* b, int64_t D) {
  T sum(0);
  for (int64_t d = 0; d < D; ++d) {
    const T difference = a[d] - b[d];
    sum += L1 ? std::abs(difference) : difference * difference;
  }
  return sum;
}

// The K nearest of one point.
template <class T, bool L1>
class TreeSearch {
  using P = Pack<T>;

 public:
  TreeSearch(const PointTree<T>& tree, Candidates<T>& best) : tree_(tree), best_(best) {}

  void run(const T* q, int64_t D) {
    q_ = WalkPoint<T>(q, D);
    visit(tree_.levels, 0);
  }

 private:
  void visit(int level, int64_t node) {
    if (level == 0) return visit_leaf(node);
    T dist[node_width];
    uint32_t bits = 0;
    for (int i = 0; i < packs_of_node<T>; ++i) {
      const P apart = box_distance<L1>(tree_.boxes[level] + node * 6 * node_width, q_, i);
      apart.store(dist + i * P::lanes);
      bits |= (apart <= P(best_.limit())).bits() << i * P::lanes;
    }
    bits &= children_bits(tree_, level, node);
    while (bits) {
      // The nearest box first: what it holds makes the others needless.
      int child = __builtin_ctz(bits);
      for (uint32_t rest = bits & (bits - 1); rest; rest &= rest - 1) {
        const int other = __builtin_ctz(rest);
        if (dist[other] < dist[child]) child = other;
      }
      if (!(dist[child] <= best_.limit())) return;
      bits &= ~(1u << child);
      if (best_.wants(dist[child], tree_.least_ids[level][node * node_width + child]))
        visit(level - 1, node * node_width + child);
    }
  }

  void visit_leaf(int64_t leaf) {
    for (int i = 0; i < packs_of_node<T>; ++i)
      best_.offer(point_distance<L1>(tree_.points + leaf * 3 * node_width, q_, i), 0,
                  tree_.ids + leaf * node_width + i * P::lanes);
  }

  const PointTree<T>& tree_;
  Candidates<T>& best_;
  WalkPoint<T> q_;
};

template <class T>
bool has_nan(const T* q, int64_t D) {
  for (int64_t d = 0; d < D; ++d)
    if (q[d] != q[d]) return true;
  return false;
}

// Consecutive queries are close to each other, and so are their neighbours: those of the query before bound the next.
template <class T, bool L1>
T bound_from(const Candidates<T>& before, const T* q, const T* y, int64_t D, int64_t K) {
  if (before.count() < K) return std::numeric_limits<T>::infinity();
  T bound(0);
  for (int64_t k = 0; k < K; ++k) {
    const T dist = distance<L1>(q, y + int64_t{before.id(k)} * D, D);
    if (!(dist <= bound)) bound = dist;
  }
  return bound == bound ? bound : std::numeric_limits<T>::infinity();
}

template <class T, bool L1>
void search_tree_for_many(const Nearest<T>& p, const PointTree<T>& tree, const NearestTask<T>& task) {
  Candidates<T> best(p.K);
  best.clear(0);
  TreeSearch<T, L1> search(tree, best);
  for (int64_t at = task.begin; at < task.end; ++at) {
    const int64_t query = task.b * p.N + (task.order ? task.order[at] : at);
    const T* q = p.x + query * p.D;
    best.clear(bound_from<T, L1>(best, q, p.y + task.b * p.M * p.D, p.D, p.K));
    if (!has_nan(q, p.D)) search.run(q, p.D);
    best.finish();
    best.write(p.dist + query * p.K, p.idx + query * p.K, tree.count);
  }
}

// The smaller one, b where a is NaN. One instruction: the chain of comparisons is as long as the cloud.
template <class T>
Pack<T> smaller(Pack<T> a, Pack<T> b) {
#if RECON_SIMD_BYTES == 64
  if constexpr (sizeof(T) == 4) return (RawOf<T>)_mm512_mask_min_ps((__m512)b.raw, -1, (__m512)a.raw, (__m512)b.raw);
  if constexpr (sizeof(T) == 8) return (RawOf<T>)_mm512_mask_min_pd((__m512d)b.raw, -1, (__m512d)a.raw, (__m512d)b.raw);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) return (RawOf<T>)_mm256_min_ps((__m256)a.raw, (__m256)b.raw);
  if constexpr (sizeof(T) == 8) return (RawOf<T>)_mm256_min_pd((__m256d)a.raw, (__m256d)b.raw);
#elif defined(__SSE2__)
  if constexpr (sizeof(T) == 4) return (RawOf<T>)_mm_min_ps((__m128)a.raw, (__m128)b.raw);
  if constexpr (sizeof(T) == 8) return (RawOf<T>)_mm_min_pd((__m128d)a.raw, (__m128d)b.raw);
#else
  return select(a < b, a, b);
#endif
}

// A part of the cloud is compared first and looked through then, when it is in the cache.
constexpr int64_t part_size = 2048;

// The distances of columns [begin, begin + n) from q, n a multiple of 16. D is 0 when it is not known here.
template <class T, bool L1, int D>
void distances_of_part(const PointColumns<T>& y, const T* q, int64_t dims, int64_t begin, int64_t n, T* dist) {
  using P = Pack<T>;
  P at[D ? D : 1];  // known not to change with what is stored
  for (int d = 0; d < D; ++d) at[d] = P(q[d]);
  for (int64_t j = 0; j < n; j += P::lanes) {
    P sum(T(0));
    for (int64_t d = 0; d < (D ? D : dims); ++d)
      sum += term<L1>((D ? at[D ? d : 0] : P(q[d])) - P::load(y.columns + d * y.stride + begin + j));
    sum.store(dist + j);
  }
}

// A number that at least K of the values in `packs` registers do not exceed, and not many more, by bisection. At least
// K of them lie between low and high.
template <class T>
T bound_by_counting(const T* values, int64_t packs, int64_t K, T low, T high) {
  using P = Pack<T>;
  for (int step = 0; step < 16; ++step) {
    const T middle = low + (high - low) / 2;
    int64_t count = 0;
    for (int64_t i = 0; i < packs; ++i)
      count += __builtin_popcount((P::load(values + i * P::lanes) <= P(middle)).bits());
    (count < K ? low : high) = middle;
    if (count >= K && count <= K + K / 8) break;
  }
  return high;
}

// A distance within which at least K of n values lie: the smallest of each of about 2 K groups are distinct values, and
// the K-th of those is little larger than the K-th of all. n is a multiple of 16; `least` has room for as many.
template <class T>
T bound_of_part(const T* dist, int64_t n, int64_t K, T* least) {
  using P = Pack<T>;
  constexpr T inf = std::numeric_limits<T>::infinity();
  const int64_t packs = n / P::lanes, each = std::min(packs, std::max<int64_t>(1, n / (2 * K))), groups = packs / each;
  if (groups * P::lanes < K) return inf;
  P low(inf), high(-inf);
  for (int64_t group = 0; group < groups; ++group) {
    P smallest(inf);
    for (int64_t i = group * each; i < (group + 1) * each; ++i)
      smallest = smaller(P::load(dist + i * P::lanes), smallest);
    smallest.store(least + group * P::lanes);
    low = smaller(smallest, low), high = select(smallest > high, smallest, high);
  }
  T least_of_all = low[0], most = high[0];
  for (int lane = 1; lane < P::lanes; ++lane)
    least_of_all = std::min(least_of_all, low[lane]), most = std::max(most, high[lane]);
  return bound_by_counting(least, groups, K, least_of_all, most);
}

template <class T, bool L1, int D>
void search_columns_for_many(const Nearest<T>& p, const PointColumns<T>& y, const NearestTask<T>& task) {
  using P = Pack<T>;
  constexpr int unroll = node_width / P::lanes > 4 ? node_width / P::lanes : 4;
  static_assert(PointColumns<T>::step % (unroll * P::lanes) == 0 && part_size % PointColumns<T>::step == 0);
  const int64_t count = p.count_y(task.b);
  Candidates<T> best(p.K);
  std::vector<T> dist(part_size), least(part_size);
  for (int64_t at = task.begin; at < task.end; ++at) {
    const int64_t query = task.b * p.N + at;
    best.clear(std::numeric_limits<T>::infinity());
    for (int64_t begin = 0; begin < count; begin += part_size) {
      const int64_t n = std::min(part_size, y.stride - begin);
      distances_of_part<T, L1, D>(y, p.x + query * p.D, p.D, begin, n, dist.data());
      if (begin == 0 && n > p.K) best.lower_limit(bound_of_part(dist.data(), n, p.K, least.data()));
      for (int64_t j = 0; j < n; j += unroll * P::lanes) {
        const P limit(best.limit());
        auto near = P::load(&dist[j]) <= limit;
        for (int u = 1; u < unroll; ++u) near = near | (P::load(&dist[j + u * P::lanes]) <= limit);
        if (!any(near)) continue;
        for (int u = 0; u < unroll; ++u)
          best.offer(P::load(&dist[j + u * P::lanes]), static_cast<int32_t>(begin + j + u * P::lanes), lane_ids);
      }
    }
    best.finish();
    best.write(p.dist + query * p.K, p.idx + query * p.K, count);
  }
}

template <class T>
Mask<T> less(Ids<T> a, Ids<T> b) {
#if RECON_SIMD_BYTES == 64
  if constexpr (sizeof(T) == 4)
    return {_mm512_cmplt_epi32_mask((__m512i)a, (__m512i)b)};
  else
    return {_mm512_cmplt_epi64_mask((__m512i)a, (__m512i)b)};
#else
  return {a < b};
#endif
}

// The nearest of a register of points at a time, which are neighbours of each other: they share the way through the
// tree, and every point of a leaf is compared with all of them at once.
template <class T, bool L1>
class GroupSearch {
  using P = Pack<T>;
  static constexpr int32_t none = std::numeric_limits<int32_t>::max();
  static constexpr T inf = std::numeric_limits<T>::infinity();

 public:
  static constexpr int lanes = P::lanes;

  GroupSearch(const Nearest<T>& p, const PointTree<T>& tree, int64_t b) : p_(p), tree_(tree), y_(p.y + b * p.M * p.D) {}

  // Queries rows[0..lanes) of x.
  void run(const int64_t* rows) {
    T q[3][lanes] = {}, bound[lanes];
    for (int d = 0; d < 3; ++d) low_[d] = inf, high_[d] = -inf;
    bool any_query = false;
    for (int lane = 0; lane < lanes; ++lane) {
      const T* x = p_.x + rows[lane] * p_.D;
      const bool is_query = !has_nan(x, p_.D);
      any_query |= is_query;
      bound[lane] = is_query ? inf : T(-1);  // nothing is nearer than that
      for (int d = 0; d < p_.D; ++d) q[d][lane] = x[d];
      for (int d = 0; is_query && d < 3; ++d)
        low_[d] = std::min(low_[d], q[d][lane]), high_[d] = std::max(high_[d], q[d][lane]);
    }
    for (int d = 0; d < 3; ++d) q_[d] = P::load(q[d]), center_[d] = T(0.5) * low_[d] + T(0.5) * high_[d];
    best_ = P::load(bound), id_ = Ids<T>{} + none;
    if (last_ != none) {
      // What was the nearest of the group before is not far.
      P dist(T(0));
      for (int d = 0; d < p_.D; ++d) dist += term<L1>(q_[d] - P(y_[int64_t{last_} * p_.D + d]));
      const Mask<T> nearer = dist < best_;
      best_ = select(nearer, dist, best_), id_ = pick<T>(nearer, Ids<T>{} + last_, id_);
    }
    if (any_query) visit(tree_.levels, 0);
    last_ = static_cast<int32_t>(id_[lanes - 1]);
  }

  void write(int lane, T* dist, int64_t* idx) const {
    const bool found = id_[lane] != none;
    *dist = found ? best_[lane] : std::numeric_limits<T>::quiet_NaN();
    *idx = found ? id_[lane] : 0;
  }

 private:
  void visit(int level, int64_t node) {
    if (level == 0) return visit_leaf(node);
    const T* box = tree_.boxes[level] + node * 6 * node_width;
    T order[node_width];
    uint32_t bits = 0;
    const P limit(farthest());
    for (int i = 0; i < packs_of_node<T>; ++i) {
      // Distances of the boxes from the box of the group, and from its centre.
      P apart(T(0)), from_center(T(0));
      for (int d = 0; d < 3; ++d) {
        const P lo = P::load(box + d * node_width + i * P::lanes);
        const P hi = P::load(box + (3 + d) * node_width + i * P::lanes);
        apart += term<L1>(positive(lo - P(high_[d]), P(low_[d]) - hi));
        from_center += term<L1>(positive(lo - P(center_[d]), P(center_[d]) - hi));
      }
      from_center.store(order + i * P::lanes);
      bits |= (apart <= limit).bits() << i * P::lanes;
    }
    bits &= children_bits(tree_, level, node);
    while (bits) {
      int child = __builtin_ctz(bits);
      for (uint32_t rest = bits & (bits - 1); rest; rest &= rest - 1) {
        const int other = __builtin_ctz(rest);
        if (order[other] < order[child]) child = other;
      }
      bits &= ~(1u << child);
      if (reaches(box + child, tree_.least_ids[level][node * node_width + child]))
        visit(level - 1, node * node_width + child);
    }
  }

  static P positive(P a, P b) {
    const P larger = select(a > b, a, b);
    return select(larger > P(T(0)), larger, P(T(0)));
  }

  T farthest() const {
    T limit = best_[0];
    for (int lane = 1; lane < lanes; ++lane) limit = std::max(limit, best_[lane]);
    return limit;
  }

  // Whether the box, one column of a node, may hold something better than what some query has.
  bool reaches(const T* box, int32_t least_id) const {
    P sum(T(0));
    for (int d = 0; d < 3; ++d)
      sum += term<L1>(positive(P(box[d * node_width]) - q_[d], q_[d] - P(box[(3 + d) * node_width])));
    return any(better_than_best(sum, Ids<T>{} + least_id));
  }

  P distance_to(const T* p, int i) const {
    P sum = term<L1>(q_[0] - P(p[i]));
    sum += term<L1>(q_[1] - P(p[node_width + i]));
    return sum + term<L1>(q_[2] - P(p[2 * node_width + i]));
  }

  void visit_leaf(int64_t leaf) {
    const T* p = tree_.points + leaf * 3 * node_width;
    const int32_t* ids = tree_.ids + leaf * node_width;
    P best(inf);
    Ids<T> id = Ids<T>{} + none;
    Mask<T> tie = Mask<T>::of_bits(0);
    for (int i = 0; i < node_width; ++i) {
      const P dist = distance_to(p, i);
      const Mask<T> nearer = dist < best;
      tie = tie | (dist == best);
      best = smaller(dist, best), id = pick<T>(nearer, Ids<T>{} + ids[i], id);
    }
    if (!any(tie)) return take(best, id);
    for (int i = 0; i < node_width; ++i) take(distance_to(p, i), Ids<T>{} + ids[i]);
  }

  Mask<T> better_than_best(P dist, Ids<T> id) const { return (dist < best_) | ((dist == best_) & less<T>(id, id_)); }

  void take(P dist, Ids<T> id) {
    const Mask<T> better = better_than_best(dist, id);
    best_ = select(better, dist, best_), id_ = pick<T>(better, id, id_);
  }

  const Nearest<T>& p_;
  const PointTree<T>& tree_;
  const T* y_;
  P q_[3], best_;
  Ids<T> id_;
  T low_[3], high_[3], center_[3];
  int32_t last_ = none;
};

template <class T, bool L1>
void search_tree_for_one(const Nearest<T>& p, const PointTree<T>& tree, const NearestTask<T>& task) {
  using Search = GroupSearch<T, L1>;
  Search search(p, tree, task.b);
  for (int64_t first = task.begin; first < task.end; first += Search::lanes) {
    int64_t rows[Search::lanes];
    for (int lane = 0; lane < Search::lanes; ++lane) {
      const int64_t at = std::min(first + lane, task.end - 1);
      rows[lane] = task.b * p.N + (task.order ? task.order[at] : at);
    }
    search.run(rows);
    for (int lane = 0; lane < Search::lanes; ++lane) search.write(lane, p.dist + rows[lane], p.idx + rows[lane]);
  }
}

// Every point of y against some registers of queries.
template <class T, bool L1, int D>
void compare_all_for_one(const Nearest<T>& p, const NearestTask<T>& task) {
  using P = Pack<T>;
  constexpr int packs = RECON_SIMD_BYTES == 64 ? 4 : 2, width = packs * P::lanes;
  constexpr T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  const int64_t dims = D ? D : p.D, count = p.count_y(task.b);
  const T* y = p.y + task.b * p.M * dims;
  std::vector<T> queries(static_cast<size_t>(dims * width));
  for (int64_t first = task.begin; first < task.end; first += width) {
    const int64_t row = task.b * p.N + first, n = std::min<int64_t>(width, task.end - first);
    for (int64_t d = 0; d < dims; ++d)
      for (int64_t i = 0; i < width; ++i) queries[d * width + i] = i < n ? p.x[(row + i) * dims + d] : T(0);
    P best[packs], q[packs][D ? D : 1];
    Ids<T> id[packs];
    for (int u = 0; u < packs; ++u) {
      best[u] = P(inf), id[u] = Ids<T>{} - 1;
      for (int d = 0; d < D; ++d) q[u][d] = P::load(&queries[d * width + u * P::lanes]);
    }
    for (int64_t j = 0; j < count; ++j) {
      P sum[packs];
      for (int u = 0; u < packs; ++u) sum[u] = P(T(0));
      for (int64_t d = 0; d < dims; ++d) {
        const P c(y[j * dims + d]);
        for (int u = 0; u < packs; ++u)
          sum[u] += term<L1>((D ? q[u][D ? d : 0] : P::load(&queries[d * width + u * P::lanes])) - c);
      }
      for (int u = 0; u < packs; ++u) {
        id[u] = pick<T>(sum[u] < best[u], Ids<T>{} + static_cast<IntOf<T>>(j), id[u]);
        best[u] = smaller(sum[u], best[u]);
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      const int u = static_cast<int>(i / P::lanes), lane = static_cast<int>(i % P::lanes);
      T dist = best[u][lane];
      int64_t idx = id[u][lane];
      // Nothing at a finite distance: the first at an infinite one, if any.
      for (int64_t j = 0; idx < 0 && j < count; ++j)
        if (distance<L1>(p.x + (row + i) * dims, y + j * dims, dims) == inf) idx = j;
      p.dist[row + i] = idx < 0 ? nan : dist, p.idx[row + i] = idx < 0 ? 0 : idx;
    }
  }
}

template <class T, bool L1>
void search_tree_in(const Nearest<T>& p, const PointTree<T>& tree, const NearestTask<T>& task) {
  p.K == 1 ? search_tree_for_one<T, L1>(p, tree, task) : search_tree_for_many<T, L1>(p, tree, task);
}

template <class T, bool L1>
void search_columns_in(const Nearest<T>& p, const PointColumns<T>& y, const NearestTask<T>& task) {
  if (p.K == 1)
    p.D == 3 ? compare_all_for_one<T, L1, 3>(p, task) : compare_all_for_one<T, L1, 0>(p, task);
  else
    p.D == 3 ? search_columns_for_many<T, L1, 3>(p, y, task) : search_columns_for_many<T, L1, 0>(p, y, task);
}

}  // namespace

template <class T>
void search_tree(const Nearest<T>& p, const PointTree<T>& tree, const NearestTask<T>& task) {
  p.l1 ? search_tree_in<T, true>(p, tree, task) : search_tree_in<T, false>(p, tree, task);
}

template <class T>
void search_columns(const Nearest<T>& p, const PointColumns<T>& y, const NearestTask<T>& task) {
  p.l1 ? search_columns_in<T, true>(p, y, task) : search_columns_in<T, false>(p, y, task);
}

template void search_tree(const Nearest<float>&, const PointTree<float>&, const NearestTask<float>&);
template void search_tree(const Nearest<double>&, const PointTree<double>&, const NearestTask<double>&);
template void search_columns(const Nearest<float>&, const PointColumns<float>&, const NearestTask<float>&);
template void search_columns(const Nearest<double>&, const PointColumns<double>&, const NearestTask<double>&);

}  // namespace RECON_SIMD
}  // namespace recon
