// Forward: a block owns a tile of the image and a thread a pixel, as for faces. The block goes through the points that
// may touch its tile in ascending order, keeps their numbers in shared memory, and each thread the keys (z, point) of
// its K nearest hits: in registers for small K, in local memory for larger ones and in the outputs themselves for any
// other. Backward: lanes of a warp that hit the same point add up before one of them adds to it; in deterministic mode
// a block gathers all pixels of a point instead.
#include "ops/rasterize_points/kernels.h"
#include "raster/cuda.h"

namespace recon {

namespace {

template <class T>
struct CudaPoints {
  PointsInput<T> in;
  CudaScene<T> scene;  // of as many faces: its tiles, boxes and bins serve points as well; the faces stay unset

  explicit CudaPoints(const PointsInput<T>& in)
      : in(in),
        scene(RasterInput<T>{nullptr, 0, nullptr, in.P, in.first, in.count, nullptr, in.N, in.H, in.W, T(0), false,
                             false, false}) {}

  // Finds the pixels of point p. What the CPU refuses cannot raise from here: it is left out.
  RECON_HD void operator()(int64_t p) const {
    const T *point = in.points + 3 * p, radius = in.radius[p];
    const bool valid = is_finite(point[0]) && is_finite(point[1]) && is_finite(point[2]) && is_finite(radius);
    PixelBox box = {0, -1, 0, -1};
    if (valid) box = disc_box(point, radius, PixelCenters<T>{in.W, in.H}, PixelCenters<T>{in.H, in.W}, in.H, in.W);
    scene.boxes[p] = box;
  }
};

// Boxes and bins of the points, in memory that must live until the kernels that use it were launched.
template <class T>
class CudaPointsMemory {
 public:
  CudaPointsMemory(const PointsInput<T>& in, const Device& device, bool with_bins)
      : points(in),
        boxes_(in.P, device),
        words_(with_bins && in.P > many ? points.scene.bins.size() : 0, device),
        summary_(words_.size() / 32, device) {
    CudaScene<T>& scene = points.scene;
    scene.boxes = boxes_.data();
    parallel_for(device, in.P, points);
    if (words_.size() == 0) return;
    scene.bins.words = words_.data(), scene.bins.summary = summary_.data();
    const int64_t bins = scene.bins.across * scene.bins.down;
    const dim3 blocks(static_cast<unsigned>(scene.bins.groups), static_cast<unsigned>((bins + 31) / 32));
    launch(bin_kernel<T>, blocks, static_cast<unsigned>(CudaBins::faces_of_group), device, scene);
  }
  CudaPoints<T> points;

 private:
  // To compare fewer points than this with a tile takes less time than to find out which.
  static constexpr int64_t many = 512;
  Scratch<PixelBox> boxes_;
  Scratch<uint32_t> words_, summary_;
};

// What a block knows of its tile.
template <class T>
struct CudaPointTile {
  SetBits words, bits;
  int32_t list[cuda_threads];  // of points
  T x[cuda_threads], y[cuda_threads], z[cuda_threads], sq_radius[cuda_threads];
  int32_t of_warp[cuda_threads / 32];

