#pragma once
// What the entry points of march_rays hand to the kernels of each device.
#include "core/simd.h"
#include "core/tensor.h"

namespace recon {

template <class T>
struct MarchRays {
  const T* densities;  // R S
  const T* features;   // R S C
  T full;              // 1 + eps: what a sample of no density lets through
  int64_t shift;       // at most S
  T* out;              // R C+1; null in the backward pass
  const T* grad_out;   // R C+1; the rest is for the backward pass only
  T* grad_densities;   // R S, may be null
  T* grad_features;    // R S C, may be null
  int64_t R, S, C;
};

RECON_SIMD_DECLARE(template <class T> void march_rays_range(const MarchRays<T>& p, int64_t begin, int64_t end))
RECON_SIMD_DECLARE(template <class T> void march_rays_backward_range(const MarchRays<T>& p, int64_t begin, int64_t end))

template <class T>
void march_rays_cuda(const MarchRays<T>& p, const Device& device);

}  // namespace recon
