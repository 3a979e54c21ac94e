// Forward: a block owns a tile of the image and a thread a pixel, as for faces. The block goes through the spheres that
// may touch its tile by the depth at which they begin, keeps them in shared memory, and stops when nobody can see what
// is left. Few channels and tracked spheres are kept in registers, many in the outputs themselves. Backward: lanes of a
// warp that track the same sphere add up before one of them adds to its sums; in deterministic mode a block gathers all
// pixels of a sphere instead.
#include "core/scratch.h"
#include "math/sum.h"
#include "ops/render_spheres/kernels.h"
#include "raster/cuda.h"

namespace recon {

namespace {

template <class T>
struct CudaSpheres {
  SpheresInput<T> in;
  CudaScene<T> scene;  // of as many faces: its tiles, boxes and bins serve spheres as well; the faces stay unset
  Sphere<T>* spheres;  // B N, in the order of their depths

  explicit CudaSpheres(const SpheresInput<T>& in)
      : in(in),
        scene(RasterInput<T>{nullptr, 0, nullptr, in.B * in.N, nullptr, nullptr, nullptr, in.B, in.H, in.W, T(0), false,
                             false, false}),
        spheres(nullptr) {}

  // Sets sphere i up. What the CPU refuses cannot raise from here: it is left out.
  RECON_HD void operator()(int64_t i) const {
    const int64_t image = i / in.N, id = in.order[i];
    const SphereCamera<T> camera(in, image);
    PixelBox box = {0, -1, 0, -1};
    if (id >= 0 && id < in.N && make_sphere(in, camera, image, id, spheres[i]))
      box = sphere_box(in, camera, spheres[i]);
    scene.boxes[i] = box;
  }
};

// Spheres, boxes and bins, in memory that must live until the kernels that use it were launched.
template <class T>
class CudaSpheresMemory {
 public:
  CudaSpheresMemory(const SpheresInput<T>& in, const Device& device)
      : all(in), spheres_(in.B * in.N, device), boxes_(in.B * in.N, device), bins_(all.scene, device) {
    all.spheres = spheres_.data(), all.scene.boxes = boxes_.data();
    parallel_for(device, in.B * in.N, all);
    bins_.fill(all.scene, device);
  }
  CudaSpheres<T> all;

 private:
  Scratch<Sphere<T>> spheres_;
  Scratch<PixelBox> boxes_;
  CudaBinMemory bins_;
};

// What a block knows of its tile.
template <class T>
struct CudaSphereTile {
  CudaWalk walk;
  Sphere<T> list[cuda_threads];

  // One for a block, whoever asks.
  static __device__ CudaSphereTile& get() {
    __shared__ CudaSphereTile tile;
    return tile;
  }
};

// Lets the painter of each pixel draw the spheres of its image that touch its tile, by depth.
template <class T, class Painter>
__device__ void draw_spheres(const CudaSpheres<T>& s, const CudaPixel<T>& pixel, Painter& painter) {
  CudaSphereTile<T>& tile = CudaSphereTile<T>::get();
  const int64_t first = pixel.mesh * s.in.N, end = first + s.in.N;
  tile.walk(s.scene.bins, pixel.tile_row, pixel.tile_column, first, end, [&](int64_t i, int64_t least) {
    const bool touches = i >= 0 && pixel.tile_touches(s.scene.boxes[i]);
    const auto [at, total] = tile.walk.place(touches);
    if (touches) tile.list[at] = s.spheres[i];
    __syncthreads();
    if (total > 0 && !painter.done) painter.finish(tile.list[0].near, end - least);
    for (int k = 0; k < total && !painter.done; ++k) painter.draw(tile.list[k]);
    // Nobody may fill the list again before all have drawn; what is left matters to nobody when all are done.
    return static_cast<bool>(__syncthreads_and(painter.done));
  });
}

// The colour of a pixel and the spheres that it tracks, in registers: every index is known to the compiler.
template <class T, int C, int K>
struct SpheresInRegisters {
  T color[C], depth[K];
  int32_t id[K];

