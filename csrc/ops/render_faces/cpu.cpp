// One task for a tile. Its hits lie in columns, pixel after pixel, and are weighted, shaded and differentiated a
// register at a time; only those that weigh anything are shaded. Backward, the gradients of a face are summed within
// the tile.
#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "math/blend.h"
#include "ops/render_faces/shade.h"
#include "raster/tile.h"

namespace recon {
namespace RECON_SIMD {

namespace {

constexpr Device cpu;
constexpr int tile_pixels = tile_width * 16;

// What a tile's pixels become before the colours are known; the names are those of softmax_blend.cpp.
template <class T>
struct PixelWeights {
  alignas(64) T clear[tile_pixels], nearest[tile_pixels], background[tile_pixels], total[tile_pixels];
  int32_t nearest_hit[tile_pixels];
};

// The K nearest hits of each pixel of a tile.
template <class T>
class TileHits {
  using V = Pack<T>;
  enum Column { z_, dist_, w0_, w1_, w2_, cover_, weight_, peak_, red_, green_, blue_, columns };

 public:
  int64_t size = 0;
  int32_t first[tile_pixels + 1];    // hits of pixel p: first[p] to first[p + 1]
  std::vector<int32_t> face, pixel;  // of each hit
  std::vector<int32_t> weighing;     // hits with a weight: all others have no colour
  PixelWeights<T> pixels;

  T* z() { return column(z_); }
  T* dist() { return column(dist_); }
  T* bary(int corner) { return column(w0_ + corner); }
  T* cover() { return column(cover_); }
  T* weight() { return column(weight_); }
  T* color(int channel) { return column(red_ + channel); }

  void collect(const HitLists<T>& lists, int num_pixels, int64_t most) {
    int64_t n = 0;
    for (int p = 0; p < tile_pixels; ++p) {
      first[p] = static_cast<int32_t>(n);
      n += p < num_pixels ? lists.size(p, most) : 0;
    }
    first[tile_pixels] = static_cast<int32_t>(n), size = n;
    stride_ = (n + V::lanes - 1) / V::lanes * V::lanes;
    if (static_cast<int64_t>(memory_.size()) < stride_ * columns) memory_.resize(stride_ * columns);
    face.resize(n), pixel.resize(n);
    for (int p = 0; p < num_pixels; ++p) {
      int32_t i = first[p];
      lists.for_each_nearest(p, most, [&](T depth, int32_t f, const HitDetails<T>& hit) {
        face[i] = f, pixel[i] = p;
        z()[i] = depth, dist()[i] = hit.dist;
        bary(0)[i] = hit.w0, bary(1)[i] = hit.w1, bary(2)[i] = hit.w2;
        ++i;
      });
    }
    for (int64_t i = n; i < stride_; ++i) z()[i] = dist()[i] = T(0);
  }

  void weigh(const Blend<T>& blend, const Tile<T>& tile) {
    weighing.clear();
    if (blend.hard) {
      std::fill(weight(), weight() + stride_, T(1));
      for (int32_t i = 0; i < size; ++i) weighing.push_back(i);
      return;
    }
    const T* planes = blend.planes + 2 * tile.mesh;
    const V far(planes[1]), range(planes[1] - planes[0]), sigma(blend.sigma), gamma(blend.gamma), one(T(1));
    const T epsilon = static_cast<T>(blend_epsilon);
    T* depth = weight();  // until the weights are known
    for (int64_t i = 0; i < stride_; i += V::lanes) {
      (one / (one + exp(V::load(dist() + i) / sigma))).store(cover() + i);
      ((far - V::load(z() + i)) / range).store(depth + i);
    }
    for (int p = 0; p < tile_pixels; ++p) {
      T clear(1), nearest = epsilon;
      int32_t nearest_hit = -1;
      for (int32_t i = first[p]; i < first[p + 1]; ++i) {
        clear *= T(1) - cover()[i];
        if (depth[i] > nearest || (depth[i] == nearest && nearest_hit < 0)) nearest = depth[i], nearest_hit = i;
      }
      pixels.clear[p] = clear, pixels.nearest[p] = nearest, pixels.nearest_hit[p] = nearest_hit;
      std::fill(column(peak_) + first[p], column(peak_) + first[p + 1], nearest);
    }
    for (int p = 0; p < tile_pixels; p += V::lanes)
      maximum(exp((V(epsilon) - V::load(pixels.nearest + p)) / gamma), V(epsilon)).store(pixels.background + p);
    for (int64_t i = 0; i < stride_; i += V::lanes) {
      const V above = V::load(depth + i) - V::load(column(peak_) + i);
      (V::load(cover() + i) * exp(above / gamma)).store(weight() + i);
    }
    for (int p = 0; p < tile_pixels; ++p) {
      T faces(0);
      for (int32_t i = first[p]; i < first[p + 1]; ++i) {
        faces += weight()[i];
        if (weight()[i] != T(0)) weighing.push_back(i);
      }
      pixels.total[p] = faces + pixels.background[p];
    }
  }

