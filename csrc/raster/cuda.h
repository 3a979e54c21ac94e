#pragma once
// What the CUDA rasterisers share. One block of 16 x 16 threads for a tile, one thread for a pixel: the block goes
// through the faces that may touch its tile in ascending order, 256 at a time, keeps those that do in shared memory and
// calls the kernel's code for them.
//
// Which faces may touch a tile is looked up where there are many: the image is divided into at most 256 bins, and every
// face is compared with every bin, which leaves a bit. A summary has a bit for every 32 faces. Meshes of a batch share
// the bins; a tile reads the bits of its own mesh's faces. So all sizes follow from the numbers of faces and pixels:
// nothing can overflow, and nobody waits for the device.
#include "core/parallel.h"
#include "raster/scene.h"

namespace recon {

constexpr int cuda_tile = 16;
constexpr int cuda_threads = cuda_tile * cuda_tile;

// Bits by bin and face. A group is 32 words, the faces that one block compares with the bins.
struct CudaBins {
  static constexpr int64_t most = 256, most_bytes = int64_t{64} << 20, faces_of_group = 1024;

  int64_t side;               // of a bin, in tiles
  int64_t across, down;       // bins of an image
  int64_t groups;             // of faces
  uint32_t *words, *summary;  // across * down, groups [* 32]; a bit of the summary says that a word is not zero

  // Bins of a tile each, or of as many tiles as keep them few and small.
  CudaBins(int64_t F, int64_t tiles_x, int64_t tiles_y) : side(1), groups((F + faces_of_group - 1) / faces_of_group) {
    const auto bytes = [&] { return across * down * groups * (faces_of_group / 8); };
    for (;; side *= 2) {
      across = (tiles_x + side - 1) / side, down = (tiles_y + side - 1) / side;
      if (across * down <= 1 || (across * down <= most && bytes() <= most_bytes)) break;
    }
    words = summary = nullptr;
  }
  int64_t size() const { return across * down * groups * 32; }
};

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

// Sets the scene up in memory that must live until the kernels that use it were launched.
template <class T>
class CudaSceneMemory {
 public:
  CudaSceneMemory(const RasterInput<T>& in, const Device& device, bool with_bins = true);
  int64_t num_tiles() const { return scene.num_tiles(); }
  CudaScene<T> scene;

 private:
  // To compare fewer faces than this with a tile takes less time than to find out which.
  static constexpr int64_t many = 512;
  int64_t bin_words(bool with_bins) const { return with_bins && scene.in.F > many ? scene.bins.size() : 0; }

  Scratch<RasterFace<T>> faces_;
  Scratch<PixelBox> boxes_;
  Scratch<T> near_;
  Scratch<uint32_t> words_, summary_;
};

#ifdef __CUDACC__
constexpr unsigned whole_warp = ~0u;

// Block (x, y) compares the faces of group x with 32 bins: each warp 32 faces, which are one word of each bin.
template <class T>
__global__ void __launch_bounds__(CudaBins::faces_of_group) bin_kernel(CudaScene<T> s) {
  constexpr int warps = CudaBins::faces_of_group / 32;
  __shared__ uint32_t words[32][warps + 1];  // bins, and a column that keeps them in different banks
  const CudaBins& bins = s.bins;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t group = blockIdx.x, f = group * CudaBins::faces_of_group + threadIdx.x;
  const int first_bin = static_cast<int>(blockIdx.y) * 32, across = static_cast<int>(bins.across);
  const int num_bins = across * static_cast<int>(bins.down), pixels = static_cast<int>(bins.side) * cuda_tile;
  PixelBox box = {0, -1, 0, -1};
  if (f < s.in.F) box = s.boxes[f];
  const bool any = box.i0 <= box.i1;
  box = {box.i0 / pixels, box.i1 / pixels, box.j0 / pixels, box.j1 / pixels};
  uint32_t mine = 0;
  for (int b = 0, row = first_bin / across, column = first_bin % across; b < 32; ++b) {
    const bool touches = any && column >= box.i0 && column <= box.i1 && row >= box.j0 && row <= box.j1;
    const uint32_t word = __ballot_sync(whole_warp, touches);
    if (lane == b) mine = word;
    if (++column == across) column = 0, ++row;
  }
  words[lane][warp] = mine;
  __syncthreads();
  const uint32_t word = words[warp][lane];  // from here on a warp has a bin
  const int bin = first_bin + warp;
  const uint32_t summary = __ballot_sync(whole_warp, word != 0);
  if (bin >= num_bins) return;
  bins.words[(bin * bins.groups + group) * 32 + lane] = word;
  if (lane == 0) bins.summary[bin * bins.groups + group] = summary;
}

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

  // A face's pixels of the tile: a bit for each column, and above them one for each row.
  __device__ bool is_in(uint32_t pixels) const {
    return in_image && (pixels >> (column - tile_column) & pixels >> (cuda_tile + row - tile_row) & 1u);
  }
};

