// Forward: one task for a tile, which goes through its points by depth: the first K that hit a pixel are the nearest.
// Backward: one task for some rows; gradients are summed by point within them, then added to the points in order.
#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "ops/rasterize_points/kernels.h"
#include "raster/point_tile.h"

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

template <class T>
void collect_hits(const TiledPoints<T>& scene, const Extent& tile, const TilePoints<T>& points, TileHits<T>& hits) {
  int open = tile.width * tile.height;  // pixels that are not full
  for (int64_t q = 0; q < points.size() && open > 0; ++q) {
    const Disc<T>& disc = points[q];
    for_each_hit(scene, tile, disc, [&](int first, Pack<T> dist, Mask<T> hit) {
      alignas(64) T dists[Pack<T>::lanes];
      dist.store(dists);
      for (uint32_t bits = hit.bits(); bits; bits &= bits - 1) {
        const int lane = __builtin_ctz(bits), pixel = first + lane;
        if (hits.count[pixel] < hits.K) open -= hits.add(pixel, disc.point, disc.z, dists[lane]);
      }
    });
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
  std::vector<TilePoints<T>> points(num_threads());
  for_each_task(
      scene.num_tiles(),
      [&](int64_t index, int worker) {
        const Extent tile = extent_of(scene, index);
        TileHits<T>& hits = buffers[worker];
        points[worker].set(scene, tile, index);
        collect_hits(scene, tile, points[worker], hits);
        write_tile(in, tile, hits, out, stream);
        for (int pixel = 0; pixel < pixels; ++pixel)
          if (hits.count[pixel] > 0) hits.clear(pixel);
      },
      2 * scene.num_pairs() + in.N * in.H * in.W * out.K);
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
