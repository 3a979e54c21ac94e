#pragma once
// What the entry points of marching_cubes hand to the kernels of each device, and the maths of 64 cells in a row.
#include "core/simd.h"
#include "core/tensor.h"

#ifdef __CUDACC__
#define RECON_CELLS __host__ __device__ __forceinline__
#else
// Compiled for each instruction set: a copy that the linker shares between them would not count bits in one step.
#define RECON_CELLS __attribute__((always_inline)) inline
#endif

namespace recon {

RECON_CELLS int count_bits(uint64_t bits) {
#ifdef __CUDA_ARCH__
  return __popcll(bits);
#else
  return __builtin_popcountll(bits);
#endif
}

RECON_CELLS int lowest_bit(uint64_t bits) {
#ifdef __CUDA_ARCH__
  return __ffsll(static_cast<long long>(bits)) - 1;
#else
  return __builtin_ctzll(bits);
#endif
}

// The first n bits, n < 64.
RECON_CELLS uint64_t first_bits(int64_t n) { return (uint64_t{1} << n) - 1; }

// N volumes of D x H x W values. A word has a bit for each of 64 values in a row of W, a row has B words.
struct CellGrid {
  int64_t N, D, H, W, B;
  const uint64_t* below;  // N D H B: the value is less than the isolevel
  const uint8_t* table;   // 256 x 16: the number of triangles of a case, and the edges of their corners

  RECON_CELLS int64_t num_words() const { return N * D * H * B; }
};

// Where a word lies, and which of its edges are crossed. The vertices of a word are those on the edges from its values
// on in x, then those in y, then those in z.
struct CellWord {
  const CellGrid* grid;
  int64_t word, b, y, z, n;

  RECON_CELLS CellWord(const CellGrid& g, int64_t w) : grid(&g), word(w), b(w % g.B) {
    w /= g.B, y = w % g.H, w /= g.H, z = w % g.D, n = w / g.D;
  }

  // The next word: without the divisions that finding its place takes.
  RECON_CELLS void advance() {
    ++word;
    if (++b < grid->B) return;
    b = 0;
    if (++y < grid->H) return;
    y = 0;
    if (++z < grid->D) return;
    z = 0, ++n;
  }

  RECON_CELLS int64_t step_y() const { return grid->B; }
  RECON_CELLS int64_t step_z() const { return grid->B * grid->H; }
  RECON_CELLS bool last_y() const { return y == grid->H - 1; }
  RECON_CELLS bool last_z() const { return z == grid->D - 1; }
  RECON_CELLS bool last_b() const { return b == grid->B - 1; }

  // The values that have a neighbour at x + 1.
  RECON_CELLS uint64_t inner_x() const { return last_b() ? first_bits(grid->W - 1 - 64 * b) : ~uint64_t{0}; }

  // The bits of the values at x + 1.
  RECON_CELLS uint64_t shifted(int64_t w) const {
    return grid->below[w] >> 1 | (last_b() ? 0 : grid->below[w + 1] << 63);
  }

  RECON_CELLS uint64_t crossed_x(int64_t w) const { return (grid->below[w] ^ shifted(w)) & inner_x(); }
  RECON_CELLS uint64_t crossed_y(int64_t w) const { return grid->below[w] ^ grid->below[w + step_y()]; }
  RECON_CELLS uint64_t crossed_z(int64_t w) const { return grid->below[w] ^ grid->below[w + step_z()]; }

  // The same, 0 at the border of the grid.
  RECON_CELLS uint64_t crossed(int axis) const {
    if (axis == 0) return crossed_x(word);
    if (axis == 1) return last_y() ? 0 : crossed_y(word);
    return last_z() ? 0 : crossed_z(word);
  }

  RECON_CELLS bool has_cells() const { return !last_y() && !last_z(); }

