// Points within a radius, by index: the first of them are looked for from the front, those that lie far apart in a
// tree.
#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "ops/ball_query/kernels.h"
#include "ops/nearest/candidates.h"
#include "ops/nearest/walk.h"

namespace recon {
namespace RECON_SIMD {

namespace {

// The hits of one query in the order of their indices; more than the first K are dropped when they are written.
template <class T>
class Hits {
 public:
  explicit Hits(int64_t K) : K_(K), dist_(static_cast<size_t>(K + slack)), ids_(static_cast<size_t>(K + slack)) {}

  void clear() { count_ = 0; }
  int64_t count() const { return count_; }
  int64_t missing() const { return K_ - count_; }
  bool full() const { return count_ >= K_; }

  // Up to 64 points may follow when it is not full.
  void add(Pack<T> dist, Mask<T> near, int64_t first) {
    count_ += append(dist, near, static_cast<int32_t>(first), lane_ids, &dist_[count_], &ids_[count_]);
  }
  void add(T dist, int32_t id) { dist_[count_] = dist, ids_[count_++] = id; }

  void write(T* dist, int64_t* idx) const {
    const int64_t count = std::min(count_, K_);
    std::copy(dist_.begin(), dist_.begin() + count, dist);
    std::copy(ids_.begin(), ids_.begin() + count, idx);
    std::fill(dist + count, dist + K_, T(0));
    std::fill(idx + count, idx + K_, int64_t{-1});
  }

 private:
  static constexpr int64_t slack = 64 + 16;
  int64_t K_, count_ = 0;
  std::vector<T> dist_;
  std::vector<int32_t> ids_;
};

// Points [begin, end) from the front; begin is a multiple of 16. D is 0 when it is not known here.
template <class T, int D>
void scan(const PointColumns<T>& y, const T* q, int64_t dims, T radius2, int64_t begin, int64_t end, Hits<T>& hits) {
  using P = Pack<T>;
  constexpr int unroll = packs_of_node<T> > 4 ? packs_of_node<T> : 4;  // at most 64 points
  P at[D ? D : 1];
  for (int d = 0; d < D; ++d) at[d] = P(q[d]);
  for (int64_t j = begin; j < end && !hits.full(); j += unroll * P::lanes) {
    P sum[unroll];
    for (int u = 0; u < unroll; ++u) sum[u] = P(T(0));
    for (int64_t d = 0; d < (D ? D : dims); ++d)
      for (int u = 0; u < unroll; ++u)
        sum[u] += term<false>((D ? at[D ? d : 0] : P(q[d])) - P::load(y.columns + d * y.stride + j + u * P::lanes));
    auto near = sum[0] < P(radius2);
    for (int u = 1; u < unroll; ++u) near = near | (sum[u] < P(radius2));
    if (!any(near)) continue;
    for (int u = 0; u < unroll; ++u) hits.add(sum[u], sum[u] < P(radius2), j + u * P::lanes);
  }
}

// The hits with the lowest indices among those from `first` on. Boxes whose lowest index comes too late are left out.
template <class T>
class BallSearch {
  using P = Pack<T>;

 public:
  BallSearch(const PointTree<T>* tree, T radius2) : tree_(tree), radius2_(radius2) {}

  void run(const T* q, int64_t D, int64_t first, Hits<T>& hits) {
    q_ = WalkPoint<T>(q, D), first_ = first, wanted_ = hits.missing();
    end_ = std::numeric_limits<int32_t>::max();
    found_.clear();
    visit(tree_->levels, 0);
    std::sort(found_.begin(), found_.end());
    for (const auto& [id, dist] : found_)
      if (!hits.full()) hits.add(dist, id);
  }

