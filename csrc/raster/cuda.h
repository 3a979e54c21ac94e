#pragma once
// What the CUDA rasterisers share. One block of 16 x 16 threads for a tile, one thread for a pixel: the block goes
// through the faces that may touch its tile in ascending order, 256 at a time (cuda_bins.h), keeps those that do in
// shared memory and calls the kernel's code for them.
#include "raster/cuda_bins.h"

namespace recon {

// The scene on the device: faces set up, and where their pixels are.
template <class T>
struct CudaScene {
  RasterInput<T> in;
  int64_t tiles_x, tiles_y;
  CudaBins bins;
  RasterFace<T>* faces;
  PixelBox* boxes;
  T* near;  // no hit of the face has a smaller depth

  // Without memory: enough to find the pixel of a thread.
  explicit CudaScene(const RasterInput<T>& in)
      : in(in),
        tiles_x((in.W + cuda_tile - 1) / cuda_tile),
        tiles_y((in.H + cuda_tile - 1) / cuda_tile),
        bins(in.F, tiles_x, tiles_y),
        faces(nullptr),
        boxes(nullptr),
        near(nullptr) {}

  int64_t num_tiles() const { return in.N * tiles_x * tiles_y; }

  // Sets face f up.
  RECON_HD void operator()(int64_t f) const {
    const int64_t* v = in.faces + 3 * f;
    PixelBox box = {0, -1, 0, -1};
    // An index out of range or a vertex that is not finite cannot raise from here: the face is left out.
    if (v[0] >= 0 && v[0] < in.V && v[1] >= 0 && v[1] < in.V && v[2] >= 0 && v[2] < in.V &&
        make_raster_face(in.verts + 3 * v[0], in.verts + 3 * v[1], in.verts + 3 * v[2], in.blur_radius,
                         in.cull_backfaces, faces[f]) == FaceKind::visible) {
      box = pixel_box(faces[f], PixelCenters<T>{in.W, in.H}, PixelCenters<T>{in.H, in.W}, in.H, in.W, in.blur_radius);
      near[f] = smallest_depth(faces[f]);
    }
    boxes[f] = box;
  }

  // Depths are means of those of the corners, with weights that are positive: unless a blurred pixel outside of the
  // face keeps negative ones, or the weights are divided by a clamped sum. Without normalisation they sum to 1 only up
  // to the rounding of the edge functions, against the area.
  RECON_HD T smallest_depth(const RasterFace<T>& f) const {
    const T least = minimum(f.z0, minimum(f.z1, f.z2)), area = f.area > T(0) ? f.area : -f.area;
    const T epsilon = sizeof(T) == 4 ? T(6e-8) : T(1.2e-16);
    const T noise = T(32) * epsilon * (f.sq01 + f.sq02 + f.sq12 + in.blur_radius) + T(2) * raster_epsilon<T>;
    const bool negative_weights = in.blur_radius > T(0) && !in.clip;
    const bool clamped = in.perspective && !(least * f.z_scale > T(2e-4));
    if (negative_weights || clamped || !(noise < T(0.5) * area)) return T(0);
    return least * (T(1) - T(1e-5) - (in.perspective || in.clip ? T(0) : noise / area));
  }
};

#ifdef __CUDACC__
// Sets the scene up in memory that must live until the kernels that use it were launched.
template <class T>
class CudaSceneMemory {
 public:
  CudaSceneMemory(const RasterInput<T>& in, const Device& device, bool with_bins = true)
      : scene(in), faces_(in.F, device), boxes_(in.F, device), near_(in.F, device), bins_(scene, device, with_bins) {
    scene.faces = faces_.data(), scene.boxes = boxes_.data(), scene.near = near_.data();
    parallel_for(device, in.F, scene);
    bins_.fill(scene, device);
  }
  int64_t num_tiles() const { return scene.num_tiles(); }
  CudaScene<T> scene;

