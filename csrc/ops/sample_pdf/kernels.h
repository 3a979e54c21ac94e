#pragma once
// What the entry points of sample_pdf hand to the kernels of each device, and the formulas that both share.
#include "core/simd.h"
#include "core/tensor.h"

namespace recon {

template <class T>
struct SamplePdf {
  const T* bins;     // R B+1
  const T* weights;  // R B
  const T* u;        // R N, or N for all rays
  int64_t u_step;    // from one ray to the next: N or 0
  T eps;
  T* samples;             // R N; null in the backward pass
  const T* grad_samples;  // R N; the rest is for the backward pass only
  T* grad_bins;           // R B+1, may be null
  T* grad_weights;        // R B, may be null
  int64_t R, B, N;
};

// A quantile's place in its bin, from 0 at the start to 1 at the end. `rest` is the weight that is left for the bin.
template <class T>
struct PlaceInBin {
  T t;
  bool moves;  // with the weights

  RECON_HD PlaceInBin(T rest, T weight, T eps) {
    moves = rest <= weight && weight > eps;
    t = moves ? rest / weight : rest > weight ? T(1) : T(0);
  }

  // Edges are met exactly.
  RECON_HD T between(T start, T end) const { return moves ? start + t * (end - start) : t > T(0) ? end : start; }
};

// The gradients of one ray. `bin_of(s)` finds the bin of sample s; sums[b] is the weight of the bins up to b.
// grad_weights first counts what a bin takes from all bins up to itself, and becomes a sum from behind at the end.
template <class T, class F>
RECON_HD void sample_pdf_gradients(const SamplePdf<T>& p, int64_t ray, const T* sums, const F& bin_of) {
  const T *bins = p.bins + ray * (p.B + 1), *weights = p.weights + ray * p.B;
  T* to_bins = p.grad_bins ? p.grad_bins + ray * (p.B + 1) : nullptr;
  T* to_weights = p.grad_weights ? p.grad_weights + ray * p.B : nullptr;
  for (int64_t b = 0; to_bins && b <= p.B; ++b) to_bins[b] = T(0);
  for (int64_t b = 0; to_weights && b < p.B; ++b) to_weights[b] = T(0);
  const T total = sums[p.B - 1] + p.eps;
  T through_total(0);
  for (int64_t s = 0; s < p.N; ++s) {
    const T u = p.u[ray * p.u_step + s];
    const int64_t b = bin_of(total * u);
    const PlaceInBin<T> place(total * u - (b > 0 ? sums[b - 1] : T(0)), weights[b], p.eps);
    const T g = p.grad_samples[ray * p.N + s];
    if (to_bins) to_bins[b] += g * (T(1) - place.t), to_bins[b + 1] += g * place.t;
    if (!to_weights || !place.moves) continue;
    const T slope = g * (bins[b + 1] - bins[b]) / weights[b];
    through_total += slope * u;
    to_weights[b] += slope * place.t;
    if (b > 0) to_weights[b - 1] += slope * (T(1) - place.t);
  }
  T behind(0);
  for (int64_t b = p.B - 1; to_weights && b >= 0; --b) {
    behind += to_weights[b];
    to_weights[b] = through_total - behind;
  }
}

RECON_SIMD_DECLARE(template <class T> void sample_pdf_range(const SamplePdf<T>& p, int64_t begin, int64_t end))

template <class T>
void sample_pdf_cuda(const SamplePdf<T>& p, const Device& device);

}  // namespace recon
