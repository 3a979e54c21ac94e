#pragma once
// What the CPU rasterisers share: faces set up once and sorted into the image tiles they may touch.
//
// The lists of the tiles have exact sizes (count, prefix sum, fill), so nothing can overflow, and hold their faces in
// ascending order, so results do not depend on the number of threads.
#include <cstdint>
#include <vector>

#include "core/scratch.h"
#include "math/raster.h"

namespace recon {

// The arguments every rasteriser takes.
template <class T>
struct RasterInput {
  const T* verts;  // V 3: x, y in NDC, z in view space
  int64_t V;
  const int64_t* faces;  // F 3
  int64_t F;
  const int64_t *first, *count;  // N: the faces of each mesh
  const int64_t* neighbors;      // F, or null: the other half of a face that was clipped into two
  int64_t N, H, W;
  T blur_radius;  // squared NDC distance
  bool perspective, clip, cull_backfaces;
};

constexpr int tile_width = 16;

template <class T>
class TiledScene {
 public:
  // Throws std::invalid_argument for faces out of range and for vertices that are not finite.
  TiledScene(const RasterInput<T>& input, int tile_height);

  // How often a pixel is compared with a face at the most.
  int64_t num_pairs() const { return static_cast<int64_t>(list.size()) * tile_width * tile_height; }
  int64_t num_tiles() const { return input.N * tiles_x * tiles_y; }

  RasterInput<T> input;
  int tile_height;
  int64_t tiles_x, tiles_y;
  Scratch<RasterFace<T>> faces;
  Scratch<PixelBox> boxes;
  Scratch<T> px, py;         // pixel centres by column and by row, padded by one tile
  Scratch<int64_t> offsets;  // num_tiles + 1: where the list of each tile begins
  Scratch<int32_t> list;     // faces of tile 0, of tile 1, ...
};

// Gradients of the three corners of n faces, such as a tile leaves behind; negative faces are left out.
template <class T>
struct FaceGrads {
  const int32_t* faces;
  const T* grads;  // n rows, each beginning with 3 components
  int64_t n, stride;
};

// Adds the parts, in order, to the first `components` numbers of the vertices' rows, which are `width` long. Each
// vertex belongs to one thread, so sums are in the same order whatever the number of threads.
template <class T>
void scatter_to_verts(const RasterInput<T>& input, const std::vector<FaceGrads<T>>& parts, int components, int width,
                      T* grad_verts);

}  // namespace recon
