// One task for a tile, forward and backward. Registers hold neighbouring pixels; a face's gradient is summed in
// registers over the tile and leaves it as six numbers.
#include <vector>

#include "core/parallel.h"
#include "math/blend.h"
#include "ops/soft_silhouette/kernels.h"
#include "raster/tile.h"

namespace recon {
namespace RECON_SIMD {

namespace {

constexpr Device cpu;
constexpr int tile_rows = 16;
constexpr int tile_pixels = tile_width * tile_rows;

// Which lanes a face hits, and the signed distance there.
template <class T>
struct Coverage {
  Mask<T> hit, inside;
  Pack<T> sq_dist;
};

template <class T>
inline Coverage<T> cover(const SpreadFace<T>& face, const RasterInput<T>& in, Pack<T> px, Pack<T> py, Mask<T> lanes) {
  using V = Pack<T>;
  const V zero(T(0));
  const Triple<V> e = face.edges(px, py);
  lanes = lanes & face.may_hit(e);
  if (!any(lanes)) return {lanes, lanes, zero};
  // The signs of the barycentric coordinates are those of the edge functions: no division is needed for them.
  const Mask<T> inside = lanes & (e.a * face.sign > zero) & (e.b * face.sign > zero) & (e.c * face.sign > zero);
  const V sq_dist = face.sq_distance(px, py);
  Mask<T> hit = inside | (lanes & (sq_dist < V(in.blur_radius)));
  // Clipped coordinates, and those of points inside, never give a depth behind the camera.
  const Mask<T> outside = hit & !inside;
  if (!in.clip && any(outside)) hit = inside | (outside & (face.depth(face.barycentric(e, in.perspective)) >= zero));
  return {hit, inside, sq_dist};
}

template <class T>
inline Pack<T> coverage_of(const Coverage<T>& c, T inverse_sigma) {
  const Pack<T> one(T(1)), signed_dist = select(c.inside, -c.sq_dist, c.sq_dist);
  return one / (one + exp(signed_dist * Pack<T>(inverse_sigma)));
}

template <class T>
inline void copy_in(const T* image, const RasterInput<T>& in, const Tile<T>& tile, T* block_order) {
  std::fill(block_order, block_order + tile_pixels, T(0));
  for (int row = 0; row < tile.height; ++row)
    for (int column = 0; column < tile.width; ++column)
      block_order[Tile<T>::pixel(row, column)] = image[(tile.mesh * in.H + tile.y0 + row) * in.W + tile.x0 + column];
}

// Keeps the K nearest of a crowded pixel's hits: their product, and the face they end with.
template <class T>
void blend_crowded(const TiledScene<T>& scene, const Tile<T>& tile, const int32_t* hits, const Silhouette<T>& s,
                   T* clear, int32_t* last_face) {
  std::vector<char> memory(HitLists<T>::bytes(tile_pixels, s.K));
  HitLists<T> lists(memory.data(), tile_pixels, s.K);
  collect_hits(scene, tile, lists);
  for (int pixel = 0; pixel < tile_pixels; ++pixel) {
    if (hits[pixel] <= s.K) continue;
    T product(1);
    lists.for_nearest(pixel, [&](int64_t k, T, int32_t face, const HitDetails<T>& hit) {
      product *= T(1) - coverage(hit.dist, s.sigma);
      if (k == s.K - 1) last_face[pixel] = face;
    });
    clear[pixel] = product;
  }
}

// The depth of a face at a pixel that it hits, as collect_hits computes it.
template <class T>
T depth_at_pixel(const RasterFace<T>& f, const RasterInput<T>& in, T px, T py) {
  FaceAtPixel<T> at = {};
  face_at_pixel(f, px, py, in.blur_radius, in.perspective, in.clip, at);
  return at.z;
}

}  // namespace

template <class T>
void soft_silhouette_cpu(const RasterInput<T>& in, const Silhouette<T>& s) {
  using V = Pack<T>;
  using B = Block<T>;
  const TiledScene<T> scene(in, tile_rows);
  for_each_task(
      scene.num_tiles(),
      [&](int64_t index, int) {
        const Tile<T> tile(scene, index);
        alignas(64) T clear[tile_pixels];
        alignas(64) int32_t hits[tile_pixels], last_face[tile_pixels];
        std::fill(clear, clear + tile_pixels, T(1));
        std::fill(hits, hits + tile_pixels, 0);
        std::fill(last_face, last_face + tile_pixels, -1);
        const bool may_crowd = tile.list_size > s.K;
        const T inverse_sigma = T(1) / s.sigma;
        for (int64_t q = 0; q < tile.list_size; ++q) {
          const SpreadFace<T> face(scene.faces[tile.list[q]]);
          for_each_block(tile, scene.boxes[tile.list[q]], [&](int row, int column, Mask<T> lanes) {
            const int first = (row * B::across + column) * B::lanes;
            const V before = V::load(clear + first);
            if (!may_crowd) {
              lanes = lanes & (before > V(T(0)));  // what is covered already stays covered
              if (!any(lanes)) return;
            }
            const Coverage<T> c = cover(face, in, tile.x[column], tile.y[row], lanes);
            if (!any(c.hit)) return;
            select(c.hit, before * (V(T(1)) - coverage_of(c, inverse_sigma)), before).store(clear + first);
            if (may_crowd)
              for (uint32_t bits = c.hit.bits(); bits; bits &= bits - 1) ++hits[first + __builtin_ctz(bits)];
          });
        }
        if (*std::max_element(hits, hits + tile_pixels) > s.K) blend_crowded(scene, tile, hits, s, clear, last_face);
        for (int row = 0; row < tile.height; ++row) {
          const int64_t at = (tile.mesh * in.H + tile.y0 + row) * in.W + tile.x0;
          for (int column = 0; column < tile.width; ++column) {
            s.clear[at + column] = clear[Tile<T>::pixel(row, column)];
            s.last_face[at + column] = last_face[Tile<T>::pixel(row, column)];
          }
        }
      },
      4 * scene.num_pairs() + in.N * in.H * in.W);
}

template <class T>
void soft_silhouette_backward_cpu(const RasterInput<T>& in, const Silhouette<T>& s) {
  using V = Pack<T>;
  using B = Block<T>;
  const TiledScene<T> scene(in, tile_rows);
  const Scratch<int32_t> touched(scene.list.size(), cpu);  // the face of each entry of the list that has a gradient
  const Scratch<T> sums(scene.list.size() * 6, cpu);
  for_each_task(
      scene.num_tiles(),
      [&](int64_t index, int) {
        const Tile<T> tile(scene, index);
        // d loss / d dist_k = scale p_k: where the scale is zero, nothing is to be done.
        alignas(64) T scale[tile_pixels], grad[tile_pixels], last_z[tile_pixels];
        alignas(64) int32_t last_face[tile_pixels];
        copy_in(s.clear, in, tile, scale);
        copy_in(s.grad_clear, in, tile, grad);
        for (int p = 0; p < tile_pixels; ++p) scale[p] = grad[p] * clear_dist_gradient(scale[p], T(1), s.sigma);
        bool crowded = false;
        if (tile.list_size > s.K)
          for (int row = 0; row < tile.height; ++row)
            for (int column = 0; column < tile.width; ++column) {
              const int p = Tile<T>::pixel(row, column);
              last_face[p] = s.last_face[(tile.mesh * in.H + tile.y0 + row) * in.W + tile.x0 + column];
              crowded = crowded || last_face[p] >= 0;
              last_z[p] = last_face[p] < 0 ? std::numeric_limits<T>::infinity()
                                           : depth_at_pixel(scene.faces[last_face[p]], in, scene.px[tile.x0 + column],
                                                            scene.py[tile.y0 + row]);
            }
        const T inverse_sigma = T(1) / s.sigma;
        for (int64_t q = 0; q < tile.list_size; ++q) {
          const int32_t f = tile.list[q];
          const SpreadFace<T> face(scene.faces[f]);
          V g[6] = {T(0), T(0), T(0), T(0), T(0), T(0)};
          bool any_hit = false;
          for_each_block(tile, scene.boxes[f], [&](int row, int column, Mask<T> lanes) {
            const V zero(T(0)), px = tile.x[column], py = tile.y[row];
            const int first = (row * B::across + column) * B::lanes;
            const V pixel_scale = V::load(scale + first);
            lanes = lanes & !(pixel_scale == zero);
            if (!any(lanes)) return;
            const Coverage<T> c = cover(face, in, px, py, lanes);
            Mask<T> hit = c.hit;
            if (crowded && any(hit)) {
              const Triple<V> w = face.barycentric(face.edges(px, py), in.perspective);
              const V z = face.depth(in.clip ? clip_barycentric<T>(w) : w), last = V::load(last_z + first);
              uint32_t counts = 0;
              for (uint32_t bits = (hit & (z == last)).bits(); bits; bits &= bits - 1) {
                const int lane = __builtin_ctz(bits);
                counts |= static_cast<uint32_t>(f <= last_face[first + lane]) << lane;
              }
              hit = hit & ((z < last) | Mask<T>::of_bits(counts));
            }
            if (!any(hit)) return;
            any_hit = true;
            const V grad_dist = select(hit, pixel_scale * coverage_of(c, inverse_sigma), zero);
            const V signed_grad = select(c.inside, -grad_dist, grad_dist);
            const V x[3] = {face.x0, face.x1, face.x2}, y[3] = {face.y0, face.y1, face.y2};
            V gx[3], gy[3];
            nearest_edge_vjp<T>(px, py, x, y, face.sq01, face.sq02, face.sq12, signed_grad, gx, gy);
            for (int corner = 0; corner < 3; ++corner) g[2 * corner] += gx[corner], g[2 * corner + 1] += gy[corner];
          });
          const int64_t entry = tile.list_offset + q;
          touched[entry] = any_hit ? f : -1;
          if (any_hit)
            for (int d = 0; d < 6; ++d) sums[entry * 6 + d] = sum(g[d]);
        }
      },
      8 * scene.num_pairs() + 2 * in.N * in.H * in.W);
  scatter_to_verts<T>(in, {{touched.data(), sums.data(), scene.list.size(), 6}}, 2, 3, s.grad_verts);
}

template void soft_silhouette_cpu(const RasterInput<float>&, const Silhouette<float>&);
template void soft_silhouette_cpu(const RasterInput<double>&, const Silhouette<double>&);
template void soft_silhouette_backward_cpu(const RasterInput<float>&, const Silhouette<float>&);
template void soft_silhouette_backward_cpu(const RasterInput<double>&, const Silhouette<double>&);

}  // namespace RECON_SIMD
}  // namespace recon
