#pragma once
// What the CUDA kernels of points share. A block owns a tile of the image and a thread a pixel, as for faces. The block
// goes through the points that may touch its tile in ascending order and keeps them in shared memory, and each thread
// the keys (z, point) of the nearest that hit its pixel.
#include "raster/cuda.h"
#include "raster/points.h"

namespace recon {

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

#ifdef __CUDACC__
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
  static constexpr int capacity = K;
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
#endif

}  // namespace recon
