#include "raster/tile_lists.h"

#include <algorithm>

#include "core/parallel.h"

namespace recon {

namespace {
constexpr Device cpu;
}

TileLists::TileLists(const PixelBox* boxes, int64_t images, int64_t per_image, int64_t H, int64_t W, int tile_width,
                     int tile_height)
    : images(images),
      tiles_x((W + tile_width - 1) / tile_width),
      tiles_y((H + tile_height - 1) / tile_height),
      offsets(images * tiles_x * tiles_y + 1, cpu),
      list(0, cpu) {
  // A thread sorts one chunk of boxes of one image. The chunks follow from the number of boxes and threads; where a box
  // is put does not depend on them.
  const int64_t tiles = tiles_x * tiles_y;
  const int64_t chunks = std::clamp<int64_t>(per_image / 8192, 1, num_threads());
  Scratch<int64_t> places(images * chunks * tiles, cpu);
  const auto for_each_pair = [&](int64_t task, const auto& body) {
    const int64_t chunk = task % chunks;
    const PixelBox* of_image = boxes + task / chunks * per_image;
    for (int64_t b = per_image * chunk / chunks; b < per_image * (chunk + 1) / chunks; ++b) {
      const PixelBox& box = of_image[b];
      if (box.i1 < box.i0) continue;
      const int64_t last_x = box.i1 / tile_width, last_y = box.j1 / tile_height;
      for (int64_t ty = box.j0 / tile_height; ty <= last_y; ++ty)
        for (int64_t tx = box.i0 / tile_width; tx <= last_x; ++tx) body(b, ty * tiles_x + tx);
    }
  };
  for_each_task(images * chunks, [&](int64_t task, int) {
    int64_t* place = places.data() + task * tiles;
    std::fill(place, place + tiles, 0);
    for_each_pair(task, [&](int64_t, int64_t tile) { ++place[tile]; });
  });
  int64_t total = 0;
  for (int64_t n = 0; n < images; ++n)
    for (int64_t tile = 0; tile < tiles; ++tile) {
      offsets[n * tiles + tile] = total;
      for (int64_t c = 0; c < chunks; ++c) {
        int64_t& place = places[(n * chunks + c) * tiles + tile];
        const int64_t pairs = place;
        place = total, total += pairs;
      }
    }
  offsets[images * tiles] = total;
  list.resize(total);
  for_each_task(images * chunks, [&](int64_t task, int) {
    int64_t* place = places.data() + task * tiles;
    for_each_pair(task, [&](int64_t b, int64_t tile) { list[place[tile]++] = static_cast<int32_t>(b); });
  });
}

}  // namespace recon
