#pragma once
// What the point rasterisers share: every point is a disc in the image, sorted into the tiles that it may touch.
//
// The lists of the tiles have exact sizes (count, prefix sum, fill), so nothing can overflow, and hold their points in
// ascending order, so results do not depend on the number of threads.
#include <cstdint>

#include "core/scratch.h"
#include "math/raster.h"

namespace recon {

template <class T>
struct PointsInput {
  const T* points;  // P 3: x, y in NDC, z in view space
  const T* radius;  // P, in NDC
  int64_t P;
  const int64_t *first, *count;  // N: the points of each cloud
  int64_t N, H, W;
};

// The pixels that a disc may cover, given the centres of an image's columns and rows; empty if i1 < i0. The computed
// distance of a pixel is less than the radius only where |x - centre| is, and rounding keeps that order.
template <class T, class Columns, class Rows>
RECON_HD PixelBox disc_box(const T* point, T radius, const Columns& columns, const Rows& rows, int64_t H, int64_t W) {
  PixelBox b = {0, -1, 0, -1};
  if (point[2] < T(0) || !(radius > T(0))) return b;
  pixel_range(columns, W, point[0] - radius, point[0] + radius, b.i0, b.i1);
  pixel_range(rows, H, point[1] - radius, point[1] + radius, b.j0, b.j1);
  if (b.j1 < b.j0) b.i0 = 0, b.i1 = -1;
  return b;
}

constexpr int point_tile_width = 16;

template <class T>
class TiledPoints {
 public:
  // Throws std::invalid_argument for clouds out of range, for points in front of the camera that are not finite and for
  // radii that are negative or not finite.
  TiledPoints(const PointsInput<T>& input, int tile_height);

  // How often a pixel is compared with a point at the most.
  int64_t num_pairs() const { return static_cast<int64_t>(list.size()) * point_tile_width * tile_height; }
  int64_t num_tiles() const { return input.N * tiles_x * tiles_y; }

  PointsInput<T> input;
  int tile_height;
  int64_t tiles_x, tiles_y;
  Scratch<PixelBox> boxes;
  Scratch<T> px, py;         // pixel centres by column and by row; the columns are padded by a tile and a register
  Scratch<int64_t> offsets;  // num_tiles + 1: where the list of each tile begins
  Scratch<int32_t> list;     // points of tile 0, of tile 1, ...
};

}  // namespace recon
