// Forward: one task for a tile, which goes through its points by depth: the first K that hit a pixel are the nearest.
// Backward: one task for some rows; gradients are summed by point within them, then added to the points in order.
#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "ops/rasterize_points/kernels.h"

namespace recon {
namespace RECON_SIMD {

namespace {

constexpr Device cpu;

// Tiles whose hits fit the second-level cache.
int tile_height_for(int64_t K) { return K <= 16 ? 16 : K <= 64 ? 8 : 2; }

// The pixels of a tile as they will lie in the outputs: always -1 where nothing was put, between uses.
template <class T>
struct TileHits {
  int64_t K;
  std::vector<int32_t> idx, count;
  std::vector<T> z, dist;

  TileHits(int64_t pixels, int64_t K)
      : K(K), idx(pixels * K, -1), count(pixels, 0), z(pixels * K, T(-1)), dist(pixels * K, T(-1)) {}

  // Adds the next nearest hit of a pixel that is not full; says whether it is full now.
  bool add(int pixel, int32_t point, T depth, T sq_distance) {
    const int64_t at = pixel * K + count[pixel];
    idx[at] = point, z[at] = depth, dist[at] = sq_distance;
    return ++count[pixel] == K;
  }
  void clear(int pixel) {
    const int64_t begin = pixel * K, end = begin + count[pixel];
    std::fill(idx.begin() + begin, idx.begin() + end, -1);
    std::fill(z.begin() + begin, z.begin() + end, T(-1));
    std::fill(dist.begin() + begin, dist.begin() + end, T(-1));
    count[pixel] = 0;
  }
};

// A point's place in the order of the hits.
template <class T>
struct Key {
  T z;
  int32_t point;
  bool operator<(const Key& o) const { return z < o.z || (z == o.z && point < o.point); }
};

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

template <class T>
void collect_hits(const TiledPoints<T>& scene, const Extent& tile, const std::vector<Key<T>>& keys, TileHits<T>& hits) {
  using V = Pack<T>;
  constexpr int lanes = V::lanes;
  int open = tile.width * tile.height;  // pixels that are not full
  for (const Key<T>& key : keys) {
    const T *point = scene.input.points + 3 * int64_t{key.point}, radius = scene.input.radius[key.point];
    const PixelBox& box = scene.boxes[key.point];
    const int i0 = static_cast<int>(std::max<int64_t>(box.i0 - tile.x0, 0));
    const int i1 = static_cast<int>(std::min<int64_t>(box.i1 - tile.x0, tile.width - 1));
    const int j0 = static_cast<int>(std::max<int64_t>(box.j0 - tile.y0, 0));
    const int j1 = static_cast<int>(std::min<int64_t>(box.j1 - tile.y0, tile.height - 1));
    const V x(point[0]), limit(radius * radius);
    for (int row = j0; row <= j1; ++row) {
      const T dy = point[1] - scene.py[tile.y0 + row];
      const V dy2(dy * dy);
      for (int column = i0; column <= i1; column += lanes) {
        const V dx = x - V::load(scene.px.data() + tile.x0 + column), dist = dx * dx + dy2;
        const int left = i1 - column + 1;
        uint32_t bits = (dist < limit).bits() & (left >= lanes ? ~0u : (1u << left) - 1u);
        if (!bits) continue;
        alignas(64) T dists[lanes];
        dist.store(dists);
        for (; bits; bits &= bits - 1) {
          const int lane = __builtin_ctz(bits), pixel = row * point_tile_width + column + lane;
          if (hits.count[pixel] < hits.K) open -= hits.add(pixel, key.point, key.z, dists[lane]);
        }
      }
    }
    if (open == 0) return;
  }
}

template <class T>
void write_tile(const PointsInput<T>& in, const Extent& tile, TileHits<T>& hits, const PointHits<T>& out, bool stream) {
  const auto copy = [stream](auto* to, const auto* from, int64_t n) {
    stream ? stream_copy(to, from, n * sizeof *to) : static_cast<void>(std::memcpy(to, from, n * sizeof *to));
  };
  const int64_t K = out.K;
  for (int row = 0; row < tile.height; ++row) {
    const int64_t at = ((tile.cloud * in.H + tile.y0 + row) * in.W + tile.x0) * K, slots = tile.width * K;
    const int64_t from = row * point_tile_width * K;
    copy(out.idx + at, hits.idx.data() + from, slots);
    copy(out.zbuf + at, hits.z.data() + from, slots);
    copy(out.dists2 + at, hits.dist.data() + from, slots);
  }
  if (stream) stream_end();
}

}  // namespace

template <class T>
void rasterize_points_cpu(const PointsInput<T>& in, const PointHits<T>& out) {
  const TiledPoints<T> scene(in, tile_height_for(out.K));
  const int pixels = point_tile_width * scene.tile_height;
  // Outputs larger than a share of the last-level cache go around it.
  const int64_t bytes = in.N * in.H * in.W * out.K * static_cast<int64_t>(4 + 2 * sizeof(T));
  const bool stream = bytes > (int64_t{8} << 20);
  std::vector<TileHits<T>> buffers(num_threads(), TileHits<T>(pixels, out.K));
  std::vector<std::vector<Key<T>>> sorted(num_threads());
  for_each_task(scene.num_tiles(), [&](int64_t index, int worker) {
    const Extent tile = extent_of(scene, index);
    TileHits<T>& hits = buffers[worker];
    std::vector<Key<T>>& keys = sorted[worker];
    keys.clear();
    for (int64_t q = scene.offsets[index]; q < scene.offsets[index + 1]; ++q)
      keys.push_back({in.points[3 * int64_t{scene.list[q]} + 2], scene.list[q]});
    std::sort(keys.begin(), keys.end());
    collect_hits(scene, tile, keys, hits);
    write_tile(in, tile, hits, out, stream);
    for (int pixel = 0; pixel < pixels; ++pixel)
      if (hits.count[pixel] > 0) hits.clear(pixel);
  });
}

namespace {

// The sums of some rows' gradients by point.
template <class T>
struct PointSums {
  std::vector<int32_t> points;
  std::vector<T> sums;  // 3 for each point
};

}  // namespace

template <class T>
void rasterize_points_backward_cpu(const PointsInput<T>& in, const PointHitGrads<T>& g) {
  constexpr int64_t rows = 8;
  const int64_t bands = (in.H + rows - 1) / rows, K = g.K;
  std::vector<PointSums<T>> results(in.N * bands);
  const Scratch<int32_t> slots(in.P * num_threads(), cpu);
  std::fill(slots.begin(), slots.end(), -1);
  for_each_task(in.N * bands, [&](int64_t index, int worker) {
    const int64_t n = index / bands, begin = index % bands * rows, end = std::min(begin + rows, in.H);
    PointSums<T>& result = results[index];
    int32_t* slot_of = slots.data() + in.P * worker;
    for (int64_t row = begin; row < end; ++row) {
      const T py = pixel_center<T>(in.H - 1 - row, in.H, in.W);
      for (int64_t column = 0; column < in.W; ++column) {
        const int64_t first = ((n * in.H + row) * in.W + column) * K;
        if (g.idx[first] < 0) continue;
        const T px = pixel_center<T>(in.W - 1 - column, in.W, in.H);
        for (int64_t at = first; at < first + K; ++at) {
          const int64_t p = g.idx[at];
          if (p < 0) break;  // hits come first
          if (p >= in.P)
            throw std::invalid_argument("idx has " + std::to_string(p) + " but there are " + std::to_string(in.P) +
                                        " points");
          if (slot_of[p] < 0) {
            slot_of[p] = static_cast<int32_t>(result.points.size());
            result.points.push_back(static_cast<int32_t>(p));
            result.sums.insert(result.sums.end(), 3, T(0));
          }
          T* sums = result.sums.data() + 3 * int64_t{slot_of[p]};
          const T *point = in.points + 3 * p, twice = T(2) * g.grad_dists2[at];
          sums[0] += twice * (point[0] - px), sums[1] += twice * (point[1] - py), sums[2] += g.grad_zbuf[at];
        }
      }
    }
    for (const int32_t p : result.points) slot_of[p] = -1;
  });

  int64_t total = 0;
  for (const auto& r : results) total += static_cast<int64_t>(r.points.size());
  // Below some thousand entries one thread is faster than waking another.
  const int64_t shares = total < 4096 ? 1 : num_threads();
  for_each_task(shares, [&](int64_t share, int) {
    const int64_t begin = in.P * share / shares, end = in.P * (share + 1) / shares;
    for (const auto& r : results)
      for (size_t q = 0; q < r.points.size(); ++q)
        if (r.points[q] >= begin && r.points[q] < end)
          for (int d = 0; d < 3; ++d) g.grad_points[3 * int64_t{r.points[q]} + d] += r.sums[3 * q + d];
  });
}

template void rasterize_points_cpu(const PointsInput<float>&, const PointHits<float>&);
template void rasterize_points_cpu(const PointsInput<double>&, const PointHits<double>&);
template void rasterize_points_backward_cpu(const PointsInput<float>&, const PointHitGrads<float>&);
template void rasterize_points_backward_cpu(const PointsInput<double>&, const PointHitGrads<double>&);

}  // namespace RECON_SIMD
}  // namespace recon
