#include "ops/point_mesh/tree.h"

#include <algorithm>
#include <limits>

#include "ops/nearest/tree.h"

namespace recon {

namespace {

int64_t groups(int64_t n) { return (n + tree_width - 1) / tree_width; }

// Sets column `child` of a level's boxes to the box around `points` corners of 16 lanes each: lows[(3 k + d) * 16 + i].
template <class T>
void set_box(typename SimplexTree<T>::Level& level, int64_t child, const T* lows, const T* highs, int points,
             const int32_t* ids) {
  T* box = &level.boxes[child / tree_width * 6 * tree_width + child % tree_width];
  for (int d = 0; d < 3; ++d) {
    T low = std::numeric_limits<T>::infinity(), high = -low;
    for (int k = 0; k < points; ++k)
      for (int i = 0; i < tree_width; ++i) {
        const T lo = lows[(3 * k + d) * tree_width + i], hi = highs[(3 * k + d) * tree_width + i];
        low = lo < low ? lo : low, high = hi > high ? hi : high;  // NaN loses every comparison
      }
    box[d * tree_width] = low, box[(3 + d) * tree_width] = high;
  }
  level.least[child] = *std::min_element(ids, ids + tree_width);
}

template <class T>
void add_level(SimplexTree<T>& tree) {
  const int below = tree.root();
  const int64_t children = tree.size(below);
  typename SimplexTree<T>::Level level;
  level.size = groups(children);
  level.boxes.resize(static_cast<size_t>(level.size * 6 * tree_width));
  level.least.assign(static_cast<size_t>(level.size * tree_width), std::numeric_limits<int32_t>::max());
  for (int64_t i = children; i < level.size * tree_width; ++i)
    for (int d = 0; d < 6; ++d)
      level.boxes[i / tree_width * 6 * tree_width + d * tree_width + i % tree_width] =
          d < 3 ? std::numeric_limits<T>::infinity() : -std::numeric_limits<T>::infinity();
  for (int64_t child = 0; child < children; ++child) {
    if (below == 0) {
      const T* corners = &tree.corners[child * 3 * tree.H * tree_width];
      set_box<T>(level, child, corners, corners, tree.H, &tree.ids[child * tree_width]);
    } else {
      const auto& from = tree.levels[below - 1];
      const T* boxes = &from.boxes[child * 6 * tree_width];
      set_box<T>(level, child, boxes, boxes + 3 * tree_width, 1, &from.least[child * tree_width]);
    }
  }
  tree.levels.push_back(std::move(level));
}

}  // namespace

template <class T>
std::vector<int32_t> simplex_order(const T* simplices, int64_t count, int H) {
  std::vector<int32_t> order(static_cast<size_t>(count));
  std::vector<CurveEntry> entries(static_cast<size_t>(2 * count));
  std::vector<T> centers;
  const T* points = simplices;
  if (H > 1) {
    centers.resize(static_cast<size_t>(3 * count));
    for (int64_t s = 0; s < count; ++s)
      for (int d = 0; d < 3; ++d) {
        T sum(0);
        for (int k = 0; k < H; ++k) sum += simplices[(H * s + k) * 3 + d] / T(H);
        centers[3 * s + d] = sum;
      }
    points = centers.data();
  }
  curve_order(points, count, 3, order.data(), entries.data());
  return order;
}

template <class T>
SimplexTree<T> simplex_tree(const T* simplices, int64_t count, int H, const std::vector<int32_t>& order) {
  SimplexTree<T> tree;
  tree.count = count, tree.H = H;
  tree.ids.assign(static_cast<size_t>(groups(count) * tree_width), std::numeric_limits<int32_t>::max());
  for (int64_t i = 0; i < count; ++i) tree.ids[i] = order.empty() ? static_cast<int32_t>(i) : order[i];
  tree.corners.resize(tree.ids.size() * 3 * static_cast<size_t>(H));
  for (int64_t i = 0; i < tree.leaves() * tree_width; ++i) {
    T* leaf = &tree.corners[i / tree_width * 3 * H * tree_width + i % tree_width];
    for (int64_t d = 0; d < 3 * H; ++d)
      leaf[d * tree_width] =
          i < count ? simplices[int64_t{tree.ids[i]} * 3 * H + d] : std::numeric_limits<T>::quiet_NaN();
  }
  if (count == 0) return tree;
  do add_level(tree);
  while (tree.levels.back().size > 1);
  return tree;
}

template std::vector<int32_t> simplex_order(const float*, int64_t, int);
template std::vector<int32_t> simplex_order(const double*, int64_t, int);
template SimplexTree<float> simplex_tree(const float*, int64_t, int, const std::vector<int32_t>&);
template SimplexTree<double> simplex_tree(const double*, int64_t, int, const std::vector<int32_t>&);

}  // namespace recon
