#pragma once
// What the entry points of rasterize_points hand to the kernels of each device.
#include "core/simd.h"
#include "raster/points.h"

namespace recon {

template <class T>
struct PointHits {
  int32_t* idx;      // N H W K
  T *zbuf, *dists2;  // N H W K
  int64_t K;
};

template <class T>
struct PointHitGrads {
  const int32_t* idx;
  const T *grad_zbuf, *grad_dists2;
  T* grad_points;  // P 3
  int64_t K;
};

RECON_SIMD_DECLARE(template <class T> void rasterize_points_cpu(const PointsInput<T>& in, const PointHits<T>& out))
RECON_SIMD_DECLARE(template <class T>
                   void rasterize_points_backward_cpu(const PointsInput<T>& in, const PointHitGrads<T>& grads))

template <class T>
void rasterize_points_cuda(const PointsInput<T>& in, const PointHits<T>& out, const Device& device);
template <class T>
void rasterize_points_backward_cuda(const PointsInput<T>& in, const PointHitGrads<T>& grads, const Device& device);

}  // namespace recon