  // One for a block, whoever asks.
  static __device__ CudaPointTile& get() {
    __shared__ CudaPointTile tile;
    return tile;
  }
};

// Calls body(point, z, squared distance) for those of the block's points that hit the thread's pixel. Each thread
// brings one point, or -1; they ascend.
template <class T, class F>
__device__ void visit_points(const CudaPoints<T>& s, const CudaPixel<T>& pixel, CudaPointTile<T>& tile, int64_t p,
                             const F& body) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  bool touches = false;
  if (p >= 0) {
    const PixelBox box = s.scene.boxes[p];
    touches = box.i0 <= box.i1 && box.i0 < pixel.tile_column + cuda_tile && box.i1 >= pixel.tile_column &&
              box.j0 < pixel.tile_row + cuda_tile && box.j1 >= pixel.tile_row;
  }
  const uint32_t ballot = __ballot_sync(whole_warp, touches);
  if (lane == 0) tile.of_warp[warp] = __popc(ballot);
  __syncthreads();
  int at = __popc(ballot & ((1u << lane) - 1u)), total = 0;
  for (int w = 0; w < cuda_threads / 32; ++w) {
    if (w < warp) at += tile.of_warp[w];
    total += tile.of_warp[w];
  }
  if (touches) {
    const T *point = s.in.points + 3 * p, radius = s.in.radius[p];
    tile.list[at] = static_cast<int32_t>(p);
    tile.x[at] = point[0], tile.y[at] = point[1], tile.z[at] = point[2], tile.sq_radius[at] = radius * radius;
  }
  __syncthreads();
  for (int k = 0; pixel.in_image && k < total; ++k) {
    const T dx = tile.x[k] - pixel.px, dy = tile.y[k] - pixel.py;
    if (dx * dx + dy * dy < tile.sq_radius[k]) body(tile.list[k], tile.z[k]);
  }
  // Some threads may still be at it when others go on: the next call writes the list behind a barrier.
}

// Calls body(point, z) in every thread for the points of its cloud that hit its pixel, in ascending order.
template <class T, class F>
__device__ void for_each_hit(const CudaPoints<T>& s, const CudaPixel<T>& pixel, const F& body) {
  CudaPointTile<T>& tile = CudaPointTile<T>::get();
  const int t = threadIdx.x;
  // A cloud that claims points that do not exist cannot raise from here: they are left out.
  const int64_t begin = s.in.first[pixel.mesh], stop = begin + s.in.count[pixel.mesh];
  const int64_t first = begin < 0 ? 0 : begin, end = stop > s.in.P ? s.in.P : stop;
  if (first >= end) return;
  const CudaBins& bins = s.scene.bins;
  if (!bins.words) {
    for (int64_t base = first; base < end; base += cuda_threads)
      visit_points(s, pixel, tile, base + t < end ? base + t : -1, body);
    return;
  }
  const int in_bin = static_cast<int>(bins.side) * cuda_tile;
  const int64_t groups = bins.groups, group_size = CudaBins::faces_of_group;
  const int64_t bin = pixel.tile_row / in_bin * bins.across + pixel.tile_column / in_bin;
  const uint32_t *words = bins.words + bin * groups * 32, *summary = bins.summary + bin * groups;
  const int64_t end_group = (end + group_size - 1) / group_size;
  for (int64_t base = first / group_size; base < end_group; base += cuda_threads) {
    const int64_t group = base + t;
    const int num_words = tile.words.load(group < end_group ? summary[group] : 0, group);
    for (int i = 0; i < num_words; i += cuda_threads) {
      int64_t word = 0;
      uint32_t bits = 0;
      if (i + t < num_words) {
        word = tile.words[i + t], bits = words[word];
        if (word * 32 < first) bits &= first - word * 32 < 32 ? ~0u << (first - word * 32) : 0u;
        if (word * 32 + 32 > end) bits &= end > word * 32 ? ~0u >> (word * 32 + 32 - end) : 0u;
      }
      const int num_points = tile.bits.load(bits, word);
      for (int j = 0; j < num_points; j += cuda_threads)
        visit_points(s, pixel, tile, j + t < num_points ? tile.bits[j + t] : -1, body);
    }
  }
}

// The keys of the nearest hits so far, ascending, in registers: every index is known to the compiler.
template <class T, int K>
struct NearestInRegisters {
  T z[K];
  int32_t point[K];

  __device__ NearestInRegisters() {
#pragma unroll
    for (int k = 0; k < K; ++k) z[k] = T(INFINITY), point[k] = -1;
  }
  __device__ int32_t operator[](int64_t k) const {
    int32_t found = -1;
#pragma unroll
    for (int i = 0; i < K; ++i)
      if (i == k) found = point[i];
    return found;
  }
  __device__ void add(T depth, int32_t p) {
    bool found = false;  // its place: from there on, each key moves to the next one
#pragma unroll
    for (int k = 0; k < K; ++k) {
      found = found || depth < z[k] || point[k] < 0;
      const T next_z = found ? z[k] : depth;
      const int32_t next_point = found ? point[k] : p;
      z[k] = found ? depth : z[k], point[k] = found ? p : point[k];
      depth = next_z, p = next_point;
    }
  }
};

// The same in any memory, for any K.
template <class T>
struct NearestInMemory {
  T* z;
  int32_t* point;
  int64_t K, n = 0;

