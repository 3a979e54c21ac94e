// One launch for each sample, over as many blocks as the clouds need: nothing waits for the host, and one large cloud
// uses the whole device.
#include "core/parallel.h"
#include "core/scratch.h"
#include "ops/nearest/rounding.h"
#include "ops/sample_farthest_points/kernels.h"

namespace recon {

namespace {

constexpr int block = 256, points_per_block = 8 * block, most_blocks = 256;

template <class T>
struct Candidate {
  T dist;
  int64_t id;

  __device__ bool beats(const Candidate& o) const { return dist > o.dist || (dist == o.dist && id < o.id); }
};

// The best candidate of all threads of the block, in every one of them.
template <class T>
__device__ Candidate<T> best_of_block(Candidate<T> mine) {
  __shared__ T dist[block];
  __shared__ int64_t id[block];
  __syncthreads();
  dist[threadIdx.x] = mine.dist, id[threadIdx.x] = mine.id;
  for (unsigned width = block / 2; width > 0; width /= 2) {
    __syncthreads();
    if (threadIdx.x >= width) continue;
    const Candidate<T> a{dist[threadIdx.x], id[threadIdx.x]};
    const Candidate<T> b{dist[threadIdx.x + width], id[threadIdx.x + width]};
    if (b.beats(a)) dist[threadIdx.x] = b.dist, id[threadIdx.x] = b.id;
  }
  __syncthreads();
  return {dist[0], id[0]};
}

// Round k: what the blocks found in the round before names sample k; each block then finds the farthest of its points.
// `found` is B x gridDim.x, for even and for odd rounds.
template <class T>
__global__ void sample_round(Sampling<T> s, int64_t k, T* dist, Candidate<T>* found_before, Candidate<T>* found) {
  const int64_t b = blockIdx.y, count = s.count_points(b), samples = s.count_samples(b);
  if (k >= samples) {
    if (blockIdx.x == 0 && threadIdx.x == 0) s.idx[b * s.size + k] = -1;
    return;
  }
  const Candidate<T> none{T(-2), INT64_MAX};
  int64_t sample = s.first_sample(b);
  if (k > 0) {
    Candidate<T> best = none;
    for (unsigned i = threadIdx.x; i < gridDim.x; i += block)
      if (const Candidate<T> other = found_before[b * gridDim.x + i]; other.beats(best)) best = other;
    sample = best_of_block(best).id;
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) s.idx[b * s.size + k] = sample;
  Candidate<T> best = none;
  for (int64_t i = int64_t{blockIdx.x} * block + threadIdx.x; i < count; i += int64_t{gridDim.x} * block) {
    // A point that is not finite is never sampled after the first: to say so would mean waiting for the device.
    T sum(0), zero(0);
    for (int64_t d = 0; d < s.D; ++d) {
      const T at = s.points[(b * s.P + i) * s.D + d], difference = s.points[(b * s.P + sample) * s.D + d] - at;
      sum = add_square(sum, difference), zero += at * T(0);
    }
    const T before = zero != zero ? T(-1) : k > 0 ? dist[b * s.P + i] : T(INFINITY), now = sum < before ? sum : before;
    dist[b * s.P + i] = now;
    if (const Candidate<T> mine{now, i}; mine.beats(best)) best = mine;
  }
  best = best_of_block(best);
  if (threadIdx.x == 0) found[b * gridDim.x + blockIdx.x] = best;
}

}  // namespace

template <class T>
void sample_farthest_points_cuda(const Sampling<T>& s, const Device& device) {
  if (s.B == 0 || s.size == 0) return;
  if (s.B > 65535)
    throw std::invalid_argument("sample_farthest_points: at most 65535 clouds on a GPU, got " + std::to_string(s.B) +
                                ": split the batch");
  const int64_t needed = (s.P + points_per_block - 1) / points_per_block;
  const dim3 blocks(static_cast<unsigned>(needed < 1             ? 1
                                          : needed < most_blocks ? needed
                                                                 : most_blocks),
                    static_cast<unsigned>(s.B));
  const Scratch<T> dist(s.B * s.P, device);
  const Scratch<Candidate<T>> found(2 * s.B * blocks.x, device);
  for (int64_t k = 0; k < s.size; ++k)
    launch(sample_round<T>, blocks, block, device, s, k, dist.data(), found.data() + (k + 1) % 2 * s.B * blocks.x,
           found.data() + k % 2 * s.B * blocks.x);
}

template void sample_farthest_points_cuda(const Sampling<float>&, const Device&);
template void sample_farthest_points_cuda(const Sampling<double>&, const Device&);

}  // namespace recon
