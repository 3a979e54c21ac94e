#pragma once
// What the entry points of rasterize_faces hand to the kernels of each device.
#include "core/simd.h"
#include "raster/scene.h"

namespace recon {

template <class T>
struct Fragments {
  int64_t* pix_to_face;    // N H W K
  T *zbuf, *bary, *dists;  // N H W K, N H W K 3, N H W K
  int64_t K;
};

template <class T>
struct FragmentGrads {
  const int64_t* pix_to_face;
  const T *grad_zbuf, *grad_bary, *grad_dists;
  T* grad_verts;
  int64_t K;
};

RECON_SIMD_DECLARE(template <class T> void rasterize_faces_cpu(const RasterInput<T>& in, const Fragments<T>& out))
RECON_SIMD_DECLARE(template <class T>
                   void rasterize_faces_backward_cpu(const RasterInput<T>& in, const FragmentGrads<T>& grads))

template <class T>
void rasterize_faces_cuda(const RasterInput<T>& in, const Fragments<T>& out, const Device& device);
template <class T>
void rasterize_faces_backward_cuda(const RasterInput<T>& in, const FragmentGrads<T>& grads, const Device& device);

}  // namespace recon
