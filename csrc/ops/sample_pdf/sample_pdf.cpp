// sample_pdf: where quantiles of a distribution lie that is constant inside of bins.
//
//   W_b = w_0 + ... + w_b      v = u (W_{B-1} + eps)      b: the first bin with v <= W_b, or the last
//   sample = e_b + t (e_{b+1} - e_b)      t = (v - W_{b-1}) / w_b, at most 1, and 0 where w_b <= eps
//
// Backward, with h = grad (e_{b+1} - e_b) / w_b for samples with 0 < t < 1:
//   d e_b = grad (1 - t)      d e_{b+1} = grad t      d w_j = sum_samples h (u - [j < b] - [j = b] t)
#include "core/op.h"
#include "core/parallel.h"
#include "ops/sample_pdf/kernels.h"

namespace recon {

namespace {

template <class T>
void run(const SamplePdf<T>& p, const Device& device) {
  if (p.R == 0) return;
  if (device.cuda) {
#ifdef RECON_CUDA
    sample_pdf_cuda(p, device);
#endif
    return;
  }
  for_each_range(p.R, 1 + 4000 / (p.B + p.N),
                 [&](int64_t begin, int64_t end) { RECON_SIMD_CALL(sample_pdf_range, p, begin, end); });
}

template <class T>
SamplePdf<T> arguments(const Tensor& bins, const Tensor& weights, const Tensor& u, double eps) {
  SamplePdf<T> p = {};
  p.bins = bins.packed<T>(), p.weights = weights.packed<T>(), p.u = u.packed<T>();
  p.eps = static_cast<T>(eps);
  p.R = weights.shape[0], p.B = weights.shape[1], p.N = u.shape[1];
  if (u.shape[0] != p.R && u.shape[0] != 1)
    throw std::invalid_argument("sample_pdf: u must have a row for each ray or one row for all, got " +
                                std::to_string(u.shape[0]) + " rows for " + std::to_string(p.R) + " rays");
  p.u_step = u.shape[0] == 1 ? 0 : p.N;
  if (bins.shape[1] != p.B + 1)
    throw std::invalid_argument("sample_pdf: bins must hold one edge more than there are weights, got " +
                                std::to_string(bins.shape[1]) + " edges and " + std::to_string(p.B) + " weights");
  if (p.B == 0) throw std::invalid_argument("sample_pdf: there must be at least one bin");
  return p;
}

}  // namespace

void sample_pdf(Tensor bins, Tensor weights, Tensor u, double eps, Tensor samples) {
  dispatch_float(bins.dtype, [&](auto zero) {
    using T = decltype(zero);
    SamplePdf<T> p = arguments<T>(bins, weights, u, eps);
    p.samples = samples.packed<T>();
    run(p, bins.device);
  });
}
RECON_OP(sample_pdf, "bins: R E, weights: R B, u: U N, eps: real>=0, samples: R N");

void sample_pdf_backward(Tensor bins, Tensor weights, Tensor u, double eps, std::optional<Tensor>, Tensor grad_samples,
                         std::optional<Tensor> grad_bins, std::optional<Tensor> grad_weights) {
  dispatch_float(bins.dtype, [&](auto zero) {
    using T = decltype(zero);
    SamplePdf<T> p = arguments<T>(bins, weights, u, eps);
    p.grad_samples = grad_samples.packed<T>();
    p.grad_bins = grad_bins ? grad_bins->packed<T>() : nullptr;
    p.grad_weights = grad_weights ? grad_weights->packed<T>() : nullptr;
    run(p, bins.device);
  });
}
RECON_OP(sample_pdf_backward,
         "bins: R E, weights: R B, u: U N, eps: real>=0, samples?: R N, grad_samples: R N, grad_bins?: R E, "
         "grad_weights?: R B");

}  // namespace recon