  __device__ NearestInMemory(T* z, int32_t* point, int64_t K) : z(z), point(point), K(K) {}

  __device__ int32_t operator[](int64_t k) const { return k < n ? point[k] : -1; }
  __device__ void add(T depth, int32_t p) {
    if (n == K && !(depth < z[K - 1])) return;
    int64_t k = n < K ? n++ : K - 1;
    for (; k > 0 && depth < z[k - 1]; --k) z[k] = z[k - 1], point[k] = point[k - 1];
    z[k] = depth, point[k] = p;
  }
};

template <class T, class Nearest>
__device__ void rasterize_pixel(const CudaPoints<T>& s, const CudaPixel<T>& pixel, const PointHits<T>& out,
                                Nearest nearest) {
  for_each_hit(s, pixel, [&](int32_t p, T z) { nearest.add(z, p); });
  if (!pixel.in_image) return;
  const int64_t first = pixel.index(s.scene) * out.K;
  for (int64_t k = 0; k < out.K; ++k) {
    const int32_t p = nearest[k];
    T z(-1), dist(-1);
    if (p >= 0) {
      const T* point = s.in.points + 3 * int64_t{p};
      const T dx = point[0] - pixel.px, dy = point[1] - pixel.py;
      z = point[2], dist = dx * dx + dy * dy;
    }
    out.idx[first + k] = p, out.zbuf[first + k] = z, out.dists2[first + k] = dist;
  }
}

template <class T, int K>
__global__ void points_in_registers_kernel(CudaPoints<T> s, PointHits<T> out) {
  rasterize_pixel(s, CudaPixel<T>(s.scene), out, NearestInRegisters<T, K>());
}

constexpr int local_keys = 64;

template <class T>
__global__ void points_in_local_memory_kernel(CudaPoints<T> s, PointHits<T> out) {
  T z[local_keys];
  int32_t point[local_keys];
  rasterize_pixel(s, CudaPixel<T>(s.scene), out, NearestInMemory<T>(z, point, out.K));
}

template <class T>
__global__ void points_in_outputs_kernel(CudaPoints<T> s, PointHits<T> out) {
  const CudaPixel<T> pixel(s.scene);
  const int64_t first = pixel.in_image ? pixel.index(s.scene) * out.K : 0;
  rasterize_pixel(s, pixel, out, NearestInMemory<T>(out.zbuf + first, out.idx + first, out.K));
}

template <class T>
__device__ void add_hit(const PointsInput<T>& in, const PointHitGrads<T>& g, int64_t at, int64_t p, T px, T py,
                        T (&sums)[3]) {
  const T *point = in.points + 3 * p, twice = T(2) * g.grad_dists2[at];
  sums[0] += twice * (point[0] - px), sums[1] += twice * (point[1] - py), sums[2] += g.grad_zbuf[at];
}

template <class T>
__global__ void points_backward_kernel(CudaPoints<T> s, PointHitGrads<T> g) {
  const CudaPixel<T> pixel(s.scene);
  const int64_t first = pixel.in_image ? pixel.index(s.scene) * g.K : 0;
  bool more = pixel.in_image;
  for (int64_t k = 0; k < g.K; ++k) {
    const int32_t p = more ? g.idx[first + k] : -1;
    more = p >= 0;  // hits come first
    const bool counts = more && p < s.in.P;
    const unsigned active = __ballot_sync(whole_warp, counts);
    if (!__any_sync(whole_warp, more)) break;
    if (!counts) continue;
    T grad[3] = {};
    add_hit(s.in, g, first + k, p, pixel.px, pixel.py, grad);
    const unsigned peers = __match_any_sync(active, p);
    if (peers == whole_warp) {
      warp_sum(grad);
    } else {
      for (int d = 0; d < 3; ++d) {
        T total(0);
        for (unsigned rest = peers; rest; rest &= rest - 1) total += __shfl_sync(peers, grad[d], __ffs(rest) - 1);
        grad[d] = total;
      }
    }
    if (static_cast<int>(threadIdx.x % 32) == __ffs(peers) - 1)
      for (int d = 0; d < 3; ++d) atomic_add(g.grad_points + 3 * int64_t{p} + d, grad[d]);
  }
}

// One block for a point, which alone adds to it.
template <class T>
__global__ void points_backward_deterministic_kernel(CudaPoints<T> s, PointHitGrads<T> g) {
  const PointsInput<T>& in = s.in;
  const int64_t p = blockIdx.x;
  const PixelBox box = s.scene.boxes[p];
  const int64_t across = box.i1 - box.i0 + 1, pixels = across > 0 ? across * (box.j1 - box.j0 + 1) : 0;
  T sums[3] = {};
  for (int64_t n = 0; n < in.N; ++n) {
    if (p < in.first[n] || p >= in.first[n] + in.count[n]) continue;
    for (int64_t i = threadIdx.x; i < pixels; i += blockDim.x) {
      const int64_t row = box.j0 + i / across, column = box.i0 + i % across;
      const int64_t first = ((n * in.H + row) * in.W + column) * g.K;
      for (int64_t at = first; at < first + g.K && g.idx[at] >= 0; ++at)
        if (g.idx[at] == p)
          add_hit(in, g, at, p, pixel_center<T>(in.W - 1 - column, in.W, in.H),
                  pixel_center<T>(in.H - 1 - row, in.H, in.W), sums);
    }
  }
  block_sum(sums);
  if (threadIdx.x == 0)
    for (int d = 0; d < 3; ++d) g.grad_points[3 * p + d] += sums[d];
}

}  // namespace

