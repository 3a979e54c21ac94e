// march_rays: what a ray shows of the samples along it, by emission and absorption.
//
//   x_i = 1 + eps - a_i      P_i = prod_{k <= i} x_k      t_i = P_{i - shift}, 1 for i < shift      w_i = a_i t_i
//   out_c = sum_i w_i f_ic      opacity = 1 - prod_i (1 - a_i)
//
// Backward, with G the gradient of the output and g_i = sum_c G_c f_ic:
//   d f_ic = w_i G_c
//   d a_j = t_j g_j - P_{j-1} B_j + G_C prod_{k != j} (1 - a_k)
//   B_j = sum_{i >= j + shift} a_i g_i prod_{j < k <= i - shift} x_k = a_{j+shift} g_{j+shift} + x_{j+1} B_{j+1}
// Products without a factor are made of those before and behind it. Nothing is divided, so opaque samples need no care.
//
// Max, Optical models for direct volume rendering, IEEE TVCG 1995; Mildenhall et al., NeRF, ECCV 2020, equation 3.
#include <algorithm>

#include "core/op.h"
#include "core/parallel.h"
#include "ops/march_rays/kernels.h"

namespace recon {

namespace {

template <class T>
void run(const MarchRays<T>& p, const Device& device) {
  if (p.R == 0) return;
  if (device.cuda) {
#ifdef RECON_CUDA
    march_rays_cuda(p, device);
#endif
    return;
  }
  for_each_range(p.R, 1 + 20000 / ((p.S + 1) * (p.C + 1)), [&](int64_t begin, int64_t end) {
    if (p.out)
      RECON_SIMD_CALL(march_rays_range, p, begin, end);
    else
      RECON_SIMD_CALL(march_rays_backward_range, p, begin, end);
  });
}

template <class T>
MarchRays<T> arguments(const Tensor& densities, const Tensor& features, double eps, int64_t shift) {
  MarchRays<T> p = {};
  p.densities = densities.packed<T>(), p.features = features.packed<T>();
  p.full = static_cast<T>(1 + eps);
  p.R = features.shape[0], p.S = features.shape[1], p.C = features.shape[2];
  p.shift = std::min(shift, p.S);
  return p;
}

void check_channels(const Tensor& features, const Tensor& out) {
  if (out.shape[1] != features.shape[2] + 1) throw std::invalid_argument("march_rays: out must have C + 1 channels");
}

}  // namespace

void march_rays(Tensor densities, Tensor features, double eps, int64_t shift, Tensor out) {
  check_channels(features, out);
  dispatch_float(densities.dtype, [&](auto zero) {
    using T = decltype(zero);
    MarchRays<T> p = arguments<T>(densities, features, eps, shift);
    p.out = out.packed<T>();
    run(p, densities.device);
  });
}
RECON_OP(march_rays, "densities: R S, features: R S C, eps: real, shift: int>=0, out: R D");

void march_rays_backward(Tensor densities, Tensor features, double eps, int64_t shift, std::optional<Tensor>,
                         Tensor grad_out, std::optional<Tensor> grad_densities, std::optional<Tensor> grad_features) {
  check_channels(features, grad_out);
  dispatch_float(densities.dtype, [&](auto zero) {
    using T = decltype(zero);
    MarchRays<T> p = arguments<T>(densities, features, eps, shift);
    p.grad_out = grad_out.packed<T>();
    p.grad_densities = grad_densities ? grad_densities->packed<T>() : nullptr;
    p.grad_features = grad_features ? grad_features->packed<T>() : nullptr;
    run(p, densities.device);
  });
}
RECON_OP(march_rays_backward,
         "densities: R S, features: R S C, eps: real, shift: int>=0, out?: R D, grad_out: R D, grad_densities?: R S, "
         "grad_features?: R S C");

}  // namespace recon
