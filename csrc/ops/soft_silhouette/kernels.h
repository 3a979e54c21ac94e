#pragma once
// What the entry points of soft_silhouette hand to the kernels of each device.
#include "core/simd.h"
#include "raster/scene.h"

namespace recon {

template <class T>
struct Silhouette {
  T* clear;            // N H W: the product of 1 - coverage over the nearest K faces
  int32_t* last_face;  // N H W: the farthest face that counts where more than K were hit, else -1
  const T* grad_clear;
  T* grad_verts;
  T sigma;
  int64_t K;
};

RECON_SIMD_DECLARE(template <class T> void soft_silhouette_cpu(const RasterInput<T>& in, const Silhouette<T>& s))
RECON_SIMD_DECLARE(template <class T>
                   void soft_silhouette_backward_cpu(const RasterInput<T>& in, const Silhouette<T>& s))

template <class T>
void soft_silhouette_cuda(const RasterInput<T>& in, const Silhouette<T>& s, const Device& device);
template <class T>
void soft_silhouette_backward_cuda(const RasterInput<T>& in, const Silhouette<T>& s, const Device& device);

}  // namespace recon
