// Forward: a block owns a tile of the image and a thread a pixel, as for faces. The block goes through the points that
// may touch its tile in ascending order, keeps their numbers in shared memory, and each thread the keys (z, point) of
// its K nearest hits: in registers for small K, in local memory for larger ones and in the outputs themselves for any
// other. Backward: lanes of a warp that hit the same point add up before one of them adds to it; in deterministic mode
// a block gathers all pixels of a point instead.
#include "ops/rasterize_points/kernels.h"
#include "raster/cuda_points.h"

namespace recon {

namespace {

template <class T, class Nearest>
__device__ void rasterize_pixel(const CudaPoints<T>& s, const CudaPixel<T>& pixel, const PointHits<T>& out,
                                Nearest nearest) {
  for_each_hit(s, pixel, [&](int32_t p, T z) { nearest.add(z, p); });
  if (!pixel.in_image) return;
  const int64_t first = pixel.index(s.scene) * out.K;
  for (int64_t k = 0; k < out.K; ++k) {
    const int32_t p = nearest[k];
    T z(-1), dist(-1);
    if (p >= 0) {
      const T* point = s.in.points + 3 * int64_t{p};
      const T dx = point[0] - pixel.px, dy = point[1] - pixel.py;
      z = point[2], dist = dx * dx + dy * dy;
    }
    out.idx[first + k] = p, out.zbuf[first + k] = z, out.dists2[first + k] = dist;
  }
}

template <class T, int K>
__global__ void points_in_registers_kernel(CudaPoints<T> s, PointHits<T> out) {
  rasterize_pixel(s, CudaPixel<T>(s.scene), out, NearestInRegisters<T, K>());
}

constexpr int local_keys = 64;

template <class T>
__global__ void points_in_local_memory_kernel(CudaPoints<T> s, PointHits<T> out) {
  T z[local_keys];
  int32_t point[local_keys];
  rasterize_pixel(s, CudaPixel<T>(s.scene), out, NearestInMemory<T>(z, point, out.K));
}

template <class T>
__global__ void points_in_outputs_kernel(CudaPoints<T> s, PointHits<T> out) {
  const CudaPixel<T> pixel(s.scene);
  const int64_t first = pixel.in_image ? pixel.index(s.scene) * out.K : 0;
  rasterize_pixel(s, pixel, out, NearestInMemory<T>(out.zbuf + first, out.idx + first, out.K));
}

template <class T>
__device__ void add_hit(const PointsInput<T>& in, const PointHitGrads<T>& g, int64_t at, int64_t p, T px, T py,
                        T (&sums)[3]) {
  const T *point = in.points + 3 * p, twice = T(2) * g.grad_dists2[at];
  sums[0] += twice * (point[0] - px), sums[1] += twice * (point[1] - py), sums[2] += g.grad_zbuf[at];
}

template <class T>
__global__ void points_backward_kernel(CudaPoints<T> s, PointHitGrads<T> g) {
  const CudaPixel<T> pixel(s.scene);
  const int64_t first = pixel.in_image ? pixel.index(s.scene) * g.K : 0;
  bool more = pixel.in_image;
  for (int64_t k = 0; k < g.K; ++k) {
    const int32_t p = more ? g.idx[first + k] : -1;
    more = p >= 0;  // hits come first
    const bool counts = more && p < s.in.P;
    const unsigned active = __ballot_sync(whole_warp, counts);
    if (!__any_sync(whole_warp, more)) break;
    if (!counts) continue;
    T grad[3] = {};
    add_hit(s.in, g, first + k, p, pixel.px, pixel.py, grad);
    const unsigned peers = __match_any_sync(active, p);
    if (peers == whole_warp) {
      warp_sum(grad);
    } else {
      for (int d = 0; d < 3; ++d) {
        T total(0);
        for (unsigned rest = peers; rest; rest &= rest - 1) total += __shfl_sync(peers, grad[d], __ffs(rest) - 1);
        grad[d] = total;
      }
    }
    if (static_cast<int>(threadIdx.x % 32) == __ffs(peers) - 1)
      for (int d = 0; d < 3; ++d) atomic_add(g.grad_points + 3 * int64_t{p} + d, grad[d]);
  }
}

// One block for a point, which alone adds to it.
template <class T>
__global__ void points_backward_deterministic_kernel(CudaPoints<T> s, PointHitGrads<T> g) {
  const PointsInput<T>& in = s.in;
  const int64_t p = blockIdx.x;
  const PixelBox box = s.scene.boxes[p];
  const int64_t across = box.i1 - box.i0 + 1, pixels = across > 0 ? across * (box.j1 - box.j0 + 1) : 0;
  T sums[3] = {};
  for (int64_t n = 0; n < in.N; ++n) {
    if (p < in.first[n] || p >= in.first[n] + in.count[n]) continue;
    for (int64_t i = threadIdx.x; i < pixels; i += blockDim.x) {
      const int64_t row = box.j0 + i / across, column = box.i0 + i % across;
      const int64_t first = ((n * in.H + row) * in.W + column) * g.K;
      for (int64_t at = first; at < first + g.K && g.idx[at] >= 0; ++at)
        if (g.idx[at] == p)
          add_hit(in, g, at, p, pixel_center<T>(in.W - 1 - column, in.W, in.H),
                  pixel_center<T>(in.H - 1 - row, in.H, in.W), sums);
    }
  }
  block_sum(sums);
  if (threadIdx.x == 0)
    for (int d = 0; d < 3; ++d) g.grad_points[3 * p + d] += sums[d];
}

}  // namespace

template <class T>
void rasterize_points_cuda(const PointsInput<T>& in, const PointHits<T>& out, const Device& device) {
  const CudaPointsMemory<T> memory(in, device, true);
  const auto tiles = static_cast<unsigned>(memory.points.scene.num_tiles());
  if (tiles == 0) return;
  const auto run = [&](auto kernel) { launch(kernel, tiles, cuda_threads, device, memory.points, out); };
  if (out.K > local_keys)
    run(points_in_outputs_kernel<T>);
  else if (out.K > 16)
    run(points_in_local_memory_kernel<T>);
  else if (out.K > 8)
    run(points_in_registers_kernel<T, 16>);
  else if (out.K > 4)
    run(points_in_registers_kernel<T, 8>);
  else if (out.K > 1)
    run(points_in_registers_kernel<T, 4>);
  else
    run(points_in_registers_kernel<T, 1>);
}

template <class T>
void rasterize_points_backward_cuda(const PointsInput<T>& in, const PointHitGrads<T>& grads, const Device& device) {
  if (deterministic()) {
    if (in.P == 0) return;
    const CudaPointsMemory<T> memory(in, device, false);
    return launch(points_backward_deterministic_kernel<T>, static_cast<unsigned>(in.P), 128, device, memory.points,
                  grads);
  }
  const CudaPoints<T> points(in);
  if (points.scene.num_tiles() == 0) return;
  launch(points_backward_kernel<T>, static_cast<unsigned>(points.scene.num_tiles()), cuda_threads, device, points,
         grads);
}

template void rasterize_points_cuda(const PointsInput<float>&, const PointHits<float>&, const Device&);
template void rasterize_points_cuda(const PointsInput<double>&, const PointHits<double>&, const Device&);
template void rasterize_points_backward_cuda(const PointsInput<float>&, const PointHitGrads<float>&, const Device&);
template void rasterize_points_backward_cuda(const PointsInput<double>&, const PointHitGrads<double>&, const Device&);

}  // namespace recon
