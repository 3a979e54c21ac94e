// marching_cubes_cells, marching_cubes_fill: the surface where a volume of values crosses a level.
//
// The first op reduces the volume to one bit for each value and counts the vertices and triangles of each word of 64
// bits; their sums up to a word, which the caller makes, are where the second op writes those of the word. A vertex is
// on an edge of the grid and belongs to the word of the edge's lower end, so that its number follows from counting
// bits: nothing is searched or stored, and cells that share an edge share its vertex.
#include <atomic>

#include "core/op.h"
#include "core/parallel.h"
#include "ops/marching_cubes/kernels.h"

namespace recon {

namespace {

constexpr int64_t grain = 512;  // words

CellGrid grid_of(const Tensor& volume, const Tensor& table, const Tensor& below) {
  const int64_t* shape = volume.shape;
  if (table.shape[0] != 256 || table.shape[1] != 16)
    throw std::invalid_argument("marching_cubes: table must have shape (256, 16)");
  if (below.shape[3] != (shape[3] + 63) / 64)
    throw std::invalid_argument("marching_cubes: below must have a word for each 64 values of a row");
  return {shape[0],
          shape[1],
          shape[2],
          shape[3],
          below.shape[3],
          reinterpret_cast<const uint64_t*>(below.packed<int64_t>()),
          table.packed<uint8_t>()};
}

template <class T>
void check_numbers(const T* isolevel, const CellGrid& grid, int64_t nan) {
  for (int64_t n = 0; n < grid.N; ++n)
    if (!(isolevel[n] == isolevel[n]))
      throw std::invalid_argument("marching_cubes: the isolevel of volume " + std::to_string(n) +
                                  " is not a number; is the volume free of NaN?");
  if (nan < 0) return;
  const int64_t x = nan % grid.W, y = nan / grid.W % grid.H, z = nan / (grid.W * grid.H) % grid.D;
  throw std::invalid_argument("marching_cubes: vol_batch[" + std::to_string(nan / (grid.W * grid.H * grid.D)) + ", " +
                              std::to_string(z) + ", " + std::to_string(y) + ", " + std::to_string(x) +
                              "] is not a number; fill it with a value on one side of the surface");
}

template <class T>
FillCells<T> fill_of(const Tensor& volume, const Tensor& isolevel, const Tensor& table, const Tensor& below,
                     const Tensor& offsets, bool local) {
  const CellGrid grid = grid_of(volume, table, below);
  if (offsets.shape[1] != grid.num_words() + 1)
    throw std::invalid_argument("marching_cubes: offsets must have one more column than below has words");
  FillCells<T> fill{
      grid, volume.packed<T>(), isolevel.packed<T>(), offsets.packed<int64_t>(), {1, 1, 1}, T(0), nullptr, nullptr};
  const int64_t sizes[3] = {grid.W, grid.H, grid.D};
  for (int k = 0; local && k < 3; ++k) fill.scale[k] = T(2) / static_cast<T>(std::max<int64_t>(sizes[k] - 1, 1));
  if (local) fill.shift = T(-1);
  return fill;
}

}  // namespace

void marching_cubes_cells(Tensor volume, Tensor isolevel, Tensor table, Tensor below, Tensor counts) {
  dispatch_float(volume.dtype, [&](auto zero) {
    using T = decltype(zero);
    const CellGrid grid = grid_of(volume, table, below);
    const int64_t words = grid.num_words();
    const T *values = volume.packed<T>(), *level = isolevel.packed<T>();
    auto* bits = reinterpret_cast<uint64_t*>(below.packed<int64_t>());
    int64_t* count = counts.packed<int64_t>();
    if (counts.shape[1] != words)
      throw std::invalid_argument("marching_cubes: counts must have as many columns as below has words");
    if (volume.device.cuda) {
#ifdef RECON_CUDA
      if (words > 0) mark_below_cuda(values, level, grid, bits, volume.device);
      count_cells_cuda(grid, count, volume.device);
#endif
      return;
    }
    std::atomic<int64_t> nan{-1};
    for_each_range(words, grain, [&](int64_t begin, int64_t end) {
      int64_t first_nan = -1;
      RECON_SIMD_CALL(mark_below, values, level, grid, bits, begin, end, first_nan);
      // The lowest of all ranges, whichever ends first.
      for (int64_t before = nan; first_nan >= 0 && (before < 0 || first_nan < before);)
        if (nan.compare_exchange_weak(before, first_nan)) break;
    });
    check_numbers(level, grid, nan);
    for_each_range(words, grain,
                   [&](int64_t begin, int64_t end) { RECON_SIMD_CALL(count_cells, grid, count, begin, end); });
  });
}
RECON_OP(marching_cubes_cells, "volume: N D H W, isolevel: N, table: u8 C E, below: i64 N D H B, counts: i64 2 M");

void marching_cubes_fill(Tensor volume, Tensor isolevel, Tensor table, Tensor below, Tensor offsets, int64_t, int64_t,
                         bool local, Tensor verts, Tensor faces) {
  dispatch_float(volume.dtype, [&](auto zero) {
    using T = decltype(zero);
    FillCells<T> fill = fill_of<T>(volume, isolevel, table, below, offsets, local);
    fill.verts = verts.packed<T>(), fill.faces = faces.packed<int64_t>();
    if (volume.device.cuda) {
#ifdef RECON_CUDA
      fill_cells_cuda(fill, volume.device);
#endif
      return;
    }
    const int64_t words = fill.grid.num_words();
    if (fill.first_vert(words) != verts.shape[0] || fill.first_face(words) != faces.shape[0])
      throw std::invalid_argument("marching_cubes_fill: num_verts and num_faces must be what offsets end with");
    for_each_range(words, grain, [&](int64_t begin, int64_t end) { RECON_SIMD_CALL(fill_cells, fill, begin, end); });
  });
}
RECON_OP(marching_cubes_fill,
         "volume: N D H W, isolevel: N, table: u8 C E, below: i64 N D H B, offsets: i64 2 M, num_verts: int>=0, "
         "num_faces: int>=0, local: bool, verts: V 3, faces: i64 F 3");

void marching_cubes_fill_backward(Tensor volume, Tensor isolevel, Tensor table, Tensor below, Tensor offsets, int64_t,
                                  int64_t, bool local, std::optional<Tensor>, std::optional<Tensor>, Tensor grad_verts,
                                  Tensor grad_volume) {
  dispatch_float(volume.dtype, [&](auto zero) {
    using T = decltype(zero);
    const CellsBackward<T> p{fill_of<T>(volume, isolevel, table, below, offsets, local), grad_verts.packed<T>(),
                             grad_volume.packed<T>()};
    if (volume.device.cuda) {
#ifdef RECON_CUDA
      cells_backward_cuda(p, volume.device);
#endif
      return;
    }
    for_each_range(p.fill.grid.num_words(), grain,
                   [&](int64_t begin, int64_t end) { RECON_SIMD_CALL(cells_backward, p, begin, end); });
  });
}
RECON_OP(marching_cubes_fill_backward,
         "volume: N D H W, isolevel: N, table: u8 C E, below: i64 N D H B, offsets: i64 2 M, num_verts: int>=0, "
         "num_faces: int>=0, local: bool, verts?: V 3, faces?: i64 F 3, grad_verts: V 3, grad_volume: N D H W");

}  // namespace recon
