// Products along rays: a register holds one sample of several rays. Sums over features: a register holds neighbouring
// features of one ray.
#include <algorithm>
#include <vector>

#include "ops/march_rays/kernels.h"

namespace recon {
namespace RECON_SIMD {

namespace {

// Up to this many channels a register holds several samples, beside the weights repeated for every channel.
constexpr int64_t few_channels = 8;

// The samples of `lanes` neighbouring rays, transposed: sample i of ray l lies at i * lanes + l.
template <class T>
struct Rays {
  static constexpr int lanes = Pack<T>::lanes;
  const MarchRays<T>& p;
  bool backward;
  std::vector<T> density, weight, before, clear, slope, wide;
  Pack<T> all_clear;  // prod (1 - a)

  Rays(const MarchRays<T>& problem, bool with_gradients) : p(problem), backward(with_gradients) {
    density.resize(p.S * lanes), weight.resize(p.S * lanes), before.resize((p.S + 1) * lanes);
    if (backward) clear.resize(p.S * lanes), slope.resize(p.S * lanes);
    wide.resize(p.S * (p.C > few_channels ? 1 : p.C));
  }

  Pack<T> at(const std::vector<T>& values, int64_t i) const { return Pack<T>::load(values.data() + i * lanes); }

  // What reaches sample i.
  Pack<T> light(int64_t i) const { return i < p.shift ? Pack<T>(T(1)) : at(before, i - p.shift + 1); }

  void load(int64_t ray, int count) {
    std::fill(density.begin(), density.end(), T(0));
    for (int l = 0; l < count; ++l)
      for (int64_t i = 0; i < p.S; ++i) density[i * lanes + l] = p.densities[(ray + l) * p.S + i];
    Pack<T> product(T(1));
    all_clear = product;
    product.store(before.data());
    for (int64_t i = 0; i < p.S; ++i) {
      const Pack<T> a = at(density, i);
      if (backward) all_clear.store(clear.data() + i * lanes);
      product *= Pack<T>(p.full) - a, all_clear *= Pack<T>(T(1)) - a;
      product.store(before.data() + (i + 1) * lanes);
      (a * light(i)).store(weight.data() + i * lanes);
    }
  }