  __device__ SpheresInRegisters(const SpheresInput<T>& in, const SpheresOutput<T>&, int64_t) {
#pragma unroll
    for (int c = 0; c < C; ++c) color[c] = c < in.C ? in.background[c] : T(0);
#pragma unroll
    for (int k = 0; k < K; ++k) depth[k] = T(INFINITY), id[k] = -1;
  }
  __device__ void scale_color(const SpheresInput<T>&, T by) {
#pragma unroll
    for (int c = 0; c < C; ++c) color[c] *= by;
  }
  __device__ void add_color(const SpheresInput<T>& in, const T* other, T weight) {
#pragma unroll
    for (int c = 0; c < C; ++c)
      if (c < in.C) color[c] += weight * other[c];
  }
  __device__ T worst(const SpheresInput<T>& in) const {
    T found = T(-INFINITY);
#pragma unroll
    for (int k = 0; k < K; ++k)
      if (k == in.K - 1) found = depth[k];
    return found;
  }
  __device__ void track(const SpheresInput<T>&, T new_depth, int32_t new_id) {
    bool found = false;  // its place: from there on, each moves to the next one
#pragma unroll
    for (int k = 0; k < K; ++k) {
      found = found || new_depth < depth[k];
      const T next_depth = found ? depth[k] : new_depth;
      const int32_t next_id = found ? id[k] : new_id;
      depth[k] = found ? new_depth : depth[k], id[k] = found ? new_id : id[k];
      new_depth = next_depth, new_id = next_id;
    }
  }
  __device__ void write(const SpheresInput<T>& in, const SpheresOutput<T>& out, int64_t at, T scale) const {
#pragma unroll
    for (int c = 0; c < C; ++c)
      if (c < in.C) out.image[at * in.C + c] = color[c] * scale;
#pragma unroll
    for (int k = 0; k < K; ++k)
      if (k < in.K) out.ids[at * in.K + k] = id[k], out.depths[at * in.K + k] = id[k] < 0 ? T(-1) : depth[k];
  }
};

// The same in the outputs, for any numbers.
template <class T>
struct SpheresInOutputs {
  T *color, *depth;
  int32_t* id;

  __device__ SpheresInOutputs(const SpheresInput<T>& in, const SpheresOutput<T>& out, int64_t at)
      : color(out.image + at * in.C), depth(out.depths + at * in.K), id(out.ids + at * in.K) {
    if (at < 0) return;
    for (int64_t c = 0; c < in.C; ++c) color[c] = in.background[c];
    for (int64_t k = 0; k < in.K; ++k) depth[k] = T(INFINITY), id[k] = -1;
  }
  __device__ void scale_color(const SpheresInput<T>& in, T by) {
    for (int64_t c = 0; c < in.C; ++c) color[c] *= by;
  }
  __device__ void add_color(const SpheresInput<T>& in, const T* other, T weight) {
    for (int64_t c = 0; c < in.C; ++c) color[c] += weight * other[c];
  }
  __device__ T worst(const SpheresInput<T>& in) const { return in.K > 0 ? depth[in.K - 1] : T(-INFINITY); }
  __device__ void track(const SpheresInput<T>& in, T new_depth, int32_t new_id) {
    int64_t k = in.K - 1;
    for (; k > 0 && new_depth < depth[k - 1]; --k) depth[k] = depth[k - 1], id[k] = id[k - 1];
    depth[k] = new_depth, id[k] = new_id;
  }
  __device__ void write(const SpheresInput<T>& in, const SpheresOutput<T>&, int64_t, T scale) {
    scale_color(in, scale);
    for (int64_t k = 0; k < in.K; ++k)
      if (id[k] < 0) depth[k] = T(-1);
  }
};

// One pixel of the forward pass.
template <class T, class Memory>
struct SpherePainter {
  const SpheresInput<T>& in;
  const T* colors;  // of the spheres of the image
  int64_t image;
  Vec3<T> ray;
  Memory memory;
  T largest, total, near, hits;
  bool done;  // nothing that comes can change it

  __device__ SpherePainter(const CudaSpheres<T>& s, const CudaPixel<T>& pixel, const SpheresOutput<T>& out)
      : in(s.in),
        colors(s.in.colors + pixel.mesh * s.in.N * s.in.C),
        image(pixel.mesh),
        ray(SphereCamera<T>(s.in, pixel.mesh)
                .ray_of(s.in.orthogonal, static_cast<T>(pixel.column), static_cast<T>(pixel.row))),
        memory(s.in, out, pixel.in_image ? pixel.index(s.scene) : -1),
        largest(s.in.background_depth / s.in.gamma),
        total(1),
        near(-1),
        hits(0),
        done(!pixel.in_image) {}

  // Sees whether `rest` spheres that begin at `depth` or behind it can change anything.
  __device__ void finish(T depth, int64_t rest) {
    if (in.count_all) return;
    done = in.exponent(depth) + log(static_cast<T>(rest)) + unseen_share<T> < largest + log(total) &&
           memory.worst(in) <= depth;
  }

