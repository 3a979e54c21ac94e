// Exact nearest neighbours, a register of points at a time: all of a small cloud, or the leaves of a tree.
#include <algorithm>
#include <limits>
#include <vector>

#include "ops/nearest/kernels.h"

namespace recon {
namespace RECON_SIMD {

namespace {

template <bool L1, class V>
V term(V difference) {
  if constexpr (!L1) return difference * difference;
  return select(difference < V(0), -difference, difference);
}

template <bool L1, class T>
T distance(const T* a, const T* b, int64_t D) {
  T sum(0);
  for (int64_t d = 0; d < D; ++d) {
    const T difference = a[d] - b[d];
    sum += L1 ? std::abs(difference) : difference * difference;
  }
  return sum;
}

// The K best candidates so far, by distance and then by index. `bound` is a distance within which K points are known
// to lie, so that farther ones need no look even before the list is full.
template <class T>
class Best {
 public:
  explicit Best(int64_t K) : K_(K), dist_(static_cast<size_t>(K)), id_(static_cast<size_t>(K)) {}

  void clear(T bound) { count_ = 0, limit_ = bound; }
  T limit() const { return limit_; }

  void offer(T dist, int32_t id) {
    int64_t at = count_;
    if (count_ < K_) {
      ++count_;
    } else {
      at = K_ - 1;
      if (!before(dist, id, dist_[at], id_[at])) return;
    }
    for (; at > 0 && before(dist, id, dist_[at - 1], id_[at - 1]); --at)
      dist_[at] = dist_[at - 1], id_[at] = id_[at - 1];
    dist_[at] = dist, id_[at] = id;
    if (count_ == K_) limit_ = dist_[K_ - 1];
  }

  int64_t count() const { return count_; }
  int32_t id(int64_t k) const { return id_[k]; }

  // Slots that no point can fill hold 0 beyond the cloud, as the padding of a ragged batch, and NaN where the cloud has
  // points, but none at a distance.
  void write(T* dist, int64_t* idx, int64_t available) const {
    for (int64_t k = 0; k < K_; ++k) {
      const bool found = k < count_;
      dist[k] = found ? dist_[k] : k < available ? std::numeric_limits<T>::quiet_NaN() : T(0);
      idx[k] = found ? id_[k] : 0;
    }
  }

 private:
  static bool before(T d, int32_t i, T e, int32_t j) { return d < e || (d == e && i < j); }

  int64_t K_, count_ = 0;
  T limit_ = 0;
  std::vector<T> dist_;
  std::vector<int32_t> id_;
};

// For K = 1 the candidate stays in registers.
template <class T>
class BestOne {
 public:
  explicit BestOne(int64_t) {}
  void clear(T bound) { limit_ = bound, id_ = none; }
  T limit() const { return limit_; }
  void offer(T dist, int32_t id) {
    if (dist < limit_ || (dist == limit_ && id < id_)) limit_ = dist, id_ = id;
  }
  int64_t count() const { return id_ == none ? 0 : 1; }
  int32_t id(int64_t) const { return id_; }
  void write(T* dist, int64_t* idx, int64_t available) const {
    const bool found = id_ != none;
    *dist = found ? limit_ : available ? std::numeric_limits<T>::quiet_NaN() : T(0);
    *idx = found ? id_ : 0;
  }

 private:
  static constexpr int32_t none = std::numeric_limits<int32_t>::max();
  T limit_ = 0;
  int32_t id_ = none;
};

template <class T, bool L1, class B>
class TreeSearch {
  using P = Pack<T>;
  static constexpr int packs = node_width / P::lanes > 0 ? node_width / P::lanes : 1;

 public:
  TreeSearch(const PointTree<T>& tree, B& best) : tree_(tree), best_(best) {}

  void run(const T* q, int64_t D) {
    for (int d = 0; d < 3; ++d) q_[d] = P(d < D ? q[d] : T(0));
    visit(tree_.levels, 0);
  }

 private:
  void visit(int level, int64_t node) {
    if (level == 0) return visit_leaf(node);
    const T* box = tree_.boxes[level] + node * 6 * node_width;
    T dist[node_width];
    uint32_t bits = 0;
    for (int i = 0; i < packs; ++i) {
      P sum(T(0));
      for (int d = 0; d < 3; ++d) {
        const P below = P::load(box + d * node_width + i * P::lanes) - q_[d];
        const P above = q_[d] - P::load(box + (3 + d) * node_width + i * P::lanes);
        const P outside = select(below > above, below, above);
        sum += term<L1>(select(outside > P(T(0)), outside, P(T(0))));
      }
      sum.store(dist + i * P::lanes);
      bits |= (sum <= P(best_.limit())).bits() << i * P::lanes;
    }
    const int64_t children = tree_.size[level - 1] - node * node_width;
    if (children < node_width) bits &= (1u << children) - 1;
    while (bits) {
      // The nearest box first: what it holds makes the others needless.
      int child = __builtin_ctz(bits);
      for (uint32_t rest = bits & (bits - 1); rest; rest &= rest - 1) {
        const int other = __builtin_ctz(rest);
        if (dist[other] < dist[child]) child = other;
      }
      if (!(dist[child] <= best_.limit())) return;
      bits &= ~(1u << child);
      visit(level - 1, node * node_width + child);
    }
  }

