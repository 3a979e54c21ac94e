// Forward: one task for a tile, which goes through its spheres by the depth at which they begin, until what is behind
// cannot be seen. Backward: one task for some rows; gradients are summed by sphere within them, then added in order.
#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "ops/render_spheres/kernels.h"
#include "raster/tile_lists.h"

namespace recon {
namespace RECON_SIMD {

namespace {

constexpr Device cpu;
constexpr int tile_side = 16;

template <class T>
void check_spheres(const SpheresInput<T>& in) {
  const auto refuse = [](const std::string& expected, double got, int64_t sphere) {
    throw std::invalid_argument("render_spheres: " + expected + ", got " + std::to_string(got) + " in sphere " +
                                std::to_string(sphere));
  };
  for (int64_t i = 0; i < 12 * in.B; ++i)
    if (!is_finite(in.camera[i]))
      throw std::invalid_argument("render_spheres: camera must be finite, got NaN or infinity in image " +
                                  std::to_string(i / 12));
  for_each_range(in.B * in.N, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* point = in.points + 3 * i;
      for (int d = 0; d < 3; ++d)
        if (!is_finite(point[d])) refuse("points must be finite", static_cast<double>(point[d]), i % in.N);
      if (!is_finite(in.radii[i]) || !(in.radii[i] > T(0)))
        refuse("radii must be finite and > 0", static_cast<double>(in.radii[i]), i % in.N);
      if (!(in.opacity[i] >= T(0)) || !(in.opacity[i] <= T(1)))
        refuse("opacity must be in [0, 1]", static_cast<double>(in.opacity[i]), i % in.N);
      if (in.order[i] < 0 || in.order[i] >= in.N)
        throw std::invalid_argument("render_spheres: order has " + std::to_string(in.order[i]) + " but there are " +
                                    std::to_string(in.N) + " spheres");
    }
  });
}

template <class T>
std::vector<SphereCamera<T>> cameras_of(const SpheresInput<T>& in) {
  std::vector<SphereCamera<T>> cameras;
  for (int64_t n = 0; n < in.B; ++n) cameras.emplace_back(in, n);
  return cameras;
}

// The pixels of one tile, numbered block by block: a register holds a block of neighbouring pixels.
template <class T>
struct SphereTile {
  using V = Pack<T>;
  static constexpr int lanes = V::lanes, columns = lanes < 8 ? lanes : 8, rows = lanes / columns;
  static constexpr int across = tile_side / columns, blocks = tile_side * tile_side / lanes;

  const SpheresInput<T>& in;
  const bool tracked_limit, counted_limit;
  const SphereCamera<T>* camera = nullptr;
  std::vector<V> rays;              // blocks 3
  std::vector<V> m, d, near, hits;  // blocks: as in SpheresOutput::stats
  std::vector<V> color;             // blocks C
  std::vector<V> worst;             // blocks: depth of the last tracked sphere
  std::vector<uint32_t> inside;     // blocks: lanes of pixels in the image
  std::vector<char> done;           // blocks: nothing that comes can change them
  std::vector<T> depths;            // pixels K
  std::vector<int32_t> ids;         // pixels K

  explicit SphereTile(const SpheresInput<T>& in)
      : in(in),
        tracked_limit(in.K > 0),
        counted_limit(in.max_hits < in.N),
        rays(3 * blocks),
        m(blocks),
        d(blocks),
        near(blocks),
        hits(blocks),
        color(blocks * in.C),
        worst(blocks),
        inside(blocks),
        done(blocks),
        depths(blocks * lanes * in.K),
        ids(blocks * lanes * in.K) {}