 private:
  T* column(int c) { return memory_.data() + c * stride_; }
  int64_t stride_ = 0;
  std::vector<T> memory_;
};

// A register of hits, as Shade wants them. Lanes beyond n repeat the first.
template <class T>
struct Lanes {
  using V = Pack<T>;
  static constexpr int lanes = V::lanes;
  int n;
  int32_t hit[lanes], face_of[lanes];
  int64_t corner[3][lanes];  // vertices
  Triple<V> w;

  Lanes(const RasterInput<T>& in, TileHits<T>& hits, const int32_t* list, int64_t left)
      : n(static_cast<int>(std::min<int64_t>(left, lanes))) {
    for (int i = 0; i < lanes; ++i) {
      hit[i] = list[i < n ? i : 0], face_of[i] = hits.face[hit[i]];
      for (int c = 0; c < 3; ++c) corner[c][i] = in.faces[3 * int64_t{face_of[i]} + c];
    }
    w = {V::gather(hits.bary(0), hit), V::gather(hits.bary(1), hit), V::gather(hits.bary(2), hit)};
  }

  static T lane(V v, int i) { return v[i]; }
  static V pack(const T* values) { return V::load(values); }

  V of_corner(int c, const T* table, int64_t width, int64_t j) const {
    return collect([&](int i) { return table[corner[c][i] * width + j]; });
  }
  V of_face(const T* table, int64_t width, int64_t j) const {
    return collect([&](int i) { return table[face_of[i] * width + j]; });
  }
  V of_pixel(const TileHits<T>& hits, const T* values) const {
    return collect([&](int i) { return values[hits.pixel[hit[i]]]; });
  }
  // The value of each hit, 0 beyond n.
  V of_hit(const T* column) const {
    return collect([&](int i) { return i < n ? column[hit[i]] : T(0); });
  }

  int32_t face(int i) const { return face_of[i]; }
  int64_t map_of(const Surface<T>& surface, int i) const {
    const int64_t map = surface.map_of_face[face_of[i]];
    if (map < 0 || map >= surface.M)
      throw std::invalid_argument("map_of_face has index " + std::to_string(map) + " in row " +
                                  std::to_string(face_of[i]) + " but there are " + std::to_string(surface.M) + " maps");
    return map;
  }