  // The weights of one ray, each repeated for the channels of its sample where those are few.
  void spread(int l) {
    const int64_t times = p.C > few_channels ? 1 : p.C;
    T* to = wide.data();
    for (int64_t i = 0; i < p.S; ++i)
      for (int64_t c = 0; c < times; ++c) *to++ = weight[i * lanes + l];
  }
};

// out[c] = sum_i w_i f_ic of one ray.
template <class T>
void add_features(const Rays<T>& rays, const T* f, T* out) {
  using P = Pack<T>;
  const int64_t S = rays.p.S, C = rays.p.C;
  const T* w = rays.wide.data();
  std::fill(out, out + C, T(0));
  if (C > few_channels) {
    int64_t c = 0;
    for (; c + P::lanes <= C; c += P::lanes) {
      P total(T(0));
      for (int64_t i = 0; i < S; ++i) total += P(w[i]) * P::load(f + i * C + c);
      total.store(out + c);
    }
    for (; c < C; ++c)
      for (int64_t i = 0; i < S; ++i) out[c] += w[i] * f[i * C + c];
    return;
  }
  // Register number k of C holds the channels (k lanes + l) mod C, again and again.
  P total[few_channels];
  std::fill(total, total + C, P(T(0)));
  const int64_t size = S * C;
  int64_t at = 0;
  for (; C > 0 && at + C * P::lanes <= size; at += C * P::lanes)
    for (int64_t k = 0; k < C; ++k) total[k] += P::load(w + at + k * P::lanes) * P::load(f + at + k * P::lanes);
  for (int64_t k = 0; k < C; ++k)
    for (int l = 0; l < P::lanes; ++l) out[(k * P::lanes + l) % C] += total[k][l];
  for (; at < size; at += C)
    for (int64_t c = 0; c < C; ++c) out[c] += w[at + c] * f[at + c];
}

// slope_i = sum_c G_c f_ic of one ray (lane l), and the gradient w_i G_c of the features where it is wanted.
template <class T>
void feature_gradients(Rays<T>& rays, int l, const T* f, const T* G, T* grad_f, std::vector<T>& products) {
  using P = Pack<T>;
  const int64_t S = rays.p.S, C = rays.p.C;
  const T* w = rays.wide.data();
  T* slope = rays.slope.data() + l;
  if (C > few_channels) {
    for (int64_t i = 0; i < S; ++i) {
      P total(T(0));
      T rest(0);
      int64_t c = 0;
      for (; c + P::lanes <= C; c += P::lanes) {
        const P g = P::load(G + c);
        total += g * P::load(f + i * C + c);
        if (grad_f) (P(w[i]) * g).store(grad_f + i * C + c);
      }
      for (; c < C; ++c) {
        rest += G[c] * f[i * C + c];
        if (grad_f) grad_f[i * C + c] = w[i] * G[c];
      }
      slope[i * P::lanes] = sum(total) + rest;
    }
    return;
  }
  T repeated[few_channels * P::lanes];
  for (int64_t k = 0; k < C * P::lanes; ++k) repeated[k] = G[k % C];
  const int64_t size = S * C;
  int64_t at = 0;
  for (; C > 0 && at + C * P::lanes <= size; at += C * P::lanes)
    for (int64_t k = 0; k < C; ++k) {
      const int64_t here = at + k * P::lanes;
      const P g = P::load(repeated + k * P::lanes);
      (g * P::load(f + here)).store(products.data() + here);
      if (grad_f) (P::load(w + here) * g).store(grad_f + here);
    }
  for (; at < size; ++at) {
    products[at] = G[at % C] * f[at];
    if (grad_f) grad_f[at] = w[at] * G[at % C];
  }
  for (int64_t i = 0; i < S; ++i) {
    T total(0);
    for (int64_t c = 0; c < C; ++c) total += products[i * C + c];
    slope[i * P::lanes] = total;
  }
}

}  // namespace

template <class T>
void march_rays_range(const MarchRays<T>& p, int64_t begin, int64_t end) {
  Rays<T> rays(p, false);
  for (int64_t ray = begin; ray < end; ray += rays.lanes) {
    const int count = static_cast<int>(std::min<int64_t>(end - ray, rays.lanes));
    rays.load(ray, count);
    for (int l = 0; l < count; ++l) {
      T* out = p.out + (ray + l) * (p.C + 1);
      rays.spread(l);
      add_features(rays, p.features + (ray + l) * p.S * p.C, out);
      out[p.C] = T(1) - rays.all_clear[l];
    }
  }
}

template <class T>
void march_rays_backward_range(const MarchRays<T>& p, int64_t begin, int64_t end) {
  using P = Pack<T>;
  Rays<T> rays(p, true);
  std::vector<T> products(p.C > few_channels ? 0 : p.S * p.C);
  for (int64_t ray = begin; ray < end; ray += rays.lanes) {
    const int count = static_cast<int>(std::min<int64_t>(end - ray, rays.lanes));
    rays.load(ray, count);
    P grad_opacity(T(0));
    for (int l = 0; l < count; ++l) {
      const T* G = p.grad_out + (ray + l) * (p.C + 1);
      const int64_t first = (ray + l) * p.S * p.C;
      rays.spread(l);
      feature_gradients(rays, l, p.features + first, G, p.grad_features ? p.grad_features + first : nullptr, products);
      grad_opacity.raw[l] = G[p.C];
    }
    if (!p.grad_densities) continue;
    P behind(T(0)), product(T(1));  // B_j and prod_{k > j} (1 - a_k)
    for (int64_t j = p.S - 1; j >= 0; --j) {
      if (j + 1 < p.S) behind *= P(p.full) - rays.at(rays.density, j + 1);
      if (j + p.shift < p.S) behind += rays.at(rays.density, j + p.shift) * rays.at(rays.slope, j + p.shift);
      const P through_weights = rays.light(j) * rays.at(rays.slope, j) - rays.at(rays.before, j) * behind;
      (through_weights + grad_opacity * rays.at(rays.clear, j) * product).store(rays.weight.data() + j * rays.lanes);
      product *= P(T(1)) - rays.at(rays.density, j);
    }
    for (int l = 0; l < count; ++l)
      for (int64_t i = 0; i < p.S; ++i) p.grad_densities[(ray + l) * p.S + i] = rays.weight[i * rays.lanes + l];
  }
}

template void march_rays_range(const MarchRays<float>&, int64_t, int64_t);
template void march_rays_range(const MarchRays<double>&, int64_t, int64_t);
template void march_rays_backward_range(const MarchRays<float>&, int64_t, int64_t);
template void march_rays_backward_range(const MarchRays<double>&, int64_t, int64_t);

}  // namespace RECON_SIMD
}  // namespace recon
