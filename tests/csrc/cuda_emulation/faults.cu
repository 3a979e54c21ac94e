// Kernels with the errors that the emulation is there to find, for the tests of the emulation itself.
#include "core/op.h"
#include "core/parallel.h"

namespace recon {

namespace {

constexpr int threads = 64;

__global__ void missing_barrier(float* out) {
  __shared__ float part[threads];
  part[threadIdx.x] = static_cast<float>(threadIdx.x);
  out[threadIdx.x] = part[(threadIdx.x + 1) % threads];
}

__global__ void different_barriers(float*) {
  if (threadIdx.x < 7)
    __syncthreads();
  else
    __syncthreads();
}

__global__ void missing_lane(float* out) {
  if (threadIdx.x == 3) return;
  out[threadIdx.x] = __shfl_xor_sync(~0u, static_cast<float>(threadIdx.x), 1);
}

__global__ void shuffle_from_outside(float* out) {
  if (threadIdx.x < 3) out[threadIdx.x] = __shfl_sync(7u, 1.0f, 9);
}

__global__ void beyond_the_end(float* out) { out[threadIdx.x + 4] = 1; }

__global__ void unset_shared(float* out) {
  __shared__ float part[threads];
  if (threadIdx.x > 0) part[threadIdx.x] = 0;
  __syncthreads();
  out[threadIdx.x] = part[0];
}

__global__ void correct(float* out) {
  __shared__ float part[threads];
  part[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncthreads();
  const float other = part[threads - 1 - threadIdx.x];
  const unsigned odd = __ballot_sync(~0u, threadIdx.x % 2);
  const unsigned peers = __match_any_sync(~0u, threadIdx.x % 32 / 8);
  const float up = __shfl_up_sync(~0u, other, 1), down = __shfl_down_sync(~0u, other, 1);
  const int all = __syncthreads_count(threadIdx.x < 40);
  out[threadIdx.x] = other + static_cast<float>(odd == 0xAAAAAAAAu) * 100 + static_cast<float>(__popc(peers)) * 1000 +
                     (up - down) * 10000 + static_cast<float>(all) * 100000;
}

}  // namespace

void faults(int64_t which, Tensor out) {
  float* data = out.packed<float>();
  if (which == 0) launch(missing_barrier, 1, threads, out.device, data);
  if (which == 1) launch(different_barriers, 1, threads, out.device, data);
  if (which == 2) launch(missing_lane, 1, threads, out.device, data);
  if (which == 3) launch(shuffle_from_outside, 1, threads, out.device, data);
  if (which == 4) launch(beyond_the_end, 1, threads, out.device, data);
  if (which == 5) launch(unset_shared, 1, threads, out.device, data);
  if (which == 6) data[0] = 1;
  if (which == 7) launch(correct, 1, 1056, out.device, data);
  if (which == 8) launch(correct, 1, threads, out.device, data);
}
RECON_OP(faults,
         "which: missing_barrier|different_barriers|missing_lane|shuffle_from_outside|beyond_the_end|unset_shared|host|"
         "too_many_threads|correct, out: S");

}  // namespace recon
