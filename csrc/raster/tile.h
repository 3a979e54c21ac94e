#pragma once
// Inside one tile: which pixels a face covers, a register of pixels at a time. Included by the cpu.cpp files only.
//
// A register holds `rows` x `columns` neighbouring pixels, so that small faces fill it better than a single row would.
#include <algorithm>
#include <limits>
#include <vector>

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
  const int32_t* list;
  int64_t list_size, list_offset;
  Pack<T> x[B::across], y[16 / B::rows];  // centres of the lanes, by block column and block row
  const T *px, *py;                       // centres of the columns and rows

  Tile(const TiledScene<T>& scene, int64_t index) {
    const int64_t per_mesh = scene.tiles_x * scene.tiles_y, in_mesh = index % per_mesh;
    mesh = index / per_mesh;
    x0 = in_mesh % scene.tiles_x * tile_width, y0 = in_mesh / scene.tiles_x * scene.tile_height;
    width = static_cast<int>(std::min<int64_t>(tile_width, scene.input.W - x0));
    height = static_cast<int>(std::min<int64_t>(scene.tile_height, scene.input.H - y0));
    list_offset = scene.offsets[index];
    list = scene.list.data() + list_offset, list_size = scene.offsets[index + 1] - list_offset;
    for (int b = 0; b < B::across; ++b)
      for (int lane = 0; lane < B::lanes; ++lane) x[b].raw[lane] = scene.px[x0 + b * B::columns + lane % B::columns];
    px = scene.px.data() + x0, py = scene.py.data() + y0;
    for (int b = 0; b < scene.tile_height / B::rows; ++b)
      for (int lane = 0; lane < B::lanes; ++lane) y[b].raw[lane] = py[b * B::rows + lane / B::columns];
  }

  static int pixel(int row, int column) {
    return (row / B::rows * B::across + column / B::columns) * B::lanes + row % B::rows * B::columns +
           column % B::columns;
  }
  static int row(int pixel) { return pixel / B::lanes / B::across * B::rows + pixel % B::lanes / B::columns; }
  static int column(int pixel) { return pixel / B::lanes % B::across * B::columns + pixel % B::lanes % B::columns; }
};

// One face, spread over registers, with what is constant over the pixels.
template <class T>
struct SpreadFace {
  using V = Pack<T>;
  V x0, y0, z0, x1, y1, z1, x2, y2, z2, area, sq01, sq02, sq12, scaled_z0, scaled_z1, scaled_z2;
  V sign, reach0, reach1, reach2;

  explicit SpreadFace(const RasterFace<T>& f)
      : x0(f.x0),
        y0(f.y0),
        z0(f.z0),
        x1(f.x1),
        y1(f.y1),
        z1(f.z1),
        x2(f.x2),
        y2(f.y2),
        z2(f.z2),
        area(f.area),
        sq01(f.sq01),
        sq02(f.sq02),
        sq12(f.sq12),
        scaled_z0(f.z0 * f.z_scale),
        scaled_z1(f.z1 * f.z_scale),
        scaled_z2(f.z2 * f.z_scale),
        sign(f.area > T(0) ? T(1) : T(-1)),
        reach0(f.reach0),
        reach1(f.reach1),
        reach2(f.reach2) {}

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

// What the outputs say of a hit besides its face and depth; dist is signed.
template <class T>
struct HitDetails {
  T dist, w0, w1, w2;
};

// Tiles whose hit lists fit the second-level cache.
inline int tile_height_for(int64_t K) { return K <= 16 ? 16 : K <= 64 ? 8 : 2; }

// The hits of each pixel of a tile in the order they come, cut back to the K nearest whenever the room is used up.
template <class T>
class HitLists {
 public:
  static int64_t capacity(int64_t K) { return (std::max<int64_t>(2 * K, 16) + 15) / 16 * 16; }
  static int64_t bytes(int64_t pixels, int64_t K) {
    const int64_t hit = static_cast<int64_t>(sizeof(T) + sizeof(int32_t) + sizeof(HitDetails<T>));
    return (pixels * (capacity(K) * hit + static_cast<int64_t>(sizeof(int32_t) + sizeof(T))) + 63) / 64 * 64;
  }

