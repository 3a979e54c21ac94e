// point_mesh_winding: the generalised winding number of triangles around points, the exact sum over all triangles.
#include "core/op.h"
#include "core/parallel.h"
#include "ops/point_mesh_winding/kernels.h"

namespace recon {

void point_mesh_winding(Tensor points, Tensor triangles, Tensor winding) {
  dispatch_float(points.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Winding<T> in = {points.packed<T>(), triangles.packed<T>(), points.shape[0], triangles.shape[0],
                           winding.packed<T>()};
    if (!points.device.cuda) {
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