 private:
  template <class F>
  static V collect(const F& of_lane) {
    alignas(64) T values[lanes];
    for (int i = 0; i < lanes; ++i) values[i] = of_lane(i);
    return V::load(values);
  }
};

// What one thread uses again and again.
template <class T>
struct Workspace {
  std::vector<char> lists;
  TileHits<T> hits;
};

template <class T>
Light<Pack<T>> light_of(const Surface<T>& surface, const Tile<T>& tile) {
  using V = Pack<T>;
  const bool per_image = surface.lighting == Lighting::ambient || surface.lights_points();
  const T none[Light<V>::size] = {};
  return Light<V>::load(per_image ? surface.lights + Light<V>::size * tile.mesh : none);
}

// Finds and weighs the hits of a tile.
template <class T>
void find_hits(const TiledScene<T>& scene, const Tile<T>& tile, const Blend<T>& blend, Workspace<T>& work) {
  HitLists<T> lists(work.lists.data(), int64_t{tile_width} * scene.tile_height, blend.K);
  collect_hits(scene, tile, lists);
  work.hits.collect(lists, tile_width * scene.tile_height, blend.hard ? 1 : blend.K);
  work.hits.weigh(blend, tile);
}

template <class T>
std::vector<Workspace<T>> workspaces(const TiledScene<T>& scene, const Blend<T>& blend) {
  std::vector<Workspace<T>> work(num_threads());
  for (auto& w : work) w.lists.resize(HitLists<T>::bytes(int64_t{tile_width} * scene.tile_height, blend.K));
  return work;
}

}  // namespace

template <class T>
void render_faces_cpu(const RasterInput<T>& in, const Surface<T>& surface, const Blend<T>& blend, T* image) {
  using V = Pack<T>;
  const TiledScene<T> scene(in, tile_height_for(blend.K));
  auto work = workspaces(scene, blend);
  for_each_task(scene.num_tiles(), [&](int64_t index, int worker) {
    const Tile<T> tile(scene, index);
    TileHits<T>& hits = work[worker].hits;
    const bool empty = tile.list_size == 0;
    if (!empty) {
      find_hits(scene, tile, blend, work[worker]);
      const Light<V> light = light_of(surface, tile);
      const auto count = static_cast<int64_t>(hits.weighing.size());
      for (int64_t i = 0; i < count; i += V::lanes) {
        const Lanes<T> at(in, hits, hits.weighing.data() + i, count - i);
        const Vec3<V> color = Shade<T, Lanes<T>>(surface, at, light).color;
        for (int lane = 0; lane < at.n; ++lane) {
          const int32_t hit = at.hit[lane];
          hits.color(0)[hit] = color.x[lane], hits.color(1)[hit] = color.y[lane], hits.color(2)[hit] = color.z[lane];
        }
      }
    }
    for (int row = 0; row < tile.height; ++row)
      for (int column = 0; column < tile.width; ++column) {
        const int p = Tile<T>::pixel(row, column);
        T* out = image + ((tile.mesh * in.H + tile.y0 + row) * in.W + tile.x0 + column) * 4;
        const bool clear = empty || hits.first[p] == hits.first[p + 1];
        T sums[3] = {}, background(1), total(1), alpha(0);
        if (!clear) {
          for (int32_t i = hits.first[p]; i < hits.first[p + 1]; ++i)
            if (const T weight = hits.weight()[i]; weight != T(0))
              for (int c = 0; c < 3; ++c) sums[c] += weight * hits.color(c)[i];
          background = blend.hard ? T(0) : hits.pixels.background[p];
          total = blend.hard ? T(1) : hits.pixels.total[p];
          alpha = blend.hard ? T(1) : T(1) - hits.pixels.clear[p];
        }
        for (int c = 0; c < 3; ++c) out[c] = (sums[c] + background * blend.background[c]) / total;
        out[3] = alpha;
      }
  });
}

namespace {

// Where the gradients of one face lie in a row of sums; a part that nobody asks for has no columns.
struct Columns {
  int verts = 0, attributes = 0, uvs = 0, lights = 0, width = 0;
  template <class T>
  Columns(const Surface<T>& surface, const RenderGrads<T>& grads) {
    verts = 0, width = grads.verts ? 9 : 0;
    attributes = width, width += grads.attributes ? static_cast<int>(3 * surface.A) : 0;
    uvs = width, width += grads.uvs && surface.texture == Texture::image ? 6 : 0;
    lights = width, width += grads.lights && surface.lighting == Lighting::face ? 6 : 0;
  }
};
constexpr int most_columns = 9 + 3 * most_attributes + 6 + 6;

template <class T>
struct TexelGrad {
  Footprint<T> at;
  T rgb[3];
};

// What one tile leaves behind.
template <class T>
struct TileGrads {
  std::vector<int32_t> faces;
  std::vector<T> sums;  // a row for each face
  std::vector<TexelGrad<T>> texels;
  T light[Light<T>::size] = {};
};

// Adds the lanes' columns to the rows of their faces.
template <class T>
void add_rows(const Lanes<T>& at, const Pack<T>* values, int width, int used, int32_t* slot_of, TileGrads<T>& out) {
  alignas(64) T lanes[most_columns][Pack<T>::lanes];
  for (int d = 0; d < used; ++d) values[d].store(lanes[d]);
  for (int i = 0; i < at.n; ++i) {
    int32_t& slot = slot_of[at.face_of[i]];
    if (slot < 0) {
      slot = static_cast<int32_t>(out.faces.size());
      out.faces.push_back(at.face_of[i]);
      out.sums.insert(out.sums.end(), width, T(0));
    }
    T* row = out.sums.data() + int64_t{slot} * width;
    for (int d = 0; d < used; ++d) row[d] += lanes[d][i];
  }
}

// The gradients of one tile.
template <class T>
class TileBackward {
  using V = Pack<T>;

