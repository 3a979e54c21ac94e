#pragma once
// Where the samples of a ray lie among voxels, and how their values are read and added to. Included by cpu.cpp alone.
#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <type_traits>
#include <vector>

#include "core/pages.h"
#include "ops/march_volume/kernels.h"

namespace recon {
namespace RECON_SIMD {

namespace {

typedef float FloatQuad __attribute__((vector_size(16)));
typedef double DoubleQuad __attribute__((vector_size(32)));
typedef float FloatQuads __attribute__((vector_size(32)));
typedef double DoubleQuads __attribute__((vector_size(64)));
template <class T>
using Quad = std::conditional_t<sizeof(T) == 4, FloatQuad, DoubleQuad>;
template <class T>
using TwoQuads = std::conditional_t<sizeof(T) == 4, FloatQuads, DoubleQuads>;

template <class V>
V load_as(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <class T>
Quad<T> load(const T* from) {
  return load_as<Quad<T>>(from);
}
template <class V>
void store(void* to, V v) {
  std::memcpy(to, &v, sizeof v);
}

// How the values of a voxel lie: in the planes of the tensors, or in one quad, or in several.
enum Layout { planes, one_quad, quads };

// to += scale * from, in quads where there are some
template <Layout layout, class T>
void add_scaled(T* to, T scale, const T* from, int64_t width) {
  if constexpr (layout == planes) {
    for (int64_t c = 0; c < width; ++c) to[c] += scale * from[c];
  } else {
    const int64_t end = layout == one_quad ? 4 : width;
    for (int64_t c = 0; c < end; c += 4) store(to + c, load(to + c) + scale * load(from + c));
  }
}

template <Layout layout, class T>
T inner(const T* a, const T* b, int64_t width) {
  if constexpr (layout == planes) {
    T total(0);
    for (int64_t c = 0; c < width; ++c) total += a[c] * b[c];
    return total;
  } else {
    Quad<T> total = {};
    const int64_t end = layout == one_quad ? 4 : width;
    for (int64_t c = 0; c < end; c += 4) total += load(a + c) * load(b + c);
    return (total[0] + total[1]) + (total[2] + total[3]);
  }
}

// body(lane) for every bit that is set.
template <class F>
void for_each_lane(uint32_t bits, const F& body) {
  for (; bits != 0; bits &= bits - 1) body(__builtin_ctz(bits));
}

// Large memory that comes back warm.
template <class T>
class Memory {
 public:
  explicit Memory(int64_t n) : bytes_(n * static_cast<int64_t>(sizeof(T))) {
    data_ = static_cast<T*>(is_large() ? acquire_pages(bytes_) : ::operator new(static_cast<size_t>(bytes_)));
  }
  ~Memory() {
    if (is_large())
      release_pages(data_, bytes_);
    else
      ::operator delete(data_);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  T* data() const { return data_; }

 private:
  bool is_large() const { return bytes_ >= int64_t{1} << 20; }
  int64_t bytes_;
  T* data_;
};

// The samples of a ray, and where a register of them lies among the voxels.
template <class T>
class Samples {
 public:
  using P = Pack<T>;
  static constexpr int lanes = P::lanes;

  // Rows and layers of the voxels are `row` and `layer` voxels apart.
  Samples(const MarchVolume<T>& problem, int64_t row, int64_t layer)
      : p(problem),
        row_(row),
        layer_(layer),
        is_small_(layer * p.size[2] < std::numeric_limits<int32_t>::max()),
        lengths_(static_cast<size_t>((p.S + lanes - 1) / lanes * lanes), T(0)) {}

  void start(int64_t ray) {
    std::copy_n(p.origins + 3 * ray, 3, origin);
    std::copy_n(p.directions + 3 * ray, 3, direction);
    std::copy_n(p.lengths + ray * p.length_step, p.S, lengths_.begin());
  }

  T length(int64_t i) const { return lengths_[i]; }

  // Finds samples i to i + lanes; bit l of the result: sample i + l is one of the first `count` of the ray and one of
  // its voxels lies in the layers [begin, end).
  uint32_t find(int64_t i, int64_t count, int64_t begin, int64_t end, bool with_slopes = false) {
    uint32_t inside = count - i >= lanes ? ~0u : (1u << (count - i)) - 1u;
    P low[3], high[3];
    for (int axis = 2; axis >= 0; --axis) {
      const P local = P(origin[axis]) + P::load(&lengths_[i]) * P(direction[axis]);
      const P x = Neighbours<T, P>::coordinate(p, axis, local);
      const Neighbours<T, P> n(p, axis, x);
      inside &= ((n.low > P(T(0))) | (n.high > P(T(0)))).bits();
      if (axis == 2 && (begin > 0 || end < p.size[2]))
        inside &= ((n.first >= P(static_cast<T>(begin - 1))) & (n.first < P(static_cast<T>(end)))).bits();
      if (inside == 0) return 0;
      n.first.store(first_[axis]);
      low[axis] = n.low, high[axis] = n.high;
      if (!with_slopes) continue;
      n.low.store(weight_[axis][0]), n.high.store(weight_[axis][1]);
      P of_low, of_high;
      n.slopes(p, axis, x, of_low, of_high);
      of_low.store(slope_[axis][0]), of_high.store(slope_[axis][1]);
    }
    if (is_small_) {
      const auto index = [&](int axis) { return __builtin_convertvector(P::load(first_[axis]).raw, Indices); };
      const Indices voxel = index(0) + index(1) * static_cast<Index>(row_) + index(2) * static_cast<Index>(layer_);
      std::memcpy(voxel_, &voxel, sizeof voxel);
    }
    low[0].store(x_[0]), high[0].store(x_[1]);
    for (int k = 0; k < 4; ++k) ((k & 1 ? high[1] : low[1]) * (k & 2 ? high[2] : low[2])).store(edge_[k]);
    return inside;
  }

  // The first of the eight voxels, and its layer.
  int64_t voxel(int lane) const {
    if (is_small_) return voxel_[lane];
    return first(2, lane) * layer_ + first(1, lane) * row_ + first(0, lane);
  }
  int64_t layer(int lane) const { return first(2, lane); }
  // What corner k weighs: bits 0, 1, 2 of k say whether it is the farther one in x, y, z.
  T corner(int k, int lane) const { return x(k & 1, lane) * edge(k >> 1, lane); }
  // The factor of that which belongs to x, and the one which belongs to y and z.
  T x(int farther, int lane) const { return x_[farther][lane]; }
  T edge(int k, int lane) const { return edge_[k][lane]; }
  // How that changes with the coordinate of an axis.
  T corner_slope(int k, int axis, int lane) const {
    T product(1);
    for (int other = 0; other < 3; ++other) product *= (other == axis ? slope_ : weight_)[other][k >> other & 1][lane];
    return product;
  }

  T origin[3], direction[3];

 private:
  using Index = IntOf<T>;
  using Indices = std::conditional_t<sizeof(T) == 4, Ints, Longs>;

  int64_t first(int axis, int lane) const { return static_cast<int64_t>(first_[axis][lane]); }

  const MarchVolume<T>& p;
  const int64_t row_, layer_;
  const bool is_small_;  // enough for indices of 32 bits
  std::vector<T> lengths_;
  Index voxel_[lanes];
  T first_[3][lanes], x_[2][lanes], edge_[4][lanes], weight_[3][2][lanes], slope_[3][2][lanes];
};

// Values of the voxels of a volume: those of one are its density, then its features, then zeros up to `width`.
template <class T>
struct Voxels {
  T* packed;  // null where the tensors are used as they are
  T *density, *features;
  int64_t size[3], count, channels, width;
  int64_t row, layer;  // how many voxels lie between rows, and layers
  int64_t corner[8];   // and from the first voxel of a sample to each corner

  Voxels(const MarchVolume<T>& p, T* memory, T* densities, T* all_features, int64_t volume)
      : packed(memory), count(p.voxels()), channels(p.C + 1), width(padded(p)) {
    std::copy_n(p.size, 3, size);
    density = densities ? densities + volume * count : nullptr;
    features = all_features ? all_features + volume * count * p.C : nullptr;
    row = memory ? packed_row(p) : size[0];
    layer = memory ? packed_layer(p) : size[0] * size[1];
    const int64_t steps[3] = {1, row, layer};
    for (int k = 0; k < 8; ++k) {
      corner[k] = 0;
      for (int axis = 0; axis < 3; ++axis) corner[k] += k >> axis & 1 && size[axis] > 1 ? steps[axis] : 0;
    }
  }

  static int64_t padded(const MarchVolume<T>& p) { return (p.C + 4) / 4 * 4; }
  static int64_t packed_row(const MarchVolume<T>& p) { return spread(p, p.size[0]); }
  static int64_t packed_layer(const MarchVolume<T>& p) { return spread(p, packed_row(p) * p.size[1]); }
  // How much memory the packed values take.
  static int64_t needed(const MarchVolume<T>& p) { return packed_layer(p) * p.size[2] * padded(p); }

  Samples<T> samples(const MarchVolume<T>& p) const { return Samples<T>(p, row, layer); }

  // Moves rows [begin, end) from the planes into quads, or back.
  void pack(int64_t begin, int64_t end) const {
    for_each_row(begin, end, [&](int64_t v, T* __restrict to) {
      if (channels == 4) {
        const T *a = density + v, *b = features + v, *c = b + count, *d = c + count;
        for (int64_t x = 0; x < size[0]; ++x)
          to[4 * x] = a[x], to[4 * x + 1] = b[x], to[4 * x + 2] = c[x], to[4 * x + 3] = d[x];
        return;
      }
      for (int64_t c = 0; c < channels; ++c) {
        const T* plane = c == 0 ? density + v : features + (c - 1) * count + v;
        for (int64_t x = 0; x < size[0]; ++x) to[x * width + c] = plane[x];
      }
      for (int64_t c = channels; c < width; ++c)
        for (int64_t x = 0; x < size[0]; ++x) to[x * width + c] = T(0);
    });
  }
  void unpack(int64_t begin, int64_t end) const {
    for_each_row(begin, end, [&](int64_t v, const T* from) {
      for (int64_t c = density ? 0 : 1; c < (features ? channels : 1); ++c) {
        T* __restrict plane = c == 0 ? density + v : features + (c - 1) * count + v;
        for (int64_t x = 0; x < size[0]; ++x) plane[x] = from[x * width + c];
      }
    });
  }
  void clear(int64_t begin, int64_t end) const {
    if (packed) return for_each_row(begin, end, [&](int64_t, T* to) { std::fill_n(to, size[0] * width, T(0)); });
    begin *= row, end *= row;
    if (density) std::fill(density + begin, density + end, T(0));
    for (int64_t c = 0; features && c + 1 < channels; ++c)
      std::fill(features + c * count + begin, features + c * count + end, T(0));
  }

 private:
  // Rays go through rows and layers; were these a power of two apart, all their voxels would share a few lines of the
  // caches.
  static int64_t spread(const MarchVolume<T>& p, int64_t voxels) {
    const int64_t bytes = padded(p) * static_cast<int64_t>(sizeof(T));
    return voxels * bytes % 1024 == 0 ? voxels + std::max<int64_t>(1, 64 / bytes) : voxels;
  }
  // body(first voxel in the planes, packed values) for all these rows
  template <class F>
  void for_each_row(int64_t begin, int64_t end, const F& body) const {
    for (int64_t r = begin; r < end; ++r) {
      body(r * size[0], packed + (r / size[1] * layer + r % size[1] * row) * width);
    }
  }

 public:
  // values = sum_k weight_k value_k
  template <Layout layout>
  void read(const Samples<T>& samples, int lane, T* values) const {
    const int64_t voxel = samples.voxel(lane);
    if constexpr (layout == planes) {
      for (int64_t c = 0; c < channels; ++c) {
        const T* plane = c == 0 ? density : features + (c - 1) * count;
        T sum(0);
        for (int k = 0; k < 8; ++k) sum += samples.corner(k, lane) * plane[voxel + corner[k]];
        values[c] = sum;
      }
    } else if constexpr (layout == one_quad) {
      const T* at = packed + voxel * 4;
      TwoQuads<T> sum = samples.edge(0, lane) * load_as<TwoQuads<T>>(at);
      for (int k = 1; k < 4; ++k) sum += samples.edge(k, lane) * load_as<TwoQuads<T>>(at + corner[2 * k] * 4);
      Quad<T> ends[2];
      std::memcpy(ends, &sum, sizeof sum);
      store(values, samples.x(0, lane) * ends[0] + samples.x(1, lane) * ends[1]);
    } else {
      for (int64_t c = 0; c < width; c += 4) {
        Quad<T> sum = {};
        for (int k = 0; k < 8; ++k) sum += samples.corner(k, lane) * load(packed + (voxel + corner[k]) * width + c);
        store(values + c, sum);
      }
    }
  }

  // density_k += weight_k density, features_k += weight_k scale G, for the corners in the layers [begin, end); G starts
  // with a number for the density that is not looked at.
  template <Layout layout>
  void add(const Samples<T>& samples, int lane, T of_density, T scale, const T* G, int64_t begin, int64_t end) const {
    const int64_t voxel = samples.voxel(lane), z = samples.layer(lane);
    const int from = z < begin ? 4 : 0, to = z + 1 < end ? 8 : 4;
    if constexpr (layout == planes) {
      for (int64_t c = density ? 0 : 1; c < (features ? channels : 1); ++c) {
        T* plane = c == 0 ? density : features + (c - 1) * count;
        const T value = c == 0 ? of_density : scale * G[c];
        for (int k = from; k < to; ++k) plane[voxel + corner[k]] += samples.corner(k, lane) * value;
      }
    } else if constexpr (layout == one_quad) {
      Quad<T> value = scale * load(G);
      value[0] = of_density;
      // Not two quads at once: the next sample would read half of what was just written, which stalls.
      const Quad<T> near = samples.x(0, lane) * value, far = samples.x(1, lane) * value;
      for (int k = from / 2; k < to / 2; ++k) {
        T* at = packed + (voxel + corner[2 * k]) * 4;
        store(at, load(at) + samples.edge(k, lane) * near);
        store(at + 4, load(at + 4) + samples.edge(k, lane) * far);
      }
    } else {
      for (int64_t c = 0; c < width; c += 4) {
        Quad<T> value = scale * load(G + c);
        if (c == 0) value[0] = of_density;
        for (int k = from; k < to; ++k) {
          T* at = packed + (voxel + corner[k]) * width + c;
          store(at, load(at) + samples.corner(k, lane) * value);
        }
      }
    }
  }

  // <value of corner k, values>
  template <Layout layout>
  T dot(int64_t voxel, int k, const T* values) const {
    const int64_t at = voxel + corner[k];
    if constexpr (layout != planes) return inner<layout>(packed + at * width, values, width);
    T total = density[at] * values[0];
    for (int64_t c = 1; c < channels; ++c) total += features[(c - 1) * count + at] * values[c];
    return total;
  }
};

// f(layout) with the layout as a constant
template <class T, class F>
void with_layout(const Voxels<T>& voxels, const F& f) {
  if (!voxels.packed)
    f(std::integral_constant<Layout, planes>{});
  else if (voxels.width == 4)
    f(std::integral_constant<Layout, one_quad>{});
  else
    f(std::integral_constant<Layout, quads>{});
}

}  // namespace

}  // namespace RECON_SIMD
}  // namespace recon
