// One pixel after the other, a register of its K faces at a time. Gradients of a group of pixels are put together in
// cache, where empty slots stay zero from one group to the next, and written once.
#include <algorithm>
#include <cstring>
#include <vector>

#include "ops/softmax_blend/kernels.h"

namespace recon {
namespace RECON_SIMD {

namespace {

// C as a constant where it is the usual one, so that loops over it unroll; otherwise as it is.
template <int fixed>
struct Channels {
  int64_t C;
  operator int64_t() const { return fixed ? fixed : C; }
};

// Rows of pixels are read only as far as they are used, which the processor does not foresee.
template <class T>
void prefetch(const T* data, int64_t n) {
  for (auto line = reinterpret_cast<const char*>(data); line < reinterpret_cast<const char*>(data + n); line += 64)
    __builtin_prefetch(line);
}

// Slots at, at + 1, ... of which no more than `count` belong to the pixel: those that hold a face, and what they hold.
template <class T>
struct Slots {
  using V = Pack<T>;
  uint32_t bits;
  V dist = V(T(0)), z = V(T(0));

  Slots(const SoftmaxBlend<T>& p, int64_t at, int64_t count)
      : bits(non_negative(p.pix_to_face + at, std::min<int64_t>(count, V::lanes))) {
    if (!bits) return;
    if (count >= V::lanes) {
      dist = V::load(p.dists + at), z = V::load(p.zbuf + at);
    } else {
      for (int i = 0; i < count; ++i) dist.raw[i] = p.dists[at + i], z.raw[i] = p.zbuf[at + i];
    }
  }
  Mask<T> faces() const { return Mask<T>::of_bits(bits); }
};

// The formulas of softmax_blend.cpp for the faces of one image; 0 where there is no face.
template <class T>
struct Formulas {
  using V = Pack<T>;
  V far, range, inverse_sigma, inverse_gamma;

  Formulas(const SoftmaxBlend<T>& p, int64_t pixel)
      : far(p.planes[pixel / p.pixels_per_image * 2 + 1]),
        range(far - V(p.planes[pixel / p.pixels_per_image * 2])),
        inverse_sigma(T(1) / p.sigma),
        inverse_gamma(T(1) / p.gamma) {}

