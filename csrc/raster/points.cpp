#include "raster/points.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/parallel.h"

namespace recon {

namespace {

constexpr Device cpu;
constexpr int64_t widest_register = 16;  // in numbers

template <class T>
void check_ranges(const PointsInput<T>& in) {
  if (in.P > std::numeric_limits<int32_t>::max())
    throw std::invalid_argument("at most 2^31 - 1 points can be rasterised");
  for (int64_t n = 0; n < in.N; ++n)
    if (in.first[n] < 0 || in.first[n] > in.P || in.count[n] < 0 || in.count[n] > in.P - in.first[n])
      throw std::invalid_argument("cloud " + std::to_string(n) + " claims " + std::to_string(in.count[n]) +
                                  " points from point " + std::to_string(in.first[n]) +
                                  " (num_points_per_cloud, cloud_to_packed_first_idx) but there are " +
                                  std::to_string(in.P));
}

template <class T>
void set_up_discs(const PointsInput<T>& in, const T* px, const T* py, PixelBox* boxes) {
  const auto columns = [px](int64_t i) { return px[i]; };
  const auto rows = [py](int64_t i) { return py[i]; };
  for_each_range(in.P, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const T *point = in.points + 3 * p, radius = in.radius[p];
      if (!(radius >= T(0)) || !is_finite(radius))
        throw std::invalid_argument("radius must be finite and >= 0, got " + std::to_string(radius) + " for point " +
                                    std::to_string(p));
      // One sum tells nearly always; it overflows only for huge numbers.
      if (!is_finite(point[0] + point[1] + point[2]) && !(point[2] < T(0)) &&
          !(is_finite(point[0]) && is_finite(point[1]) && is_finite(point[2])))
        throw std::invalid_argument("points must be finite in front of the camera, got NaN or infinity in point " +
                                    std::to_string(p) + ": remove it, or keep points off the camera plane");
      boxes[p] = disc_box(point, radius, columns, rows, in.H, in.W);
    }
  });
}

// Contiguous points of one cloud that one thread sorts into tiles.
struct Chunk {
  int64_t cloud, begin, end;
};

}  // namespace

template <class T>
TiledPoints<T>::TiledPoints(const PointsInput<T>& in, int tile_height)
    : input(in),
      tile_height(tile_height),
      tiles_x((in.W + point_tile_width - 1) / point_tile_width),
      tiles_y((in.H + tile_height - 1) / tile_height),
      boxes(in.P, cpu),
      px(in.W + point_tile_width + widest_register, cpu),
      py(in.H, cpu),
      offsets(in.N * tiles_x * tiles_y + 1, cpu),
      list(0, cpu) {
  check_ranges(in);
  for (int64_t i = 0; i < px.size(); ++i) px[i] = pixel_center<T>(in.W - 1 - i, in.W, in.H);
  for (int64_t i = 0; i < py.size(); ++i) py[i] = pixel_center<T>(in.H - 1 - i, in.H, in.W);
  set_up_discs(in, px.data(), py.data(), boxes.data());

  const int64_t tiles = tiles_x * tiles_y;
  std::vector<Chunk> chunks;
  const int64_t chunk_size = std::max<int64_t>(8192, in.P / num_threads() + 1);
  for (int64_t n = 0; n < in.N; ++n)
    for (int64_t p = in.first[n]; p < in.first[n] + in.count[n]; p += chunk_size)
      chunks.push_back({n, p, std::min(p + chunk_size, in.first[n] + in.count[n])});
  const auto num_chunks = static_cast<int64_t>(chunks.size());
  Scratch<int64_t> places(num_chunks * tiles, cpu);
  const auto for_each_pair = [&](const Chunk& chunk, const auto& body) {
    for (int64_t p = chunk.begin; p < chunk.end; ++p) {
      const PixelBox& b = boxes[p];
      if (b.i1 < b.i0) continue;
      const int64_t last_x = b.i1 / point_tile_width, last_y = b.j1 / this->tile_height;
      for (int64_t ty = b.j0 / this->tile_height; ty <= last_y; ++ty)
        for (int64_t tx = b.i0 / point_tile_width; tx <= last_x; ++tx) body(p, ty * tiles_x + tx);
    }
  };
  for_each_task(num_chunks, [&](int64_t c, int) {
    int64_t* place = places.data() + c * tiles;
    std::fill(place, place + tiles, 0);
    for_each_pair(chunks[c], [&](int64_t, int64_t tile) { ++place[tile]; });
  });
  int64_t total = 0, begin = 0;
  for (int64_t n = 0; n < in.N; ++n) {
    int64_t end = begin;
    while (end < num_chunks && chunks[end].cloud == n) ++end;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      offsets[n * tiles + tile] = total;
      for (int64_t c = begin; c < end; ++c) {
        int64_t& place = places[c * tiles + tile];
        const int64_t pairs = place;
        place = total, total += pairs;
      }
    }
    begin = end;
  }
  offsets[in.N * tiles] = total;
  list.resize(total);
  for_each_task(num_chunks, [&](int64_t c, int) {
    int64_t* place = places.data() + c * tiles;
    for_each_pair(chunks[c], [&](int64_t p, int64_t tile) { list[place[tile]++] = static_cast<int32_t>(p); });
  });
}

template class TiledPoints<float>;
template class TiledPoints<double>;

}  // namespace recon
