#pragma once
// Stands in for the CUDA headers where a host compiler compiles the .cu files: kernels then run on the CPU, one block
// at a time, every thread on a stack of its own (emulation.cpp). Only what the kernels use is here.
#include <math.h>

#include <cstdint>
#include <cstring>
#include <functional>

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
// One block runs at a time, in one thread of the host: its memory is filled with garbage before each block.
#define __shared__ static thread_local

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// ---- the runtime ----

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorInvalidConfiguration };
using cudaStream_t = struct EmulatedStream*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidValue; }
cudaError_t cudaGetLastError();
inline const char* cudaGetErrorString(cudaError_t e) {
  return e == cudaErrorInvalidConfiguration ? "invalid configuration argument" : "invalid argument";
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream);

namespace cuda_emulation {

cudaError_t run_grid(dim3 blocks, dim3 threads, const std::function<void()>& thread);

}  // namespace cuda_emulation

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...), A&&... args) {
  return [&](P... copies) {
    return cuda_emulation::run_grid(config->gridDim, config->blockDim, [&] { kernel(copies...); });
  }(static_cast<A&&>(args)...);
}

// ---- what threads do together ----

namespace cuda_emulation {

struct Place {
  const char* file;
  int line;
};

// What the lanes of a warp exchange. The result of a shuffle is the value of lane `source`.
enum class Exchange { sync, shuffle, ballot, match };

// Block barriers: whether, and how often, `value` is not zero in the threads.
struct Votes {
  int any, all, count;
};
Votes block_barrier(bool value, Place place);
uint64_t warp_exchange(Exchange what, unsigned mask, uint64_t value, int source, Place place);

template <class T>
uint64_t bits_of(T v) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &v, sizeof(T));
  return bits;
}

template <class T>
T shuffle(unsigned mask, T v, int source, Place place) {
  const uint64_t bits = warp_exchange(Exchange::shuffle, mask, bits_of(v), source, place);
  std::memcpy(&v, &bits, sizeof(T));
  return v;
}

inline int lane() { return static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32; }

}  // namespace cuda_emulation

#define PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()
inline void __syncthreads(PLACE) { cuda_emulation::block_barrier(false, {file, line}); }
inline int __syncthreads_or(int v, PLACE) { return cuda_emulation::block_barrier(v != 0, {file, line}).any; }
inline int __syncthreads_and(int v, PLACE) { return cuda_emulation::block_barrier(v != 0, {file, line}).all; }
inline int __syncthreads_count(int v, PLACE) { return cuda_emulation::block_barrier(v != 0, {file, line}).count; }
inline void __syncwarp(unsigned mask = ~0u, PLACE) {
  cuda_emulation::warp_exchange(cuda_emulation::Exchange::sync, mask, 0, 0, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int v, PLACE) {
  return static_cast<unsigned>(
      cuda_emulation::warp_exchange(cuda_emulation::Exchange::ballot, mask, v != 0, 0, {file, line}));
}
inline int __any_sync(unsigned mask, int v, PLACE) { return __ballot_sync(mask, v, file, line) != 0; }
inline int __all_sync(unsigned mask, int v, PLACE) { return __ballot_sync(mask, v, file, line) == mask; }
template <class T>
unsigned __match_any_sync(unsigned mask, T v, PLACE) {
  return static_cast<unsigned>(cuda_emulation::warp_exchange(cuda_emulation::Exchange::match, mask,
                                                             cuda_emulation::bits_of(v), 0, {file, line}));
}
template <class T>
T __shfl_sync(unsigned mask, T v, int source, int width = 32, PLACE) {
  const int lane = cuda_emulation::lane();
  return cuda_emulation::shuffle(mask, v, lane / width * width + source % width, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, PLACE) {
  const int lane = cuda_emulation::lane(), source = lane + static_cast<int>(delta);
  return cuda_emulation::shuffle(mask, v, source / width == lane / width ? source : lane, {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, PLACE) {
  const int lane = cuda_emulation::lane(), source = lane - static_cast<int>(delta);
  return cuda_emulation::shuffle(mask, v, source >= lane / width * width ? source : lane, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, PLACE) {
  const int lane = cuda_emulation::lane(), source = lane ^ bits;
  return cuda_emulation::shuffle(mask, v, source / width == lane / width ? source : lane, {file, line});
}
#undef PLACE

// A thread runs until it waits, so these need no lock.
template <class T, class V>
T atomicAdd(T* p, V v) {
  const T before = *p;
  *p = static_cast<T>(before + static_cast<T>(v));
  return before;
}
template <class T, class V>
T atomicOr(T* p, V v) {
  const T before = *p;
  *p = static_cast<T>(before | static_cast<T>(v));
  return before;
}
template <class T, class V>
T atomicMax(T* p, V v) {
  const T before = *p, other = static_cast<T>(v);
  if (other > before) *p = other;
  return before;
}
template <class T, class V>
T atomicMin(T* p, V v) {
  const T before = *p, other = static_cast<T>(v);
  if (other < before) *p = other;
  return before;
}
template <class T, class V>
T atomicExch(T* p, V v) {
  const T before = *p;
  *p = static_cast<T>(v);
  return before;
}
template <class T, class V, class W>
T atomicCAS(T* p, V compare, W v) {
  const T before = *p;
  if (before == static_cast<T>(compare)) *p = static_cast<T>(v);
  return before;
}
inline void __threadfence() {}

// ---- arithmetic ----

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz(static_cast<unsigned>(v)); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}
