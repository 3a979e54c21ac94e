#pragma once
// Which of many elements (faces, points, spheres) may touch a tile of an image, on a GPU: the image is divided into at
// most 256 bins, and the box of every element is compared with every bin, which leaves a bit. A summary has a bit for
// every 32 elements. Images of a batch share the bins; a tile reads the bits of its own elements. So all sizes follow
// from the numbers of elements and pixels: nothing can overflow, and nobody waits for the device.
#include "core/parallel.h"
#include "raster/scene.h"

namespace recon {

constexpr int cuda_tile = 16;
constexpr int cuda_threads = cuda_tile * cuda_tile;

// Bits by bin and element. A group is 32 words, the elements that one block compares with the bins.
struct CudaBins {
  static constexpr int64_t most = 256, most_bytes = int64_t{64} << 20, group_size = 1024;

  int64_t side;               // of a bin, in tiles
  int64_t across, down;       // bins of an image
  int64_t groups;             // of elements
  uint32_t *words, *summary;  // across * down, groups [* 32]; a bit of the summary says that a word is not zero

  // Bins of a tile each, or of as many tiles as keep them few and small.
  CudaBins(int64_t elements, int64_t tiles_x, int64_t tiles_y)
      : side(1), groups((elements + group_size - 1) / group_size) {
    const auto bytes = [&] { return across * down * groups * (group_size / 8); };
    for (;; side *= 2) {
      across = (tiles_x + side - 1) / side, down = (tiles_y + side - 1) / side;
      if (across * down <= 1 || (across * down <= most && bytes() <= most_bytes)) break;
    }
    words = summary = nullptr;
  }
  int64_t size() const { return across * down * groups * 32; }
};

#ifdef __CUDACC__
constexpr unsigned whole_warp = ~0u;

// Block (x, y) compares the elements of group x with 32 bins: each warp 32 elements, which are one word of each bin.
// Scene has `bins`, `boxes` and `in.F`, the number of elements.
template <class Scene>
__global__ void __launch_bounds__(CudaBins::group_size) bin_kernel(Scene s) {
  constexpr int warps = CudaBins::group_size / 32;
  __shared__ uint32_t words[32][warps + 1];  // bins, and a column that keeps them in different banks
  const CudaBins& bins = s.bins;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t group = blockIdx.x, element = group * CudaBins::group_size + threadIdx.x;
  const int first_bin = static_cast<int>(blockIdx.y) * 32, across = static_cast<int>(bins.across);
  const int num_bins = across * static_cast<int>(bins.down), pixels = static_cast<int>(bins.side) * cuda_tile;
  PixelBox box = {0, -1, 0, -1};
  if (element < s.in.F) box = s.boxes[element];
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

// The bits of a scene, if they are wanted and worth it, in memory that must live until the kernels that read them were
// launched.
class CudaBinMemory {
 public:
  template <class Scene>
  CudaBinMemory(const Scene& scene, const Device& device, bool wanted = true)
      : words_(wanted && scene.in.F > many ? scene.bins.size() : 0, device), summary_(words_.size() / 32, device) {}

  // Sets the bits, once the boxes are known.
  template <class Scene>
  void fill(Scene& scene, const Device& device) {
    if (words_.size() == 0) return;
    scene.bins.words = words_.data(), scene.bins.summary = summary_.data();
    const int64_t bins = scene.bins.across * scene.bins.down;
    const dim3 blocks(static_cast<unsigned>(scene.bins.groups), static_cast<unsigned>((bins + 31) / 32));
    launch(bin_kernel<Scene>, blocks, static_cast<unsigned>(CudaBins::group_size), device, scene);
  }

 private:
  // To compare fewer elements than this with a tile takes less time than to find out which.
  static constexpr int64_t many = 512;
  Scratch<uint32_t> words_, summary_;
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

// What a block keeps while it goes through the elements that may touch its tile.
struct CudaWalk {
  SetBits words, elements;
  int32_t of_warp[cuda_threads / 32];

  // The place of a chosen thread among those of the block, and how many there are. From here on the block may replace
  // what it has kept of those of an earlier round; it must meet before it asks again.
  struct Place {
    int at, total;
  };
  __device__ Place place(bool chosen) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t ballot = __ballot_sync(whole_warp, chosen);
    if (lane == 0) of_warp[warp] = __popc(ballot);
    __syncthreads();
    Place found = {__popc(ballot & ((1u << lane) - 1u)), 0};
    for (int w = 0; w < cuda_threads / 32; ++w) {
      if (w < warp) found.at += of_warp[w];
      found.total += of_warp[w];
    }
    return found;
  }

  // Calls visit(element, least) in all threads of the block for the elements from `first` to before `end` whose bits
  // the tile at a row and a column has: each thread gets one, or -1, and the least of all. They ascend. Where there are
  // no bits these are all. Ends when visit returns true.
  template <class F>
  __device__ void operator()(const CudaBins& bins, int tile_row, int tile_column, int64_t first, int64_t end,
                             const F& visit) {
    const int t = threadIdx.x;
    if (first >= end) return;
    if (!bins.words) {
      for (int64_t base = first; base < end; base += cuda_threads)
        if (visit(base + t < end ? base + t : -1, base)) return;
      return;
    }
    const int in_bin = static_cast<int>(bins.side) * cuda_tile;
    const int64_t bin = tile_row / in_bin * bins.across + tile_column / in_bin;
    const uint32_t *of_bin = bins.words + bin * bins.groups * 32, *summary = bins.summary + bin * bins.groups;
    const int64_t end_group = (end + CudaBins::group_size - 1) / CudaBins::group_size;
    for (int64_t base = first / CudaBins::group_size; base < end_group; base += cuda_threads) {
      const int64_t group = base + t;
      const int num_words = words.load(group < end_group ? summary[group] : 0, group);
      for (int i = 0; i < num_words; i += cuda_threads) {
        int64_t word = 0;
        uint32_t bits = 0;
        if (i + t < num_words) {
          word = words[i + t], bits = of_bin[word];
          if (word * 32 < first) bits &= first - word * 32 < 32 ? ~0u << (first - word * 32) : 0u;
          if (word * 32 + 32 > end) bits &= end > word * 32 ? ~0u >> (word * 32 + 32 - end) : 0u;
        }
        const int num = elements.load(bits, word);
        for (int j = 0; j < num; j += cuda_threads)
          if (visit(j + t < num ? elements[j + t] : -1, elements[j])) return;
      }
    }
  }
};
#endif

}  // namespace recon
