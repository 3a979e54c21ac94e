// Values to bits a register at a time; then 64 cells at a time, of which only those that the surface goes through are
// looked at.
#include "ops/marching_cubes/kernels.h"

namespace recon {
namespace RECON_SIMD {

template <class T>
void mark_below(const T* volume, const T* isolevel, const CellGrid& grid, uint64_t* below, int64_t begin, int64_t end,
                int64_t& first_nan) {
  constexpr int lanes = Pack<T>::lanes;
  constexpr uint64_t all = (uint64_t{1} << lanes) - 1;
  for (int64_t word = begin; word < end; ++word) {
    const int64_t b = word % grid.B, row = word / grid.B, count = grid.W - 64 * b < 64 ? grid.W - 64 * b : 64;
    const T level = isolevel[row / (grid.D * grid.H)];
    const T* values = volume + row * grid.W + 64 * b;
    uint64_t bits = 0, numbers = 0;
    int x = 0;
    for (; x + lanes <= count; x += lanes) {
      const Pack<T> v = Pack<T>::load(values + x);
      const uint64_t less = (v < Pack<T>(level)).bits() & all;
      bits |= less << x;
      numbers |= (less | ((v >= Pack<T>(level)).bits() & all)) << x;
    }
    for (; x < count; ++x) {
      bits |= static_cast<uint64_t>(values[x] < level) << x;
      numbers |= static_cast<uint64_t>(values[x] == values[x]) << x;
    }
    below[word] = bits;
    const uint64_t valid = count == 64 ? ~uint64_t{0} : first_bits(count);
    if (numbers != valid && first_nan < 0) first_nan = row * grid.W + 64 * b + lowest_bit(valid & ~numbers);
  }
}

void count_cells(const CellGrid& grid, int64_t* counts, int64_t begin, int64_t end) {
  int64_t *verts = counts, *faces = counts + grid.num_words();
  CellWord at(grid, begin);
  for (int64_t word = begin; word < end; ++word, at.advance()) {
    if (at.is_uniform())
      verts[word] = faces[word] = 0;
    else
      count_word(at, verts[word], faces[word]);
  }
}

// Vertices and triangles in one pass each: in one pass for both, too much of a cell would be kept outside of registers.
template <class T>
void fill_cells(const FillCells<T>& fill, int64_t begin, int64_t end) {
  CellWord at(fill.grid, begin);
  for (int64_t word = begin; word < end; ++word, at.advance())
    if (fill.first_vert(word + 1) > fill.first_vert(word)) fill.fill_verts(at);
  at = CellWord(fill.grid, begin);
  for (int64_t word = begin; word < end; ++word, at.advance())
    if (fill.first_face(word + 1) > fill.first_face(word)) fill.fill_faces(at);
}

template <class T>
void cells_backward(const CellsBackward<T>& p, int64_t begin, int64_t end) {
  for (int64_t word = begin; word < end; ++word) p(word);
}

#define RECON_INSTANTIATE(T)                                                                            \
  template void mark_below(const T*, const T*, const CellGrid&, uint64_t*, int64_t, int64_t, int64_t&); \
  template void fill_cells(const FillCells<T>&, int64_t, int64_t);                                      \
  template void cells_backward(const CellsBackward<T>&, int64_t, int64_t);
RECON_INSTANTIATE(float)
RECON_INSTANTIATE(double)

}  // namespace RECON_SIMD
}  // namespace recon