 public:
  TileBackward(const RasterInput<T>& in, const Surface<T>& surface, const Blend<T>& blend, const RenderGrads<T>& grads,
               const TiledScene<T>& scene, const Tile<T>& tile, TileHits<T>& hits, int32_t* slot_of, TileGrads<T>& out)
      : in_(in),
        surface_(surface),
        blend_(blend),
        grads_(grads),
        scene_(scene),
        tile_(tile),
        hits_(hits),
        columns_(surface, grads),
        slot_of_(slot_of),
        out_(out) {}

  void run() {
    read_pixels();
    const Light<V> light = light_of(surface_, tile_);
    for (auto& s : light_sums_) s = V(T(0));
    const auto count = static_cast<int64_t>(hits_.weighing.size());
    for (int64_t i = 0; i < count; i += V::lanes)
      add_shaded(Lanes<T>(in_, hits_, hits_.weighing.data() + i, count - i), light);
    if (!blend_.hard && grads_.verts) add_weightless();
    for (int i = 0; i < Light<V>::size; ++i) out_.light[i] = sum(light_sums_[i]);
    for (const int32_t f : out_.faces) slot_of_[f] = -1;
  }

 private:
  void read_pixels() {
    for (int row = 0; row < tile_.height; ++row)
      for (int column = 0; column < tile_.width; ++column) {
        const int p = Tile<T>::pixel(row, column);
        const int64_t at = ((tile_.mesh * in_.H + tile_.y0 + row) * in_.W + tile_.x0 + column) * 4;
        for (int c = 0; c < 3; ++c) rgb_[c][p] = grads_.image[at + c], grad_[c][p] = grads_.grad_image[at + c];
        if (blend_.hard) {
          inverse_total_[p] = T(1);
          continue;
        }
        inverse_total_[p] = T(1) / hits_.pixels.total[p];
        through_clear_[p] = grads_.grad_image[at + 3] * hits_.pixels.clear[p];
        // The background held at its least weight is what moves when the nearest depth does.
        T held(0);
        if (hits_.pixels.background[p] <= static_cast<T>(blend_epsilon))
          for (int c = 0; c < 3; ++c) held += grad_[c][p] * (blend_.background[c] - rgb_[c][p]);
        through_nearest_[p] = held * inverse_total_[p] * hits_.pixels.background[p] / blend_.gamma;
      }
  }

  V of_pixel(const Lanes<T>& at, const T* values) const { return at.of_pixel(hits_, values); }