  // Whether all values of the 64 cells are seen at a glance to lie on one side, as those of most words do.
  RECON_CELLS bool is_uniform() const {
    if (!has_cells()) return false;
    const uint64_t *row = grid->below + word, side = row[0] & 1 ? ~uint64_t{0} : 0;
    const int64_t up = step_y(), on = step_z();
    const uint64_t other = (row[0] ^ side) | (row[up] ^ side) | (row[on] ^ side) | (row[on + up] ^ side);
    if (other != 0 || last_b()) return other == 0;
    return (((row[1] ^ side) | (row[up + 1] ^ side) | (row[on + 1] ^ side) | (row[on + up + 1] ^ side)) & 1) == 0;
  }
};

// The eight corners of 64 cells.
struct CellCorners {
  uint64_t c[8];  // by corner x + 2 y + 4 z

  RECON_CELLS explicit CellCorners(const CellWord& at) {
    const int64_t rows[4] = {at.word, at.word + at.step_y(), at.word + at.step_z(),
                             at.word + at.step_y() + at.step_z()};
    for (int r = 0; r < 4; ++r) c[2 * r] = at.grid->below[rows[r]], c[2 * r + 1] = at.shifted(rows[r]);
  }

  // Cells that the surface goes through.
  RECON_CELLS uint64_t active(const CellWord& at) const {
    uint64_t all = ~uint64_t{0}, some = 0;
    for (int i = 0; i < 8; ++i) all &= c[i], some |= c[i];
    return some & ~all & at.inner_x();
  }

  // Bit i is corner INDEX[i] of ops/marching_cubes_data.py.
  RECON_CELLS unsigned cell_case(int x) const {
    const auto bit = [&](int corner, int i) { return static_cast<unsigned>(c[corner] >> x & 1) << i; };
    return bit(0, 0) | bit(1, 1) | bit(5, 2) | bit(4, 3) | bit(2, 4) | bit(3, 5) | bit(7, 6) | bit(6, 7);
  }
};

// How many vertices and triangles a word has.
RECON_CELLS void count_word(const CellWord& at, int64_t& verts, int64_t& faces) {
  verts = faces = 0;
  for (int axis = 0; axis < 3; ++axis) verts += count_bits(at.crossed(axis));
  if (!at.has_cells()) return;
  const CellCorners corners(at);
  for (uint64_t active = corners.active(at); active; active &= active - 1)
    faces += at.grid->table[16 * corners.cell_case(lowest_bit(active))];
}

template <class T>
struct Interpolation {
  T t, by_difference;
};

// Where between the values a and b the isolevel lies: 0 at a, 1 at b. An infinite value pushes it to the other one.
template <class T>
RECON_CELLS Interpolation<T> interpolate(T a, T b, T isolevel) {
  const T by_difference = T(1) / (b - a), t = (isolevel - a) * by_difference;
  if (t >= T(0) && t <= T(1) && by_difference != T(0)) return {t, by_difference};
  const bool a_far = a - a != T(0), b_far = b - b != T(0);
  if (a_far || b_far) return {a_far == b_far ? T(0.5) : a_far ? T(1) : T(0), T(0)};
  // Differences that overflow or vanish.
  return {t > T(1) ? T(1) : t >= T(0) ? t : T(0.5), T(0)};
}

// Vertices and triangles. The surface is local to [-1, 1] or in units of the grid: p = scale * index + shift.
template <class T>
struct FillCells {
  CellGrid grid;
  const T *volume, *isolevel;
  const int64_t* offsets;  // 2 x (words + 1): the first vertex of each word, and the first triangle
  T scale[3], shift;
  T* verts;
  int64_t* faces;

  RECON_CELLS int64_t first_vert(int64_t word) const { return offsets[word]; }
  RECON_CELLS int64_t first_face(int64_t word) const { return offsets[grid.num_words() + 1 + word]; }
  RECON_CELLS int64_t value_at(const CellWord& at) const { return (at.word / grid.B) * grid.W + 64 * at.b; }