  void clear(const SphereCamera<T>& of_image, int64_t x0, int64_t y0) {
    camera = &of_image;
    constexpr T inf = std::numeric_limits<T>::infinity();
    for (int b = 0; b < blocks; ++b) {
      inside[b] = 0;
      for (int lane = 0; lane < lanes; ++lane) {
        const int64_t column = x0 + b % across * columns + lane % columns;
        const int64_t row = y0 + b / across * rows + lane / columns;
        const Vec3<T> ray = camera->ray_of(in.orthogonal, T(column), T(row));
        rays[3 * b].raw[lane] = ray.x, rays[3 * b + 1].raw[lane] = ray.y, rays[3 * b + 2].raw[lane] = ray.z;
        if (column < in.W && row < in.H) inside[b] |= 1u << lane;
      }
      m[b] = V(in.background_depth / in.gamma), d[b] = V(T(1)), near[b] = V(T(-1)), hits[b] = V(T(0));
      for (int64_t c = 0; c < in.C; ++c) color[b * in.C + c] = V(in.background[c]);
      worst[b] = V(tracked_limit ? inf : -inf);
      done[b] = inside[b] == 0;
    }
    std::fill(depths.begin(), depths.end(), inf);
    std::fill(ids.begin(), ids.end(), -1);
  }

  void draw(const Sphere<T>& s, const T* sphere_color, int b) {
    const Vec3<V> ray = {rays[3 * b], rays[3 * b + 1], rays[3 * b + 2]};
    const auto h = hit_sphere<T>(in.orthogonal, s, ray, [this]() -> const SphereCamera<T>& { return *camera; });
    Mask<T> hit = h.hit & Mask<T>::of_bits(inside[b]);
    if (counted_limit) hit = hit & (hits[b] < V(static_cast<T>(in.max_hits)));
    if (!any(hit)) return;
    const V zero(T(0)), share = h.closeness * V(s.opacity);
    // What weighs nothing does not count as the largest exponent: all others would be measured against it.
    const Mask<T> weighs = hit & (share > zero);
    const V exponent = select(weighs, (V(in.max_depth) - h.depth) * V(s.weight), m[b]);
    const V largest = maximum(m[b], exponent);
    if (any(largest > m[b])) {
      const V scale = exp(m[b] - largest);
      d[b] *= scale;
      for (int64_t c = 0; c < in.C; ++c) color[b * in.C + c] *= scale;
      m[b] = largest;
    }
    const V weight = select(weighs, share * exp(exponent - largest), zero);
    d[b] += weight;
    for (int64_t c = 0; c < in.C; ++c) color[b * in.C + c] += weight * V(sphere_color[c]);
    hits[b] += select(hit, V(T(1)), zero);
    near[b] = select(hit, maximum(near[b], V(s.near)), near[b]);
    const uint32_t nearer = (hit & (h.depth < worst[b])).bits();
    if (nearer) track(s.id, h.depth, b, nearer);
  }

  // Keeps the K hits that are nearest, of equal ones those that came first.
  void track(int32_t id, V depth, int b, uint32_t bits) {
    const int64_t K = in.K;
    for (; bits; bits &= bits - 1) {
      const int lane = __builtin_ctz(bits);
      T* depth_of = depths.data() + (b * lanes + lane) * K;
      int32_t* id_of = ids.data() + (b * lanes + lane) * K;
      const T mine = depth[lane];
      int64_t k = K - 1;
      for (; k > 0 && mine < depth_of[k - 1]; --k) depth_of[k] = depth_of[k - 1], id_of[k] = id_of[k - 1];
      depth_of[k] = mine, id_of[k] = id;
      worst[b].raw[lane] = depth_of[K - 1];
    }
  }

  // Marks the blocks in which `rest` spheres that begin at `near_next` or behind it change nothing; are all of them?
  bool finish_blocks(T near_next, int64_t rest) {
    const T most = in.exponent(near_next) + std::log(static_cast<T>(rest)) + unseen_share<T>;
    bool all = true;
    for (int b = 0; b < blocks; ++b) {
      if (done[b]) continue;
      Mask<T> ready = (V(most) < m[b] + log(d[b])) & (worst[b] <= V(near_next));
      if (counted_limit) ready = ready | (hits[b] >= V(static_cast<T>(in.max_hits)));
      done[b] = (~ready.bits() & inside[b]) == 0;
      all = all && done[b];
    }
    return all;
  }

