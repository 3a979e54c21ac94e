// Winding numbers of a register of points at a time; each adds up the triangles in their order.
#include <algorithm>

#include "ops/point_mesh_winding/kernels.h"

namespace recon {
namespace RECON_SIMD {

template <class T>
void wind_points(const Winding<T>& in, int64_t begin, int64_t end) {
  using P = Pack<T>;
  for (int64_t first = begin; first < end; first += P::lanes) {
    const int count = static_cast<int>(std::min<int64_t>(P::lanes, end - first));
    T lanes[3][P::lanes];
    for (int lane = 0; lane < P::lanes; ++lane)
      for (int d = 0; d < 3; ++d) lanes[d][lane] = in.points[3 * (first + std::min(lane, count - 1)) + d];
    const Vec3<P> p{P::load(lanes[0]), P::load(lanes[1]), P::load(lanes[2])};
    AngleSum<P> sum;
    for (int64_t f = 0; f < in.F; ++f) {
      const T* v = in.triangles + 9 * f;
      const auto corner = [&](int k) { return Vec3<P>{P(v[3 * k]), P(v[3 * k + 1]), P(v[3 * k + 2])} - p; };
      sum.add_triangle(corner(0), corner(1), corner(2));
    }
    for (int lane = 0; lane < count; ++lane)
      in.winding[first + lane] = full_turns<T>(sum.real[lane], sum.imaginary[lane], sum.turns[lane]);
  }
}

template void wind_points(const Winding<float>&, int64_t, int64_t);
template void wind_points(const Winding<double>&, int64_t, int64_t);

}  // namespace RECON_SIMD
}  // namespace recon
