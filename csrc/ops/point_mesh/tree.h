#pragma once
// Points, edges or triangles along a space-filling curve, under a hierarchy of boxes with 16 children each.
#include <cstdint>
#include <vector>

namespace recon {

constexpr int tree_width = 16;

// Level 0 are leaves of 16 simplices; a node of level l holds the boxes of the 16 nodes below it; the last level is one
// node. Nothing but the time of a search depends on the order of the simplices.
template <class T>
struct SimplexTree {
  int64_t count = 0;
  int H = 0;                 // corners of a simplex
  std::vector<T> corners;    // leaves x (3 H) x 16: x, y, z of the corners of 16 simplices; NaN beyond the last
  std::vector<int32_t> ids;  // leaves x 16: their rows among the simplices that the tree was built from
  struct Level {
    int64_t size = 0;      // nodes
    std::vector<T> boxes;  // size x 6 x 16: least x, y, z, largest x, y, z; of nothing: from infinity to -infinity
    std::vector<int32_t> least;  // size x 16: the least id in the box: what decides between equal distances
  };
  std::vector<Level> levels;  // levels[l - 1] is level l

  int root() const { return static_cast<int>(levels.size()); }
  int64_t leaves() const { return static_cast<int64_t>(ids.size()) / tree_width; }
  int64_t size(int level) const { return level == 0 ? leaves() : levels[level - 1].size; }
};

// The order of simplices (count H 3) along the curve through their centres.
template <class T>
std::vector<int32_t> simplex_order(const T* simplices, int64_t count, int H);

// The tree over simplices (count H 3) in that order; an empty one leaves them in their own.
template <class T>
SimplexTree<T> simplex_tree(const T* simplices, int64_t count, int H, const std::vector<int32_t>& order);

}  // namespace recon
