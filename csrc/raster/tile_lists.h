#pragma once
// Which boxes of pixels touch which tile of an image: lists of exact size (count, prefix sum, fill), so that nothing
// can overflow, in ascending order, so that results do not depend on the number of threads.
#include <cstdint>

#include "core/scratch.h"
#include "math/raster.h"

namespace recon {

class TileLists {
 public:
  // boxes: those of image 0, of image 1, ..., `per_image` of each; box i1 < i0 is empty.
  TileLists(const PixelBox* boxes, int64_t images, int64_t per_image, int64_t H, int64_t W, int tile_width,
            int tile_height);

  int64_t num_tiles() const { return images * tiles_x * tiles_y; }

  int64_t images, tiles_x, tiles_y;
  Scratch<int64_t> offsets;  // num_tiles + 1: where the list of each tile begins
  Scratch<int32_t> list;     // boxes within their image: those of tile 0, of tile 1, ...
};

}  // namespace recon
