#pragma once
// How work is spread: parallel_for runs f(0..n-1) on either device; for_each_task runs coarse tasks on CPU threads.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>

#include "core/tensor.h"
#ifdef __CUDACC__
#include <cuda_runtime.h>
#endif

namespace recon {

// The number of threads the current call may use: torch's own setting, handed over by the binding.
int num_threads();
void set_num_threads(int n);

// Whether torch.use_deterministic_algorithms is on: kernels must then give the same bits each time.
bool deterministic();
void set_deterministic(bool on);

// Runs task(i, worker) for i in [0, n), on up to num_threads() threads that take the next i when they are free.
// `worker` < num_threads() names the thread, for per-thread memory. One task or one thread: a plain loop.
// `cost`: what all of it takes one thread at the most, in nanoseconds, where that is known: a thread that is woken has
// cost some thousands before it does anything.
// The first exception thrown by a task is rethrown here, after the others have stopped.
void for_each_task(int64_t n, const std::function<void(int64_t task, int worker)>& task,
                   int64_t cost = std::numeric_limits<int64_t>::max());

// Splits [0, n) into contiguous ranges of at least `grain` and runs body(begin, end) on them in parallel.
template <class F>
void for_each_range(int64_t n, int64_t grain, const F& body) {
  const int64_t ranges = std::min<int64_t>((n + grain - 1) / grain, int64_t{8} * num_threads());
  if (ranges <= 1) {
    if (n > 0) body(int64_t{0}, n);
    return;
  }
  for_each_task(ranges, [&](int64_t r, int) { body(n * r / ranges, n * (r + 1) / ranges); });
}

// Adds v to *p; other threads may be adding to it too.
template <class T>
RECON_HD void atomic_add(T* p, T v) {
#if defined(__CUDA_ARCH__)
  atomicAdd(p, v);
#else
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  Bits* bits = reinterpret_cast<Bits*>(p);
  Bits before = __atomic_load_n(bits, __ATOMIC_RELAXED), after;
  do {
    T sum;
    __builtin_memcpy(&sum, &before, sizeof(T));
    sum += v;
    __builtin_memcpy(&after, &sum, sizeof(T));
  } while (!__atomic_compare_exchange_n(bits, &before, after, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
#endif
}

#ifdef __CUDACC__
template <class F>
__global__ void parallel_for_kernel(int64_t n, F f) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < n; i += int64_t(gridDim.x) * blockDim.x) f(i);
}

// Makes `device` current until the end of the scope.
struct DeviceGuard {
  int before = 0;
  explicit DeviceGuard(const Device& device) { cudaGetDevice(&before), cudaSetDevice(device.index); }
  ~DeviceGuard() { cudaSetDevice(before); }
};

inline cudaStream_t stream_of(const Device& device) { return static_cast<cudaStream_t>(device.stream); }

// kernel<<<blocks, threads>>>(args...) on `device`, in torch's current stream. Called through the runtime: that is C++
// which every compiler reads, so that tests/csrc can run kernels on a CPU.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 blocks, dim3 threads, const Device& device, const A&... args) {
  const DeviceGuard guard(device);
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks, config.blockDim = threads, config.stream = stream_of(device);
  cudaLaunchKernelEx(&config, kernel, args...);
  if (const auto e = cudaGetLastError(); e != cudaSuccess)
    throw std::runtime_error(std::string("CUDA kernel launch failed: ") + cudaGetErrorString(e));
}
#endif

// Runs f(0), ..., f(n-1) on `device`, in any order and in parallel; asynchronously on CUDA, in torch's current stream.
template <class F>
void parallel_for(const Device& device, int64_t n, const F& f, int64_t grain = 512) {
  if (n == 0) return;
  if (!device.cuda) {
    for_each_range(n, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) f(i);
    });
    return;
  }
#ifdef __CUDACC__
  constexpr unsigned threads = 256;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>((n + threads - 1) / threads, 65535));
  launch(parallel_for_kernel<F>, blocks, threads, device, n, f);
#else
  throw std::runtime_error(
      "recon_engine was built without CUDA but the tensors are on a GPU: move them to the CPU, or install a build with "
      "CUDA (`recon doctor` says which)");
#endif
}

}  // namespace recon
