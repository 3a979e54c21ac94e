// One thread for a ray; a block reads the triangles together, a tile at a time.
#include "core/parallel.h"
#include "ops/ray_mesh/kernels.h"

namespace recon {

namespace {

constexpr int block = 128;

template <class T>
__global__ void ray_mesh_kernel(RayMesh<T> in) {
  __shared__ T tile[block * 9];
  for (int64_t base = int64_t{blockIdx.x} * block; base < in.R; base += int64_t{gridDim.x} * block) {
    const int64_t r = base + threadIdx.x;
    const bool active = r < in.R;
    const int64_t row = active ? r : base;
    const Ray<T> ray = Ray<T>::load(in.origins + 3 * row, in.directions + 3 * row);
    T best = in.t_max;
    int64_t found = -1;
    for (int64_t first = 0; first < in.F; first += block) {
      const int count = static_cast<int>(in.F - first < block ? in.F - first : block);
      __syncthreads();
      for (int j = threadIdx.x; j < count * 9; j += block) tile[j] = in.triangles[9 * first + j];
      __syncthreads();
      for (int j = 0; j < count && !(in.any_hit && found >= 0); ++j) {
        Vec3<T> v[3];
        for (int k = 0; k < 3; ++k) {
          T relative[3];
          for (int d = 0; d < 3; ++d) relative[d] = tile[9 * j + 3 * k + d] - ray.origin[d];
          v[k] = along_ray(ray, relative);
        }
        const T t = hit(v[0], v[1], v[2]);
        if (t < best || (found < 0 && t == best && t < T(INFINITY))) best = t, found = first + j;
      }
    }
    if (active) in.t[r] = found < 0 ? T(INFINITY) : best, in.face[r] = found;
    __syncthreads();
  }
}

}  // namespace

template <class T>
void ray_mesh_cuda(const RayMesh<T>& in, const Device& device) {
  if (in.R == 0) return;
  const int64_t blocks = (in.R + block - 1) / block;
  launch(ray_mesh_kernel<T>, dim3(static_cast<unsigned>(blocks < 65535 ? blocks : 65535)), dim3(block), device, in);
}

template void ray_mesh_cuda(const RayMesh<float>&, const Device&);
template void ray_mesh_cuda(const RayMesh<double>&, const Device&);

}  // namespace recon
