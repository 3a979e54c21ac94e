#pragma once
// What the CPU kernels of points do inside one tile: its points by depth, and the pixels that each of them hits, a
// register of neighbouring pixels at a time.
#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "core/simd.h"
#include "raster/points.h"

namespace recon {
namespace RECON_SIMD {

// The part of a tile inside the image.
struct Extent {
  int64_t cloud, x0, y0;
  int width, height;
};

template <class T>
Extent extent_of(const TiledPoints<T>& scene, int64_t index) {
  const int64_t per_cloud = scene.tiles_x * scene.tiles_y, in_cloud = index % per_cloud;
  const int64_t x0 = in_cloud % scene.tiles_x * point_tile_width, y0 = in_cloud / scene.tiles_x * scene.tile_height;
  return {index / per_cloud, x0, y0, static_cast<int>(std::min<int64_t>(point_tile_width, scene.input.W - x0)),
          static_cast<int>(std::min<int64_t>(scene.tile_height, scene.input.H - y0))};
}

// A point in a tile: where it is, and which of the tile's pixels it may hit.
template <class T>
struct Disc {
  T x, y, z, sq_radius;
  int32_t point, i0, i1, j0, j1;
};

// The points of a tile by depth, then by index, next to each other in memory: points of a tile lie anywhere, and it is
// quicker to fetch them all at once than one by one when they are wanted.
template <class T>
class TilePoints {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

 public:
  void set(const TiledPoints<T>& scene, const Extent& tile, int64_t index) {
    const int32_t* list = scene.list.data() + scene.offsets[index];
    const int64_t n = scene.offsets[index + 1] - scene.offsets[index];
    discs_.resize(n), keys_.resize(n);
    for (int64_t q = 0; q < n; ++q) {
      const int64_t p = list[q];
      const T *point = scene.input.points + 3 * p, radius = scene.input.radius[p];
      const PixelBox& box = scene.boxes[p];
      const auto within = [](int64_t i, int64_t size) {
        return static_cast<int32_t>(std::min(std::max<int64_t>(i, 0), size - 1));
      };
      discs_[q] = {point[0],
                   point[1],
                   point[2],
                   radius * radius,
                   list[q],
                   within(box.i0 - tile.x0, tile.width),
                   within(box.i1 - tile.x0, tile.width),
                   within(box.j0 - tile.y0, tile.height),
                   within(box.j1 - tile.y0, tile.height)};
      const T depth = point[2] + T(0);  // -0 becomes 0
      Bits bits;                        // finite numbers that are not negative have the order of their bits
      std::memcpy(&bits, &depth, sizeof bits);
      keys_[q] = {bits, static_cast<int32_t>(q)};
    }
    if (n < few)
      std::sort(keys_.begin(), keys_.end());
    else
      sort_by_digits();
  }
  int64_t size() const { return static_cast<int64_t>(keys_.size()); }
  const Disc<T>& operator[](int64_t q) const { return discs_[keys_[q].place]; }

 private:
  static constexpr int64_t few = 128;  // comparing fewer takes less time than counting digits
  static constexpr int digits = sizeof(T);

  struct Key {
    Bits depth;
    int32_t place;  // in the list of the tile, which ascends
    int digit(int d) const { return static_cast<int>(depth >> 8 * d & 255); }
    bool operator<(const Key& o) const { return depth < o.depth || (depth == o.depth && place < o.place); }
  };

  // From the last digit to the first. Each pass keeps the order of what it does not tell apart.
  void sort_by_digits() {
    std::memset(counts_, 0, sizeof counts_);
    for (const Key& key : keys_)
      for (int d = 0; d < digits; ++d) ++counts_[d][key.digit(d)];
    other_.resize(keys_.size());
    for (int d = 0; d < digits; ++d) {
      uint32_t* count = counts_[d];
      if (count[keys_[0].digit(d)] == keys_.size()) continue;  // all have this digit
      uint32_t total = 0;
      for (int value = 0; value < 256; ++value) {
        const uint32_t n = count[value];
        count[value] = total, total += n;
      }
      for (const Key& key : keys_) other_[count[key.digit(d)]++] = key;
      keys_.swap(other_);
    }
  }

  std::vector<Disc<T>> discs_;
  std::vector<Key> keys_, other_;
  uint32_t counts_[digits][256];
};

// Calls body(first pixel, squared distances, lanes that are hit) for registers of pixels of a tile that a point hits.
// Registers begin at multiples of their size: what one point stores the next loads from the same place.
template <class T, class F>
void for_each_hit(const TiledPoints<T>& scene, const Extent& tile, const Disc<T>& disc, const F& body) {
  using V = Pack<T>;
  constexpr int lanes = V::lanes;
  static_assert(point_tile_width % lanes == 0, "a register stays within a row");
  static constexpr T numbers[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const V x(disc.x), limit(disc.sq_radius);
  for (int row = disc.j0; row <= disc.j1; ++row) {
    const T dy = disc.y - scene.py[tile.y0 + row];
    const V dy2(dy * dy);
    for (int column = disc.i0 / lanes * lanes; column <= disc.i1; column += lanes) {
      const V dx = x - V::load(scene.px.data() + tile.x0 + column), dist = dx * dx + dy2;
      // Pixels outside of the point's box are farther away than its radius: only the tile has to be checked.
      const Mask<T> hit = (dist < limit) & (V::load(numbers) < V(static_cast<T>(tile.width - column)));
      if (any(hit)) body(row * point_tile_width + column, dist, hit);
    }
  }
}

}  // namespace RECON_SIMD
}  // namespace recon
