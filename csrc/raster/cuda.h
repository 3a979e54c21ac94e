#pragma once
// What the CUDA rasterisers share. One block of 16 x 16 threads for a tile, one thread for a pixel: the block tests the
// pixel boxes of 256 faces at a time against its tile and keeps those that touch it in shared memory, in ascending
// order. There are no lists in global memory, so there is nothing to size, to overflow or to synchronise for.
#include "core/parallel.h"
#include "raster/scene.h"

namespace recon {

constexpr int cuda_tile = 16;
constexpr int cuda_threads = cuda_tile * cuda_tile;

// The scene on the device: faces set up, and where their pixels are.
template <class T>
struct CudaScene {
  RasterInput<T> in;
  RasterFace<T>* faces;
  PixelBox* boxes;
  int64_t tiles_x, tiles_y;

  RECON_HD void operator()(int64_t f) const {
    const int64_t* v = in.faces + 3 * f;
    PixelBox box = {0, -1, 0, -1};
    // An index out of range or a vertex that is not finite cannot raise from here: the face is left out.
    if (v[0] >= 0 && v[0] < in.V && v[1] >= 0 && v[1] < in.V && v[2] >= 0 && v[2] < in.V &&
        make_raster_face(in.verts + 3 * v[0], in.verts + 3 * v[1], in.verts + 3 * v[2], in.blur_radius,
                         in.cull_backfaces, faces[f]) == FaceKind::visible)
      box = pixel_box(faces[f], PixelCenters<T>{in.W, in.H}, PixelCenters<T>{in.H, in.W}, in.H, in.W, in.blur_radius);
    boxes[f] = box;
  }
};

// Sets the scene up in memory that must live until the kernels that use it were launched.
template <class T>
class CudaSceneMemory {
 public:
  CudaSceneMemory(const RasterInput<T>& in, const Device& device) : faces_(in.F, device), boxes_(in.F, device) {
    scene = {in, faces_.data(), boxes_.data(), (in.W + cuda_tile - 1) / cuda_tile, (in.H + cuda_tile - 1) / cuda_tile};
    parallel_for(device, in.F, scene);
  }
  int64_t num_tiles() const { return scene.in.N * scene.tiles_x * scene.tiles_y; }
  CudaScene<T> scene;

 private:
  Scratch<RasterFace<T>> faces_;
  Scratch<PixelBox> boxes_;
};

#ifdef __CUDACC__
// The pixel of this thread.
template <class T>
struct CudaPixel {
  int64_t mesh, row, column, tile_row, tile_column;
  bool in_image;
  T px, py;

  __device__ explicit CudaPixel(const CudaScene<T>& s) {
    const int64_t per_mesh = s.tiles_x * s.tiles_y, in_mesh = blockIdx.x % per_mesh;
    mesh = blockIdx.x / per_mesh;
    tile_row = in_mesh / s.tiles_x * cuda_tile, tile_column = in_mesh % s.tiles_x * cuda_tile;
    row = tile_row + threadIdx.x / cuda_tile, column = tile_column + threadIdx.x % cuda_tile;
    in_image = row < s.in.H && column < s.in.W;
    px = pixel_center<T>(s.in.W - 1 - column, s.in.W, s.in.H);
    py = pixel_center<T>(s.in.H - 1 - row, s.in.H, s.in.W);
  }
  __device__ int64_t index(const CudaScene<T>& s) const { return (mesh * s.in.H + row) * s.in.W + column; }
  __device__ bool in_box(const PixelBox& b) const {
    return in_image && column >= b.i0 && column <= b.i1 && row >= b.j0 && row <= b.j1;
  }
};

// Calls body(face) in every thread for the faces of the mesh, in ascending order, whose box holds the thread's pixel.
// Every thread of the block must take part.
template <class T, class F>
__device__ void for_each_face(const CudaScene<T>& s, const CudaPixel<T>& pixel, const F& body) {
  __shared__ int32_t list[cuda_threads];
  __shared__ PixelBox boxes[cuda_threads];
  __shared__ int warp_counts[cuda_threads / 32];
  // A mesh that claims faces that do not exist cannot raise from here: they are left out.
  const int64_t begin = s.in.first[pixel.mesh], stop = begin + s.in.count[pixel.mesh];
  const int64_t first = begin < 0 ? 0 : begin, end = stop > s.in.F ? s.in.F : stop;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int64_t base = first; base < end; base += cuda_threads) {
    const int64_t f = base + threadIdx.x;
    PixelBox box = {0, -1, 0, -1};
    if (f < end) box = s.boxes[f];
    const bool touches = box.i0 <= box.i1 && box.i0 < pixel.tile_column + cuda_tile && box.i1 >= pixel.tile_column &&
                         box.j0 < pixel.tile_row + cuda_tile && box.j1 >= pixel.tile_row;
    const unsigned ballot = __ballot_sync(~0u, touches);
    if (lane == 0) warp_counts[warp] = __popc(ballot);
    __syncthreads();
    int before = 0, total = 0;
    for (int w = 0; w < cuda_threads / 32; ++w) {
      if (w < warp) before += warp_counts[w];
      total += warp_counts[w];
    }
    if (touches) {
      const int at = before + __popc(ballot & ((1u << lane) - 1u));
      list[at] = static_cast<int32_t>(f), boxes[at] = box;
    }
    __syncthreads();
    for (int k = 0; k < total; ++k)
      if (pixel.in_box(boxes[k])) body(list[k]);
    __syncthreads();
  }
}

// The sum over a block of cuda_threads / 2 or fewer threads, in a fixed order; valid in thread 0.
template <class T, int N>
__device__ void block_sum(T (&values)[N]) {
  __shared__ T partial[cuda_threads / 32][N];
  for (int d = 0; d < N; ++d)
    for (int offset = 16; offset > 0; offset /= 2) values[d] += __shfl_down_sync(~0u, values[d], offset);
  if (threadIdx.x % 32 == 0)
    for (int d = 0; d < N; ++d) partial[threadIdx.x / 32][d] = values[d];
  __syncthreads();
  if (threadIdx.x == 0)
    for (int d = 0; d < N; ++d)
      for (unsigned w = 1; w < blockDim.x / 32; ++w) values[d] += partial[w][d];
  __syncthreads();
}
#endif

}  // namespace recon
