#pragma once
// What the entry points of softmax_blend hand to the kernels of each device.
#include "core/simd.h"
#include "core/tensor.h"
#include "math/blend.h"

namespace recon {

// What the faces of a pixel add up to: noted by the forward kernel, so that going back takes one pass over them.
template <class T>
struct BlendSums {
  T clear, nearest, background, total;  // prod_k (1 - p_k), m, w_b and D of softmax_blend.cpp
  T used, nearest_k;                    // slots up to the last face; the first slot whose z_k is m, or -1
};

template <class T>
struct SoftmaxBlend {
  const T* colors;             // P K C
  const int64_t* pix_to_face;  // P K, negative: no face
  const T *zbuf, *dists;       // P K
  const T* planes;             // N 2: near and far
  const T* background;         // C
  T sigma, gamma;
  T* image;                                 // P C+1
  BlendSums<T>* sums;                       // P
  const T* grad_image;                      // P C+1, backward only
  T *grad_colors, *grad_zbuf, *grad_dists;  // as colors, zbuf, dists; backward only, each may be null;
                                            // every entry is written
  int64_t pixels, K, C, pixels_per_image;
};

// Pixels that tasks handle together: their gradients fill whole cache lines.
constexpr int64_t blend_group = 16;

// For the groups of pixels in [begin, end).
RECON_SIMD_DECLARE(template <class T> void softmax_blend_groups(const SoftmaxBlend<T>& p, int64_t begin, int64_t end))
RECON_SIMD_DECLARE(template <class T>
                   void softmax_blend_backward_groups(const SoftmaxBlend<T>& p, int64_t begin, int64_t end))

template <class T>
void softmax_blend_cuda(const SoftmaxBlend<T>& p, bool backward, const Device& device);

}  // namespace recon