  void write(const SpheresOutput<T>& out, int64_t image, int64_t x0, int64_t y0) {
    for (int b = 0; b < blocks; ++b)
      for (int lane = 0; lane < lanes; ++lane) {
        if (!(inside[b] >> lane & 1)) continue;
        const int64_t column = x0 + b % across * columns + lane % columns;
        const int64_t row = y0 + b / across * rows + lane / columns;
        const int64_t at = (image * in.H + row) * in.W + column, from = (b * lanes + lane) * in.K;
        const T scale = T(1) / maximum(d[b][lane], least_total<T>);
        for (int64_t c = 0; c < in.C; ++c) out.image[at * in.C + c] = color[b * in.C + c][lane] * scale;
        T* stats = out.stats + 4 * at;
        stats[0] = m[b][lane], stats[1] = d[b][lane], stats[2] = near[b][lane], stats[3] = hits[b][lane];
        for (int64_t k = 0; k < in.K; ++k) {
          out.ids[at * in.K + k] = ids[from + k];
          out.depths[at * in.K + k] = ids[from + k] < 0 ? T(-1) : depths[from + k];
        }
      }
  }
};

// Spheres in the order of `SpheresInput::order`, in the frames of their cameras, and their pixels.
template <class T>
struct OrderedSpheres {
  Scratch<Sphere<T>> spheres;
  Scratch<PixelBox> boxes;

  OrderedSpheres(const SpheresInput<T>& in, const std::vector<SphereCamera<T>>& cameras)
      : spheres(in.B * in.N, cpu), boxes(in.B * in.N, cpu) {
    for_each_range(in.B * in.N, 1024, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const SphereCamera<T>& camera = cameras[i / in.N];
        const bool drawn = make_sphere(in, camera, i / in.N, in.order[i], spheres[i]);
        boxes[i] = drawn ? sphere_box(in, camera, spheres[i]) : PixelBox{0, -1, 0, -1};
      }
    });
  }
};

}  // namespace

template <class T>
void render_spheres_cpu(const SpheresInput<T>& in, const SpheresOutput<T>& out) {
  check_spheres(in);
  const std::vector<SphereCamera<T>> cameras = cameras_of(in);
  const OrderedSpheres<T> ordered(in, cameras);
  const TileLists tiles(ordered.boxes.data(), in.B, in.N, in.H, in.W, tile_side, tile_side);
  std::vector<SphereTile<T>> of_worker(num_threads(), SphereTile<T>(in));
  for_each_task(tiles.num_tiles(), [&](int64_t index, int worker) {
    using Tile = SphereTile<T>;
    constexpr int interval = 16;  // spheres between two looks at what can still be seen
    const int64_t image = index / (tiles.tiles_x * tiles.tiles_y), in_image = index % (tiles.tiles_x * tiles.tiles_y);
    const int64_t x0 = in_image % tiles.tiles_x * tile_side, y0 = in_image / tiles.tiles_x * tile_side;
    const int64_t begin = tiles.offsets[index], end = tiles.offsets[index + 1];
    Tile& tile = of_worker[worker];
    tile.clear(cameras[image], x0, y0);
    for (int64_t q = begin; q < end; ++q) {
      const int64_t at = image * in.N + tiles.list[q];
      const Sphere<T>& s = ordered.spheres[at];
      if ((q - begin) % interval == interval - 1 && !in.count_all && tile.finish_blocks(s.near, end - q)) break;
      const PixelBox& box = ordered.boxes[at];
      const int i0 = static_cast<int>(std::max<int64_t>(box.i0 - x0, 0)) / Tile::columns;
      const int i1 = static_cast<int>(std::min<int64_t>(box.i1 - x0, tile_side - 1)) / Tile::columns;
      const int j0 = static_cast<int>(std::max<int64_t>(box.j0 - y0, 0)) / Tile::rows;
      const int j1 = static_cast<int>(std::min<int64_t>(box.j1 - y0, tile_side - 1)) / Tile::rows;
      const T* color = in.colors + (image * in.N + s.id) * in.C;
      for (int row = j0; row <= j1; ++row)
        for (int column = i0; column <= i1; ++column)
          if (const int b = row * Tile::across + column; !tile.done[b]) tile.draw(s, color, b);
    }
    tile.write(out, image, x0, y0);
  });
}

