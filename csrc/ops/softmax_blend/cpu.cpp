// One pixel after the other, a register of its K faces at a time.
#include <algorithm>
#include <vector>

#include "math/blend.h"
#include "ops/softmax_blend/kernels.h"

namespace recon {
namespace RECON_SIMD {

namespace {

// The weights of one pixel's faces: what the formulas of softmax_blend.cpp call p, z and w.
template <class T>
class PixelWeights {
  using V = Pack<T>;
  const SoftmaxBlend<T>& p_;
  int64_t room_;
  std::vector<T> memory_;

 public:
  T *const coverage, *const depth, *const weight;

  explicit PixelWeights(const SoftmaxBlend<T>& p)
      : p_(p),
        room_((p.K + V::lanes - 1) / V::lanes * V::lanes),
        memory_(3 * room_),
        coverage(memory_.data()),
        depth(coverage + room_),
        weight(depth + room_) {}

  int64_t used = 0;  // entries from here on hold no face
  T clear = 1, nearest = 0, background = 0, total = 0;

  void compute(int64_t pixel) {
    const int64_t first = pixel * p_.K;
    const T* planes = p_.planes + pixel / p_.pixels_per_image * 2;
    const V far(planes[1]), range(planes[1] - planes[0]), sigma(p_.sigma), one(T(1)), zero(T(0));
    used = 0;
    V product(T(1)), largest(T(0));
    for (int64_t k = 0; k < p_.K; k += V::lanes) {
      V dist, z;
      const Mask<T> face = load(first + k, p_.K - k, dist, z);
      if (!any(face)) {
        zero.store(coverage + k), zero.store(depth + k);
        continue;
      }
      used = k + V::lanes;
      const V cover = select(face, one / (one + exp(dist / sigma)), zero);
      const V d = select(face, (far - z) / range, zero);
      cover.store(coverage + k), d.store(depth + k);
      product *= one - cover;
      largest = maximum(largest, d);
    }
    clear = T(1), nearest = T(0);
    for (int lane = 0; lane < V::lanes; ++lane) clear *= product[lane], nearest = std::max(nearest, largest[lane]);
    nearest = std::max(nearest, static_cast<T>(blend_epsilon));
    const T scaled = (static_cast<T>(blend_epsilon) - nearest) / p_.gamma;
    background = std::max(exp(V(scaled))[0], static_cast<T>(blend_epsilon));
    const V top(nearest), gamma(p_.gamma);
    V faces(T(0));
    for (int64_t k = 0; k < used; k += V::lanes) {
      const V w = V::load(coverage + k) * exp((V::load(depth + k) - top) / gamma);
      w.store(weight + k);
      faces += w;
    }
    total = sum(faces) + background;
    used = std::min(used, p_.K);
  }

 private:
  // Entries at, at + 1, ... of the K buffers and a mask of those that hold a face.
  Mask<T> load(int64_t at, int64_t count, V& dist, V& z) const {
    const int n = static_cast<int>(std::min<int64_t>(count, V::lanes));
    const Mask<T> face = Mask<T>::of_bits(non_negative(p_.pix_to_face + at, n));
    if (!any(face)) return face;
    dist = z = V(T(0));
    if (n == V::lanes) {
      dist = V::load(p_.dists + at), z = V::load(p_.zbuf + at);
    } else {
      for (int i = 0; i < n; ++i) dist.raw[i] = p_.dists[at + i], z.raw[i] = p_.zbuf[at + i];
    }
    return face;
  }
};

template <class T>
inline void set_zero(T* data, int64_t first, int64_t n) {
  if (data) std::fill(data + first, data + first + n, T(0));
}

}  // namespace

template <class T>
void softmax_blend_range(const SoftmaxBlend<T>& p, int64_t begin, int64_t end) {
  PixelWeights<T> w(p);
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    w.compute(pixel);
    T* image = p.image + pixel * (p.C + 1);
    for (int64_t c = 0; c < p.C; ++c) image[c] = w.background * p.background[c];
    for (int64_t k = 0; k < w.used; ++k) {
      if (w.weight[k] == T(0)) continue;
      const T* color = p.colors + (pixel * p.K + k) * p.C;
      for (int64_t c = 0; c < p.C; ++c) image[c] += w.weight[k] * color[c];
    }
    for (int64_t c = 0; c < p.C; ++c) image[c] /= w.total;
    image[p.C] = T(1) - w.clear;
  }
}

template <class T>
void softmax_blend_backward_range(const SoftmaxBlend<T>& p, int64_t begin, int64_t end) {
  PixelWeights<T> w(p);
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    const T *image = p.image + pixel * (p.C + 1), *grad = p.grad_image + pixel * (p.C + 1);
    const int64_t first = pixel * p.K;
    w.compute(pixel);
    const T* planes = p.planes + pixel / p.pixels_per_image * 2;
    const T depth_per_z = T(-1) / (planes[1] - planes[0]);
    const T inverse_total = T(1) / w.total, inverse_gamma = T(1) / p.gamma;
    T through_nearest(0);
    for (int64_t c = 0; c < p.C; ++c)
      through_nearest -= grad[c] * (p.background[c] - image[c]) * inverse_total * w.background * inverse_gamma;
    if (w.background <= static_cast<T>(blend_epsilon)) through_nearest = T(0);
    int64_t nearest_k = -1;
    set_zero(p.grad_colors, first * p.C, p.K * p.C), set_zero(p.grad_zbuf, first, p.K);
    set_zero(p.grad_dists, first, p.K);
    for (int64_t k = 0; k < w.used; ++k) {
      if (p.pix_to_face[first + k] < 0) continue;
      if (nearest_k < 0 && w.depth[k] == w.nearest) nearest_k = k;
      const T* color = p.colors + (first + k) * p.C;
      T q(0);
      for (int64_t c = 0; c < p.C; ++c) q += grad[c] * (color[c] - image[c]);
      q *= inverse_total;
      const T cover = w.coverage[k], along_z = q * w.weight[k] * inverse_gamma;
      through_nearest -= along_z;
      if (p.grad_zbuf) p.grad_zbuf[first + k] = along_z * depth_per_z;
      if (p.grad_dists) {
        // d w / d p = w / p; where p is 0 so is its slope.
        const T d_weight = -q * w.weight[k] * (T(1) - cover),
                d_alpha = -grad[p.C] * clear_dist_gradient(w.clear, cover, T(1));
        p.grad_dists[first + k] = (d_weight + d_alpha) / p.sigma;
      }
      if (p.grad_colors)
        for (int64_t c = 0; c < p.C; ++c) p.grad_colors[(first + k) * p.C + c] = grad[c] * w.weight[k] * inverse_total;
    }
    if (p.grad_zbuf && nearest_k >= 0) p.grad_zbuf[first + nearest_k] += through_nearest * depth_per_z;
  }
}

template void softmax_blend_range(const SoftmaxBlend<float>&, int64_t, int64_t);
template void softmax_blend_range(const SoftmaxBlend<double>&, int64_t, int64_t);
template void softmax_blend_backward_range(const SoftmaxBlend<float>&, int64_t, int64_t);
template void softmax_blend_backward_range(const SoftmaxBlend<double>&, int64_t, int64_t);

}  // namespace RECON_SIMD
}  // namespace recon
