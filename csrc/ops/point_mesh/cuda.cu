// One thread for a query; a block reads the targets of its element of the batch together, a tile at a time.
#include "core/parallel.h"
#include "ops/point_mesh/kernels.h"

namespace recon {

namespace {

constexpr int block = 128;

// HQ and HT are the corners of a query and of a target. Queries beyond those of an element, which blocks are too many
// for, do nothing but help to load.
template <class T, int HQ, int HT>
__global__ void search_kernel(PointMesh<T> in) {
  constexpr int H = HQ > HT ? HQ : HT;
  __shared__ T tile[block * 3 * HT];
  for (int64_t n = blockIdx.y; n < in.N; n += gridDim.y) {
    const auto queries = in.queries_of(n), targets = in.targets_of(n);
    const T* query_rows = in.from_points ? in.points : in.simplices;
    const T* target_rows = in.from_points ? in.simplices : in.points;
    for (int64_t base = queries.begin + int64_t{blockIdx.x} * block; base < queries.end;
         base += int64_t{gridDim.x} * block) {
      const int64_t q = base + threadIdx.x;
      const bool active = q < queries.end;
      Vec3<T> query[HQ];
      for (int k = 0; k < HQ; ++k) query[k] = active ? Vec3<T>::load(query_rows + 3 * (HQ * q + k)) : Vec3<T>{};
      T best = INFINITY;
      int64_t found = -1;
      for (int64_t first = targets.begin; first < targets.end; first += block) {
        const int count = static_cast<int>(targets.end - first < block ? targets.end - first : block);
        __syncthreads();
        for (int i = threadIdx.x; i < count * 3 * HT; i += block) tile[i] = target_rows[first * 3 * HT + i];
        __syncthreads();
        for (int j = 0; active && j < count; ++j) {
          Vec3<T> corners[H];
          for (int k = 0; k < H; ++k)
            corners[k] = HQ == 1 ? Vec3<T>::load(tile + 3 * (HT * j + (HT == 1 ? 0 : k))) - query[0]
                                 : query[HQ == 1 ? 0 : k] - Vec3<T>::load(tile + 3 * j);
          const T dist = squared_distance<H>(corners, in.smallest);
          if (dist < best || (found < 0 && dist == best)) best = dist, found = first + j;
        }
      }
      if (active) in.dist[q] = best, in.idx[q] = found;
      __syncthreads();
    }
  }
}

template <class T, int HQ, int HT>
void search(const PointMesh<T>& in, const Device& device) {
  if (in.N == 0 || in.queries() == 0) return;
  const auto blocks = [](int64_t n, int64_t most) { return static_cast<unsigned>(n < most ? n : most); };
  const dim3 grid(blocks((in.queries() + block - 1) / block, 65535), blocks(in.N, 65535));
  launch(search_kernel<T, HQ, HT>, grid, dim3(block), device, in);
}

// The gradient of the row of a query.
template <class T>
struct OwnGrad {
  PointMeshBackward<T> b;

  RECON_HD void operator()(int64_t q) const {
    if (b.in.idx[q] >= 0) add_grad(b, q, true);
  }
};

// A target looks for the queries that have found it: less work than the search was, and in a fixed order.
template <class T>
struct TargetGrad {
  PointMeshBackward<T> b;

  RECON_HD void operator()(int64_t target) const {
    for (int64_t q = 0; q < b.in.queries(); ++q)
      if (b.in.idx[q] == target) add_grad(b, q, false);
  }
};

}  // namespace

template <class T>
void point_mesh_cuda(const PointMesh<T>& in, const Device& device) {
  if (in.from_points)
    in.H == 2 ? search<T, 1, 2>(in, device) : search<T, 1, 3>(in, device);
  else
    in.H == 2 ? search<T, 2, 1>(in, device) : search<T, 3, 1>(in, device);
}

template <class T>
void point_mesh_backward_cuda(const PointMeshBackward<T>& b, const Device& device) {
  const bool from_points = b.in.from_points;
  if (from_points ? b.grad_points : b.grad_simplices) parallel_for(device, b.in.queries(), OwnGrad<T>{b});
  if (from_points ? b.grad_simplices : b.grad_points)
    parallel_for(device, from_points ? b.in.S : b.in.P, TargetGrad<T>{b});
}

template void point_mesh_cuda(const PointMesh<float>&, const Device&);
template void point_mesh_cuda(const PointMesh<double>&, const Device&);
template void point_mesh_backward_cuda(const PointMeshBackward<float>&, const Device&);
template void point_mesh_backward_cuda(const PointMeshBackward<double>&, const Device&);

}  // namespace recon
