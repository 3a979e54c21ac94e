// One thread for a query, which stops at its K-th hit.
#include "core/parallel.h"
#include "ops/ball_query/kernels.h"
#include "ops/nearest/rounding.h"

namespace recon {

namespace {

template <class T>
struct BallQueryOfOne {
  BallQuery<T> ball;

  __device__ void operator()(int64_t query) const {
    const Nearest<T>& p = ball.search;
    const int64_t b = query / p.N, count_y = query % p.N < p.count_x(b) ? p.count_y(b) : 0;
    T* dist = p.dist + query * p.K;
    int64_t* idx = p.idx + query * p.K;
    int64_t count = 0;
    for (int64_t j = 0; j < count_y && count < p.K; ++j) {
      T sum(0);
      for (int64_t d = 0; d < p.D; ++d) sum = add_square(sum, p.x[query * p.D + d] - p.y[(b * p.M + j) * p.D + d]);
      if (sum < ball.radius2) dist[count] = sum, idx[count++] = j;
    }
    for (; count < p.K; ++count) dist[count] = T(0), idx[count] = -1;
  }
};

}  // namespace

template <class T>
void ball_query_cuda(const BallQuery<T>& p, const Device& device) {
  parallel_for(device, p.search.B * p.search.N, BallQueryOfOne<T>{p});
}

template void ball_query_cuda(const BallQuery<float>&, const Device&);
template void ball_query_cuda(const BallQuery<double>&, const Device&);

}  // namespace recon