  RECON_CELLS int64_t step(int axis) const { return axis == 0 ? 1 : axis == 1 ? grid.W : grid.W * grid.H; }

  RECON_CELLS void fill_verts(const CellWord& at) const {
    T* out = verts + 3 * first_vert(at.word);
    const T* values = volume + value_at(at);
    const T level = isolevel[at.n];
    for (int axis = 0; axis < 3; ++axis) {
      const int64_t step_axis = step(axis);
      for (uint64_t bits = at.crossed(axis); bits; bits &= bits - 1, out += 3) {
        const int x = lowest_bit(bits);
        const T t = interpolate(values[x], values[x + step_axis], level).t;
        const T p[3] = {static_cast<T>(64 * at.b + x), static_cast<T>(at.y), static_cast<T>(at.z)};
        for (int k = 0; k < 3; ++k) out[k] = (k == axis ? p[k] + t : p[k]) * scale[k] + shift;
      }
    }
  }

  RECON_CELLS void fill_faces(const CellWord& at) const {
    if (!at.has_cells()) return;
    const CellCorners corners(at);
    uint64_t active = corners.active(at);
    if (!active) return;
    // The rows of cells' edges: y and z, y + 1, z + 1, both. Vertices are numbered within their volume.
    const int64_t before = first_vert(at.n * (grid.num_words() / grid.N));
    const int64_t rows[4] = {at.word, at.word + at.step_y(), at.word + at.step_z(),
                             at.word + at.step_y() + at.step_z()};
    uint64_t along_x[4], along_y[2], along_z[2];
    int64_t id_x[4], id_y[2], id_z[2], next_y[2] = {}, next_z[2] = {};
    for (int r = 0; r < 4; ++r) along_x[r] = at.crossed_x(rows[r]), id_x[r] = first_vert(rows[r]) - before;
    for (int r = 0; r < 2; ++r) {
      along_y[r] = at.crossed_y(rows[2 * r]);
      id_y[r] = id_x[2 * r] + count_bits(along_x[2 * r]);
    }
    for (int r = 0; r < 2; ++r) {
      along_z[r] = at.crossed_z(rows[r]);
      // Between the vertices in x and those in z come those in y, which the last row of a volume does not have.
      id_z[r] = id_x[r] + count_bits(along_x[r]) + count_bits(crossed_y_of(at, r));
    }
    if (active >> 63) {
      // Cell 63 has its edges at x + 1 in the next word.
      const CellWord next(grid, at.word + 1);
      for (int r = 0; r < 2; ++r) {
        next_y[r] = first_vert(rows[2 * r] + 1) - before + count_bits(next.crossed_x(rows[2 * r] + 1));
        next_z[r] = first_vert(rows[r] + 1) - before + count_bits(next.crossed_x(rows[r] + 1)) +
                    count_bits(crossed_y_of(next, r));
      }
    }
    int64_t* out = faces + 3 * first_face(at.word);
    for (; active; active &= active - 1) {
      const int x = lowest_bit(active);
      const uint8_t* entry = grid.table + 16 * corners.cell_case(x);
      const uint64_t until = first_bits(x), through = until << 1 | 1;
      const auto id = [](int64_t first, uint64_t bits, uint64_t mask) { return first + count_bits(bits & mask); };
      const auto beyond = [&](int64_t first, uint64_t bits, int64_t next) {
        return x < 63 ? id(first, bits, through) : next;
      };
      const int64_t ids[12] = {
          id(id_x[0], along_x[0], until),         beyond(id_z[0], along_z[0], next_z[0]),
          id(id_x[2], along_x[2], until),         id(id_z[0], along_z[0], until),
          id(id_x[1], along_x[1], until),         beyond(id_z[1], along_z[1], next_z[1]),
          id(id_x[3], along_x[3], until),         id(id_z[1], along_z[1], until),
          id(id_y[0], along_y[0], until),         beyond(id_y[0], along_y[0], next_y[0]),
          beyond(id_y[1], along_y[1], next_y[1]), id(id_y[1], along_y[1], until),
      };
      for (int k = 1; k <= 3 * entry[0]; ++k) *out++ = ids[entry[k]];
    }
  }

