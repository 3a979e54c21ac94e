// Forward: one task for a tile; its hit lists live in cache and are written out once, padding included.
// Backward: one task for a tile; gradients are summed by face within it, then added to the vertices in tile order.
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "ops/rasterize_faces/kernels.h"
#include "raster/tile.h"

namespace recon {
namespace RECON_SIMD {

namespace {

constexpr Device cpu;

// One image row of a tile, as it will lie in the outputs: always -1 where nothing was put, between uses.
template <class T>
struct RowBuffer {
  using Details = HitDetails<T>;
  std::vector<int64_t> face;
  std::vector<T> z, bary, dist;

  explicit RowBuffer(int64_t slots) : face(slots, -1), z(slots, T(-1)), bary(3 * slots, T(-1)), dist(slots, T(-1)) {}

  void put(int64_t slot, T depth, int64_t f, const Details& hit) {
    face[slot] = f, z[slot] = depth, dist[slot] = hit.dist;
    bary[3 * slot] = hit.w0, bary[3 * slot + 1] = hit.w1, bary[3 * slot + 2] = hit.w2;
  }
  void clear(int64_t slot) { put(slot, T(-1), -1, {T(-1), T(-1), T(-1), T(-1)}); }

  void copy_to(const Fragments<T>& out, int64_t at, int64_t slots, bool stream) const {
    copy(out.pix_to_face + at, face.data(), slots, stream);
    copy(out.zbuf + at, z.data(), slots, stream);
    copy(out.dists + at, dist.data(), slots, stream);
    copy(out.bary + 3 * at, bary.data(), 3 * slots, stream);
  }

