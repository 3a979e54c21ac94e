// Points in the order of a Hilbert curve, and boxes around 16, 256, ... consecutive ones.
#include "ops/nearest/tree.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace recon {

namespace {

constexpr int max_key_bits = 30, digit_bits = 12, digits = 1 << digit_bits;

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

constexpr int block = 64;

// The places of 64 cells on the Hilbert curve through a grid of 2^bits cells a side; neighbours on the curve are
// neighbours in space. Skilling, Programming the Hilbert curve, AIP Conference Proceedings 707, 2004.
// The loops over the cells are the inner ones, for the compiler to turn into vector instructions.
template <int D>
void hilbert_keys(uint32_t (*x)[block], int bits, uint32_t* keys) {
  for (int bit = bits - 1; bit > 0; --bit) {
    const uint32_t low = (1u << bit) - 1;
    for (int d = 0; d < D; ++d)
      for (int i = 0; i < block; ++i) {
        const uint32_t is_set = 0u - (x[d][i] >> bit & 1);
        const uint32_t first = x[0][i] ^ (low & is_set);
        const uint32_t swapped = (first ^ x[d][i]) & low & ~is_set;
        x[d][i] ^= swapped;  // for d = 0 nothing is swapped
        x[0][i] = d == 0 ? first : first ^ swapped;
      }
  }
  for (int d = 1; d < D; ++d)
    for (int i = 0; i < block; ++i) x[d][i] ^= x[d - 1][i];
  uint32_t flip[block] = {};
  for (int bit = bits - 1; bit > 0; --bit)
    for (int i = 0; i < block; ++i) flip[i] ^= ((1u << bit) - 1) & (0u - (x[D - 1][i] >> bit & 1));
  for (int i = 0; i < block; ++i) {
    keys[i] = 0;
    for (int d = 0; d < D; ++d) keys[i] |= spread(x[d][i] ^ flip[i], D) << (D - 1 - d);
  }
}

// Stable sort by keys of that many bits, one digit after the other.
void sort_by_key(CurveEntry* entries, CurveEntry* other, int64_t n, int bits) {
  if (n < 256) {
    std::sort(entries, entries + n,
              [](CurveEntry a, CurveEntry b) { return a.key < b.key || (a.key == b.key && a.id < b.id); });
    return;
  }
  const int passes = (bits + digit_bits - 1) / digit_bits;
  int32_t first[(max_key_bits + digit_bits - 1) / digit_bits][digits] = {};
  for (int64_t i = 0; i < n; ++i)
    for (int pass = 0; pass < passes; ++pass) ++first[pass][entries[i].key >> pass * digit_bits & (digits - 1)];
  CurveEntry *from = entries, *to = other;
  for (int pass = 0; pass < passes; ++pass) {
    int32_t sum = 0;
    for (int32_t& f : first[pass]) sum += std::exchange(f, sum);
    for (int64_t i = 0; i < n; ++i) to[first[pass][from[i].key >> pass * digit_bits & (digits - 1)]++] = from[i];
    std::swap(from, to);
  }
  if (from != entries) std::copy(from, from + n, entries);
}

// Sorts the points of `entries` along the curve through their own box; where many fall into one cell of it, because
// others are far away, again through the box of those.
template <class T, int D>
void sort_along_curve(const T* points, CurveEntry* entries, CurveEntry* other, int64_t n) {
  double low[3], extent = 0;
  for (int d = 0; d < D; ++d) {
    T lo = std::numeric_limits<T>::max(), hi = std::numeric_limits<T>::lowest();
    for (int64_t i = 0; i < n; ++i) {
      const T v = points[int64_t{entries[i].id} * D + d];
      if (!std::isfinite(v)) continue;
      lo = std::min(lo, v), hi = std::max(hi, v);
    }
    low[d] = lo;
    extent = std::max(extent, static_cast<double>(hi) - static_cast<double>(lo));
  }
  // Enough cells for the points to lie apart even on a surface.
  int bits = 2;
  while (bits < max_key_bits / D && int64_t{1} << 2 * (bits - 1) < n) ++bits;
  const double cells = static_cast<double>(uint32_t{1} << bits), scale = cells / extent;
  if (!(std::isfinite(scale) && scale > 0)) return;  // all in one place, or too far apart for numbers
  for (int64_t begin = 0; begin < n; begin += block) {
    uint32_t x[D][block] = {}, keys[block];
    const int count = static_cast<int>(std::min<int64_t>(block, n - begin));
    for (int i = 0; i < count; ++i)
      for (int d = 0; d < D; ++d) {
        const double cell = (points[int64_t{entries[begin + i].id} * D + d] - low[d]) * scale;
        // NaN: the last cell
        x[d][i] = static_cast<uint32_t>(static_cast<int32_t>(cell < cells - 1 ? (cell > 0 ? cell : 0) : cells - 1));
      }
    hilbert_keys<D>(x, bits, keys);
    for (int i = 0; i < count; ++i) entries[begin + i].key = keys[i];
  }
  sort_by_key(entries, other, n, bits * D);
  for (int64_t begin = 0, end; begin < n; begin = end) {
    for (end = begin + 1; end < n && entries[end].key == entries[begin].key; ++end) {
    }
    // The ends of the box lie in different cells, so that a part is smaller than the whole and this comes to an end.
    if (end - begin > 2 * node_width && end - begin < n)
      sort_along_curve<T, D>(points, entries + begin, other, end - begin);
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

int64_t tree_ids(int64_t count) {
  int64_t nodes = (count + node_width - 1) / node_width, ids = nodes * node_width;
  do {
    nodes = (nodes + node_width - 1) / node_width;
    ids += nodes * node_width;
  } while (nodes > 1);
  return ids;
}

template <class T>
void curve_order(const T* points, int64_t count, int64_t D, int32_t* ids, CurveEntry* entries) {
  for (int64_t i = 0; i < count; ++i) entries[i] = {0, static_cast<int32_t>(i)};
  if (D == 1) sort_along_curve<T, 1>(points, entries, entries + count, count);
  if (D == 2) sort_along_curve<T, 2>(points, entries, entries + count, count);
  if (D == 3) sort_along_curve<T, 3>(points, entries, entries + count, count);
  for (int64_t i = 0; i < count; ++i) ids[i] = entries[i].id;
}

template <class T>
PointTree<T> tree_in(int64_t count, T* values, int32_t* ids) {
  PointTree<T> tree;
  const int64_t leaves = (count + node_width - 1) / node_width;
  tree.count = count, tree.points = values, tree.ids = ids, tree.size[0] = leaves;
  values += leaves * 3 * node_width, ids += leaves * node_width;
  do {
    const int level = ++tree.levels;
    const int64_t nodes = (tree.size[level - 1] + node_width - 1) / node_width;
    tree.size[level] = nodes, tree.boxes[level] = values, tree.least_ids[level] = ids;
    values += nodes * 6 * node_width, ids += nodes * node_width;
  } while (tree.size[tree.levels] > 1);
  return tree;
}

template <class T>
PointTree<T> build_tree(const T* points, int64_t count, int64_t D, T* values, int32_t* ids, CurveEntry* entries) {
  constexpr T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  const PointTree<T> tree = tree_in(count, values, ids);
  curve_order(points, count, D, ids, entries);
  const int64_t slots = tree.size[0] * node_width;
  for (int64_t i = count; i < slots; ++i) tree.ids[i] = std::numeric_limits<int32_t>::max();
  for (int64_t i = 0; i < slots; ++i) {
    T* leaf = tree.points + i / node_width * 3 * node_width + i % node_width;
    for (int64_t d = 0; d < 3; ++d)
      leaf[d * node_width] = i >= count ? nan : d < D ? points[int64_t{tree.ids[i]} * D + d] : T(0);
  }
  for (int level = 1; level <= tree.levels; ++level) {
    const int64_t below = tree.size[level - 1];
    for (int64_t child = 0; child < tree.size[level] * node_width; ++child) {
      const int32_t* below_ids = (level == 1 ? tree.ids : tree.least_ids[level - 1]) + child * node_width;
      int32_t least = std::numeric_limits<int32_t>::max();
      for (int i = 0; child < below && i < node_width; ++i) least = std::min(least, below_ids[i]);
      tree.least_ids[level][child] = least;
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
  }
  return tree;
}

template int64_t tree_values<float>(int64_t);
template int64_t tree_values<double>(int64_t);
template PointTree<float> tree_in(int64_t, float*, int32_t*);
template PointTree<double> tree_in(int64_t, double*, int32_t*);
template void curve_order(const float*, int64_t, int64_t, int32_t*, CurveEntry*);
template void curve_order(const double*, int64_t, int64_t, int32_t*, CurveEntry*);
template PointTree<float> build_tree(const float*, int64_t, int64_t, float*, int32_t*, CurveEntry*);
template PointTree<double> build_tree(const double*, int64_t, int64_t, double*, int32_t*, CurveEntry*);

}  // namespace recon
