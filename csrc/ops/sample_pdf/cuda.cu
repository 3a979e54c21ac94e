// The sums of the weights by one thread for a ray, then one thread for a sample; gradients by one thread for a ray.
#include "core/parallel.h"
#include "core/scratch.h"
#include "ops/sample_pdf/kernels.h"

namespace recon {

template <class T>
struct SumWeights {
  SamplePdf<T> p;
  T* sums;  // R B

  RECON_HD void operator()(int64_t ray) const {
    T total(0);
    for (int64_t at = ray * p.B; at < (ray + 1) * p.B; ++at) sums[at] = total += p.weights[at];
  }
};

// The first bin whose sum is at least v, or the last bin.
template <class T>
RECON_HD int64_t find_bin(const T* sums, int64_t B, T v) {
  int64_t first = 0, last = B - 1;
  while (first < last) {
    const int64_t middle = (first + last) / 2;
    if (sums[middle] < v)
      first = middle + 1;
    else
      last = middle;
  }
  return first;
}

template <class T>
struct FindSample {
  SamplePdf<T> p;
  const T* sums;

  RECON_HD void operator()(int64_t s) const {
    const int64_t ray = s / p.N;
    const T *bins = p.bins + ray * (p.B + 1), *sum = sums + ray * p.B;
    const T v = (sum[p.B - 1] + p.eps) * p.u[ray * p.u_step + s % p.N];
    const int64_t b = find_bin(sum, p.B, v);
    const PlaceInBin<T> place(v - (b > 0 ? sum[b - 1] : T(0)), p.weights[ray * p.B + b], p.eps);
    p.samples[s] = place.between(bins[b], bins[b + 1]);
  }
};

template <class T>
struct SampleGradients {
  SamplePdf<T> p;
  const T* sums;

  RECON_HD void operator()(int64_t ray) const {
    const T* sum = sums + ray * p.B;
    const int64_t B = p.B;
    sample_pdf_gradients(p, ray, sum, [sum, B](T v) { return find_bin(sum, B, v); });
  }
};

template <class T>
void sample_pdf_cuda(const SamplePdf<T>& p, const Device& device) {
  const Scratch<T> sums(p.R * p.B, device);
  parallel_for(device, p.R, SumWeights<T>{p, sums.data()});
  if (p.samples)
    parallel_for(device, p.R * p.N, FindSample<T>{p, sums.data()});
  else
    parallel_for(device, p.R, SampleGradients<T>{p, sums.data()});
}

template void sample_pdf_cuda(const SamplePdf<float>&, const Device&);
template void sample_pdf_cuda(const SamplePdf<double>&, const Device&);

}  // namespace recon
