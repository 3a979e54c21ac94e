// The closest simplex of a point, or the closest point of a simplex: a walk through a tree of boxes, a register of
// boxes or targets at a time.
#include <algorithm>
#include <limits>

#include "ops/point_mesh/kernels.h"

namespace recon {
namespace RECON_SIMD {

namespace {

// Queries have HQ corners, targets HT; one of them is a point.
template <class T, int HQ, int HT>
class Search {
  using P = Pack<T>;
  static constexpr int H = HQ > HT ? HQ : HT;
  static constexpr int packs = tree_width / P::lanes > 0 ? tree_width / P::lanes : 1;
  static constexpr int32_t none = std::numeric_limits<int32_t>::max();
  static constexpr T inf = std::numeric_limits<T>::infinity();

 public:
  Search(const SimplexTree<T>& tree, T smallest) : tree_(tree), smallest_(smallest) {}

  // `guess`: a target that may be near, with its distance.
  void run(const T* query, T guess_dist, int32_t guess) {
    for (int i = 0; i < 3 * HQ; ++i) query_[i] = query[i];
    for (int d = 0; d < 3; ++d) {
      low_[d] = high_[d] = query[d];
      for (int k = 1; k < HQ; ++k)
        low_[d] = std::min(low_[d], query[3 * k + d]), high_[d] = std::max(high_[d], query[3 * k + d]);
    }
    best_ = guess_dist, id_ = guess;
    visit(tree_.root(), 0);
  }

  T dist() const { return best_; }
  int32_t id() const { return id_; }

 private:
  void visit(int level, int64_t node) {
    if (level == 0) return visit_leaf(node);
    const auto& here = tree_.levels[level - 1];
    const T* boxes = &here.boxes[node * 6 * tree_width];
    T dist[tree_width];
    uint32_t bits = 0;
    for (int i = 0; i < packs; ++i) {
      P sum(T(0)), lows[3], highs[3];
      for (int d = 0; d < 3; ++d) {
        lows[d] = P::load(boxes + d * tree_width + i * P::lanes);
        highs[d] = P::load(boxes + (3 + d) * tree_width + i * P::lanes);
        const P outside = maximum(maximum(lows[d] - P(high_[d]), P(low_[d]) - highs[d]), P(T(0)));
        sum += outside * outside;
      }
      if constexpr (HQ > 1)
        if (any(sum <= P(best_))) sum = maximum(sum, distance_of_balls(lows, highs));
      sum.store(dist + i * P::lanes);
      bits |= (sum <= P(best_)).bits() << i * P::lanes;
    }
    const int64_t children = tree_.size(level - 1) - node * tree_width;
    if (children < tree_width) bits &= (1u << children) - 1;
    while (bits) {
      // The nearest box first: what it holds makes the others needless.
      int child = __builtin_ctz(bits);
      for (uint32_t rest = bits & (bits - 1); rest; rest &= rest - 1) {
        const int other = __builtin_ctz(rest);
        if (dist[other] < dist[child]) child = other;
      }
      if (!(dist[child] <= best_)) return;
      bits &= ~(1u << child);
      if (dist[child] < best_ || here.least[node * tree_width + child] < id_)
        visit(level - 1, node * tree_width + child);
    }
  }

  // A large triangle overlaps many boxes with its own, which it is far away from: squares of lower bounds of its
  // distance from the balls around the boxes. What rounding may have added, relative to the largest number involved, is
  // taken off.
  P distance_of_balls(const P* lows, const P* highs) const {
    Vec3<P> center, half;
    const auto middle = [](P low, P high) { return P(T(0.5)) * low + P(T(0.5)) * high; };
    center = {middle(lows[0], highs[0]), middle(lows[1], highs[1]), middle(lows[2], highs[2])};
    half = {maximum(highs[0] - center.x, center.x - lows[0]), maximum(highs[1] - center.y, center.y - lows[1]),
            maximum(highs[2] - center.z, center.z - lows[2])};
    Vec3<P> corners[H];
    P farthest(T(0));
    for (int k = 0; k < H; ++k) {
      corners[k] = Vec3<P>{P(query_[3 * k]), P(query_[3 * k + 1]), P(query_[3 * k + 2])} - center;
      farthest = maximum(farthest, dot(corners[k], corners[k]));
    }
    const P radius = sqrt(dot(half, half)), dist = sqrt(squared_distance<H>(corners, P(smallest_)));
    const P gap = dist - radius - P(T(64) * std::numeric_limits<T>::epsilon()) * (sqrt(farthest) + radius);
    return select(gap > P(T(0)), gap * gap, P(T(0)));
  }

