// One ray after the other, a register of its samples at a time: products along the ray are scans inside of registers,
// and features, which lie C to a sample, meet their weights by permutations.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "ops/march_rays/kernels.h"

namespace recon {
namespace RECON_SIMD {

namespace {

// Up to this many channels a register holds several samples; above, neighbouring channels of one.
constexpr int64_t few_channels = 8;

template <class T>
using Places = std::conditional_t<sizeof(T) == 4, Ints, Longs>;

// Lane l of the result is lane place[l] of the pair a, b; those of b are counted on from those of a.
template <class T>
Pack<T> shuffle(Pack<T> a, Pack<T> b, Places<T> place) {
#if defined(__clang__)
  Pack<T> v;
  for (int l = 0; l < Pack<T>::lanes; ++l)
    v.raw[l] = place[l] < Pack<T>::lanes ? a.raw[place[l]] : b.raw[place[l] - Pack<T>::lanes];
  return v;
#else
  return __builtin_shuffle(a.raw, b.raw, place);
#endif
}

// The values `d` lanes before (d > 0) or behind (d < 0), and `end` where there is no such lane.
template <int d, class T>
Pack<T> shift(Pack<T> v, Pack<T> end) {
  constexpr int lanes = Pack<T>::lanes;
  Places<T> place{};
  for (int l = 0; l < lanes; ++l) place[l] = l - d >= 0 && l - d < lanes ? l - d : lanes;
  return shuffle(v, end, place);
}

// Lane l: the product of the lanes up to l, or from l on where d starts at -1.
template <int d, class T>
Pack<T> products(Pack<T> v) {
  if constexpr (d * d < Pack<T>::lanes * Pack<T>::lanes)
    return products<2 * d>(v * shift<d>(v, Pack<T>(T(1))));
  else
    return v;
}

// Values b_l = add_l + times_l b_{l+1}, as functions of what follows the last lane: b_l = add_l + times_l b_end.
template <class T>
struct Affine {
  Pack<T> times, add;

  template <int d = 1>
  Affine scan() const {
    if constexpr (d < Pack<T>::lanes) {
      const Pack<T> later = shift<-d>(add, Pack<T>(T(0)));
      return Affine{times * shift<-d>(times, Pack<T>(T(1))), add + times * later}.template scan<2 * d>();
    } else {
      return *this;
    }
  }
};

// What is known of the samples of one ray; rows are as long as whole registers, and go on with empty samples.
template <class T>
class Ray {
 public:
  using P = Pack<T>;
  static constexpr int lanes = P::lanes;

  Ray(const MarchRays<T>& problem, bool with_gradients)
      : p(problem), backward(with_gradients), size((p.S + lanes - 1) / lanes * lanes) {
    density_.resize(size + 1), weight.resize(size);
    light_.assign(size + p.shift + 1, T(1));
    if (backward) clear_.assign(size + 1, T(1)), slope.resize(size), emitted_.resize(size + p.shift);
    for (int64_t c = 0; c < std::min(p.C, few_channels); ++c)
      for (int64_t l = 0; l < lanes; ++l) {
        sample_of_[c][l] = static_cast<IntOf<T>>((c * lanes + l) / p.C);
        for (int64_t k = 0; k < std::min(p.C, few_channels); ++k) {
          // Lane l of channel c is number l * C + c of all; it lies in register k, or is kept from those before.
          const int64_t at = l * p.C + c - k * lanes;
          channel_[c][k][l] = static_cast<IntOf<T>>(at >= 0 && at < lanes ? lanes + at : l);
        }
      }
  }

  void load(int64_t ray) {
    std::copy_n(p.densities + ray * p.S, p.S, density_.begin());
    P carry(T(1));
    for (int64_t i = 0; i < size; i += lanes) {
      const P clear = products<1>(P(T(1)) - P::load(&density_[i])) * carry;
      carry = P(clear[lanes - 1]);
      if (backward) clear.store(&clear_[i + 1]);
    }
    all_clear = carry[0];
    if (p.C == 0) return;  // nothing is weighed
    carry = P(T(1));
    T* light = light_.data() + p.shift + 1;
    for (int64_t i = 0; i < size; i += lanes) {
      const P passed = products<1>(P(p.full) - P::load(&density_[i])) * carry;
      carry = P(passed[lanes - 1]);
      passed.store(light + i);
    }
    for (int64_t i = 0; i < size; i += lanes) (P::load(&density_[i]) * P::load(&light_[i + 1])).store(&weight[i]);
  }

  // out[c] = sum_i w_i f_ic
  void add_features(const T* f, T* out) const {
    if (p.C > few_channels) return add_many(f, out);
    P total[few_channels];
    for (int64_t k = 0; k < p.C; ++k) total[k] = P(T(0));
    T padded[few_channels * lanes];
    for (int64_t i = 0; p.C > 0 && i < p.S; i += lanes) {
      const T* block = whole_block(f, i, padded);
      const P w = P::load(&weight[i]);
      for (int64_t k = 0; k < p.C; ++k) total[k] += shuffle(w, w, sample_of_[k]) * P::load(block + k * lanes);
    }
    std::fill(out, out + p.C, T(0));
    for (int64_t k = 0; k < p.C; ++k)
      for (int l = 0; l < lanes; ++l) out[(k * lanes + l) % p.C] += total[k][l];
  }

