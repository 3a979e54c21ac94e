// A warp makes two halves of a word from values that lie side by side; then one thread for a word.
#include "core/parallel.h"
#include "ops/marching_cubes/kernels.h"

namespace recon {

namespace {

// Each warp makes half words of 32 values.
template <class T>
__global__ void mark_below_kernel(const T* volume, const T* isolevel, CellGrid grid, uint32_t* below) {
  const int lane = threadIdx.x % 32;
  const int64_t halves = 2 * grid.num_words(), warps = int64_t(gridDim.x) * (blockDim.x / 32);
  for (int64_t half = (blockIdx.x * int64_t(blockDim.x) + threadIdx.x) / 32; half < halves; half += warps) {
    const int64_t row = half / (2 * grid.B), x = half % (2 * grid.B) * 32 + lane;
    const bool less = x < grid.W && volume[row * grid.W + x] < isolevel[row / (grid.D * grid.H)];
    const unsigned bits = __ballot_sync(~0u, less);
    if (lane == 0) below[half] = bits;
  }
}

struct CountCells {
  CellGrid grid;
  int64_t* counts;
  RECON_HD void operator()(int64_t word) const {
    count_word(CellWord(grid, word), counts[word], counts[grid.num_words() + word]);
  }
};

template <class T>
struct FillWord {
  FillCells<T> fill;
  RECON_HD void operator()(int64_t word) const {
    const CellWord at(fill.grid, word);
    fill.fill_verts(at);
    fill.fill_faces(at);
  }
};

}  // namespace

template <class T>
void mark_below_cuda(const T* volume, const T* isolevel, const CellGrid& grid, uint64_t* below, const Device& device) {
  constexpr unsigned threads = 256;
  const int64_t blocks = (64 * grid.num_words() + threads - 1) / threads;
  // The first half of a word are its lower bits: all devices are little-endian.
  launch(mark_below_kernel<T>, static_cast<unsigned>(std::min<int64_t>(blocks, 65535)), threads, device, volume,
         isolevel, grid, reinterpret_cast<uint32_t*>(below));
}

void count_cells_cuda(const CellGrid& grid, int64_t* counts, const Device& device) {
  parallel_for(device, grid.num_words(), CountCells{grid, counts});
}

template <class T>
void fill_cells_cuda(const FillCells<T>& fill, const Device& device) {
  parallel_for(device, fill.grid.num_words(), FillWord<T>{fill});
}

template <class T>
void cells_backward_cuda(const CellsBackward<T>& p, const Device& device) {
  parallel_for(device, p.fill.grid.num_words(), p);
}

#define RECON_INSTANTIATE(T)                                                                    \
  template void mark_below_cuda(const T*, const T*, const CellGrid&, uint64_t*, const Device&); \
  template void fill_cells_cuda(const FillCells<T>&, const Device&);                            \
  template void cells_backward_cuda(const CellsBackward<T>&, const Device&);
RECON_INSTANTIATE(float)
RECON_INSTANTIATE(double)

}  // namespace recon
