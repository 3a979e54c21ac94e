// One thread for a point; a block reads the triangles together, a tile at a time.
#include "core/parallel.h"
#include "ops/point_mesh_winding/kernels.h"

namespace recon {

namespace {

constexpr int block = 128;

template <class T>
__global__ void winding_kernel(Winding<T> in) {
  __shared__ T tile[block * 9];
  for (int64_t base = int64_t{blockIdx.x} * block; base < in.P; base += int64_t{gridDim.x} * block) {
    const int64_t i = base + threadIdx.x;
    const Vec3<T> p = i < in.P ? Vec3<T>::load(in.points + 3 * i) : Vec3<T>{};
    AngleSum<T> sum;
    for (int64_t first = 0; first < in.F; first += block) {
      const int count = static_cast<int>(in.F - first < block ? in.F - first : block);
      __syncthreads();
      for (int j = threadIdx.x; j < count * 9; j += block) tile[j] = in.triangles[9 * first + j];
      __syncthreads();
      for (int j = 0; j < count; ++j)
        sum.add_triangle(Vec3<T>::load(tile + 9 * j) - p, Vec3<T>::load(tile + 9 * j + 3) - p,
                         Vec3<T>::load(tile + 9 * j + 6) - p);
    }
    if (i < in.P) in.winding[i] = full_turns(sum.real, sum.imaginary, sum.turns);
    __syncthreads();
  }
}

}  // namespace

template <class T>
void point_mesh_winding_cuda(const Winding<T>& in, const Device& device) {
  if (in.P == 0) return;
  const int64_t blocks = (in.P + block - 1) / block;
  launch(winding_kernel<T>, dim3(static_cast<unsigned>(blocks < 65535 ? blocks : 65535)), dim3(block), device, in);
}

template void point_mesh_winding_cuda(const Winding<float>&, const Device&);
template void point_mesh_winding_cuda(const Winding<double>&, const Device&);

}  // namespace recon