 private:
  template <class U>
  static void copy(U* to, const U* from, int64_t n, bool stream) {
    stream ? stream_copy(to, from, n * sizeof(U)) : static_cast<void>(std::memcpy(to, from, n * sizeof(U)));
  }
};

template <class T>
void write_tile(const RasterInput<T>& in, const Tile<T>& tile, const HitLists<T>* lists, RowBuffer<T>& buffer,
                const Fragments<T>& out, bool stream) {
  const int64_t K = out.K;
  int64_t found[tile_width] = {};  // in the row above: what the buffer still holds
  for (int row = 0; row < tile.height; ++row) {
    for (int column = 0; lists && column < tile.width; ++column) {
      const int64_t n = lists->for_nearest(
          Tile<T>::pixel(row, column),
          [&](int64_t k, T z, int32_t face, const HitDetails<T>& hit) { buffer.put(column * K + k, z, face, hit); });
      for (int64_t k = n; k < found[column]; ++k) buffer.clear(column * K + k);
      found[column] = n;
    }
    const int64_t at = ((tile.mesh * in.H + tile.y0 + row) * in.W + tile.x0) * K;
    buffer.copy_to(out, at, tile.width * K, stream);
  }
  for (int column = 0; column < tile.width; ++column)
    for (int64_t k = 0; k < found[column]; ++k) buffer.clear(column * K + k);
  if (stream) stream_end();
}

}  // namespace

template <class T>
void rasterize_faces_cpu(const RasterInput<T>& in, const Fragments<T>& out) {
  const TiledScene<T> scene(in, tile_height_for(out.K));
  const int64_t slots = in.N * in.H * in.W * out.K;
  const int64_t pixels = int64_t{tile_width} * scene.tile_height;
  const int64_t bytes = HitLists<T>::bytes(pixels, out.K);
  // Outputs larger than a share of the last-level cache go around it.
  const bool stream = slots * static_cast<int64_t>(8 + 5 * sizeof(T)) > (int64_t{8} << 20);
  const Scratch<char> memory(bytes * num_threads(), cpu);
  std::vector<RowBuffer<T>> buffers(num_threads(), RowBuffer<T>(tile_width * out.K));
  for_each_task(
      scene.num_tiles(),
      [&](int64_t index, int worker) {
        const Tile<T> tile(scene, index);
        if (tile.list_size == 0) return write_tile<T>(in, tile, nullptr, buffers[worker], out, stream);
        HitLists<T> lists(memory.data() + bytes * worker, pixels, out.K);
        collect_hits(scene, tile, lists);
        write_tile<T>(in, tile, &lists, buffers[worker], out, stream);
      },
      2 * scene.num_pairs() + slots);
}

namespace {

// The sums of one tile's gradients by face.
template <class T>
struct FaceSums {
  std::vector<int32_t> faces;
  std::vector<T> sums;  // 9 for each face
};

// Hits gathered until they fill a register.
template <class T>
struct Batch {
  static constexpr int lanes = Pack<T>::lanes;
  int size = 0;
  int64_t face[lanes];
  alignas(64) T px[lanes], py[lanes], gz[lanes], gw[3][lanes], gd[lanes];
};

template <class T>
void flush(const RasterInput<T>& in, Batch<T>& batch, int32_t* slot_of, FaceSums<T>& result) {
  using V = Pack<T>;
  constexpr int lanes = V::lanes;
  if (batch.size == 0) return;
  alignas(64) T corner[9][lanes];
  for (int lane = 0; lane < lanes; ++lane) {
    const int64_t* v = in.faces + 3 * batch.face[lane < batch.size ? lane : 0];
    for (int c = 0; c < 3; ++c)
      for (int d = 0; d < 3; ++d) corner[3 * c + d][lane] = in.verts[3 * v[c] + d];
  }
  V x[3], y[3], z[3], grad[9];
  for (int c = 0; c < 3; ++c)
    x[c] = V::load(corner[3 * c]), y[c] = V::load(corner[3 * c + 1]), z[c] = V::load(corner[3 * c + 2]);
  raster_vjp<T>(V::load(batch.px), V::load(batch.py), x, y, z, in.perspective, in.clip, V::load(batch.gz),
                Triple<V>{V::load(batch.gw[0]), V::load(batch.gw[1]), V::load(batch.gw[2])}, V::load(batch.gd), grad);
  for (int d = 0; d < 9; ++d) grad[d].store(corner[d]);
  for (int lane = 0; lane < batch.size; ++lane) {
    const int64_t f = batch.face[lane];
    if (slot_of[f] < 0) {
      slot_of[f] = static_cast<int32_t>(result.faces.size());
      result.faces.push_back(static_cast<int32_t>(f));
      result.sums.insert(result.sums.end(), 9, T(0));
    }
    T* sums = result.sums.data() + 9 * int64_t{slot_of[f]};
    for (int d = 0; d < 9; ++d) sums[d] += corner[d][lane];
  }
  batch.size = 0;
}

}  // namespace

template <class T>
void rasterize_faces_backward_cpu(const RasterInput<T>& in, const FragmentGrads<T>& g) {
  constexpr int64_t tile_height = 16;
  const int64_t tiles_x = (in.W + tile_width - 1) / tile_width, tiles_y = (in.H + tile_height - 1) / tile_height;
  const int64_t tiles = in.N * tiles_x * tiles_y, K = g.K;
  std::vector<FaceSums<T>> results(tiles);
  const Scratch<int32_t> slots(in.F * num_threads(), cpu);
  std::fill(slots.begin(), slots.end(), -1);
  for_each_task(tiles, [&](int64_t index, int worker) {
    const int64_t n = index / (tiles_x * tiles_y), in_mesh = index % (tiles_x * tiles_y);
    const int64_t x0 = in_mesh % tiles_x * tile_width, y0 = in_mesh / tiles_x * tile_height;
    int32_t* slot_of = slots.data() + in.F * worker;
    results[index].faces.reserve(128), results[index].sums.reserve(9 * 128);
    Batch<T> batch = {};
    for (int64_t row = y0; row < std::min(y0 + tile_height, in.H); ++row) {
      const T py = pixel_center<T>(in.H - 1 - row, in.H, in.W);
      for (int64_t column = x0; column < std::min<int64_t>(x0 + tile_width, in.W); ++column) {
        const T px = pixel_center<T>(in.W - 1 - column, in.W, in.H);
        const int64_t first = ((n * in.H + row) * in.W + column) * K;
        for (int64_t at = first; at < first + K; ++at) {
          const int64_t f = g.pix_to_face[at];
          if (f < 0) break;  // hits come first
          if (f >= in.F)
            throw std::invalid_argument("pix_to_face has index " + std::to_string(f) + " but there are " +
                                        std::to_string(in.F) + " faces");
          const T gz = g.grad_zbuf[at], gd = g.grad_dists[at], *gw = g.grad_bary + 3 * at;
          if (gz == T(0) && gd == T(0) && gw[0] == T(0) && gw[1] == T(0) && gw[2] == T(0)) continue;
          const int lane = batch.size++;
          batch.face[lane] = f, batch.px[lane] = px, batch.py[lane] = py, batch.gz[lane] = gz, batch.gd[lane] = gd;
          for (int c = 0; c < 3; ++c) batch.gw[c][lane] = gw[c];
          if (batch.size == Batch<T>::lanes) flush(in, batch, slot_of, results[index]);
        }
      }
    }
    flush(in, batch, slot_of, results[index]);
    for (const int32_t f : results[index].faces) slot_of[f] = -1;
  });

  std::vector<FaceGrads<T>> parts;
  for (const auto& r : results)
    parts.push_back({r.faces.data(), r.sums.data(), static_cast<int64_t>(r.faces.size()), 9});
  scatter_to_verts(in, parts, 3, 3, g.grad_verts);
}

template void rasterize_faces_cpu(const RasterInput<float>&, const Fragments<float>&);
template void rasterize_faces_cpu(const RasterInput<double>&, const Fragments<double>&);
template void rasterize_faces_backward_cpu(const RasterInput<float>&, const FragmentGrads<float>&);
template void rasterize_faces_backward_cpu(const RasterInput<double>&, const FragmentGrads<double>&);

}  // namespace RECON_SIMD
}  // namespace recon