  void add_shaded(const Lanes<T>& at, const Light<V>& light) {
    const Shade<T, Lanes<T>> shade(surface_, at, light);
    const Vec3<V> grad = {of_pixel(at, grad_[0]), of_pixel(at, grad_[1]), of_pixel(at, grad_[2])};
    const V weight = at.of_hit(hits_.weight()) * of_pixel(at, inverse_total_);
    V grad_z(T(0)), grad_dist(T(0));
    if (!blend_.hard) {
      const Vec3<V> rgb = {of_pixel(at, rgb_[0]), of_pixel(at, rgb_[1]), of_pixel(at, rgb_[2])};
      const V q = dot(grad, shade.color - rgb) * weight, cover = at.of_hit(hits_.cover());
      const T* planes = blend_.planes + 2 * tile_.mesh;
      grad_z = q * V(T(-1) / (blend_.gamma * (planes[1] - planes[0]))) + through_nearest(at);
      grad_dist = -(q * (V(T(1)) - cover) + of_pixel(at, through_clear_) * cover) / V(blend_.sigma);
    }
    const auto g = shade.vjp(light, grad * weight, light_sums_, [&](const Footprint<T>& f, T red, T green, T blue) {
      if (grads_.maps) out_.texels.push_back({f, {red, green, blue}});
    });
    V values[most_columns];
    if (grads_.verts) raster_gradient(at, grad_z, g.bary, grad_dist, values);
    if (grads_.attributes) {
      const V w[3] = {at.w.a, at.w.b, at.w.c};
      for (int c = 0; c < 3; ++c)
        for (int64_t j = 0; j < surface_.A; ++j)
          values[columns_.attributes + c * surface_.A + j] = w[c] * g.attributes[j];
    }
    if (columns_.lights > columns_.uvs) {
      const V w[3] = {at.w.a, at.w.b, at.w.c};
      for (int c = 0; c < 3; ++c)
        for (int d = 0; d < 2; ++d) values[columns_.uvs + 2 * c + d] = w[c] * g.uv[d];
    }
    if (columns_.width > columns_.lights)
      for (int d = 0; d < 6; ++d) values[columns_.lights + d] = g.face_light[d];
    add_rows(at, values, columns_.width, columns_.width, slot_of_, out_);
  }

  // Hits too far behind the nearest to have a colour still take part in alpha.
  void add_weightless() {
    weightless_.clear();
    for (int32_t i = 0; i < hits_.size; ++i)
      if (hits_.weight()[i] == T(0) && through_clear_[hits_.pixel[i]] * hits_.cover()[i] != T(0))
        weightless_.push_back(i);
    const auto count = static_cast<int64_t>(weightless_.size());
    const V zero(T(0));
    for (int64_t i = 0; i < count; i += V::lanes) {
      const Lanes<T> at(in_, hits_, weightless_.data() + i, count - i);
      V values[9];
      const V grad_dist = -(of_pixel(at, through_clear_) * at.of_hit(hits_.cover())) / V(blend_.sigma);
      raster_gradient(at, zero, {zero, zero, zero}, grad_dist, values);
      add_rows(at, values, columns_.width, 9, slot_of_, out_);
    }
  }

  V through_nearest(const Lanes<T>& at) const {
    const T* planes = blend_.planes + 2 * tile_.mesh;
    alignas(64) T values[V::lanes] = {};
    for (int i = 0; i < at.n; ++i) {
      const int32_t p = hits_.pixel[at.hit[i]];
      if (hits_.pixels.nearest_hit[p] == at.hit[i]) values[i] = through_nearest_[p] / (planes[0] - planes[1]);
    }
    return V::load(values);
  }

  void raster_gradient(const Lanes<T>& at, V grad_z, const Triple<V>& grad_bary, V grad_dist, V* out) const {
    V x[3], y[3], z[3];
    for (int c = 0; c < 3; ++c)
      x[c] = at.of_corner(c, in_.verts, 3, 0), y[c] = at.of_corner(c, in_.verts, 3, 1),
      z[c] = at.of_corner(c, in_.verts, 3, 2);
    alignas(64) T px[V::lanes], py[V::lanes];
    for (int i = 0; i < V::lanes; ++i) {
      const int32_t p = hits_.pixel[at.hit[i]];
      px[i] = tile_.px[Tile<T>::column(p)], py[i] = tile_.py[Tile<T>::row(p)];
    }
    raster_vjp<T>(V::load(px), V::load(py), x, y, z, in_.perspective, in_.clip, grad_z, grad_bary, grad_dist, out);
  }