template <class T>
void rasterize_points_cuda(const PointsInput<T>& in, const PointHits<T>& out, const Device& device) {
  const CudaPointsMemory<T> memory(in, device, true);
  const auto tiles = static_cast<unsigned>(memory.points.scene.num_tiles());
  if (tiles == 0) return;
  const auto run = [&](auto kernel) { launch(kernel, tiles, cuda_threads, device, memory.points, out); };
  if (out.K > local_keys)
    run(points_in_outputs_kernel<T>);
  else if (out.K > 16)
    run(points_in_local_memory_kernel<T>);
  else if (out.K > 8)
    run(points_in_registers_kernel<T, 16>);
  else if (out.K > 4)
    run(points_in_registers_kernel<T, 8>);
  else if (out.K > 1)
    run(points_in_registers_kernel<T, 4>);
  else
    run(points_in_registers_kernel<T, 1>);
}

template <class T>
void rasterize_points_backward_cuda(const PointsInput<T>& in, const PointHitGrads<T>& grads, const Device& device) {
  if (deterministic()) {
    if (in.P == 0) return;
    const CudaPointsMemory<T> memory(in, device, false);
    return launch(points_backward_deterministic_kernel<T>, static_cast<unsigned>(in.P), 128, device, memory.points,
                  grads);
  }
  const CudaPoints<T> points(in);
  if (points.scene.num_tiles() == 0) return;
  launch(points_backward_kernel<T>, static_cast<unsigned>(points.scene.num_tiles()), cuda_threads, device, points,
         grads);
}

template void rasterize_points_cuda(const PointsInput<float>&, const PointHits<float>&, const Device&);
template void rasterize_points_cuda(const PointsInput<double>&, const PointHits<double>&, const Device&);
template void rasterize_points_backward_cuda(const PointsInput<float>&, const PointHitGrads<float>&, const Device&);
template void rasterize_points_backward_cuda(const PointsInput<double>&, const PointHitGrads<double>&, const Device&);

}  // namespace recon
