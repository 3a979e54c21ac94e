// One thread for a query. Blocks of threads read the searched cloud together, a tile at a time.
#include "core/parallel.h"
#include "math/scatter.h"
#include "ops/nearest/kernels.h"
#include "ops/nearest/rounding.h"

namespace recon {

namespace {

template <class T>
__device__ T add_term(T sum, T difference, bool l1) {
  if (!l1) return add_square(sum, difference);
  return add(sum, difference < T(0) ? -difference : difference);
}

constexpr int block = 128;

// K = 1 in 3D: block.x queries of batch element blockIdx.y, tiles of `block` points in shared memory.
template <class T>
__global__ void nearest_one_kernel(Nearest<T> p) {
  __shared__ T tile[3][block];
  const int64_t b = blockIdx.y, i = int64_t{blockIdx.x} * block + threadIdx.x;
  const int64_t count_x = p.count_x(b), count_y = p.count_y(b);
  T q[3] = {};
  if (i < count_x)
    for (int d = 0; d < 3; ++d) q[d] = p.x[(b * p.N + i) * 3 + d];
  T best = INFINITY;
  int found = -1;
  for (int64_t first = 0; first < count_y; first += block) {
    __syncthreads();
    if (first + threadIdx.x < count_y)
      for (int d = 0; d < 3; ++d) tile[d][threadIdx.x] = p.y[(b * p.M + first + threadIdx.x) * 3 + d];
    __syncthreads();
    const int n = static_cast<int>(count_y - first < block ? count_y - first : block);
    for (int j = 0; j < n; ++j) {
      T sum(0);
      for (int d = 0; d < 3; ++d) sum = add_term(sum, q[d] - tile[d][j], p.l1);
      if (sum < best || (found < 0 && sum == best)) best = sum, found = static_cast<int>(first) + j;
    }
  }
  if (i >= p.N) return;
  const bool valid = i < count_x && count_y > 0;
  p.dist[b * p.N + i] = !valid ? T(0) : found < 0 ? T(NAN) : best;
  p.idx[b * p.N + i] = valid && found >= 0 ? found : 0;
}

// Any K and D: the list of the best lives in the output and is kept in order by insertion.
template <class T>
struct NearestQuery {
  Nearest<T> p;

  __device__ void operator()(int64_t query) const {
    const int64_t b = query / p.N, count_y = p.count_y(b);
    T* dist = p.dist + query * p.K;
    int64_t* idx = p.idx + query * p.K;
    int64_t count = 0;
    const bool valid = query % p.N < p.count_x(b);
    for (int64_t j = 0; valid && j < count_y; ++j) {
      T sum(0);
      for (int64_t d = 0; d < p.D; ++d) sum = add_term(sum, p.x[query * p.D + d] - p.y[(b * p.M + j) * p.D + d], p.l1);
      if (sum != sum || (count == p.K && !(sum < dist[p.K - 1]))) continue;
      int64_t at = count < p.K ? count++ : p.K - 1;
      for (; at > 0 && sum < dist[at - 1]; --at) dist[at] = dist[at - 1], idx[at] = idx[at - 1];
      dist[at] = sum, idx[at] = j;
    }
    for (int64_t k = count; k < p.K; ++k) dist[k] = valid && k < count_y ? T(NAN) : T(0), idx[k] = 0;
  }
};

// d dist / d x times g, for a difference of x and y in one coordinate.
template <class T>
RECON_HD T pull(T difference, T g, bool l1) {
  if (!l1) return T(2) * g * difference;
  return difference > T(0) ? g : difference < T(0) ? -g : T(0);
}

template <class T>
struct GradX {
  NearestBackward<T> g;
  bool own, others;  // what to add to grad_x; whether to add to grad_y, by atomics

  RECON_HD void operator()(int64_t i) const {
    const Nearest<T>& p = g.search;
    const int64_t b = i / p.N, available = p.K < p.count_y(b) ? p.K : p.count_y(b);
    if (i % p.N >= p.count_x(b)) return;
    for (int64_t k = i * p.K; k < i * p.K + available && p.idx[k] >= 0; ++k)
      for (int64_t d = 0; d < p.D; ++d) {
        const int64_t j = b * p.M + p.idx[k];
        const T share = pull(p.x[i * p.D + d] - p.y[j * p.D + d], g.grad_dist[k], p.l1);
        if (own) g.grad_x[i * p.D + d] += share;
        if (others) atomic_add(&g.grad_y[j * p.D + d], -share);
      }
  }
};

// A point of y looks for those that it is the nearest of, and sums in a fixed order, which atomics would not.
template <class T>
struct GradY {
  NearestBackward<T> g;

  RECON_HD void operator()(int64_t j) const {
    const Nearest<T>& p = g.search;
    const int64_t b = j / p.M, at = j % p.M, count_x = p.count_x(b);
    const int64_t available = p.K < p.count_y(b) ? p.K : p.count_y(b);
    if (at >= p.count_y(b)) return;
    for (int64_t i = b * p.N; i < b * p.N + count_x; ++i)
      for (int64_t k = i * p.K; k < i * p.K + available && p.idx[k] >= 0; ++k) {
        if (p.idx[k] != at) continue;
        for (int64_t d = 0; d < p.D; ++d)
          g.grad_y[j * p.D + d] -= pull(p.x[i * p.D + d] - p.y[j * p.D + d], g.grad_dist[k], p.l1);
      }
  }
};

}  // namespace

template <class T>
void nearest_cuda(const Nearest<T>& p, const Device& device) {
  if (p.K != 1 || p.D != 3 || p.B > 65535 || p.B * p.N == 0) return parallel_for(device, p.B * p.N, NearestQuery<T>{p});
  const dim3 blocks(static_cast<unsigned>((p.N + block - 1) / block), static_cast<unsigned>(p.B));
  launch(nearest_one_kernel<T>, blocks, block, device, p);
}

template <class T>
void nearest_backward_cuda(const NearestBackward<T>& p, const Device& device) {
  const Nearest<T>& s = p.search;
  const bool gather = deterministic() || s.M * s.N * s.K < small_scatter;
  const bool scatter = p.grad_y && !gather;
  if (p.grad_x || scatter) parallel_for(device, s.B * s.N, GradX<T>{p, p.grad_x != nullptr, scatter});
  if (p.grad_y && gather) parallel_for(device, s.B * s.M, GradY<T>{p});
}

template void nearest_cuda(const Nearest<float>&, const Device&);
template void nearest_cuda(const Nearest<double>&, const Device&);
template void nearest_backward_cuda(const NearestBackward<float>&, const Device&);
template void nearest_backward_cuda(const NearestBackward<double>&, const Device&);

}  // namespace recon