  const RasterInput<T>& in_;
  const Surface<T>& surface_;
  const Blend<T>& blend_;
  const RenderGrads<T>& grads_;
  const TiledScene<T>& scene_;
  const Tile<T>& tile_;
  TileHits<T>& hits_;
  const Columns columns_;
  int32_t* slot_of_;
  TileGrads<T>& out_;
  std::vector<int32_t> weightless_;
  V light_sums_[Light<V>::size];
  T rgb_[3][tile_pixels], grad_[3][tile_pixels], inverse_total_[tile_pixels];
  T through_clear_[tile_pixels], through_nearest_[tile_pixels];
};

// Adds rows of `components` numbers to those of the faces; each face belongs to one thread.
template <class T>
void scatter_to_faces(const RasterInput<T>& in, const std::vector<FaceGrads<T>>& parts, int components, T* grads) {
  const int64_t shares = num_threads();
  for_each_task(shares, [&](int64_t share, int) {
    const int64_t begin = in.F * share / shares, end = in.F * (share + 1) / shares;
    for (const auto& part : parts)
      for (int64_t q = 0; q < part.n; ++q)
        if (const int64_t f = part.faces[q]; f >= begin && f < end)
          for (int d = 0; d < components; ++d) grads[f * components + d] += part.grads[q * part.stride + d];
  });
}

// Adds the gradients of texels to the images; each row of texels belongs to one thread.
template <class T>
void scatter_to_maps(const Surface<T>& surface, const std::vector<TileGrads<T>>& tiles, T* grad_maps) {
  const int64_t shares = num_threads(), rows = surface.M * surface.rows;
  for_each_task(shares, [&](int64_t share, int) {
    const int64_t begin = rows * share / shares * surface.columns, end = rows * (share + 1) / shares * surface.columns;
    for (const auto& tile : tiles)
      for (const auto& g : tile.texels)
        for_each_texel(g.at, surface.rows, surface.columns, [&](int64_t texel, T weight, T, T) {
          if (texel >= begin && texel < end)
            for (int c = 0; c < 3; ++c) grad_maps[3 * texel + c] += weight * g.rgb[c];
        });
  });
}

}  // namespace

template <class T>
void render_faces_backward_cpu(const RasterInput<T>& in, const Surface<T>& surface, const Blend<T>& blend,
                               const RenderGrads<T>& grads) {
  const TiledScene<T> scene(in, tile_height_for(blend.K));
  auto work = workspaces(scene, blend);
  const Scratch<int32_t> slots(in.F * num_threads(), cpu);
  std::fill(slots.begin(), slots.end(), -1);
  std::vector<TileGrads<T>> tiles(scene.num_tiles());
  for_each_task(scene.num_tiles(), [&](int64_t index, int worker) {
    const Tile<T> tile(scene, index);
    if (tile.list_size == 0) return;
    find_hits(scene, tile, blend, work[worker]);
    TileBackward<T>(in, surface, blend, grads, scene, tile, work[worker].hits, slots.data() + in.F * worker,
                    tiles[index])
        .run();
  });

  const Columns columns(surface, grads);
  const auto parts = [&](int first) {
    std::vector<FaceGrads<T>> all;
    for (const auto& t : tiles)
      all.push_back({t.faces.data(), t.sums.data() + first, static_cast<int64_t>(t.faces.size()), columns.width});
    return all;
  };
  if (grads.verts) scatter_to_verts(in, parts(columns.verts), 3, 3, grads.verts);
  const auto A = static_cast<int>(surface.A);
  if (grads.attributes) scatter_to_verts(in, parts(columns.attributes), A, A, grads.attributes);
  if (columns.lights > columns.uvs) scatter_to_faces(in, parts(columns.uvs), 6, grads.uvs);
  if (columns.width > columns.lights) scatter_to_faces(in, parts(columns.lights), 6, grads.lights);
  if (grads.lights && surface.lighting != Lighting::face && surface.lighting != Lighting::none)
    for (int64_t index = 0; index < scene.num_tiles(); ++index)
      for (int i = 0; i < Light<T>::size; ++i)
        grads.lights[index / (scene.tiles_x * scene.tiles_y) * Light<T>::size + i] += tiles[index].light[i];
  if (grads.maps && surface.texture != Texture::vertex) scatter_to_maps(surface, tiles, grads.maps);
}

template void render_faces_cpu(const RasterInput<float>&, const Surface<float>&, const Blend<float>&, float*);
template void render_faces_cpu(const RasterInput<double>&, const Surface<double>&, const Blend<double>&, double*);
template void render_faces_backward_cpu(const RasterInput<float>&, const Surface<float>&, const Blend<float>&,
                                        const RenderGrads<float>&);
template void render_faces_backward_cpu(const RasterInput<double>&, const Surface<double>&, const Blend<double>&,
                                        const RenderGrads<double>&);

}  // namespace RECON_SIMD
}  // namespace recon
