// Points in the order of a Morton curve, and boxes around 16, 256, ... consecutive ones.
#include "ops/nearest/tree.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace recon {

namespace {

constexpr int key_bits = 30, digit_bits = 10, digits = 1 << digit_bits;

// The bits of v with D - 1 zeros between them.
uint32_t spread(uint32_t v, int64_t D) {
  if (D == 1) return v;
  if (D == 2) {
    v = (v | v << 8) & 0x00ff00ff;
    v = (v | v << 4) & 0x0f0f0f0f;
    v = (v | v << 2) & 0x33333333;
    return (v | v << 1) & 0x55555555;
  }
  v = (v | v << 16) & 0x030000ff;
  v = (v | v << 8) & 0x0300f00f;
  v = (v | v << 4) & 0x030c30c3;
  return (v | v << 2) & 0x09249249;
}

// Stable sort by key, one digit after the other.
void sort_by_key(CurveEntry* entries, CurveEntry* other, int64_t n) {
  if (n < 256) {
    std::sort(entries, entries + n,
              [](CurveEntry a, CurveEntry b) { return a.key < b.key || (a.key == b.key && a.id < b.id); });
    return;
  }
  constexpr int passes = key_bits / digit_bits;
  int64_t first[passes][digits] = {};
  for (int64_t i = 0; i < n; ++i)
    for (int pass = 0; pass < passes; ++pass) ++first[pass][entries[i].key >> pass * digit_bits & (digits - 1)];
  CurveEntry *from = entries, *to = other;
  for (int pass = 0; pass < passes; ++pass) {
    int64_t sum = 0;
    for (int64_t& f : first[pass]) sum += std::exchange(f, sum);
    for (int64_t i = 0; i < n; ++i) to[first[pass][from[i].key >> pass * digit_bits & (digits - 1)]++] = from[i];
    std::swap(from, to);
  }
  if (from != entries) std::copy(from, from + n, entries);
}

// Sorts the points of `entries` along the curve through their own box; where many fall into one cell of it, because
// others are far away, again through the box of those.
template <class T>
void sort_along_curve(const T* points, int64_t D, CurveEntry* entries, CurveEntry* other, int64_t n) {
  double low[3], extent = 0;
  for (int64_t d = 0; d < D; ++d) {
    T lo = std::numeric_limits<T>::max(), hi = std::numeric_limits<T>::lowest();
    for (int64_t i = 0; i < n; ++i) {
      const T v = points[entries[i].id * D + d];
      if (!std::isfinite(v)) continue;
      lo = std::min(lo, v), hi = std::max(hi, v);
    }
    low[d] = lo;
    extent = std::max(extent, static_cast<double>(hi) - static_cast<double>(lo));
  }
  const double cells = static_cast<double>(uint32_t{1} << key_bits / D), scale = cells / extent;
  if (!(std::isfinite(scale) && scale > 0)) return;  // all in one place, or too far apart for numbers
  for (int64_t i = 0; i < n; ++i) {
    uint32_t key = 0;
    for (int64_t d = 0; d < D; ++d) {
      const double cell = (points[entries[i].id * D + d] - low[d]) * scale;
      const double inside = cell < cells - 1 ? (cell > 0 ? cell : 0) : cells - 1;  // NaN: the last
      key |= spread(static_cast<uint32_t>(inside), D) << d;
    }
    entries[i].key = key;
  }
  sort_by_key(entries, other, n);
  for (int64_t begin = 0, end; begin < n; begin = end) {
    for (end = begin + 1; end < n && entries[end].key == entries[begin].key; ++end) {
    }
    // The ends of the box lie in different cells, so that a part is smaller than the whole and this comes to an end.
    if (end - begin > 2 * node_width && end - begin < n)
      sort_along_curve(points, D, entries + begin, other, end - begin);
  }
}

}  // namespace

template <class T>
int64_t tree_values(int64_t count) {
  int64_t nodes = (count + node_width - 1) / node_width, values = nodes * 3 * node_width;
  do {
    nodes = (nodes + node_width - 1) / node_width;
    values += nodes * 6 * node_width;
  } while (nodes > 1);
  return values;
}

template <class T>
void curve_order(const T* points, int64_t count, int64_t D, int32_t* ids, CurveEntry* entries) {
  for (int64_t i = 0; i < count; ++i) entries[i] = {0, static_cast<int32_t>(i)};
  sort_along_curve(points, D, entries, entries + count, count);
  for (int64_t i = 0; i < count; ++i) ids[i] = entries[i].id;
}

template <class T>
PointTree<T> build_tree(const T* points, int64_t count, int64_t D, T* values, int32_t* ids, CurveEntry* entries) {
  constexpr T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  PointTree<T> tree;
  tree.count = count, tree.points = values, tree.ids = ids;
  curve_order(points, count, D, ids, entries);

  const int64_t leaves = (count + node_width - 1) / node_width;
  tree.size[0] = leaves;
  values += leaves * 3 * node_width;
  for (int64_t i = 0; i < leaves * node_width; ++i) {
    T* leaf = tree.points + i / node_width * 3 * node_width + i % node_width;
    for (int64_t d = 0; d < 3; ++d) leaf[d * node_width] = i >= count ? nan : d < D ? points[ids[i] * D + d] : T(0);
  }
  do {
    const int level = ++tree.levels;
    const int64_t below = tree.size[level - 1], nodes = (below + node_width - 1) / node_width;
    tree.size[level] = nodes, tree.boxes[level] = values;
    values += nodes * 6 * node_width;
    for (int64_t child = 0; child < nodes * node_width; ++child) {
      T* box = tree.boxes[level] + child / node_width * 6 * node_width + child % node_width;
      for (int d = 0; d < 3; ++d) {
        T lo = inf, hi = -inf;  // of no point: infinitely far from everything
        if (child < below) {
          const T* los = level == 1 ? tree.points + (child * 3 + d) * node_width
                                    : tree.boxes[level - 1] + (child * 6 + d) * node_width;
          const T* his = level == 1 ? los : los + 3 * node_width;
          // Written so that NaN loses every comparison.
          for (int i = 0; i < node_width; ++i) lo = los[i] < lo ? los[i] : lo, hi = his[i] > hi ? his[i] : hi;
        }
        box[d * node_width] = lo, box[(3 + d) * node_width] = hi;
      }
    }
  } while (tree.size[tree.levels] > 1);
  return tree;
}

template int64_t tree_values<float>(int64_t);
template int64_t tree_values<double>(int64_t);
template void curve_order(const float*, int64_t, int64_t, int32_t*, CurveEntry*);
template void curve_order(const double*, int64_t, int64_t, int32_t*, CurveEntry*);
template PointTree<float> build_tree(const float*, int64_t, int64_t, float*, int32_t*, CurveEntry*);
template PointTree<double> build_tree(const double*, int64_t, int64_t, double*, int32_t*, CurveEntry*);

}  // namespace recon
