#pragma once
// Steps of a walk through a PointTree that starts from one point: distances to the 16 children of a node, or to the 16
// points of a leaf, a register at a time. For cpu.cpp files.
#include "core/simd.h"
#include "ops/nearest/kernels.h"

#ifdef RECON_SIMD
namespace recon {
namespace RECON_SIMD {

// The registers that hold one value for each child of a node.
template <class T>
constexpr int packs_of_node = node_width / Pack<T>::lanes > 0 ? node_width / Pack<T>::lanes : 1;

template <bool L1, class V>
V term(V difference) {
  if constexpr (!L1) return difference * difference;
  return select(difference < V(0), -difference, difference);
}

// A point in every lane, for walks; coordinates beyond D are 0.
template <class T>
struct WalkPoint {
  Pack<T> at[3];

  WalkPoint() = default;
  WalkPoint(const T* q, int64_t D) {
    for (int d = 0; d < 3; ++d) at[d] = Pack<T>(d < D ? q[d] : T(0));
  }
};

// To the boxes of register `pack` of a node's children.
template <bool L1, class T>
Pack<T> box_distance(const T* node_boxes, const WalkPoint<T>& q, int pack) {
  using P = Pack<T>;
  P sum(T(0));
  for (int d = 0; d < 3; ++d) {
    const P below = P::load(node_boxes + d * node_width + pack * P::lanes) - q.at[d];
    const P above = q.at[d] - P::load(node_boxes + (3 + d) * node_width + pack * P::lanes);
    const P outside = select(below > above, below, above);
    sum += term<L1>(select(outside > P(T(0)), outside, P(T(0))));
  }
  return sum;
}

// To the points of register `pack` of a leaf.
template <bool L1, class T>
Pack<T> point_distance(const T* leaf, const WalkPoint<T>& q, int pack) {
  using P = Pack<T>;
  P sum = term<L1>(q.at[0] - P::load(leaf + pack * P::lanes));
  sum += term<L1>(q.at[1] - P::load(leaf + node_width + pack * P::lanes));
  return sum + term<L1>(q.at[2] - P::load(leaf + 2 * node_width + pack * P::lanes));
}

// Bit i: whether node `node` of that level has a child i.
template <class T>
uint32_t children_bits(const PointTree<T>& tree, int level, int64_t node) {
  const int64_t children = tree.size[level - 1] - node * node_width;
  return children < node_width ? (1u << children) - 1 : (1u << node_width) - 1;
}

}  // namespace RECON_SIMD
}  // namespace recon
#endif
