// Rays through a tree of boxes, a register of boxes or triangles at a time.
#include <algorithm>
#include <limits>

#include "ops/ray_mesh/kernels.h"

namespace recon {
namespace RECON_SIMD {

template <class T>
inline Pack<T> cross_term(Pack<T> a, Pack<T> b, Pack<T> c, Pack<T> d) {
  return a * b - c * d;
}

namespace {

template <class T>
class Tracer {
  using P = Pack<T>;
  static constexpr int packs = tree_width / P::lanes > 0 ? tree_width / P::lanes : 1;
  static constexpr T inf = std::numeric_limits<T>::infinity();

 public:
  Tracer(const RayMesh<T>& in, const SimplexTree<T>& tree) : in_(in), tree_(tree) {}

  void run(int64_t r) {
    ray_ = Ray<T>::load(in_.origins + 3 * r, in_.directions + 3 * r);
    for (int d = 0; d < 3; ++d) inverse_[d] = T(1) / ray_.direction[d];
    best_ = in_.t_max, id_ = none;
    if (tree_.count > 0) visit(tree_.root(), 0);
    in_.t[r] = id_ == none ? inf : best_, in_.face[r] = id_ == none ? -1 : id_;
  }

 private:
  static constexpr int32_t none = std::numeric_limits<int32_t>::max();

  bool done() const { return in_.any_hit && id_ != none; }

  void visit(int level, int64_t node) {
    if (level == 0) return visit_leaf(node);
    const T* boxes = &tree_.levels[level - 1].boxes[node * 6 * tree_width];
    T enter[tree_width];
    uint32_t bits = 0;
    for (int i = 0; i < packs; ++i) bits |= enter_boxes(boxes + i * P::lanes, enter + i * P::lanes) << i * P::lanes;
    const int64_t children = tree_.size(level - 1) - node * tree_width;
    if (children < tree_width) bits &= (1u << children) - 1;
    while (bits && !done()) {
      int child = __builtin_ctz(bits);
      for (uint32_t rest = bits & (bits - 1); rest; rest &= rest - 1) {
        const int other = __builtin_ctz(rest);
        if (enter[other] < enter[child]) child = other;
      }
      if (!(enter[child] <= best_)) return;
      bits &= ~(1u << child);
      visit(level - 1, node * tree_width + child);
    }
  }

  // Which of a register of boxes the ray meets before the best hit, and where it enters them. The boxes are made larger
  // by what rounding may move a hit, relative to the largest coordinate.
  uint32_t enter_boxes(const T* boxes, T* enter) const {
    P low[3], high[3], extent(T(0));
    for (int d = 0; d < 3; ++d) {
      low[d] = P::load(boxes + d * tree_width) - P(ray_.origin[d]);
      high[d] = P::load(boxes + (3 + d) * tree_width) - P(ray_.origin[d]);
      extent = maximum(extent, maximum(-low[d], high[d]));
      extent = maximum(extent, maximum(low[d], -high[d]));
    }
    const P margin = extent * P(T(16) * std::numeric_limits<T>::epsilon());
    P from(T(0)), to(best_);
    for (int d = 0; d < 3; ++d) {
      const P near = (low[d] - margin) * P(inverse_[d]), far = (high[d] + margin) * P(inverse_[d]);
      const bool ahead = inverse_[d] > T(0);
      from = maximum(from, ahead ? near : far), to = minimum(to, ahead ? far : near);
    }
    from.store(enter);
    return (from <= to).bits();
  }

  void visit_leaf(int64_t leaf) {
    const T* corners = &tree_.corners[leaf * 9 * tree_width];
    for (int i = 0; i < packs; ++i, corners += P::lanes) {
      Vec3<P> v[3];
      for (int k = 0; k < 3; ++k) {
        P relative[3];
        for (int d = 0; d < 3; ++d) relative[d] = P::load(corners + (3 * k + d) * tree_width) - P(ray_.origin[d]);
        v[k] = along_ray(ray_, relative);
      }
      const P t = hit(v[0], v[1], v[2]);
      for (uint32_t bits = ((t <= P(best_)) & (t < P(inf))).bits(); bits; bits &= bits - 1) {
        const int lane = __builtin_ctz(bits);
        const int32_t id = tree_.ids[leaf * tree_width + i * P::lanes + lane];
        if (t[lane] < best_ || (t[lane] == best_ && id < id_)) best_ = t[lane], id_ = id;
      }
    }
  }

  const RayMesh<T>& in_;
  const SimplexTree<T>& tree_;
  Ray<T> ray_;
  T inverse_[3], best_ = inf;
  int32_t id_ = none;
};

}  // namespace

template <class T>
void trace_rays(const RayMesh<T>& in, const SimplexTree<T>& tree, int64_t begin, int64_t end) {
  Tracer<T> tracer(in, tree);
  for (int64_t r = begin; r < end; ++r) tracer.run(r);
}

template void trace_rays(const RayMesh<float>&, const SimplexTree<float>&, int64_t, int64_t);
template void trace_rays(const RayMesh<double>&, const SimplexTree<double>&, int64_t, int64_t);

}  // namespace RECON_SIMD
}  // namespace recon