  HitLists(void* memory, int64_t pixels, int64_t K)
      : K_(K),
        room_(capacity(K)),
        details_(static_cast<HitDetails<T>*>(memory)),
        z_(reinterpret_cast<T*>(details_ + pixels * room_)),
        worst_(z_ + pixels * room_),
        face_(reinterpret_cast<int32_t*>(worst_ + pixels)),
        count_(face_ + pixels * room_) {
    std::fill(count_, count_ + pixels, 0);
    std::fill(worst_, worst_ + pixels, std::numeric_limits<T>::infinity());
  }

  // The depths that hits must beat, and whether any is finite yet.
  const T* worst() const { return worst_; }
  bool any_full() const { return any_full_; }

  void add(int64_t pixel, T z, int32_t face, const HitDetails<T>& details) {
    if (count_[pixel] == room_) {
      keep_nearest(pixel);
      if (!(z < worst_[pixel])) return;
    }
    put(pixel * room_ + count_[pixel]++, z, face, details);
  }

  // The two halves of a clipped face count once: of those among the K nearest so far, the one closer to the pixel.
  void add(int64_t pixel, T z, int32_t face, const HitDetails<T>& details, int64_t neighbor) {
    if (count_[pixel] > K_) keep_nearest(pixel);
    const int64_t first = pixel * room_;
    for (int64_t i = first; i < first + count_[pixel]; ++i)
      if (face_[i] == neighbor) {
        if (std::abs(details.dist) < std::abs(details_[i].dist)) {
          put(i, z, face, details);
          worst_[pixel] = std::numeric_limits<T>::infinity();  // the new depth may be larger
        }
        return;
      }
    add(pixel, z, face, details);
  }

  // How many hits of a pixel are kept of at most `most` (not above K).
  int64_t size(int64_t pixel, int64_t most) const { return std::min<int64_t>(count_[pixel], most); }

  // Calls body(z, face, details) for the `most` nearest hits of a pixel, by ascending face.
  template <class F>
  void for_each_nearest(int64_t pixel, int64_t most, const F& body) const {
    const int64_t first = pixel * room_, n = count_[pixel];
    for (int64_t i = first; i < first + n; ++i)
      if (n <= most || rank(pixel, i) < most) body(z_[i], face_[i], details_[i]);
  }

  // Calls body(k, z, face, details) for the K nearest hits of a pixel, k their position by (z, face); in any order.
  template <class F>
  int64_t for_nearest(int64_t pixel, const F& body) const {
    const int64_t first = pixel * room_, n = count_[pixel];
    for (int64_t i = first; i < first + n; ++i) {
      const int64_t k = n == 1 ? 0 : rank(pixel, i);
      if (k < K_) body(k, z_[i], face_[i], details_[i]);
    }
    return std::min(n, K_);
  }

 private:
  void put(int64_t at, T z, int32_t face, const HitDetails<T>& details) {
    z_[at] = z, face_[at] = face, details_[at] = details;
  }

  // How many hits of the pixel come before hit i.
  int64_t rank(int64_t pixel, int64_t i) const {
    constexpr int lanes = Pack<T>::lanes;
    const int64_t first = pixel * room_, n = count_[pixel];
    const Pack<T> z(z_[i]);
    int64_t before = 0;
    for (int64_t j = 0; j < n; j += lanes) {
      const Pack<T> other = Pack<T>::load(z_ + first + j);
      const uint32_t valid = n - j >= lanes ? ~0u : (1u << (n - j)) - 1u;
      before += __builtin_popcount((other < z).bits() & valid);
      for (uint32_t ties = (other == z).bits() & valid; ties; ties &= ties - 1)
        before += face_[first + j + __builtin_ctz(ties)] < face_[i];
    }
    return before;
  }

  void keep_nearest(int64_t pixel) {
    const int64_t first = pixel * room_;
    int64_t kept = 0;
    T worst = -std::numeric_limits<T>::infinity();
    // Ranks are taken before anything moves; what is kept moves only to the front of where it was.
    const int64_t n = count_[pixel];
    nearest_.resize(n);
    for (int64_t i = 0; i < n; ++i) nearest_[i] = rank(pixel, first + i) < K_;
    for (int64_t i = 0; i < n; ++i) {
      if (!nearest_[i]) continue;
      put(first + kept++, z_[first + i], face_[first + i], details_[first + i]);
      worst = std::max(worst, z_[first + i]);
    }
    count_[pixel] = static_cast<int32_t>(kept);
    worst_[pixel] = worst, any_full_ = true;
  }

