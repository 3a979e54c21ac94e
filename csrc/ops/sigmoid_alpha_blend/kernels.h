#pragma once
// What the entry points of sigmoid_alpha_blend hand to the kernels of each device.
#include "core/simd.h"
#include "core/tensor.h"

namespace recon {

template <class T>
struct SigmoidAlphaBlend {
  const T* dists;              // P K
  const int64_t* pix_to_face;  // P K, negative: no face
  T sigma;
  T* clear;             // P
  const T* grad_clear;  // P, backward only
  T* grad_dists;        // P K, backward only; every entry is written
  int64_t K;
};

RECON_SIMD_DECLARE(template <class T>
                   void sigmoid_alpha_blend_range(const SigmoidAlphaBlend<T>& p, int64_t begin, int64_t end))
RECON_SIMD_DECLARE(template <class T>
                   void sigmoid_alpha_blend_backward_range(const SigmoidAlphaBlend<T>& p, int64_t begin, int64_t end))

template <class T>
void sigmoid_alpha_blend_cuda(const SigmoidAlphaBlend<T>& p, int64_t pixels, bool backward, const Device& device);

}  // namespace recon
