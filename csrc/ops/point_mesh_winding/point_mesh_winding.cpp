// point_mesh_winding: the generalised winding number of triangles around points, the exact sum over all triangles.
#include <cmath>

#include "core/op.h"
#include "core/parallel.h"
#include "ops/point_mesh_winding/kernels.h"

namespace recon {

namespace {

template <class T>
void check(const char* name, const T* values, int64_t n, int64_t row) {
  for (int64_t i = 0; i < n; ++i)
    if (!std::isfinite(values[i]))
      throw std::invalid_argument(std::string("point_mesh_winding: ") + name + " must be finite, got " +
                                  std::to_string(values[i]) + " in row " + std::to_string(i / row));
}

}  // namespace

void point_mesh_winding(Tensor points, Tensor triangles, Tensor winding) {
  dispatch_float(points.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Winding<T> in = {points.packed<T>(), triangles.packed<T>(), points.shape[0], triangles.shape[0],
                           winding.packed<T>()};
    if (!points.device.cuda) {
      check("points", in.points, 3 * in.P, 3);
      check("triangles", in.triangles, 9 * in.F, 9);
      const int64_t grain = 16 + 16 * (2000 / (in.F + 1));
      return for_each_range(in.P, grain,
                            [&](int64_t begin, int64_t end) { RECON_SIMD_CALL(wind_points, in, begin, end); });
    }
#ifdef RECON_CUDA
    point_mesh_winding_cuda(in, points.device);
#endif
  });
}
RECON_OP(point_mesh_winding, "points: P 3, triangles: F 3 3, winding: P");

}  // namespace recon
