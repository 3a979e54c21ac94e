// One ray after the other; where its samples lie is found for a register of them at a time. Where there are more
// samples than voxels, the values of a voxel are first laid side by side, so that a corner is one or a few short
// registers. Backward goes through some rays twice: threads first own rays, and note what their samples give; then they
// own layers of the volume and add up what falls into these, in the order of the rays.
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "core/parallel.h"
#include "ops/march_volume/kernels.h"
#include "ops/march_volume/voxels.h"

namespace recon {
namespace RECON_SIMD {

namespace {

// Whether samples outside of the volume change nothing, so that a ray has only those inside.
template <class T>
bool skips_outside(const MarchVolume<T>& p) {
  return p.full == T(1) && p.shift == 1;
}

// All of the next samples of a ray.
template <class T>
uint32_t every_lane(const MarchVolume<T>& p, int64_t i) {
  return (1u << std::min<int64_t>(Samples<T>::lanes, p.S - i)) - 1u;
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
  const int64_t at_once = std::min(p.rays(), std::max<int64_t>(32, (int64_t{1} << 19) / (p.S + 1)));
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
