#pragma once
// Blending weights of soft rasterisation.
#include <cmath>

#include "core/tensor.h"

namespace recon {

// The depth of the background in softmax blending, and the least weight it has.
constexpr double blend_epsilon = 1e-10;

// Probability that a face covers a pixel, from the signed squared distance d (negative inside): 1 / (1 + exp(d /
// sigma)). Liu et al., Soft Rasterizer, ICCV 2019, equation 1.
template <class T>
RECON_HD T coverage(T dist, T sigma) {
  using std::exp;
  return T(1) / (T(1) + exp(dist / sigma));
}

// clear = prod_k (1 - p_k):   d clear / d dist_k = clear p_k / sigma, since dp/dd = -p (1 - p) / sigma: no division by
// 1 - p_k, so nothing is lost where a face covers the pixel fully.
template <class T>
RECON_HD T clear_dist_gradient(T clear, T p, T sigma) {
  return clear * p / sigma;
}

}  // namespace recon
