#pragma once
// What the entry points of composite hand to the kernels of each device.
//
// The weight of hit k is w_k = alpha_k scale_k, and with g_k = <grad image, feature_k> the gradient of its alpha is
// scale_k (g_k - behind_k), where
//
//   weighted        scale_k = 1                                      behind_k = 0
//   norm_weighted   scale_k = 1 / max(sum_j alpha_j, 1e-4)           behind_k = sum_j w_j g_j, 0 where the sum is held
//   alpha           scale_k = prod_{j<k} (1 - alpha_j)               behind_k = sum_{j>k} alpha_j g_j prod (1 -
//   alpha_i)
//                                                                    over k < i < j
//
// The last is summed up from the back: behind_{k-1} = alpha_k g_k + (1 - alpha_k) behind_k. Nothing is divided by
// 1 - alpha, and the work is linear in K.
#include "core/simd.h"
#include "core/tensor.h"

namespace recon {

enum class Compositing { weighted, norm_weighted, alpha };

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
    scale = T(1) / (total < T(1e-4) ? T(1e-4) : total);
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
  if (p.mode == Compositing::norm_weighted && !(total < T(1e-4)))
    for (int64_t at = first; at < end; at += p.per_hit)
      if (p.is_point(at)) behind += p.alphas[at] * p.scale[at] * p.grad_alphas[at];
  for (int64_t at = end - p.per_hit; at >= first; at -= p.per_hit) {
    if (!p.is_point(at)) continue;
    const T g = p.grad_alphas[at], alpha = p.alphas[at];
    p.grad_alphas[at] = p.scale[at] * (g - behind);
    if (p.mode == Compositing::alpha) behind = alpha * g + (T(1) - alpha) * behind;
  }
}

RECON_SIMD_DECLARE(template <class T> void composite_cpu(const Composite<T>& p))
RECON_SIMD_DECLARE(template <class T> void composite_backward_cpu(const Composite<T>& p))

template <class T>
void composite_cuda(const Composite<T>& p, const Device& device);
template <class T>
void composite_backward_cuda(const Composite<T>& p, const Device& device);

}  // namespace recon