 private:
  void visit(int level, int64_t node) {
    if (level == 0) return visit_leaf(node);
    uint32_t bits = 0;
    for (int i = 0; i < packs_of_node<T>; ++i) {
      const P apart = box_distance<false>(tree_->boxes[level] + node * 6 * node_width, q_, i);
      bits |= (apart < P(radius2_)).bits() << i * P::lanes;
    }
    bits &= children_bits(*tree_, level, node);
    const int32_t* least_ids = tree_->least_ids[level] + node * node_width;
    while (bits) {
      int child = __builtin_ctz(bits);
      for (uint32_t rest = bits & (bits - 1); rest; rest &= rest - 1) {
        const int other = __builtin_ctz(rest);
        if (least_ids[other] < least_ids[child]) child = other;
      }
      if (least_ids[child] >= end_) return;
      bits &= ~(1u << child);
      visit(level - 1, node * node_width + child);
    }
  }

  void visit_leaf(int64_t leaf) {
    for (int i = 0; i < packs_of_node<T>; ++i) {
      const P dist = point_distance<false>(tree_->points + leaf * 3 * node_width, q_, i);
      for (uint32_t bits = (dist < P(radius2_)).bits(); bits; bits &= bits - 1) {
        const int lane = __builtin_ctz(bits);
        const int32_t id = tree_->ids[leaf * node_width + i * P::lanes + lane];
        if (id >= first_ && id < end_) found_.emplace_back(id, dist[lane]);
      }
    }
    if (static_cast<int64_t>(found_.size()) < 2 * wanted_ + 64) return;
    std::nth_element(found_.begin(), found_.begin() + (wanted_ - 1), found_.end());
    found_.resize(static_cast<size_t>(wanted_));
    end_ = found_.back().first;
  }

  const PointTree<T>* tree_;
  T radius2_;
  WalkPoint<T> q_;
  int64_t first_ = 0, wanted_ = 0;
  int32_t end_ = 0;
  std::vector<std::pair<int32_t, T>> found_;
};

constexpr int64_t first_scan = 1024;

// Whether to go on from the front or in the tree, after `found` hits among `scanned` points. Measured: a point costs
// 1/8 ns in a scan; a search through the tree 300 ns, and 15 ns for each hit.
bool scan_pays(int64_t found, int64_t missing, int64_t scanned, int64_t rest) {
  const int64_t expected = rest * found / scanned;
  const int64_t to_scan = expected > missing ? rest * missing / expected : rest;
  return to_scan / 8 <= 300 + 15 * std::min(expected, 4 * missing);
}

template <class T, int D>
void search_balls_in(const BallQuery<T>& ball, const PointColumns<T>& y, const PointTree<T>* tree,
                     const NearestTask<T>& task) {
  const Nearest<T>& p = ball.search;
  const int64_t points = p.count_y(task.b);
  BallSearch<T> search(tree, ball.radius2);
  Hits<T> hits(p.K);
  for (int64_t at = task.begin; at < task.end; ++at) {
    const int64_t query = task.b * p.N + (task.order ? task.order[at] : at);
    const T* q = p.x + query * p.D;
    hits.clear();
    for (int64_t begin = 0, end = tree ? first_scan : points; begin < points && !hits.full(); end *= 2) {
      end = std::min(end, points);
      scan<T, D>(y, q, p.D, ball.radius2, begin, end, hits);
      begin = end;
      if (tree && !hits.full() && !scan_pays(hits.count(), hits.missing(), end, points - end)) {
        search.run(q, p.D, end, hits);
        break;
      }
    }
    hits.write(p.dist + query * p.K, p.idx + query * p.K);
  }
}

}  // namespace

template <class T>
void search_balls(const BallQuery<T>& p, const PointColumns<T>& y, const PointTree<T>* tree,
                  const NearestTask<T>& task) {
  p.search.D == 3 ? search_balls_in<T, 3>(p, y, tree, task) : search_balls_in<T, 0>(p, y, tree, task);
}

template void search_balls(const BallQuery<float>&, const PointColumns<float>&, const PointTree<float>*,
                           const NearestTask<float>&);
template void search_balls(const BallQuery<double>&, const PointColumns<double>&, const PointTree<double>*,
                           const NearestTask<double>&);

}  // namespace RECON_SIMD
}  // namespace recon