 private:
  Scratch<RasterFace<T>> faces_;
  Scratch<PixelBox> boxes_;
  Scratch<T> near_;
  CudaBinMemory bins_;
};

// The pixel of this thread. A warp has 8 x 4 neighbouring pixels.
template <class T>
struct CudaPixel {
  int64_t mesh;
  int row, column, tile_row, tile_column;  // in pixels
  bool in_image;
  T px, py;

  __device__ explicit CudaPixel(const CudaScene<T>& s) {
    const auto per_mesh = static_cast<unsigned>(s.tiles_x * s.tiles_y), across = static_cast<unsigned>(s.tiles_x);
    const unsigned in_mesh = blockIdx.x % per_mesh;
    mesh = blockIdx.x / per_mesh;
    tile_row = in_mesh / across * cuda_tile, tile_column = in_mesh % across * cuda_tile;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    row = tile_row + warp / 2 * 4 + lane / 8, column = tile_column + warp % 2 * 8 + lane % 8;
    in_image = row < s.in.H && column < s.in.W;
    px = pixel_center<T>(s.in.W - 1 - column, s.in.W, s.in.H);
    py = pixel_center<T>(s.in.H - 1 - row, s.in.H, s.in.W);
  }
  __device__ int64_t index(const CudaScene<T>& s) const { return (mesh * s.in.H + row) * s.in.W + column; }

  // Whether a box has pixels of the thread's tile.
  __device__ bool tile_touches(const PixelBox& box) const {
    return box.i0 <= box.i1 && box.i0 < tile_column + cuda_tile && box.i1 >= tile_column &&
           box.j0 < tile_row + cuda_tile && box.j1 >= tile_row;
  }

  // A face's pixels of the tile: a bit for each column, and above them one for each row.
  __device__ bool is_in(uint32_t pixels) const {
    return in_image && (pixels >> (column - tile_column) & pixels >> (cuda_tile + row - tile_row) & 1u);
  }
};

// What a block knows of its tile.
template <class T>
struct CudaTile {
  T x[cuda_tile], y[cuda_tile];  // pixel centres
  CudaWalk walk;
  int32_t list[cuda_threads];     // of faces
  uint32_t pixels[cuda_threads];  // of each: see CudaPixel::is_in
  T near[cuda_threads];

