#pragma once
// What the entry points of interpolate_face_attributes hand to the kernels of each device.
#include "core/simd.h"
#include "core/tensor.h"

namespace recon {

template <class T>
struct FaceInterpolation {
  const int64_t* pix_to_face;  // S slots, negative: no face
  const T* bary;               // S 3
  const T* attributes;         // F 3 D
  int64_t S, F, D;
  int64_t N, H, W, K;  // S = N H W K
};

// Each gradient may be null; those that are not are written in full.
template <class T>
struct FaceInterpolationGrads {
  const T* grad_values;  // S D
  T *grad_bary, *grad_attributes;
};

RECON_SIMD_DECLARE(template <class T> void interpolate_face_attributes_cpu(const FaceInterpolation<T>& in, T* values))
RECON_SIMD_DECLARE(template <class T>
                   void interpolate_face_attributes_backward_cpu(const FaceInterpolation<T>& in,
                                                                 const FaceInterpolationGrads<T>& grads))

template <class T>
void interpolate_face_attributes_cuda(const FaceInterpolation<T>& in, T* values, const Device& device);
template <class T>
void interpolate_face_attributes_backward_cuda(const FaceInterpolation<T>& in, const FaceInterpolationGrads<T>& grads,
                                               const Device& device);

}  // namespace recon
