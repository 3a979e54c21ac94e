// One pixel after the other, a register of its K faces at a time.
#include <algorithm>

#include "math/blend.h"
#include "ops/sigmoid_alpha_blend/kernels.h"

namespace recon {
namespace RECON_SIMD {

namespace {

// Lanes k, k+1, ... of one pixel: distances, and a mask of those that hold a face.
template <class T>
Mask<T> load_faces(const SigmoidAlphaBlend<T>& p, int64_t at, int64_t count, Pack<T>& dist) {
  const int n = static_cast<int>(std::min<int64_t>(count, Pack<T>::lanes));
  const uint32_t valid = non_negative(p.pix_to_face + at, n);
  dist = Pack<T>(T(0));
  if (n == Pack<T>::lanes)
    dist = Pack<T>::load(p.dists + at);
  else
    for (int i = 0; i < n; ++i) dist.raw[i] = p.dists[at + i];
  return Mask<T>::of_bits(valid);
}

template <class T>
Pack<T> cover(Pack<T> dist, T sigma) {
  return Pack<T>(T(1)) / (Pack<T>(T(1)) + exp(dist / Pack<T>(sigma)));
}

}  // namespace

template <class T>
void sigmoid_alpha_blend_range(const SigmoidAlphaBlend<T>& p, int64_t begin, int64_t end) {
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    Pack<T> clear(T(1));
    for (int64_t k = 0; k < p.K; k += Pack<T>::lanes) {
      Pack<T> dist;
      const Mask<T> valid = load_faces(p, pixel * p.K + k, p.K - k, dist);
      if (any(valid)) clear *= select(valid, Pack<T>(T(1)) - cover(dist, p.sigma), Pack<T>(T(1)));
    }
    T product(1);
    for (int i = 0; i < Pack<T>::lanes; ++i) product *= clear[i];
    p.clear[pixel] = product;
  }
}

template <class T>
void sigmoid_alpha_blend_backward_range(const SigmoidAlphaBlend<T>& p, int64_t begin, int64_t end) {
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    const T scale = p.grad_clear[pixel] * clear_dist_gradient(p.clear[pixel], T(1), p.sigma);
    std::fill(p.grad_dists + pixel * p.K, p.grad_dists + (pixel + 1) * p.K, T(0));
    if (scale == T(0)) continue;
    for (int64_t k = 0; k < p.K; k += Pack<T>::lanes) {
      Pack<T> dist;
      const int64_t at = pixel * p.K + k, count = p.K - k;
      const Mask<T> valid = load_faces(p, at, count, dist);
      if (!any(valid)) continue;
      const Pack<T> grad = select(valid, Pack<T>(scale) * cover(dist, p.sigma), Pack<T>(T(0)));
      for (int i = 0; i < Pack<T>::lanes && i < count; ++i) p.grad_dists[at + i] = grad[i];
    }
  }
}

template void sigmoid_alpha_blend_range(const SigmoidAlphaBlend<float>&, int64_t, int64_t);
template void sigmoid_alpha_blend_range(const SigmoidAlphaBlend<double>&, int64_t, int64_t);
template void sigmoid_alpha_blend_backward_range(const SigmoidAlphaBlend<float>&, int64_t, int64_t);
template void sigmoid_alpha_blend_backward_range(const SigmoidAlphaBlend<double>&, int64_t, int64_t);

}  // namespace RECON_SIMD
}  // namespace recon