  // One for a block, whoever asks.
  static __device__ CudaTile& get() {
    __shared__ CudaTile tile;
    return tile;
  }
};

// The pixels of the tile that face f may hit: those of its box, if none of its edges has all of them outside.
template <class T>
__device__ uint32_t pixels_in_tile(const CudaScene<T>& s, const CudaPixel<T>& pixel, const CudaTile<T>& tile,
                                   int64_t f) {
  const PixelBox box = s.boxes[f];
  const int64_t last = cuda_tile - 1, column = pixel.tile_column, row = pixel.tile_row;
  const int i0 = static_cast<int>(box.i0 > column ? box.i0 - column : 0);
  const int j0 = static_cast<int>(box.j0 > row ? box.j0 - row : 0);
  const int i1 = static_cast<int>(box.i1 < column + last ? box.i1 - column : last);
  const int j1 = static_cast<int>(box.j1 < row + last ? box.j1 - row : last);
  if (i0 > i1 || j0 > j1 || box.i1 < column || box.j1 < row) return 0;
  const RasterFace<T> face = s.faces[f];
  const T sign = face.area > T(0) ? T(1) : T(-1);
  // The edge function is linear: its largest value is at a corner. The slack covers what rounding and fused products
  // may make of it at a pixel.
  const auto outside = [&](T ax, T ay, T bx, T by, T reach) {
    const T dx = sign * (bx - ax), dy = sign * (by - ay), slack = sizeof(T) == 4 ? T(1e-6) : T(1e-14);
    const T x_hi = (tile.x[i0] - ax) * dy, x_lo = (tile.x[i1] - ax) * dy;
    const T y_hi = (ay - tile.y[j0]) * dx, y_lo = (ay - tile.y[j1]) * dx;
    const T size = maximum(fabs(x_hi), fabs(x_lo)) + maximum(fabs(y_hi), fabs(y_lo));
    return maximum(x_hi, x_lo) + maximum(y_hi, y_lo) + slack * size < reach;
  };
  if (outside(face.x1, face.y1, face.x2, face.y2, face.reach0) ||
      outside(face.x2, face.y2, face.x0, face.y0, face.reach1) ||
      outside(face.x0, face.y0, face.x1, face.y1, face.reach2))
    return 0;
  return ((2u << i1) - (1u << i0)) | ((2u << j1) - (1u << j0)) << cuda_tile;
}

// Calls visit(k) for all faces of the mesh that may hit the tile, in ascending order, as they come by in the tile.
template <class T, class F>
__device__ void walk_faces(const CudaScene<T>& s, const CudaPixel<T>& pixel, CudaTile<T>& tile, const F& visit) {
  const int t = threadIdx.x;
  if (t < cuda_tile) tile.x[t] = pixel_center<T>(s.in.W - 1 - (pixel.tile_column + t), s.in.W, s.in.H);
  if (t < cuda_tile) tile.y[t] = pixel_center<T>(s.in.H - 1 - (pixel.tile_row + t), s.in.H, s.in.W);
  __syncthreads();
  // A mesh that claims faces that do not exist cannot raise from here: they are left out.
  const int64_t begin = s.in.first[pixel.mesh], stop = begin + s.in.count[pixel.mesh];
  const int64_t first = begin < 0 ? 0 : begin, end = stop > s.in.F ? s.in.F : stop;
  tile.walk(s.bins, pixel.tile_row, pixel.tile_column, first, end, [&](int64_t f, int64_t) {
    const uint32_t pixels = f >= 0 ? pixels_in_tile(s, pixel, tile, f) : 0;
    const auto [at, total] = tile.walk.place(pixels != 0);
    if (pixels != 0) tile.list[at] = static_cast<int32_t>(f), tile.pixels[at] = pixels, tile.near[at] = s.near[f];
    __syncthreads();
    for (int k = 0; k < total; ++k) visit(k);
    return false;
  });
}

// Calls body(face) in every thread for the faces of the mesh, in ascending order, that may hit the thread's pixel:
// whose box holds it and which may have a hit there nearer than limit(), in the thread's present state. Every thread of
// the block must take part.
template <class T, class F, class Limit>
__device__ void for_each_face(const CudaScene<T>& s, const CudaPixel<T>& pixel, const F& body, const Limit& limit) {
  CudaTile<T>& tile = CudaTile<T>::get();
  walk_faces(s, pixel, tile, [&](int k) {
    if (pixel.is_in(tile.pixels[k]) && tile.near[k] < limit()) body(tile.list[k]);
  });
}

// The same for hits at any depth.
template <class T, class F>
__device__ void for_each_face(const CudaScene<T>& s, const CudaPixel<T>& pixel, const F& body) {
  CudaTile<T>& tile = CudaTile<T>::get();
  walk_faces(s, pixel, tile, [&](int k) {
    if (pixel.is_in(tile.pixels[k])) body(tile.list[k]);
  });
}

// Calls body(face, whether it may hit the thread's pixel) in all threads of the warps that the face may hit, so that
// they can add up what they make of it.
template <class T, class F>
__device__ void for_each_face_of_warp(const CudaScene<T>& s, const CudaPixel<T>& pixel, const F& body) {
  CudaTile<T>& tile = CudaTile<T>::get();
  walk_faces(s, pixel, tile, [&](int k) {
    const bool mine = pixel.is_in(tile.pixels[k]);
    if (__any_sync(whole_warp, mine)) body(tile.list[k], mine);
  });
}

// The sums over a warp, in every lane of it.
template <class T, int N>
__device__ void warp_sum(T (&values)[N]) {
  for (int d = 0; d < N; ++d)
    for (int bit = 16; bit > 0; bit /= 2) values[d] += __shfl_xor_sync(whole_warp, values[d], bit);
}

// The sum over a block of cuda_threads or fewer threads, in a fixed order; valid in thread 0.
template <class T, int N>
__device__ void block_sum(T (&values)[N]) {
  __shared__ T partial[cuda_threads / 32][N];
  warp_sum(values);
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