  V coverage(const Slots<T>& s) const {
    return select(s.faces(), V(T(1)) / (V(T(1)) + exp(s.dist * inverse_sigma)), V(T(0)));
  }
  V depth(const Slots<T>& s) const { return select(s.faces(), (far - s.z) / range, V(T(0))); }
  V weight(V coverage, V depth, V nearest) const { return coverage * exp((depth - nearest) * inverse_gamma); }
};

// Sums of a pixel's faces; leaves their weights, and 0 for empty slots in between, in weights[0 .. used].
template <class T>
BlendSums<T> weigh(const SoftmaxBlend<T>& p, int64_t pixel, T* weights, T* depths) {
  using V = Pack<T>;
  const Formulas<T> formulas(p, pixel);
  constexpr T eps = static_cast<T>(blend_epsilon);
  int64_t used = 0, nearest_k = -1;
  V clear(T(1)), largest(eps);
  for (int64_t k = 0; k < p.K; k += V::lanes) {
    const Slots<T> slots(p, pixel * p.K + k, p.K - k);
    V coverage(T(0)), depth(T(0));
    if (slots.bits) {
      used = k + 32 - __builtin_clz(slots.bits);
      coverage = formulas.coverage(slots), depth = formulas.depth(slots);
      clear *= V(T(1)) - coverage, largest = maximum(largest, depth);
    }
    coverage.store(weights + k), depth.store(depths + k);
  }
  if (used == 0) return {T(1), eps, T(1), T(1), T(0), T(-1)};
  T product(1), nearest(eps);
  for (int lane = 0; lane < V::lanes; ++lane) product *= clear[lane], nearest = std::max(nearest, largest[lane]);
  V faces(T(0));
  for (int64_t k = 0; k < used; k += V::lanes) {
    const V depth = V::load(depths + k);
    const uint32_t first = (depth == V(nearest)).bits();  // an empty slot has depth 0, which is less
    if (first && nearest_k < 0) nearest_k = k + __builtin_ctz(first);
    const V weight = formulas.weight(V::load(weights + k), depth, nearest);
    weight.store(weights + k);
    faces += weight;
  }
  const T background = std::max(exp(V((eps - nearest) / p.gamma))[0], eps);
  return {product, nearest, background, sum(faces) + background, static_cast<T>(used), static_cast<T>(nearest_k)};
}

template <class T, class Count>
void mix(const SoftmaxBlend<T>& p, Count C, int64_t pixel, const T* weights) {
  const BlendSums<T>& s = p.sums[pixel];
  const T* color = p.colors + pixel * p.K * C;
  T* __restrict image = p.image + pixel * (C + 1);
  for (int64_t c = 0; c < C; ++c) image[c] = s.background * p.background[c];
  for (int64_t k = 0; k < static_cast<int64_t>(s.used); ++k) {
    if (weights[k] == T(0)) continue;  // what a slot without weight holds may not be finite
    for (int64_t c = 0; c < C; ++c) image[c] += weights[k] * color[k * C + c];
  }
  for (int64_t c = 0; c < C; ++c) image[c] /= s.total;
  image[C] = T(1) - s.clear;
}

template <class T, class Count>
void blend(const SoftmaxBlend<T>& p, Count C, int64_t begin, int64_t end) {
  constexpr int64_t together = 4;  // pixels whose colours arrive while the others are weighed
  const int64_t room = p.K + Pack<T>::lanes;
  std::vector<T> weights(together * room), depths(room);
  for (int64_t first = begin; first < end; first += together) {
    const int64_t n = std::min(together, end - first);
    for (int64_t i = 0; i < n; ++i) {
      p.sums[first + i] = weigh(p, first + i, weights.data() + i * room, depths.data());
      prefetch(p.colors + (first + i) * p.K * C, static_cast<int64_t>(p.sums[first + i].used) * C);
    }
    for (int64_t i = 0; i < n; ++i) mix(p, C, first + i, weights.data() + i * room);
  }
}

// The gradients of some pixels, zero between uses.
template <class T>
struct GroupGrads {
  std::vector<T> colors, zbuf, dists;
  // Registers are stored whole: behind a pixel, where the next one overwrites them, and behind the last one.
  GroupGrads(int64_t pixels, int64_t K, int64_t C)
      : colors(pixels * K * C), zbuf(pixels * K + Pack<T>::lanes), dists(pixels * K + Pack<T>::lanes) {}
};

// Gradients of the `used` slots of a pixel, with d as named in softmax_blend.cpp.
template <class T, class Count>
void go_back(const SoftmaxBlend<T>& p, Count C, int64_t pixel, const BlendSums<T>& s, T* __restrict d_colors,
             T* __restrict d_zbuf, T* __restrict d_dists) {
  using V = Pack<T>;
  const Formulas<T> formulas(p, pixel);
  const T *image = p.image + pixel * (C + 1), *grad = p.grad_image + pixel * (C + 1);
  const int64_t first = pixel * p.K, used = static_cast<int64_t>(s.used);
  const T inverse_total = T(1) / s.total;
  const V zero(T(0)), depth_per_z = V(T(-1)) / formulas.range, through_clear(grad[C] * s.clear);
  V all_along_z = zero;
  for (int64_t k = 0; k < used; k += V::lanes) {
    const Slots<T> slots(p, first + k, p.K - k);
    const Mask<T> faces = slots.faces();
    const V coverage = formulas.coverage(slots);
    const V weight = formulas.weight(coverage, formulas.depth(slots), s.nearest);
    alignas(64) T q_lanes[V::lanes] = {}, share[V::lanes];
    (weight * V(inverse_total)).store(share);
    const int n = static_cast<int>(std::min<int64_t>(V::lanes, used - k));
    for (int i = 0; i < n; ++i) {
      const T* color = p.colors + (first + k + i) * C;
      T q(0);
      for (int64_t c = 0; c < C; ++c) {
        q += grad[c] * (color[c] - image[c]);
        d_colors[(k + i) * C + c] = grad[c] * share[i];
      }
      q_lanes[i] = q;
    }
    const V qw = select(faces, V::load(q_lanes) * V::load(share), zero), along_z = qw * formulas.inverse_gamma;
    all_along_z += along_z;
    (along_z * depth_per_z).store(d_zbuf + k);
    // d w / d p = w / p; where p is 0 so is its slope.
    (-(qw * (V(T(1)) - coverage) + through_clear * coverage) * formulas.inverse_sigma).store(d_dists + k);
  }
  if (s.nearest_k < T(0)) return;
  T through_nearest = -sum(all_along_z);
  for (int64_t c = 0; s.background > static_cast<T>(blend_epsilon) && c < C; ++c)
    through_nearest -= grad[c] * (p.background[c] - image[c]) * inverse_total * s.background / p.gamma;
  d_zbuf[static_cast<int64_t>(s.nearest_k)] += through_nearest * depth_per_z[0];
}

template <class T, class Count>
void blend_backward(const SoftmaxBlend<T>& p, Count C, int64_t begin, int64_t end) {
  constexpr int64_t ahead = 2;
  const int64_t K = p.K;
  // Gradients larger than a share of the last-level cache go around it.
  const bool stream = p.pixels * K * (C + 2) * static_cast<int64_t>(sizeof(T)) > (int64_t{8} << 20);
  const int64_t size = K * C * static_cast<int64_t>(sizeof(T)) > 4096 ? 1 : blend_group;
  GroupGrads<T> group(size, K, C);
  const auto write = [&](T* to, const std::vector<T>& from, int64_t at, int64_t n) {
    if (!to || n == 0) return;
    if (stream)
      stream_copy(to + at, from.data(), n * sizeof(T));
    else
      std::memcpy(to + at, from.data(), n * sizeof(T));
  };
  for (int64_t start = begin; start < end; start += size) {
    const int64_t n = std::min(size, end - start);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t next = std::min(start + i + ahead, end - 1), slots = static_cast<int64_t>(p.sums[next].used);
      prefetch(p.colors + next * K * C, slots * C), prefetch(p.pix_to_face + next * K, slots);
      prefetch(p.dists + next * K, slots), prefetch(p.zbuf + next * K, slots);
      if (p.sums[start + i].used > T(0))
        go_back(p, C, start + i, p.sums[start + i], group.colors.data() + i * K * C, group.zbuf.data() + i * K,
                group.dists.data() + i * K);
    }
    write(p.grad_colors, group.colors, start * K * C, n * K * C);
    write(p.grad_zbuf, group.zbuf, start * K, n * K);
    write(p.grad_dists, group.dists, start * K, n * K);
    for (int64_t i = 0; i < n; ++i) {
      const auto used = static_cast<int64_t>(p.sums[start + i].used);
      std::fill_n(group.colors.data() + i * K * C, used * C, T(0));
      std::fill_n(group.zbuf.data() + i * K, used, T(0));
      std::fill_n(group.dists.data() + i * K, used, T(0));
    }
  }
  if (stream) stream_end();
}

}  // namespace

template <class T>
void softmax_blend_groups(const SoftmaxBlend<T>& p, int64_t begin, int64_t end) {
  begin *= blend_group, end = std::min(end * blend_group, p.pixels);
  p.C == 3 ? blend(p, Channels<3>{p.C}, begin, end) : blend(p, Channels<0>{p.C}, begin, end);
}

template <class T>
void softmax_blend_backward_groups(const SoftmaxBlend<T>& p, int64_t begin, int64_t end) {
  begin *= blend_group, end = std::min(end * blend_group, p.pixels);
  p.C == 3 ? blend_backward(p, Channels<3>{p.C}, begin, end) : blend_backward(p, Channels<0>{p.C}, begin, end);
}

template void softmax_blend_groups(const SoftmaxBlend<float>&, int64_t, int64_t);
template void softmax_blend_groups(const SoftmaxBlend<double>&, int64_t, int64_t);
template void softmax_blend_backward_groups(const SoftmaxBlend<float>&, int64_t, int64_t);
template void softmax_blend_backward_groups(const SoftmaxBlend<double>&, int64_t, int64_t);

}  // namespace RECON_SIMD
}  // namespace recon