// A word of bits from each thread, seen as one list of the set bits: the numbers 32 * origin + bit, ascending.
struct SetBits {
  uint32_t words[cuda_threads];
  int32_t origins[cuda_threads], before[cuda_threads];
  int32_t of_warp[cuda_threads / 32];

  // Returns how many there are.
  __device__ int load(uint32_t word, int64_t origin) {
    const int t = threadIdx.x, warp = t / 32, lane = t % 32, count = __popc(word);
    int up_to = count;
    for (int offset = 1; offset < 32; offset *= 2) {
      const int other = __shfl_up_sync(whole_warp, up_to, offset);
      if (lane >= offset) up_to += other;
    }
    words[t] = word, origins[t] = static_cast<int32_t>(origin);
    if (lane == 31) of_warp[warp] = up_to;
    __syncthreads();
    int total = 0;
    for (int w = 0; w < cuda_threads / 32; ++w) {
      if (w == warp) before[t] = total + up_to - count;
      total += of_warp[w];
    }
    __syncthreads();
    return total;
  }
  __device__ int64_t operator[](int k) const {
    int at = 0;
    for (int step = cuda_threads / 2; step > 0; step /= 2)
      if (before[at + step] <= k) at += step;
    uint32_t word = words[at];
    for (int skip = k - before[at]; skip > 0; --skip) word &= word - 1;
    return int64_t{32} * origins[at] + __ffs(static_cast<int>(word)) - 1;
  }
};

// What a block knows of its tile.
template <class T>
struct CudaTile {
  T x[cuda_tile], y[cuda_tile];  // pixel centres
  SetBits words, faces;
  int32_t list[cuda_threads];     // of faces
  uint32_t pixels[cuda_threads];  // of each: see CudaPixel::is_in
  T near[cuda_threads];
  int32_t of_warp[cuda_threads / 32];

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

// Calls visit(k) for the places k of the tile's list, which holds those of the block's faces that may hit the tile.
// Each thread brings one face, or -1; they ascend.
template <class T, class F>
__device__ void visit_faces(const CudaScene<T>& s, const CudaPixel<T>& pixel, CudaTile<T>& tile, int64_t f,
                            const F& visit) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t pixels = f >= 0 ? pixels_in_tile(s, pixel, tile, f) : 0;
  const uint32_t ballot = __ballot_sync(whole_warp, pixels != 0);
  if (lane == 0) tile.of_warp[warp] = __popc(ballot);
  __syncthreads();
  int at = __popc(ballot & ((1u << lane) - 1u)), total = 0;
  for (int w = 0; w < cuda_threads / 32; ++w) {
    if (w < warp) at += tile.of_warp[w];
    total += tile.of_warp[w];
  }
  if (pixels != 0) tile.list[at] = static_cast<int32_t>(f), tile.pixels[at] = pixels, tile.near[at] = s.near[f];
  __syncthreads();
  for (int k = 0; k < total; ++k) visit(k);
  // Some threads may still be at it when others go on: the next call writes the list behind a barrier.
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
  if (first >= end) return;
  if (!s.bins.words) {
    for (int64_t base = first; base < end; base += cuda_threads)
      visit_faces(s, pixel, tile, base + t < end ? base + t : -1, visit);
    return;
  }
  const int in_bin = static_cast<int>(s.bins.side) * cuda_tile;
  const int64_t groups = s.bins.groups, group_size = CudaBins::faces_of_group;
  const int64_t bin = pixel.tile_row / in_bin * s.bins.across + pixel.tile_column / in_bin;
  const uint32_t *words = s.bins.words + bin * groups * 32, *summary = s.bins.summary + bin * groups;
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
      const int num_faces = tile.faces.load(bits, word);
      for (int j = 0; j < num_faces; j += cuda_threads)
        visit_faces(s, pixel, tile, j + t < num_faces ? tile.faces[j + t] : -1, visit);
    }
  }
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

template <class T>
CudaSceneMemory<T>::CudaSceneMemory(const RasterInput<T>& in, const Device& device, bool with_bins)
    : scene(in),
      faces_(in.F, device),
      boxes_(in.F, device),
      near_(in.F, device),
      words_(bin_words(with_bins), device),
      summary_(words_.size() / 32, device) {
  scene.faces = faces_.data(), scene.boxes = boxes_.data(), scene.near = near_.data();
  parallel_for(device, in.F, scene);
  if (words_.size() == 0) return;
  scene.bins.words = words_.data(), scene.bins.summary = summary_.data();
  const int64_t bins = scene.bins.across * scene.bins.down;
  const dim3 blocks(static_cast<unsigned>(scene.bins.groups), static_cast<unsigned>((bins + 31) / 32));
  launch(bin_kernel<T>, blocks, static_cast<unsigned>(CudaBins::faces_of_group), device, scene);
}
#endif

}  // namespace recon