  // slope_i = sum_c G_c f_ic, and the gradient w_i G_c of the features where it is wanted.
  void feature_gradients(const T* f, const T* G, T* grad_f) {
    if (p.C > few_channels) return many_gradients(f, G, grad_f);
    T repeated[few_channels * lanes], padded[few_channels * lanes];
    for (int64_t k = 0; k < p.C * lanes; ++k) repeated[k] = G[k % p.C];
    for (int64_t i = 0; i < p.S; i += lanes) {
      const T* block = whole_block(f, i, padded);
      const P w = P::load(&weight[i]);
      P shares[few_channels], total(T(0));
      for (int64_t k = 0; k < p.C; ++k) shares[k] = P::load(repeated + k * lanes) * P::load(block + k * lanes);
      for (int64_t c = 0; c < p.C; ++c) {
        P channel(T(0));
        for (int64_t k = 0; k < p.C; ++k) channel = shuffle(channel, shares[k], channel_[c][k]);
        total += channel;
      }
      total.store(&slope[i]);
      if (!grad_f) continue;
      const bool whole = i + lanes <= p.S;
      T* to = whole ? grad_f + i * p.C : padded;
      for (int64_t k = 0; k < p.C; ++k)
        (shuffle(w, w, sample_of_[k]) * P::load(repeated + k * lanes)).store(to + k * lanes);
      if (!whole) std::copy_n(padded, (p.S - i) * p.C, grad_f + i * p.C);
    }
  }

  void density_gradients(T grad_opacity, T* grad) {
    for (int64_t i = 0; i < size; i += lanes) (P::load(&density_[i]) * P::load(&slope[i])).store(&emitted_[i]);
    P behind(T(0)), product(T(1));  // B and the product of 1 - a, behind the register
    for (int64_t j = size - lanes; j >= 0; j -= lanes) {
      const P next = P::load(&density_[j + 1]);
      const P E = products<-1>(P(T(1)) - next) * product;
      product = P(E[0]);
      P g = P(grad_opacity) * P::load(&clear_[j]) * E;
      if (p.C > 0) {
        const Affine<T> all = Affine<T>{P(p.full) - next, P::load(&emitted_[j + p.shift])}.scan();
        const P B = all.add + all.times * behind;
        behind = P(B[0]);
        const P light = P::load(&light_[j + 1]), before = P::load(&light_[j + p.shift]);
        g += light * P::load(&slope[j]) - before * B;
      }
      if (j + lanes <= p.S)
        g.store(grad + j);
      else
        for (int64_t l = 0; j + l < p.S; ++l) grad[j + l] = g[static_cast<int>(l)];
    }
  }

  T all_clear;  // prod (1 - a)

 private:
  // The features of `lanes` samples from i on, with zeros behind the last one of the ray.
  const T* whole_block(const T* f, int64_t i, T* padded) const {
    if (i + lanes <= p.S) return f + i * p.C;
    std::fill(std::copy_n(f + i * p.C, (p.S - i) * p.C, padded), padded + p.C * lanes, T(0));
    return padded;
  }

  void add_many(const T* f, T* out) const {
    int64_t c = 0;
    for (; c + lanes <= p.C; c += lanes) {
      P total(T(0));
      for (int64_t i = 0; i < p.S; ++i) total += P(weight[i]) * P::load(f + i * p.C + c);
      total.store(out + c);
    }
    for (; c < p.C; ++c) {
      out[c] = T(0);
      for (int64_t i = 0; i < p.S; ++i) out[c] += weight[i] * f[i * p.C + c];
    }
  }

  void many_gradients(const T* f, const T* G, T* grad_f) {
    for (int64_t i = 0; i < p.S; ++i) {
      P total(T(0));
      T rest(0);
      int64_t c = 0;
      for (; c + lanes <= p.C; c += lanes) {
        const P g = P::load(G + c);
        total += g * P::load(f + i * p.C + c);
        if (grad_f) (P(weight[i]) * g).store(grad_f + i * p.C + c);
      }
      for (; c < p.C; ++c) {
        rest += G[c] * f[i * p.C + c];
        if (grad_f) grad_f[i * p.C + c] = weight[i] * G[c];
      }
      slope[i] = sum(total) + rest;
    }
  }

  const MarchRays<T>& p;
  const bool backward;
  const int64_t size;
  std::vector<T> weight, slope;
  // density_[i], and one more; light_[1 + i]: what reaches sample i; light_[shift + i]: the product before i, as far as
  // there are shift samples or more; clear_[i]: prod_{k < i} (1 - a_k); emitted_[i] = a_i slope_i.
  std::vector<T> density_, light_, clear_, emitted_;
  Places<T> sample_of_[few_channels] = {}, channel_[few_channels][few_channels] = {};
};

}  // namespace

template <class T>
void march_rays_range(const MarchRays<T>& p, int64_t begin, int64_t end) {
  Ray<T> samples(p, false);
  for (int64_t ray = begin; ray < end; ++ray) {
    T* out = p.out + ray * (p.C + 1);
    samples.load(ray);
    samples.add_features(p.features + ray * p.S * p.C, out);
    out[p.C] = T(1) - samples.all_clear;
  }
}

template <class T>
void march_rays_backward_range(const MarchRays<T>& p, int64_t begin, int64_t end) {
  Ray<T> samples(p, true);
  for (int64_t ray = begin; ray < end; ++ray) {
    const T* G = p.grad_out + ray * (p.C + 1);
    const int64_t first = ray * p.S * p.C;
    samples.load(ray);
    if (p.C > 0) samples.feature_gradients(p.features + first, G, p.grad_features ? p.grad_features + first : nullptr);
    if (p.grad_densities) samples.density_gradients(G[p.C], p.grad_densities + ray * p.S);
  }
}

template void march_rays_range(const MarchRays<float>&, int64_t, int64_t);
template void march_rays_range(const MarchRays<double>&, int64_t, int64_t);
template void march_rays_backward_range(const MarchRays<float>&, int64_t, int64_t);
template void march_rays_backward_range(const MarchRays<double>&, int64_t, int64_t);

}  // namespace RECON_SIMD
}  // namespace recon
