#pragma once
// What the entry points of render_spheres hand to the kernels of each device.
#include "core/simd.h"
#include "ops/render_spheres/backward.h"

namespace recon {

template <class T>
struct SpheresOutput {
  T *image, *stats;  // B H W C; B H W 4: largest exponent, denominator, largest `near` of the hits, hits
  int32_t* ids;      // B H W K, -1 where there are fewer
  T* depths;         // B H W K, -1 where there are fewer
};

RECON_SIMD_DECLARE(template <class T> void render_spheres_cpu(const SpheresInput<T>& in, const SpheresOutput<T>& out))
// sums: B N (15 + C) zeros, to be added to; see SphereSums.
RECON_SIMD_DECLARE(template <class T>
                   void sum_spheres_cpu(const SpheresInput<T>& in, const SpheresGrads<T>& grads, T* sums))

template <class T>
void render_spheres_cuda(const SpheresInput<T>& in, const SpheresOutput<T>& out, const Device& device);
template <class T>
void render_spheres_backward_cuda(const SpheresInput<T>& in, const SpheresGrads<T>& grads, const Device& device);

}  // namespace recon
