#pragma once
// Inside one tile: which pixels a face covers, a register of pixels at a time. Included by the cpu.cpp files only.
//
// A register holds `rows` x `columns` neighbouring pixels, so that small faces fill it better than a single row would.
#include <algorithm>
#include <limits>

#include "raster/scene.h"

namespace recon {
namespace RECON_SIMD {

template <class T>
struct Block {
  static constexpr int lanes = Pack<T>::lanes;
  static constexpr int columns = lanes < 8 ? lanes : 8;
  static constexpr int rows = lanes / columns;
  static constexpr int across = tile_width / columns;  // blocks in a row of the tile
};

// The pixels of one tile, numbered block by block: pixel = block * lanes + lane.
template <class T>
struct Tile {
  using B = Block<T>;
  int64_t mesh, x0, y0;  // of the corner
  int width, height;     // of the part inside the image
  int blocks_down;
  const int32_t* list;
  int64_t list_size, list_offset;
  Pack<T> x[B::across];
  const T* py;

  Tile(const TiledScene<T>& scene, int64_t index) {
    const int64_t per_mesh = scene.tiles_x * scene.tiles_y, in_mesh = index % per_mesh;
    mesh = index / per_mesh;
    x0 = in_mesh % scene.tiles_x * tile_width, y0 = in_mesh / scene.tiles_x * scene.tile_height;
    width = static_cast<int>(std::min<int64_t>(tile_width, scene.input.W - x0));
    height = static_cast<int>(std::min<int64_t>(scene.tile_height, scene.input.H - y0));
    blocks_down = scene.tile_height / B::rows;
    list_offset = scene.offsets[index];
    list = scene.list.data() + list_offset, list_size = scene.offsets[index + 1] - list_offset;
    for (int b = 0; b < B::across; ++b)
      for (int lane = 0; lane < B::lanes; ++lane) x[b].raw[lane] = scene.px[x0 + b * B::columns + lane % B::columns];
    py = scene.py.data() + y0;
  }

  Pack<T> y(int block_row) const {
    Pack<T> v;
    for (int lane = 0; lane < B::lanes; ++lane) v.raw[lane] = py[block_row * B::rows + lane / B::columns];
    return v;
  }

  static int pixel(int row, int column) {
    return (row / B::rows * B::across + column / B::columns) * B::lanes + row % B::rows * B::columns +
           column % B::columns;
  }
};

// One face, spread over registers, with what is constant over the pixels.
template <class T>
struct SpreadFace {
  using V = Pack<T>;
  V x0, y0, z0, x1, y1, z1, x2, y2, z2, area, sq01, sq02, sq12, scaled_z0, scaled_z1, scaled_z2;
  V sign, reach0, reach1, reach2;

  SpreadFace(const RasterFace<T>& f, const RasterInput<T>& in)
      : x0(f.x0), y0(f.y0), z0(f.z0), x1(f.x1), y1(f.y1), z1(f.z1), x2(f.x2), y2(f.y2), z2(f.z2), area(f.area),
        sq01(f.sq01), sq02(f.sq02), sq12(f.sq12), scaled_z0(f.z0 * f.z_scale), scaled_z1(f.z1 * f.z_scale),
        scaled_z2(f.z2 * f.z_scale), sign(f.area > T(0) ? T(1) : T(-1)) {
    // A pixel further than the blur from the line of an edge, on its outer side, cannot be hit: |e| / length is its
    // distance to the line. The slack covers the rounding of e, so the exact test that follows decides alone.
    const T largest = maximum(maximum(std::abs(f.x0), std::abs(f.x1)), maximum(std::abs(f.x2), std::abs(f.y0)));
    const T extent = maximum(largest, maximum(std::abs(f.y1), std::abs(f.y2))) + T(2);
    const T reach = in.blur_radius > T(0) ? std::sqrt(in.blur_radius) * T(1.001) + T(4e-6) * extent : T(0);
    reach0 = V(-reach * std::sqrt(f.sq12)), reach1 = V(-reach * std::sqrt(f.sq02));
    reach2 = V(-reach * std::sqrt(f.sq01));
  }

  Triple<V> edges(V px, V py) const { return edge_functions(px, py, x0, y0, x1, y1, x2, y2); }

  Mask<T> may_hit(const Triple<V>& e) const {
    return (e.a * sign >= reach0) & (e.b * sign >= reach1) & (e.c * sign >= reach2);
  }

  Triple<V> barycentric(const Triple<V>& e, bool perspective) const {
    const Triple<V> w = {e.a / area, e.b / area, e.c / area};
    return perspective ? perspective_correct<T>(w, scaled_z0, scaled_z1, scaled_z2) : w;
  }

  V sq_distance(V px, V py) const {
    const V d01 = segment_sq_distance<T>(px, py, x0, y0, x1, y1, sq01);
    const V d02 = segment_sq_distance<T>(px, py, x0, y0, x2, y2, sq02);
    const V d12 = segment_sq_distance<T>(px, py, x1, y1, x2, y2, sq12);
    return minimum(minimum(d01, d02), d12);
  }