  int64_t K_, room_;
  HitDetails<T>* details_;  // pixels room
  T* z_;                    // pixels room
  T* worst_;                // pixels
  int32_t* face_;           // pixels room
  int32_t* count_;          // pixels
  bool any_full_ = false;
  std::vector<char> nearest_;
};

// The pixels of a tile that one face may hit, packed together so that registers are full where faces are small.
template <class T>
struct Candidates {
  static constexpr int most = tile_width * 16;
  int size = 0;
  int32_t pixel[most + Pack<T>::lanes] = {};
  alignas(64) T px[most + Pack<T>::lanes] = {}, py[most + Pack<T>::lanes] = {};

  void find(const Tile<T>& tile, const SpreadFace<T>& face, const PixelBox& box) {
    using B = Block<T>;
    size = 0;
    for_each_block(tile, box, [&](int row, int column, Mask<T> lanes) {
      const Pack<T> x = tile.x[column], y = tile.y[row];
      const uint32_t hits = (lanes & face.may_hit(face.edges(x, y))).bits();
      const int first = (row * B::across + column) * B::lanes;
      for (uint32_t bits = hits; bits; bits &= bits - 1) {
        const int lane = __builtin_ctz(bits);
        pixel[size] = first + lane;
        px[size] = tile.px[column * B::columns + lane % B::columns];
        py[size++] = tile.py[row * B::rows + lane / B::columns];
      }
    });
  }
};

// Fills the lists with the hits of the tile's faces.
template <class T>
inline void collect_hits(const TiledScene<T>& scene, const Tile<T>& tile, HitLists<T>& lists) {
  using V = Pack<T>;
  const RasterInput<T>& in = scene.input;
  const V zero(T(0)), blur(in.blur_radius);
  Candidates<T> at;
  for (int64_t q = 0; q < tile.list_size; ++q) {
    const int32_t f = tile.list[q];
    const SpreadFace<T> face(scene.faces[f]);
    const int64_t neighbor = in.neighbors ? in.neighbors[f] : -1;
    at.find(tile, face, scene.boxes[f]);
    for (int i = 0; i < at.size; i += V::lanes) {
      const V px = V::load(at.px + i), py = V::load(at.py + i);
      const Triple<V> w = face.barycentric(face.edges(px, py), in.perspective);
      const Triple<V> clipped = in.clip ? clip_barycentric<T>(w) : w;
      const V z = face.depth(clipped);
      const Mask<T> inside = (w.a > zero) & (w.b > zero) & (w.c > zero);
      Mask<T> hit = z >= zero;
      if (in.blur_radius == T(0)) hit = hit & inside;
      if (neighbor < 0 && lists.any_full()) hit = hit & (z < V::gather(lists.worst(), at.pixel + i));
      const uint32_t valid = at.size - i >= V::lanes ? ~0u : (1u << (at.size - i)) - 1u;
      if (!(hit.bits() & valid)) continue;
      const V dist = face.sq_distance(px, py);
      hit = hit & (inside | (dist < blur));
      const V signed_dist = select(inside, -dist, dist);
      alignas(64) T zs[V::lanes], ds[V::lanes], w0[V::lanes], w1[V::lanes], w2[V::lanes];
      z.store(zs), signed_dist.store(ds), clipped.a.store(w0), clipped.b.store(w1), clipped.c.store(w2);
      for (uint32_t bits = hit.bits() & valid; bits; bits &= bits - 1) {
        const int lane = __builtin_ctz(bits);
        const HitDetails<T> details = {ds[lane], w0[lane], w1[lane], w2[lane]};
        if (neighbor < 0)
          lists.add(at.pixel[i + lane], zs[lane], f, details);
        else
          lists.add(at.pixel[i + lane], zs[lane], f, details, neighbor);
      }
    }
  }
}

}  // namespace RECON_SIMD
}  // namespace recon
