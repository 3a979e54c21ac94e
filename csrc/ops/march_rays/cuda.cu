// One thread for a ray. What its backward pass remembers of the samples lies in scratch memory, neighbouring rays side
// by side.
#include "core/parallel.h"
#include "core/scratch.h"
#include "ops/march_rays/kernels.h"

namespace recon {

template <class T>
struct MarchRay {
  MarchRays<T> p;

  RECON_HD void operator()(int64_t ray) const {
    const T *a = p.densities + ray * p.S, *f = p.features + ray * p.S * p.C;
    T* out = p.out + ray * (p.C + 1);
    for (int64_t c = 0; c < p.C; ++c) out[c] = T(0);
    T light(1), clear(1);
    for (int64_t i = 0; i < p.S; ++i) {
      if (i >= p.shift) light *= p.full - a[i - p.shift];
      const T weight = a[i] * light;
      for (int64_t c = 0; c < p.C; ++c) out[c] += weight * f[i * p.C + c];
      clear *= T(1) - a[i];
    }
    out[p.C] = T(1) - clear;
  }
};

template <class T>
struct MarchRayBackward {
  MarchRays<T> p;
  T *lights, *slopes, *clears, *befores;  // S R

  RECON_HD void operator()(int64_t ray) const {
    const T *a = p.densities + ray * p.S, *f = p.features + ray * p.S * p.C, *G = p.grad_out + ray * (p.C + 1);
    T* grad_f = p.grad_features ? p.grad_features + ray * p.S * p.C : nullptr;
    T light(1), clear(1), before(1);
    for (int64_t i = 0; i < p.S; ++i) {
      if (i >= p.shift) light *= p.full - a[i - p.shift];
      const T weight = a[i] * light;
      T slope(0);
      for (int64_t c = 0; c < p.C; ++c) {
        slope += G[c] * f[i * p.C + c];
        if (grad_f) grad_f[i * p.C + c] = weight * G[c];
      }
      if (!p.grad_densities) continue;
      const int64_t at = i * p.R + ray;
      lights[at] = light, slopes[at] = slope, clears[at] = clear, befores[at] = before;
      clear *= T(1) - a[i], before *= p.full - a[i];
    }
    if (!p.grad_densities) return;
    T behind(0), product(1);
    for (int64_t j = p.S - 1; j >= 0; --j) {
      const int64_t at = j * p.R + ray;
      if (j + 1 < p.S) behind *= p.full - a[j + 1];
      if (j + p.shift < p.S) behind += a[j + p.shift] * slopes[at + p.shift * p.R];
      p.grad_densities[ray * p.S + j] = lights[at] * slopes[at] - befores[at] * behind + G[p.C] * clears[at] * product;
      product *= T(1) - a[j];
    }
  }
};

template <class T>
void march_rays_cuda(const MarchRays<T>& p, const Device& device) {
  if (p.out) return parallel_for(device, p.R, MarchRay<T>{p});
  const int64_t size = p.grad_densities ? p.R * p.S : 0;
  const Scratch<T> notes(4 * size, device);
  T* at = notes.data();
  parallel_for(device, p.R, MarchRayBackward<T>{p, at, at + size, at + 2 * size, at + 3 * size});
}

template void march_rays_cuda(const MarchRays<float>&, const Device&);
template void march_rays_cuda(const MarchRays<double>&, const Device&);

}  // namespace recon
