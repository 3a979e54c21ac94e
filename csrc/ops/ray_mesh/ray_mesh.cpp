// ray_mesh: the first triangle that each ray hits, and where: origin + t direction, 0 <= t <= t_max. Of triangles at
// the same t the one with the lower index; with any_hit whichever is found first.
//
// On a CPU the triangles are put into a tree of boxes.
#include <cmath>
#include <limits>

#include "core/op.h"
#include "core/parallel.h"
#include "ops/ray_mesh/kernels.h"

namespace recon {

namespace {

template <class T>
void check(const char* name, const T* values, int64_t n, int64_t row) {
  for (int64_t i = 0; i < n; ++i)
    if (!std::isfinite(values[i]))
      throw std::invalid_argument(std::string("ray_mesh: ") + name + " must be finite, got " +
                                  std::to_string(values[i]) + " in row " + std::to_string(i / row));
}

template <class T>
void check_directions(const RayMesh<T>& in) {
  check("directions", in.directions, 3 * in.R, 3);
  for (int64_t r = 0; r < in.R; ++r) {
    const T* d = in.directions + 3 * r;
    if (d[0] == 0 && d[1] == 0 && d[2] == 0)
      throw std::invalid_argument("ray_mesh: directions must not be 0, got (0, 0, 0) in row " + std::to_string(r));
  }
}

template <class T>
void ray_mesh_cpu(const RayMesh<T>& in) {
  check("origins", in.origins, 3 * in.R, 3);
  check("triangles", in.triangles, 9 * in.F, 9);
  check_directions(in);
  if (in.F > INT32_MAX) throw std::invalid_argument("ray_mesh: at most 2^31 - 1 triangles: split the mesh");
  const bool sort = in.R * in.F > 20000;
  const auto tree =
      simplex_tree(in.triangles, in.F, 3, sort ? simplex_order(in.triangles, in.F, 3) : std::vector<int32_t>());
  for_each_range(in.R, sort ? 128 : 4096,
                 [&](int64_t begin, int64_t end) { RECON_SIMD_CALL(trace_rays, in, tree, begin, end); });
}

}  // namespace

void ray_mesh(Tensor origins, Tensor directions, Tensor triangles, double t_max, bool any_hit, Tensor t, Tensor face) {
  dispatch_float(origins.dtype, [&](auto zero) {
    using T = decltype(zero);
    const RayMesh<T> in = {origins.packed<T>(),
                           directions.packed<T>(),
                           triangles.packed<T>(),
                           origins.shape[0],
                           triangles.shape[0],
                           static_cast<T>(t_max),
                           any_hit,
                           t.packed<T>(),
                           face.packed<int64_t>()};
    if (!origins.device.cuda) return ray_mesh_cpu(in);
#ifdef RECON_CUDA
    ray_mesh_cuda(in, origins.device);
#endif
  });
}
RECON_OP(ray_mesh, "origins: R 3, directions: R 3, triangles: F 3 3, t_max: real, any_hit: bool, t: R, face: i64 R");

}  // namespace recon