  __device__ void draw(const Sphere<T>& s) {
    const auto h = hit_sphere<T>(in.orthogonal, s, ray, [this] { return SphereCamera<T>(in, image); });
    if (!h.hit) return;
    const T share = h.closeness * s.opacity;
    // What weighs nothing does not count as the largest exponent: all others would be measured against it.
    if (share > T(0)) {
      const T exponent = (in.max_depth - h.depth) * s.weight;
      if (exponent > largest) {
        const T scale = exp(largest - exponent);
        total *= scale, largest = exponent;
        memory.scale_color(in, scale);
      }
      const T weight = share * exp(exponent - largest);
      total += weight;
      memory.add_color(in, colors + int64_t{s.id} * in.C, weight);
    }
    hits += T(1), near = maximum(near, s.near);
    if (h.depth < memory.worst(in)) memory.track(in, h.depth, s.id);
    if (hits >= static_cast<T>(in.max_hits)) done = true;
  }

  __device__ void write(const SpheresOutput<T>& out, int64_t at) {
    memory.write(in, out, at, T(1) / maximum(total, least_total<T>));
    T* stats = out.stats + 4 * at;
    stats[0] = largest, stats[1] = total, stats[2] = near, stats[3] = hits;
  }
};

template <class T, class Memory>
__global__ void __launch_bounds__(cuda_threads, sizeof(T) == 4 ? 3 : 1)
    spheres_kernel(CudaSpheres<T> s, SpheresOutput<T> out) {
  const CudaPixel<T> pixel(s.scene);
  SpherePainter<T, Memory> painter(s, pixel, out);
  draw_spheres(s, pixel, painter);
  if (pixel.in_image) painter.write(out, pixel.index(s.scene));
}

// Adds v, of all lanes that are peers, to *p.
template <class T>
__device__ void add_of_peers(unsigned peers, T* p, T v) {
  T total[1] = {v};
  if (peers == whole_warp) {
    warp_sum(total);
  } else {
    total[0] = T(0);
    for (unsigned rest = peers; rest; rest &= rest - 1) total[0] += __shfl_sync(peers, v, __ffs(rest) - 1);
  }
  if (static_cast<int>(threadIdx.x % 32) == __ffs(peers) - 1) atomic_add(p, total[0]);
}

template <class T>
__global__ void sum_spheres_kernel(CudaSpheres<T> s, SpheresGrads<T> g, T* sums) {
  const SpheresInput<T>& in = s.in;
  const CudaPixel<T> at(s.scene);
  const SphereCamera<T> camera(in, at.mesh);
  const SpherePixel<T> pixel(in, g, camera, at.mesh, at.in_image ? at.row : 0, at.in_image ? at.column : 0);
  bool more = at.in_image;
  for (int64_t k = 0; k < in.K; ++k) {
    const int32_t id = more ? g.ids[pixel.at * in.K + k] : -1;
    more = id >= 0;  // hits come first
    const bool counts = more && id < in.N;
    const unsigned active = __ballot_sync(whole_warp, counts);
    if (!__any_sync(whole_warp, more)) break;
    if (!counts) continue;
    const unsigned peers = __match_any_sync(active, id);
    const int64_t of = at.mesh * in.N + id;
    Sphere<T> sphere;
    make_sphere(in, camera, at.mesh, id, sphere);
    T* of_sphere = sums + of * (SphereSums::colors + in.C);
    pixel.add_hit(in, camera, sphere, in.colors + of * in.C,
                  [&](int entry, T value) { add_of_peers(peers, of_sphere + entry, value); });
  }
}

// One block for a sphere, which alone adds to it: some of the sums at a time.
template <class T>
__global__ void sum_spheres_deterministic_kernel(CudaSpheres<T> s, SpheresGrads<T> g, T* sums) {
  constexpr int at_once = 16;
  const SpheresInput<T>& in = s.in;
  const int64_t n = blockIdx.x / in.N, id = blockIdx.x % in.N;
  const SphereCamera<T> camera(in, n);
  Sphere<T> sphere;
  if (!make_sphere(in, camera, n, id, sphere)) return;
  const PixelBox box = sphere_box(in, camera, sphere);
  const int64_t across = box.i1 - box.i0 + 1, pixels = across > 0 ? across * (box.j1 - box.j0 + 1) : 0;
  const int width = static_cast<int>(SphereSums::colors + in.C);
  for (int first = 0; first < width; first += at_once) {
    T values[at_once] = {};
    for (int64_t i = threadIdx.x; i < pixels; i += blockDim.x) {
      const SpherePixel<T> pixel(in, g, camera, n, box.j0 + i / across, box.i0 + i % across);
      for (int64_t k = 0; k < in.K && g.ids[pixel.at * in.K + k] >= 0; ++k)
        if (g.ids[pixel.at * in.K + k] == id)
          pixel.add_hit(in, camera, sphere, in.colors + int64_t{blockIdx.x} * in.C, [&](int entry, T value) {
            if (entry >= first && entry < first + at_once) values[entry - first] += value;
          });
    }
    block_sum(values);
    if (threadIdx.x == 0)
      for (int e = 0; e < at_once && first + e < width; ++e) sums[int64_t{blockIdx.x} * width + first + e] += values[e];
  }
}

template <class T>
struct FillZero {
  T* to;
  RECON_HD void operator()(int64_t i) const { to[i] = T(0); }
};

struct EqualSegments {
  int64_t* segments;
  int64_t size;
  RECON_HD void operator()(int64_t i) const { segments[i] = i * size; }
};

template <class T>
struct AddTo {
  const T* from;
  T* to;
  RECON_HD void operator()(int64_t i) const { to[i] += from[i]; }
};

// The sums of `count` segments of `size` terms each.
template <class T>
void segment_sums(const T* terms, int64_t count, int64_t size, T* out, const Device& device) {
  const Scratch<int64_t> segments(count + 1, device);
  parallel_for(device, count + 1, EqualSegments{segments.data(), size});
  ordered_sums(device, terms, segments.data(), count, out);
}

}  // namespace

template <class T>
void render_spheres_cuda(const SpheresInput<T>& in, const SpheresOutput<T>& out, const Device& device) {
  const CudaSpheresMemory<T> memory(in, device);
  const auto tiles = static_cast<unsigned>(memory.all.scene.num_tiles());
  if (tiles == 0) return;
  const auto run = [&](auto kernel) { launch(kernel, tiles, cuda_threads, device, memory.all, out); };
  if (in.C > 4 || in.K > 8)
    run(spheres_kernel<T, SpheresInOutputs<T>>);
  else
    run(spheres_kernel<T, SpheresInRegisters<T, 4, 8>>);
}

template <class T>
void render_spheres_backward_cuda(const SpheresInput<T>& in, const SpheresGrads<T>& g, const Device& device) {
  constexpr int64_t each = FinishSphere<T>::camera_terms;
  const int64_t spheres = in.B * in.N, width = SphereSums::colors + in.C, pixels = in.B * in.H * in.W;
  const Scratch<T> sums(spheres * width, device);
  parallel_for(device, spheres * width, FillZero<T>{sums.data()});
  const CudaSpheres<T> all(in);
  const auto tiles = static_cast<unsigned>(all.scene.num_tiles());
  if (spheres > 0 && tiles > 0 && in.K > 0) {
    if (deterministic())
      launch(sum_spheres_deterministic_kernel<T>, static_cast<unsigned>(spheres), 128, device, all, g, sums.data());
    else
      launch(sum_spheres_kernel<T>, tiles, cuda_threads, device, all, g, sums.data());
  }
  const Scratch<T> terms(g.camera ? spheres * each : 0, device);
  parallel_for(device, spheres, FinishSphere<T>{in, g, sums.data(), g.camera ? terms.data() : nullptr});
  if (g.camera && in.B > 0) {
    const Scratch<T> totals(in.B * each, device);
    segment_sums(terms.data(), in.B * each, in.N, totals.data(), device);
    parallel_for(device, in.B, FinishCamera<T>{totals.data(), g.camera, in.average});
  }
  if (g.background && in.C > 0) {
    const Scratch<T> of_pixels(in.C * pixels, device), totals(in.C, device);
    parallel_for(device, pixels, BackgroundTerms<T>{in, g, of_pixels.data()});
    segment_sums(of_pixels.data(), in.C, pixels, totals.data(), device);
    parallel_for(device, in.C, AddTo<T>{totals.data(), g.background});
  }
}

template void render_spheres_cuda(const SpheresInput<float>&, const SpheresOutput<float>&, const Device&);
template void render_spheres_cuda(const SpheresInput<double>&, const SpheresOutput<double>&, const Device&);
template void render_spheres_backward_cuda(const SpheresInput<float>&, const SpheresGrads<float>&, const Device&);
template void render_spheres_backward_cuda(const SpheresInput<double>&, const SpheresGrads<double>&, const Device&);

}  // namespace recon
