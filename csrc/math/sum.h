#pragma once
// Sums in a fixed order: the same bits in every run and for every number of threads.
#include "core/parallel.h"

namespace recon {

#ifdef __CUDACC__
// One block for a segment.
template <class T>
__global__ void ordered_sums_kernel(const T* terms, const int64_t* segments, T* out) {
  constexpr int threads = 1024;
  __shared__ double part[threads];
  double sum = 0;
  for (int64_t i = segments[blockIdx.x] + threadIdx.x; i < segments[blockIdx.x + 1]; i += threads) sum += terms[i];
  part[threadIdx.x] = sum;
  for (int width = threads / 2; width > 0; width /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < width) part[threadIdx.x] += part[threadIdx.x + width];
  }
  if (threadIdx.x == 0) out[blockIdx.x] = static_cast<T>(part[0]);
}
#endif

// out[n] = terms[segments[n]] + ... + terms[segments[n + 1] - 1] for n in [0, count), accumulated in double precision.
template <class T>
void ordered_sums(const Device& device, const T* terms, const int64_t* segments, int64_t count, T* out) {
#ifdef __CUDACC__
  if (device.cuda) {
    if (count == 0) return;
    return launch(ordered_sums_kernel<T>, static_cast<unsigned>(count), 1024, device, terms, segments, out);
  }
#else
  (void)device;
#endif
  constexpr int lanes = 8;
  for (int64_t n = 0; n < count; ++n) {
    double sum[lanes] = {};
    int64_t i = segments[n];
    const int64_t end = segments[n + 1];
    for (; i + lanes <= end; i += lanes)
      for (int lane = 0; lane < lanes; ++lane) sum[lane] += static_cast<double>(terms[i + lane]);
    for (; i < end; ++i) sum[0] += static_cast<double>(terms[i]);
    for (int width = lanes / 2; width > 0; width /= 2)
      for (int lane = 0; lane < width; ++lane) sum[lane] += sum[lane + width];
    out[n] = static_cast<T>(sum[0]);
  }
}

}  // namespace recon
