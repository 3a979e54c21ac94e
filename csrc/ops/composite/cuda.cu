// Forward: one thread for a pixel and channel. Backward: one thread for a pixel, then one for a pixel and channel,
// which adds to the features by atomics; in deterministic mode a thread owns a channel of some points and goes through
// all hits in order.
#include <algorithm>

#include "core/parallel.h"
#include "core/scratch.h"
#include "ops/composite/kernels.h"

namespace recon {

namespace {

template <class T>
struct CompositeChannel {
  Composite<T> p;

  RECON_HD void operator()(int64_t i) const {
    const int64_t n = i / (p.C * p.S), c = i / p.S % p.C, pixel = n * p.S + i % p.S;
    T sum(0);
    for_each_hit(p, pixel, [&](int64_t at, T scale) { sum += p.alphas[at] * scale * p.features[p.idx[at] * p.C + c]; });
    p.image[i] = sum;
  }
};

template <class T>
struct CompositeAlphas {
  Composite<T> p;

  RECON_HD void operator()(int64_t pixel) const {
    const T* grad = p.grad_image + pixel / p.S * p.C * p.S + pixel % p.S;
    const T total = for_each_hit(p, pixel, [&](int64_t at, T scale) {
      p.scale[at] = scale;
      if (!p.grad_alphas) return;
      T sum(0);
      for (int64_t c = 0; c < p.C; ++c) sum += grad[c * p.S] * p.features[p.idx[at] * p.C + c];
      p.grad_alphas[at] = sum;
    });
    if (p.grad_alphas) finish_alphas(p, pixel, total);
  }
};

template <class T>
struct CompositeFeatures {
  Composite<T> p;

  RECON_HD void operator()(int64_t i) const {
    const int64_t pixel = i / p.C, c = i % p.C, first = p.first_hit(pixel);
    const T grad = p.grad_image[(pixel / p.S * p.C + c) * p.S + pixel % p.S];
    for (int64_t at = first; at < first + p.K * p.per_hit; at += p.per_hit)
      if (p.is_point(at)) atomic_add(p.grad_features + p.idx[at] * p.C + c, p.alphas[at] * p.scale[at] * grad);
  }
};

template <class T>
struct CompositeFeaturesInOrder {
  Composite<T> p;
  int64_t shares;  // of the points

  RECON_HD void operator()(int64_t i) const {
    const int64_t c = i / shares, share = i % shares;
    for (int64_t pixel = 0; pixel < p.N * p.S; ++pixel) {
      const int64_t first = p.first_hit(pixel);
      const T grad = p.grad_image[(pixel / p.S * p.C + c) * p.S + pixel % p.S];
      for (int64_t at = first; at < first + p.K * p.per_hit; at += p.per_hit)
        if (p.is_point(at) && p.idx[at] % shares == share)
          p.grad_features[p.idx[at] * p.C + c] += p.alphas[at] * p.scale[at] * grad;
    }
  }
};

}  // namespace

template <class T>
void composite_cuda(const Composite<T>& p, const Device& device) {
  parallel_for(device, p.N * p.C * p.S, CompositeChannel<T>{p});
}

template <class T>
void composite_backward_cuda(const Composite<T>& input, const Device& device) {
  const Scratch<T> scale(input.N * input.S * input.K, device);
  Composite<T> p = input;
  p.scale = scale.data();
  parallel_for(device, p.N * p.S, CompositeAlphas<T>{p});
  if (!p.grad_features || p.C == 0 || p.P == 0) return;
  if (!deterministic()) return parallel_for(device, p.N * p.S * p.C, CompositeFeatures<T>{p});
  const int64_t shares = std::min<int64_t>(p.P, 1 + 65536 / p.C);
  parallel_for(device, p.C * shares, CompositeFeaturesInOrder<T>{p, shares});
}

template void composite_cuda(const Composite<float>&, const Device&);
template void composite_cuda(const Composite<double>&, const Device&);
template void composite_backward_cuda(const Composite<float>&, const Device&);
template void composite_backward_cuda(const Composite<double>&, const Device&);

}  // namespace recon