namespace {

// The sums of some rows' gradients by sphere.
template <class T>
struct RowSums {
  int64_t image;
  std::vector<int32_t> ids;
  std::vector<T> sums;
};

}  // namespace

template <class T>
void sum_spheres_cpu(const SpheresInput<T>& in, const SpheresGrads<T>& g, T* sums) {
  constexpr int64_t rows = 8;
  const int64_t bands = (in.H + rows - 1) / rows, width = SphereSums::colors + in.C;
  const std::vector<SphereCamera<T>> cameras = cameras_of(in);
  const Scratch<Sphere<T>> spheres(in.B * in.N, cpu);
  for_each_range(in.B * in.N, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) make_sphere(in, cameras[i / in.N], i / in.N, i % in.N, spheres[i]);
  });
  std::vector<RowSums<T>> results(in.B * bands);
  const Scratch<int32_t> slots(in.N * num_threads(), cpu);
  std::fill(slots.begin(), slots.end(), -1);
  for_each_task(in.B * bands, [&](int64_t index, int worker) {
    const int64_t image = index / bands, begin = index % bands * rows, end = std::min(begin + rows, in.H);
    RowSums<T>& result = results[index];
    result.image = image;
    int32_t* slot_of = slots.data() + in.N * worker;
    for (int64_t row = begin; row < end; ++row)
      for (int64_t column = 0; column < in.W; ++column) {
        if (in.K == 0 || g.ids[((image * in.H + row) * in.W + column) * in.K] < 0) continue;
        const SpherePixel<T> pixel(in, g, cameras[image], image, row, column);
        for (int64_t k = 0; k < in.K; ++k) {
          const int64_t id = g.ids[pixel.at * in.K + k];
          if (id < 0) break;  // hits come first
          if (id >= in.N)
            throw std::invalid_argument("render_spheres: ids has " + std::to_string(id) + " but there are " +
                                        std::to_string(in.N) + " spheres");
          if (slot_of[id] < 0) {
            slot_of[id] = static_cast<int32_t>(result.ids.size());
            result.ids.push_back(static_cast<int32_t>(id));
            result.sums.insert(result.sums.end(), width, T(0));
          }
          T* of_sphere = result.sums.data() + width * slot_of[id];
          const int64_t at = image * in.N + id;
          pixel.add_hit(in, cameras[image], spheres[at], in.colors + at * in.C,
                        [&](int entry, T value) { of_sphere[entry] += value; });
        }
      }
    for (const int32_t id : result.ids) slot_of[id] = -1;
  });

  int64_t total = 0;
  for (const auto& r : results) total += static_cast<int64_t>(r.ids.size());
  // Below some thousand entries one thread is faster than waking another.
  const int64_t shares = total < 4096 ? 1 : num_threads();
  for_each_task(shares, [&](int64_t share, int) {
    const int64_t begin = in.N * share / shares, end = in.N * (share + 1) / shares;
    for (const auto& r : results)
      for (size_t q = 0; q < r.ids.size(); ++q) {
        if (r.ids[q] < begin || r.ids[q] >= end) continue;
        T* of_sphere = sums + (r.image * in.N + r.ids[q]) * width;
        for (int64_t e = 0; e < width; ++e) of_sphere[e] += r.sums[q * width + e];
      }
  });
}

template void render_spheres_cpu(const SpheresInput<float>&, const SpheresOutput<float>&);
template void render_spheres_cpu(const SpheresInput<double>&, const SpheresOutput<double>&);
template void sum_spheres_cpu(const SpheresInput<float>&, const SpheresGrads<float>&, float*);
template void sum_spheres_cpu(const SpheresInput<double>&, const SpheresGrads<double>&, double*);

}  // namespace RECON_SIMD
}  // namespace recon
