// One ray after the other; where its samples lie is found for a register of them at a time. Where there are more
// samples than voxels, the values of a voxel are first laid side by side, so that a corner is one or a few short
// registers. Backward goes through some rays twice: threads first own rays, and note what their samples give; then they
// own layers of the volume and add up what falls into these, in the order of the rays.
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "core/pages.h"
#include "core/parallel.h"
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
    for_each_row(begin, end, [&](int64_t v, T* to) {
      to[0] = density[v];
      for (int64_t c = 0; c + 1 < channels; ++c) to[c + 1] = features[c * count + v];
      for (int64_t c = channels; c < width; ++c) to[c] = T(0);
    });
  }
  void unpack(int64_t begin, int64_t end) const {
    for_each_row(begin, end, [&](int64_t v, const T* from) {
      if (density) density[v] = from[0];
      for (int64_t c = 0; features && c + 1 < channels; ++c) features[c * count + v] = from[c + 1];
    });
  }
  void clear(int64_t begin, int64_t end) const {
    if (packed) return for_each_row(begin, end, [&](int64_t, T* to) { std::fill_n(to, width, T(0)); });
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
  // body(voxel in the planes, packed values) for all voxels of these rows
  template <class F>
  void for_each_row(int64_t begin, int64_t end, const F& body) const {
    for (int64_t r = begin; r < end; ++r) {
      T* to = packed + (r / size[1] * layer + r % size[1] * row) * width;
      for (int64_t x = 0; x < size[0]; ++x) body(r * size[0] + x, to + x * width);
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

// Whether samples outside of the volume change nothing, so that a ray has only those inside.
template <class T>
bool skips_outside(const MarchVolume<T>& p) {
  return p.full == T(1) && p.shift == 1;
}

// All of the next samples of a ray.
template <class T>
uint32_t every_lane(const MarchVolume<T>& p, int64_t i) {
  const int64_t count = std::min<int64_t>(Samples<T>::lanes, p.S - i);
  return count == 32 ? ~0u : (1u << count) - 1u;
}

template <Layout layout, class T>
void march(const MarchVolume<T>& p, const Voxels<T>& voxels, int64_t begin, int64_t end) {
  constexpr int64_t lanes = Samples<T>::lanes;
  const int64_t width = voxels.width;
  const bool skips = skips_outside(p);
  Samples<T> samples = voxels.samples(p);
  std::vector<T> density(p.S), values(width), sums(width);
  for (int64_t ray = begin; ray < end; ++ray) {
    samples.start(ray);
    std::fill(sums.begin(), sums.end(), T(0));
    Light<T> light;
    T clear(1);
    int64_t count = 0;
    for (int64_t i = 0; i < p.S && !(std::abs(light.left) < p.least); i += lanes) {
      const uint32_t inside = samples.find(i, p.S, 0, p.size[2]);
      for_each_lane(skips ? inside : every_lane(p, i), [&](int lane) {
        const bool reads = inside >> lane & 1;
        if (reads) voxels.template read<layout>(samples, lane, values.data());
        const T a = density[count] = reads ? values[0] : T(0);
        if (count >= p.shift) light.pass(p.full - density[count - p.shift]);
        if (reads) add_scaled<layout>(sums.data(), a * light.left, values.data(), width);
        clear *= T(1) - a, ++count;
      });
    }
    T* out = p.out + ray * (p.C + 1);
    std::copy_n(sums.data() + 1, p.C, out);
    out[p.C] = T(1) - clear;
  }
}

// What the samples of some rays give to the voxels they read: `density` to their densities, `weight` times the gradient
// of the ray to their features.
template <class T>
struct Given {
  int64_t first, blocks;  // first ray; registers of samples in a ray
  Memory<T> density, weight;
  std::vector<int64_t> counts;     // samples of a ray up to its end
  std::vector<T> lowest, highest;  // first layer that a register of samples reads, the lowest and the highest of them

  Given(int64_t rays, int64_t S)
      : first(0),
        blocks(S / Samples<T>::lanes + 1),
        density(rays * S),
        weight(rays * S),
        counts(rays),
        lowest(rays * blocks),
        highest(rays * blocks) {}
};

// (0, gradients of the features of a ray, 0 ...)
template <class T>
void load_gradient(const MarchVolume<T>& p, int64_t ray, T* to) {
  std::copy_n(p.grad_out + ray * (p.C + 1), p.C, to + 1);
}

template <Layout layout, class T>
void find_given(const MarchVolume<T>& p, const Voxels<T>& voxels, Given<T>& given, int64_t begin, int64_t end) {
  constexpr int64_t lanes = Samples<T>::lanes;
  const bool skips = skips_outside(p);
  Samples<T> samples = voxels.samples(p);
  std::vector<T> values(voxels.width), G(voxels.width), density(p.S), slope(p.S), lights(p.S), clears(p.S),
      befores(p.S);
  // The three products of all factors before a sample are one where none is left out and eps is lost in rounding.
  const T *clear_of = (skips ? lights : clears).data(), *before_of = (skips ? lights : befores).data();
  std::vector<int64_t> place(p.S);
  for (int64_t ray = begin; ray < end; ++ray) {
    samples.start(ray);
    load_gradient(p, ray, G.data());
    Light<T> light;
    T clear(1), before(1);
    int64_t i = 0, count = 0, done = 0, block = (ray - given.first) * given.blocks;
    for (; i < p.S && !(std::abs(light.but_one) < p.least); i += lanes, ++block) {
      const uint32_t inside = samples.find(i, p.S, 0, p.size[2]);
      T lowest = std::numeric_limits<T>::max(), highest(-1);
      for_each_lane(skips ? inside : every_lane(p, i), [&](int lane) {
        density[count] = slope[count] = T(0);
        if (inside >> lane & 1) {
          voxels.template read<layout>(samples, lane, values.data());
          density[count] = values[0];
          slope[count] = inner<layout>(G.data(), values.data(), voxels.width);
          const T layer = static_cast<T>(samples.layer(lane));
          lowest = std::min(lowest, layer), highest = std::max(highest, layer);
        }
        place[count++] = i + lane;
      });
      given.lowest[block] = lowest, given.highest[block] = highest;
      for (; done < count; ++done) {
        if (done >= p.shift) light.pass(p.full - density[done - p.shift]);
        lights[done] = light.left;
        if (skips) continue;
        clears[done] = clear, befores[done] = before;
        clear *= T(1) - density[done], before *= p.full - density[done];
      }
    }
    given.counts[ray - given.first] = std::min(i, p.S);
    T* of_density = given.density.data() + (ray - given.first) * p.S;
    T* weight = given.weight.data() + (ray - given.first) * p.S;
    const T grad_opacity = p.grad_out[ray * (p.C + 1) + p.C];
    T behind(0), product(1);
    for (int64_t j = count - 1; j >= 0; --j) {
      if (j + 1 < count) behind *= p.full - density[j + 1];
      if (j + p.shift < count) behind += density[j + p.shift] * slope[j + p.shift];
      of_density[place[j]] = lights[j] * slope[j] - before_of[j] * behind + grad_opacity * clear_of[j] * product;
      weight[place[j]] = density[j] * lights[j];
      product *= T(1) - density[j];
    }
  }
}

template <Layout layout, class T>
void add_given(const MarchVolume<T>& p, const Voxels<T>& grads, const Given<T>& given, int64_t rays, int64_t begin,
               int64_t end) {
  constexpr int64_t lanes = Samples<T>::lanes;
  Samples<T> samples = grads.samples(p);
  std::vector<T> G(grads.width);
  for (int64_t r = 0; r < rays; ++r) {
    samples.start(given.first + r);
    load_gradient(p, given.first + r, G.data());
    const T *density = given.density.data() + r * p.S, *weight = given.weight.data() + r * p.S;
    const int64_t count = given.counts[r];
    for (int64_t i = 0, block = r * given.blocks; i < count; i += lanes, ++block) {
      if (given.highest[block] < static_cast<T>(begin - 1) || given.lowest[block] >= static_cast<T>(end)) continue;
      for_each_lane(samples.find(i, count, begin, end), [&](int lane) {
        grads.template add<layout>(samples, lane, density[i + lane], weight[i + lane], G.data(), begin, end);
      });
    }
  }
}

// Gradients of origins, directions and lengths: how the corners of a sample change their weights.
template <Layout layout, class T>
void ray_gradients(const MarchVolume<T>& p, const Voxels<T>& voxels, const Given<T>& given, int64_t begin,
                   int64_t end) {
  constexpr int lanes = Samples<T>::lanes;
  Samples<T> samples = voxels.samples(p);
  std::vector<T> values(voxels.width);
  for (int64_t ray = begin; ray < end; ++ray) {
    samples.start(ray);
    const int64_t r = ray - given.first, count = p.nearest ? 0 : given.counts[r];
    T of_origin[3] = {}, of_direction[3] = {};
    if (p.grad_lengths) std::fill_n(p.grad_lengths + ray * p.S, p.S, T(0));
    for (int64_t i = 0; i < count; i += lanes)
      for_each_lane(samples.find(i, count, 0, p.size[2], true), [&](int lane) {
        const int64_t at = i + lane, voxel = samples.voxel(lane);
        values[0] = given.density.data()[r * p.S + at];
        const T weight = given.weight.data()[r * p.S + at], *G = p.grad_out + ray * (p.C + 1);
        for (int64_t c = 0; c < p.C; ++c) values[c + 1] = weight * G[c];
        T of_point[3] = {};
        for (int k = 0; k < 8; ++k) {
          const T dot = voxels.template dot<layout>(voxel, k, values.data());
          for (int axis = 0; axis < 3; ++axis) of_point[axis] += samples.corner_slope(k, axis, lane) * dot;
        }
        T of_length(0);
        for (int axis = 0; axis < 3; ++axis) {
          of_origin[axis] += of_point[axis];
          of_direction[axis] += samples.length(at) * of_point[axis];
          of_length += samples.direction[axis] * of_point[axis];
        }
        if (p.grad_lengths) p.grad_lengths[ray * p.S + at] = of_length;
      });
    if (p.grad_origins) std::copy_n(of_origin, 3, p.grad_origins + 3 * ray);
    if (p.grad_directions) std::copy_n(of_direction, 3, p.grad_directions + 3 * ray);
  }
}

// Whether enough is read of a volume that laying its values side by side pays. In rows of one voxel no two lie side by
// side.
template <class T>
bool worth_packing(const MarchVolume<T>& p, int64_t rays) {
  return p.C > 0 && p.size[0] > 1 && rays * p.S * 4 >= p.voxels();
}

constexpr int64_t few_rays = 16, many_rows = 64;

// body(values of the volume, its first ray, the one behind its last) for every volume
template <class T, class F>
void for_each_volume(const MarchVolume<T>& p, const F& body) {
  const int64_t rays = p.V == 0 ? 0 : p.rays() / p.V;
  const bool packs = worth_packing(p, rays);
  const Memory<T> memory(packs ? Voxels<T>::needed(p) : 0);
  for (int64_t v = 0; v < p.V; ++v) {
    // Values are only read through these pointers.
    const Voxels<T> voxels(p, packs ? memory.data() : nullptr, const_cast<T*>(p.densities), const_cast<T*>(p.features),
                           v);
    if (packs) for_each_range(p.size[1] * p.size[2], many_rows, [&](int64_t b, int64_t e) { voxels.pack(b, e); });
    body(voxels, v, v * rays, (v + 1) * rays);
  }
}

}  // namespace

template <class T>
void march_volume_cpu(const MarchVolume<T>& p) {
  for_each_volume(p, [&](const Voxels<T>& voxels, int64_t, int64_t first, int64_t last) {
    with_layout(voxels, [&](auto layout) {
      for_each_range(last - first, few_rays,
                     [&](int64_t b, int64_t e) { march<decltype(layout)::value>(p, voxels, first + b, first + e); });
    });
  });
}

template <class T>
void march_volume_backward_cpu(const MarchVolume<T>& p) {
  const int64_t at_once = std::min(p.rays(), std::max<int64_t>(256, (int64_t{1} << 19) / (p.S + 1)));
  Given<T> given(at_once, p.S);
  const bool packs = p.wants_voxels() && p.V > 0 && worth_packing(p, p.rays() / p.V);
  const Memory<T> memory(packs ? Voxels<T>::needed(p) : 0);
  // Whoever owns a layer adds to it in the same order: how many share the work changes no result.
  const int64_t owners = num_threads() == 1 ? 1 : std::min<int64_t>(p.size[2], 4 * num_threads());
  for_each_volume(p, [&](const Voxels<T>& voxels, int64_t v, int64_t first, int64_t last) {
    const Voxels<T> grads(p, packs ? memory.data() : nullptr, p.grad_densities, p.grad_features, v);
    if (p.wants_voxels())
      for_each_range(p.size[1] * p.size[2], many_rows, [&](int64_t b, int64_t e) { grads.clear(b, e); });
    with_layout(voxels, [&](auto layout_of_values) {
      constexpr Layout layout = decltype(layout_of_values)::value;
      for (given.first = first; given.first < last; given.first += at_once) {
        const int64_t rays = std::min(at_once, last - given.first), start = given.first;
        for_each_range(rays, few_rays, [&](int64_t b, int64_t e) {
          find_given<layout>(p, voxels, given, start + b, start + e);
          if (p.wants_rays()) ray_gradients<layout>(p, voxels, given, start + b, start + e);
        });
        if (!p.wants_voxels()) continue;
        for_each_task(owners, [&](int64_t o, int) {
          add_given<layout>(p, grads, given, rays, p.size[2] * o / owners, p.size[2] * (o + 1) / owners);
        });
      }
    });
    if (packs) for_each_range(p.size[1] * p.size[2], many_rows, [&](int64_t b, int64_t e) { grads.unpack(b, e); });
  });
}

template void march_volume_cpu(const MarchVolume<float>&);
template void march_volume_cpu(const MarchVolume<double>&);
template void march_volume_backward_cpu(const MarchVolume<float>&);
template void march_volume_backward_cpu(const MarchVolume<double>&);

}  // namespace RECON_SIMD
}  // namespace recon
