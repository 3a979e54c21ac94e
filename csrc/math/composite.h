#pragma once
// How the values of a pixel's points are weighted, written once for the kernels that have fragments and for those that
// have none.
//
// Point k of a pixel, front to back, has the opacity alpha_k and the weight w_k = alpha_k scale_k. With
// g_k = <grad image, feature_k> the gradient of its opacity is scale_k (g_k - behind_k), where
//
//   weighted        scale_k = 1                                  behind_k = 0
//   norm_weighted   scale_k = 1 / max(sum_j alpha_j, 1e-4)       behind_k = sum_j w_j g_j, 0 where the sum is held
//   alpha           scale_k = prod_{j<k} (1 - alpha_j)           behind_k = sum_{j>k} alpha_j g_j prod (1 - alpha_i)
//                                                                over k < i < j
//
// The last is summed up from the back: behind_{k-1} = alpha_k g_k + (1 - alpha_k) behind_k. Nothing is divided by
// 1 - alpha, and the work is linear in K.
#include "core/select.h"

namespace recon {

enum class Compositing { weighted, norm_weighted, alpha };

// What the sum of the weights is held at in the normalised mode.
template <class T>
constexpr T least_sum = T(1e-4);

// The scale of the normalised mode.
template <class T, class V>
RECON_HD V inverse_sum(V total) {
  return V(T(1)) / select(total < V(least_sum<T>), V(least_sum<T>), total);
}

// behind_{k-1} of the mode alpha.
template <class T, class V>
RECON_HD V behind_next(V alpha, V g, V behind) {
  return alpha * g + (V(T(1)) - alpha) * behind;
}

}  // namespace recon