  V depth(const Triple<V>& w) const { return depth_at<T>(w, z0, z1, z2); }
};

// Calls body(block_row, block_column, lanes of the face's box) for the blocks of the tile that the box touches.
template <class T, class F>
inline void for_each_block(const Tile<T>& tile, const PixelBox& box, const F& body) {
  using B = Block<T>;
  const int i0 = static_cast<int>(std::max<int64_t>(box.i0 - tile.x0, 0));
  const int i1 = static_cast<int>(std::min<int64_t>(box.i1 - tile.x0, tile.width - 1));
  const int j0 = static_cast<int>(std::max<int64_t>(box.j0 - tile.y0, 0));
  const int j1 = static_cast<int>(std::min<int64_t>(box.j1 - tile.y0, tile.height - 1));
  const uint32_t columns = ((2u << i1) - 1u) & ~((1u << i0) - 1u);
  for (int row = j0 / B::rows; row <= j1 / B::rows; ++row)
    for (int column = i0 / B::columns; column <= i1 / B::columns; ++column) {
      const uint32_t in_row = columns >> (column * B::columns) & ((1u << B::columns) - 1u);
      uint32_t lanes = 0;
      for (int r = 0; r < B::rows; ++r)
        if (row * B::rows + r >= j0 && row * B::rows + r <= j1) lanes |= in_row << (r * B::columns);
      body(row, column, Mask<T>::of_bits(lanes));
    }
}

template <class T>
struct Hit {
  T z;
  int32_t face;
  T dist;  // signed
  T w0, w1, w2;
};

// The K nearest hits of each pixel of a tile, by (z, face).
template <class T>
struct HitLists {
  Hit<T>* hits;     // pixels K
  int32_t* counts;  // pixels
  T* worst;         // pixels: the depth that a hit must beat
  int64_t K;

  static int64_t bytes(int64_t pixels, int64_t K) {
    return pixels * (K * static_cast<int64_t>(sizeof(Hit<T>)) + static_cast<int64_t>(sizeof(int32_t) + sizeof(T)));
  }
  HitLists(void* memory, int64_t pixels, int64_t K)
      : hits(static_cast<Hit<T>*>(memory)),
        counts(reinterpret_cast<int32_t*>(hits + pixels * K)),
        worst(reinterpret_cast<T*>(counts + pixels)),
        K(K) {
    std::fill(counts, counts + pixels, 0);
    std::fill(worst, worst + pixels, std::numeric_limits<T>::infinity());
  }

  // Faces come in ascending order, so a hit goes behind those of the same depth.
  void insert(int64_t pixel, const Hit<T>& hit) {
    Hit<T>* h = hits + pixel * K;
    int32_t& n = counts[pixel];
    if (n == K && !(hit.z < h[K - 1].z)) return;
    int64_t k = n < K ? n++ : K - 1;
    for (; k > 0 && hit.z < h[k - 1].z; --k) h[k] = h[k - 1];
    h[k] = hit;
    if (n == K) worst[pixel] = h[K - 1].z;
  }

  // The two halves of a clipped face count once: the one nearer to the pixel replaces the other.
  void insert(int64_t pixel, const Hit<T>& hit, int64_t neighbor) {
    Hit<T>* h = hits + pixel * K;
    int32_t& n = counts[pixel];
    for (int32_t k = 0; k < n; ++k) {
      if (h[k].face != neighbor) continue;
      if (!(std::abs(hit.dist) < std::abs(h[k].dist))) return;
      for (; k + 1 < n; ++k) h[k] = h[k + 1];
      --n;
      worst[pixel] = std::numeric_limits<T>::infinity();
      break;
    }
    insert(pixel, hit);
  }
};

// Fills the lists with the hits of the tile's faces.
template <class T>
inline void collect_hits(const TiledScene<T>& scene, const Tile<T>& tile, HitLists<T>& lists) {
  using V = Pack<T>;
  using B = Block<T>;
  const RasterInput<T>& in = scene.input;
  const V zero(T(0)), blur(in.blur_radius);
  for (int64_t q = 0; q < tile.list_size; ++q) {
    const int32_t f = tile.list[q];
    const SpreadFace<T> face(scene.faces[f], in);
    const int64_t neighbor = in.neighbors ? in.neighbors[f] : -1;
    for_each_block(tile, scene.boxes[f], [&](int row, int column, Mask<T> lanes) {
      const V px = tile.x[column], py = tile.y(row);
      const Triple<V> e = face.edges(px, py);
      lanes = lanes & face.may_hit(e);
      if (!any(lanes)) return;
      const Triple<V> w = face.barycentric(e, in.perspective);
      const Triple<V> clipped = in.clip ? clip_barycentric<T>(w) : w;
      const V z = face.depth(clipped);
      const Mask<T> inside = (w.a > zero) & (w.b > zero) & (w.c > zero);
      const int64_t first = static_cast<int64_t>(row * B::across + column) * B::lanes;
      Mask<T> hit = lanes & (z >= zero);
      if (in.blur_radius == T(0)) hit = hit & inside;
      if (neighbor < 0) hit = hit & (z < V::load(lists.worst + first));
      if (!any(hit)) return;
      const V dist = face.sq_distance(px, py);
      hit = hit & (inside | (dist < blur));
      const V signed_dist = select(inside, -dist, dist);
      alignas(64) T zs[B::lanes], ds[B::lanes], w0[B::lanes], w1[B::lanes], w2[B::lanes];
      z.store(zs), signed_dist.store(ds), clipped.a.store(w0), clipped.b.store(w1), clipped.c.store(w2);
      for (uint32_t bits = hit.bits(); bits; bits &= bits - 1) {
        const int lane = __builtin_ctz(bits);
        const Hit<T> h = {zs[lane], f, ds[lane], w0[lane], w1[lane], w2[lane]};
        if (neighbor < 0)
          lists.insert(first + lane, h);
        else
          lists.insert(first + lane, h, neighbor);
      }
    });
  }
}

}  // namespace RECON_SIMD
}  // namespace recon
