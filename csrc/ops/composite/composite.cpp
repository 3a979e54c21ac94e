// composite: one image from the features of the K points of every pixel.
//
//   idx, alphas (N,S,K), or (N,K,S) when `planes`: points of each pixel, front to back, negative where there is none
//   features (P,C) -> image (N,C,S): sum_k w_k features[idx_k], with weights by mode (kernels.h)
//
// Cost: S K C, forward and backward.
#include <stdexcept>

#include "core/op.h"
#include "ops/composite/kernels.h"

namespace recon {

namespace {

template <class T>
Composite<T> composite_input(const Tensor& idx, const Tensor& alphas, const Tensor& features, int64_t mode, bool planes,
                             const Tensor& image) {
  const int64_t S = planes ? idx.shape[2] : idx.shape[1], K = planes ? idx.shape[1] : idx.shape[2];
  if (image.shape[2] != S) throw std::invalid_argument("composite: image must have as many pixels as idx");
  Composite<T> p = {};
  p.mode = static_cast<Compositing>(mode);
  p.idx = idx.packed<int32_t>(), p.alphas = alphas.packed<T>(), p.features = features.packed<T>();
  p.N = idx.shape[0], p.S = S, p.K = K, p.P = features.shape[0], p.C = features.shape[1];
  p.per_pixel = planes ? 1 : K, p.per_hit = planes ? S : 1;
  return p;
}

}  // namespace

void composite(Tensor idx, Tensor alphas, Tensor features, int64_t mode, bool planes, Tensor image) {
  dispatch_float(features.dtype, [&](auto zero) {
    using T = decltype(zero);
    Composite<T> p = composite_input<T>(idx, alphas, features, mode, planes, image);
    p.image = image.packed<T>();
    if (!idx.device.cuda) return RECON_SIMD_CALL(composite_cpu, p);
#ifdef RECON_CUDA
    composite_cuda(p, idx.device);
#endif
  });
}
RECON_OP(composite,
         "idx: i32 N A B, alphas: N A B, features: P C, mode: weighted|norm_weighted|alpha, planes: bool, "
         "image: N C S");

void composite_backward(Tensor idx, Tensor alphas, Tensor features, int64_t mode, bool planes, std::optional<Tensor>,
                        Tensor grad_image, std::optional<Tensor> grad_alphas, std::optional<Tensor> grad_features) {
  dispatch_float(features.dtype, [&](auto zero) {
    using T = decltype(zero);
    Composite<T> p = composite_input<T>(idx, alphas, features, mode, planes, grad_image);
    p.grad_image = grad_image.packed<T>();
    p.grad_alphas = grad_alphas ? grad_alphas->packed<T>() : nullptr;
    p.grad_features = grad_features ? grad_features->packed<T>() : nullptr;
    if (!idx.device.cuda) return RECON_SIMD_CALL(composite_backward_cpu, p);
#ifdef RECON_CUDA
    composite_backward_cuda(p, idx.device);
#endif
  });
}
RECON_OP(composite_backward,
         "idx: i32 N A B, alphas: N A B, features: P C, mode: weighted|norm_weighted|alpha, planes: bool, "
         "image?: N C S, grad_image: N C S, grad_alphas?: N A B, grad_features?: P C");

}  // namespace recon