  void visit_leaf(int64_t leaf) {
    const T* p = tree_.points + leaf * 3 * node_width;
    for (int i = 0; i < packs; ++i, p += P::lanes) {
      P sum = term<L1>(q_[0] - P::load(p));
      sum += term<L1>(q_[1] - P::load(p + node_width));
      sum += term<L1>(q_[2] - P::load(p + 2 * node_width));
      for (uint32_t bits = (sum <= P(best_.limit())).bits(); bits; bits &= bits - 1) {
        const int lane = __builtin_ctz(bits);
        best_.offer(sum[lane], tree_.ids[leaf * node_width + i * P::lanes + lane]);
      }
    }
  }

  const PointTree<T>& tree_;
  B& best_;
  P q_[3];
};

template <class T>
bool has_nan(const T* q, int64_t D) {
  for (int64_t d = 0; d < D; ++d)
    if (q[d] != q[d]) return true;
  return false;
}

// Consecutive queries are close to each other, and so are their neighbours: those of the query before bound the next.
template <class T, bool L1, class B>
T bound_from(const B& before, const T* q, const T* y, int64_t D, int64_t K) {
  if (before.count() < K) return std::numeric_limits<T>::infinity();
  T bound(0);
  for (int64_t k = 0; k < K; ++k) {
    const T dist = distance<L1>(q, y + int64_t{before.id(k)} * D, D);
    if (!(dist <= bound)) bound = dist;
  }
  return bound == bound ? bound : std::numeric_limits<T>::infinity();
}

template <class T, bool L1, class B>
void search_tree_with(const Nearest<T>& p, const PointTree<T>& tree, const NearestTask<T>& task) {
  B best(p.K);
  best.clear(0);
  TreeSearch<T, L1, B> search(tree, best);
  for (int64_t at = task.begin; at < task.end; ++at) {
    const int64_t query = task.b * p.N + (task.order ? task.order[at] : at);
    const T* q = p.x + query * p.D;
    best.clear(bound_from<T, L1>(best, q, p.y + task.b * p.M * p.D, p.D, p.K));
    if (!has_nan(q, p.D)) search.run(q, p.D);
    best.write(p.dist + query * p.K, p.idx + query * p.K, tree.count);
  }
}

// D is 0 when it is not known here.
template <class T, bool L1, int D, class B>
void search_columns_with(const Nearest<T>& p, const PointColumns<T>& y, const NearestTask<T>& task) {
  using P = Pack<T>;
  constexpr int unroll = PointColumns<T>::unroll;
  const int64_t dims = D ? D : p.D, count = p.count_y(task.b);
  B best(p.K);
  for (int64_t at = task.begin; at < task.end; ++at) {
    const int64_t query = task.b * p.N + (task.order ? task.order[at] : at);
    const T* q = p.x + query * p.D;
    best.clear(std::numeric_limits<T>::infinity());
    for (int64_t j = 0; j < count; j += unroll * P::lanes) {
      P sum[unroll];
      for (int u = 0; u < unroll; ++u) sum[u] = P(T(0));
      for (int64_t d = 0; d < dims; ++d) {
        const P c(q[d]);
        for (int u = 0; u < unroll; ++u) sum[u] += term<L1>(c - P::load(y.columns + d * y.stride + j + u * P::lanes));
      }
      auto near = sum[0] <= P(best.limit());
      for (int u = 1; u < unroll; ++u) near = near | (sum[u] <= P(best.limit()));
      if (!any(near)) continue;
      for (int u = 0; u < unroll; ++u)
        for (uint32_t bits = (sum[u] <= P(best.limit())).bits(); bits; bits &= bits - 1) {
          const int lane = __builtin_ctz(bits);
          best.offer(sum[u][lane], static_cast<int32_t>(j + u * P::lanes + lane));
        }
    }
    best.write(p.dist + query * p.K, p.idx + query * p.K, count);
  }
}

template <class T, bool L1, class B>
void search_columns_of(const Nearest<T>& p, const PointColumns<T>& y, const NearestTask<T>& task) {
  p.D == 3 ? search_columns_with<T, L1, 3, B>(p, y, task) : search_columns_with<T, L1, 0, B>(p, y, task);
}

}  // namespace

template <class T>
void search_tree(const Nearest<T>& p, const PointTree<T>& tree, const NearestTask<T>& task) {
  if (p.K == 1)
    p.l1 ? search_tree_with<T, true, BestOne<T>>(p, tree, task) : search_tree_with<T, false, BestOne<T>>(p, tree, task);
  else
    p.l1 ? search_tree_with<T, true, Best<T>>(p, tree, task) : search_tree_with<T, false, Best<T>>(p, tree, task);
}

template <class T>
void search_columns(const Nearest<T>& p, const PointColumns<T>& y, const NearestTask<T>& task) {
  if (p.K == 1)
    p.l1 ? search_columns_of<T, true, BestOne<T>>(p, y, task) : search_columns_of<T, false, BestOne<T>>(p, y, task);
  else
    p.l1 ? search_columns_of<T, true, Best<T>>(p, y, task) : search_columns_of<T, false, Best<T>>(p, y, task);
}

template void search_tree(const Nearest<float>&, const PointTree<float>&, const NearestTask<float>&);
template void search_tree(const Nearest<double>&, const PointTree<double>&, const NearestTask<double>&);
template void search_columns(const Nearest<float>&, const PointColumns<float>&, const NearestTask<float>&);
template void search_columns(const Nearest<double>&, const PointColumns<double>&, const NearestTask<double>&);

}  // namespace RECON_SIMD
}  // namespace recon