  // Crossed edges in y of the row at y + r.
  RECON_CELLS uint64_t crossed_y_of(const CellWord& at, int r) const {
    return at.y + r < grid.H - 1 ? at.crossed_y(at.word + r * at.step_y()) : 0;
  }
};

// The gradient of the values of a word: each collects it from the vertices on its edges.
template <class T>
struct CellsBackward {
  FillCells<T> fill;
  const T* grad_verts;
  T* grad_volume;

  RECON_CELLS void operator()(int64_t word) const {
    const CellGrid& grid = fill.grid;
    const CellWord at(grid, word);
    for (int axis = 0; axis < 3; ++axis) add(at, axis, at.crossed(axis), false);
    // The edges that end here.
    add(at, 0, at.crossed(0) & ~uint64_t{0} >> 1, true);
    if (at.b > 0) {
      const CellWord before(grid, word - 1);
      add(before, 0, before.crossed(0) & uint64_t{1} << 63, true);
    }
    if (at.y > 0) {
      const CellWord before(grid, word - at.step_y());
      add(before, 1, before.crossed(1), true);
    }
    if (at.z > 0) {
      const CellWord before(grid, word - at.step_z());
      add(before, 2, before.crossed(2), true);
    }
  }

  // For the edges `bits` of a word in one direction: what their vertices give to the value at their end, or at their
  // start.
  //   p = a's place + t,  t = (isolevel - a) / (b - a),  dt/da = (t - 1) / (b - a),  dt/db = -t / (b - a)
  RECON_CELLS void add(const CellWord& at, int axis, uint64_t bits, bool end) const {
    if (!bits) return;
    const int64_t values = fill.value_at(at), step = fill.step(axis);
    int64_t first = fill.first_vert(at.word);
    const uint64_t crossed = at.crossed(axis);
    for (int before = 0; before < axis; ++before) first += count_bits(at.crossed(before));
    for (; bits; bits &= bits - 1) {
      const int x = lowest_bit(bits);
      const int64_t from = values + x, to = from + step;
      const auto [t, by_difference] = interpolate(fill.volume[from], fill.volume[to], fill.isolevel[at.n]);
      const int64_t vert = first + count_bits(crossed & first_bits(x));
      const T g = grad_verts[3 * vert + axis] * fill.scale[axis] * by_difference;
      grad_volume[end ? to : from] += end ? -t * g : (t - T(1)) * g;
    }
  }
};

// The words of [begin, end), on the CPU. `first_nan` is the first value found that is not a number.
RECON_SIMD_DECLARE(template <class T> void mark_below(const T* volume, const T* isolevel, const CellGrid& grid,
                                                      uint64_t* below, int64_t begin, int64_t end, int64_t& first_nan))
RECON_SIMD_DECLARE(void count_cells(const CellGrid& grid, int64_t* counts, int64_t begin, int64_t end))
RECON_SIMD_DECLARE(template <class T> void fill_cells(const FillCells<T>& fill, int64_t begin, int64_t end))
RECON_SIMD_DECLARE(template <class T> void cells_backward(const CellsBackward<T>& p, int64_t begin, int64_t end))

template <class T>
void mark_below_cuda(const T* volume, const T* isolevel, const CellGrid& grid, uint64_t* below, const Device& device);
void count_cells_cuda(const CellGrid& grid, int64_t* counts, const Device& device);
template <class T>
void fill_cells_cuda(const FillCells<T>& fill, const Device& device);
template <class T>
void cells_backward_cuda(const CellsBackward<T>& p, const Device& device);

}  // namespace recon