  void visit_leaf(int64_t leaf) {
    const T* targets = &tree_.corners[leaf * 3 * HT * tree_width];
    for (int i = 0; i < packs; ++i, targets += P::lanes) {
      if (!any(distance_of_boxes(targets) <= P(best_))) continue;
      Vec3<P> corners[H];
      for (int k = 0; k < H; ++k) {
        const int target = HT == 1 ? 0 : k, query = HQ == 1 ? 0 : k;
        const T* t = targets + 3 * target * tree_width;
        const Vec3<P> a{P::load(t), P::load(t + tree_width), P::load(t + 2 * tree_width)};
        const Vec3<P> b{P(query_[3 * query]), P(query_[3 * query + 1]), P(query_[3 * query + 2])};
        corners[k] = HQ == 1 ? a - b : b - a;
      }
      const P dist = squared_distance<H>(corners, P(smallest_));
      for (uint32_t bits = (dist <= P(best_)).bits(); bits; bits &= bits - 1) {
        const int lane = __builtin_ctz(bits);
        const int32_t id = tree_.ids[leaf * tree_width + i * P::lanes + lane];
        if (dist[lane] < best_ || (dist[lane] == best_ && id < id_)) best_ = dist[lane], id_ = id;
      }
    }
  }

  // Of the query's box and those of a register of targets: what most leaves need no closer look for.
  P distance_of_boxes(const T* targets) const {
    P sum(T(0));
    for (int d = 0; d < 3; ++d) {
      P low = P::load(targets + d * tree_width), high = low;
      for (int k = 1; k < HT; ++k) {
        const P next = P::load(targets + (3 * k + d) * tree_width);
        low = minimum(low, next), high = maximum(high, next);
      }
      const P outside = maximum(maximum(low - P(high_[d]), P(low_[d]) - high), P(T(0)));
      sum += outside * outside;
    }
    return sum;
  }

  const SimplexTree<T>& tree_;
  T smallest_, query_[3 * HQ], low_[3], high_[3], best_ = inf;
  int32_t id_ = none;
};

template <class T, int HQ, int HT>
void search_all(const PointMesh<T>& in, const SimplexTree<T>& tree, const PointMeshTask& task) {
  constexpr int32_t none = std::numeric_limits<int32_t>::max();
  Search<T, HQ, HT> search(tree, in.smallest);
  const int64_t first_query = in.queries_of(task.n).begin, first_target = in.targets_of(task.n).begin;
  const T* queries = in.from_points ? in.points : in.simplices;
  for (int64_t at = task.begin; at < task.end; ++at) {
    const int64_t q = first_query + (task.order ? task.order[at] : at);
    // Consecutive queries are close to each other, and so is what they find.
    T guess_dist = std::numeric_limits<T>::infinity();
    const int32_t guess = search.id();
    if (guess != none)
      guess_dist =
          HQ == 1 ? pair_distance<HT>(in, q, first_target + guess) : pair_distance<HQ>(in, first_target + guess, q);
    search.run(queries + q * 3 * HQ, guess_dist, guess);
    in.dist[q] = search.dist(), in.idx[q] = first_target + search.id();
  }
}

}  // namespace

template <class T>
void search_simplices(const PointMesh<T>& in, const SimplexTree<T>& tree, const PointMeshTask& task) {
  if (in.from_points)
    in.H == 2 ? search_all<T, 1, 2>(in, tree, task) : search_all<T, 1, 3>(in, tree, task);
  else
    in.H == 2 ? search_all<T, 2, 1>(in, tree, task) : search_all<T, 3, 1>(in, tree, task);
}

template void search_simplices(const PointMesh<float>&, const SimplexTree<float>&, const PointMeshTask&);
template void search_simplices(const PointMesh<double>&, const SimplexTree<double>&, const PointMeshTask&);

}  // namespace RECON_SIMD
}  // namespace recon
