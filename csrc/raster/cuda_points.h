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
      : points(in), boxes_(in.P, device), bins_(points.scene, device, with_bins) {
    points.scene.boxes = boxes_.data();
    parallel_for(device, in.P, points);
    bins_.fill(points.scene, device);
  }
  CudaPoints<T> points;

 private:
  Scratch<PixelBox> boxes_;
  CudaBinMemory bins_;
};

// What a block knows of its tile.
template <class T>
struct CudaPointTile {
  CudaWalk walk;
  int32_t list[cuda_threads];  // of points
  T x[cuda_threads], y[cuda_threads], z[cuda_threads], sq_radius[cuda_threads];

  // One for a block, whoever asks.
  static __device__ CudaPointTile& get() {
    __shared__ CudaPointTile tile;
    return tile;
  }
};

// Calls body(point, z) in every thread for the points of its cloud that hit its pixel, in ascending order.
template <class T, class F>
__device__ void for_each_hit(const CudaPoints<T>& s, const CudaPixel<T>& pixel, const F& body) {
  CudaPointTile<T>& tile = CudaPointTile<T>::get();
  // A cloud that claims points that do not exist cannot raise from here: they are left out.
  const int64_t begin = s.in.first[pixel.mesh], stop = begin + s.in.count[pixel.mesh];
  const int64_t first = begin < 0 ? 0 : begin, end = stop > s.in.P ? s.in.P : stop;
  tile.walk(s.scene.bins, pixel.tile_row, pixel.tile_column, first, end, [&](int64_t p, int64_t) {
    const bool touches = p >= 0 && pixel.tile_touches(s.scene.boxes[p]);
    const auto [at, total] = tile.walk.place(touches);
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
    return false;
  });
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
