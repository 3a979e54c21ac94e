#pragma once
// What the entry points of composite hand to the kernels of each device.
// The equations are those of math/composite.h.
#include "core/simd.h"
#include "core/tensor.h"
#include "math/composite.h"

namespace recon {

template <class T>
struct Composite {
  Compositing mode;
  const int32_t* idx;              // negative: no point
  const T *alphas, *features;      // like idx; P C
  int64_t N, S, K, P, C;           // S pixels in an image
  int64_t per_pixel, per_hit;      // steps in idx and alphas from one pixel, and one hit, to the next
  T* image;                        // N C S, forward only
  const T* grad_image;             // N C S, backward only
  T *grad_alphas, *grad_features;  // like alphas and features, zero; either may be null
  T* scale;                        // like alphas: what backward kernels remember

  RECON_HD int64_t first_hit(int64_t pixel) const { return pixel / S * S * K + pixel % S * per_pixel; }
  RECON_HD bool is_point(int64_t at) const { return idx[at] >= 0 && idx[at] < P; }
};

// Calls body(position, scale) for the hits of a pixel, front to back. Returns the sum that norm_weighted divides by.
template <class T, class F>
RECON_HD T for_each_hit(const Composite<T>& p, int64_t pixel, const F& body) {
  const int64_t first = p.first_hit(pixel), end = first + p.K * p.per_hit;
  T scale(1), total(0);
  if (p.mode == Compositing::norm_weighted) {
    for (int64_t at = first; at < end; at += p.per_hit)
      if (p.is_point(at)) total += p.alphas[at];
    scale = inverse_sum<T>(total);
  }
  for (int64_t at = first; at < end; at += p.per_hit) {
    if (!p.is_point(at)) continue;
    body(at, scale);
    if (p.mode == Compositing::alpha) scale *= T(1) - p.alphas[at];
  }
  return total;
}

// Turns what grad_alphas holds, the g_k of a pixel, into the gradients of its alphas.
template <class T>
RECON_HD void finish_alphas(const Composite<T>& p, int64_t pixel, T total) {
  const int64_t first = p.first_hit(pixel), end = first + p.K * p.per_hit;
  T behind(0);
  if (p.mode == Compositing::norm_weighted && !(total < least_sum<T>))
    for (int64_t at = first; at < end; at += p.per_hit)
      if (p.is_point(at)) behind += p.alphas[at] * p.scale[at] * p.grad_alphas[at];
  for (int64_t at = end - p.per_hit; at >= first; at -= p.per_hit) {
    if (!p.is_point(at)) continue;
    const T g = p.grad_alphas[at], alpha = p.alphas[at];
    p.grad_alphas[at] = p.scale[at] * (g - behind);
    if (p.mode == Compositing::alpha) behind = behind_next<T>(alpha, g, behind);
  }
}

RECON_SIMD_DECLARE(template <class T> void composite_cpu(const Composite<T>& p))
RECON_SIMD_DECLARE(template <class T> void composite_backward_cpu(const Composite<T>& p))

template <class T>
void composite_cuda(const Composite<T>& p, const Device& device);
template <class T>
void composite_backward_cuda(const Composite<T>& p, const Device& device);

}  // namespace recon
