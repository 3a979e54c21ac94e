// One thread for a pixel; weights are computed again where they are needed, so nothing is kept for single faces.
#include "core/parallel.h"
#include "math/blend.h"
#include "ops/softmax_blend/kernels.h"

namespace recon {

namespace {

template <class T>
struct BlendPixel {
  SoftmaxBlend<T> p;
  bool backward;

  RECON_HD T depth(int64_t at, const T* planes) const { return (planes[1] - p.zbuf[at]) / (planes[1] - planes[0]); }
  RECON_HD T weight(int64_t at, const T* planes, T nearest) const {
    return coverage(p.dists[at], p.sigma) * exp((depth(at, planes) - nearest) / p.gamma);
  }

  RECON_HD BlendSums<T> add_up(int64_t pixel, const T* planes) const {
    const T eps = static_cast<T>(blend_epsilon);
    BlendSums<T> s = {T(1), eps, T(0), T(0), T(0), T(-1)};
    for (int64_t k = 0; k < p.K; ++k) {
      const int64_t at = pixel * p.K + k;
      if (p.pix_to_face[at] < 0) continue;
      s.used = static_cast<T>(k + 1);
      s.clear *= T(1) - coverage(p.dists[at], p.sigma);
      const T d = depth(at, planes);
      if (d > s.nearest || (s.nearest_k < T(0) && d == s.nearest)) s.nearest = d, s.nearest_k = static_cast<T>(k);
    }
    s.background = exp((eps - s.nearest) / p.gamma);
    s.background = s.background > eps ? s.background : eps;
    s.total = s.background;
    for (int64_t at = pixel * p.K; at < pixel * p.K + static_cast<int64_t>(s.used); ++at)
      if (p.pix_to_face[at] >= 0) s.total += weight(at, planes, s.nearest);
    return s;
  }

  RECON_HD void operator()(int64_t pixel) const {
    const T* planes = p.planes + pixel / p.pixels_per_image * 2;
    T* image = p.image + pixel * (p.C + 1);
    if (backward) return go_back(pixel, planes, p.sums[pixel], image, p.grad_image + pixel * (p.C + 1));
    const BlendSums<T> s = p.sums[pixel] = add_up(pixel, planes);
    for (int64_t c = 0; c < p.C; ++c) image[c] = s.background * p.background[c];
    for (int64_t at = pixel * p.K; at < pixel * p.K + static_cast<int64_t>(s.used); ++at) {
      if (p.pix_to_face[at] < 0) continue;
      const T w = weight(at, planes, s.nearest);
      for (int64_t c = 0; c < p.C; ++c) image[c] += w * p.colors[at * p.C + c];
    }
    for (int64_t c = 0; c < p.C; ++c) image[c] /= s.total;
    image[p.C] = T(1) - s.clear;
  }

  RECON_HD void go_back(int64_t pixel, const T* planes, const BlendSums<T>& s, const T* image, const T* grad) const {
    const T depth_per_z = T(-1) / (planes[1] - planes[0]);
    T through_nearest(0);
    if (s.background > static_cast<T>(blend_epsilon))
      for (int64_t c = 0; c < p.C; ++c)
        through_nearest -= grad[c] * (p.background[c] - image[c]) / s.total * s.background / p.gamma;
    for (int64_t k = 0; k < p.K; ++k) {
      const int64_t at = pixel * p.K + k;
      if (k >= static_cast<int64_t>(s.used) || p.pix_to_face[at] < 0) {
        if (p.grad_zbuf) p.grad_zbuf[at] = T(0);
        if (p.grad_dists) p.grad_dists[at] = T(0);
        for (int64_t c = 0; p.grad_colors && c < p.C; ++c) p.grad_colors[at * p.C + c] = T(0);
        continue;
      }
      const T w = weight(at, planes, s.nearest), cover = coverage(p.dists[at], p.sigma);
      T q(0);
      for (int64_t c = 0; c < p.C; ++c) q += grad[c] * (p.colors[at * p.C + c] - image[c]);
      q /= s.total;
      through_nearest -= q * w / p.gamma;
      if (p.grad_zbuf) p.grad_zbuf[at] = q * w / p.gamma * depth_per_z;
      if (p.grad_dists)
        p.grad_dists[at] = -(q * w * (T(1) - cover) + grad[p.C] * clear_dist_gradient(s.clear, cover, T(1))) / p.sigma;
      if (p.grad_colors)
        for (int64_t c = 0; c < p.C; ++c) p.grad_colors[at * p.C + c] = grad[c] * w / s.total;
    }
    if (p.grad_zbuf && s.nearest_k >= T(0))
      p.grad_zbuf[pixel * p.K + static_cast<int64_t>(s.nearest_k)] += through_nearest * depth_per_z;
  }
};

}  // namespace

template <class T>
void softmax_blend_cuda(const SoftmaxBlend<T>& p, bool backward, const Device& device) {
  parallel_for(device, p.pixels, BlendPixel<T>{p, backward});
}

template void softmax_blend_cuda(const SoftmaxBlend<float>&, bool, const Device&);
template void softmax_blend_cuda(const SoftmaxBlend<double>&, bool, const Device&);

}  // namespace recon
