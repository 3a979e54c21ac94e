#pragma once
// What the entry points of softmax_blend hand to the kernels of each device.
#include "core/simd.h"
#include "core/tensor.h"
#include "math/blend.h"

namespace recon {

template <class T>
struct SoftmaxBlend {
  const T* colors;             // P K C
  const int64_t* pix_to_face;  // P K, negative: no face
  const T *zbuf, *dists;       // P K
  const T* planes;             // N 2: near and far
  const T* background;         // C
  T sigma, gamma;
  T* image;                                 // P C+1
  const T* grad_image;                      // P C+1, backward only
  T *grad_colors, *grad_zbuf, *grad_dists;  // as colors, zbuf, dists; backward only, each may be null;
                                            // every entry is written
  int64_t K, C, pixels_per_image;
};

RECON_SIMD_DECLARE(template <class T> void softmax_blend_range(const SoftmaxBlend<T>& p, int64_t begin, int64_t end))
RECON_SIMD_DECLARE(template <class T>
                   void softmax_blend_backward_range(const SoftmaxBlend<T>& p, int64_t begin, int64_t end))

template <class T>
void softmax_blend_cuda(const SoftmaxBlend<T>& p, int64_t pixels, bool backward, const Device& device);

}  // namespace recon
