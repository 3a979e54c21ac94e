#pragma once
// What the entry point of ray_mesh hands to the kernels of each device.
#include <cmath>

#include "core/select.h"
#include "core/simd.h"
#include "math/vec.h"
#include "ops/point_mesh/tree.h"

namespace recon {

template <class T>
struct RayMesh {
  const T *origins, *directions;  // R 3
  const T* triangles;             // F 3 3
  int64_t R, F;
  T t_max;
  bool any_hit;   // some hit will do
  T* t;           // R: infinity where nothing is hit
  int64_t* face;  // R: -1 where nothing is hit
};

// a b - c d of separate roundings, so that swapping the products changes the sign and nothing else.
RECON_HD float cross_term(float a, float b, float c, float d) {
#ifdef __CUDA_ARCH__
  return __fsub_rn(__fmul_rn(a, b), __fmul_rn(c, d));
#else
  return a * b - c * d;
#endif
}
RECON_HD double cross_term(double a, double b, double c, double d) {
#ifdef __CUDA_ARCH__
  return __dsub_rn(__dmul_rn(a, b), __dmul_rn(c, d));
#else
  return a * b - c * d;
#endif
}

// A ray whose longest coordinate is z, after sorting, and 1, after scaling; x and y are sheared to 0.
// Woop, Benthin, Wald, Watertight Ray/Triangle Intersection, JCGT 2013.
template <class T>
struct Ray {
  T origin[3], direction[3], shear[3];
  int x, y, z;

  RECON_HD static Ray load(const T* o, const T* d) {
    Ray r;
    r.z = 0;
    for (int i = 0; i < 3; ++i) {
      r.origin[i] = o[i], r.direction[i] = d[i];
      if (std::abs(d[i]) > std::abs(d[r.z])) r.z = i;
    }
    r.x = (r.z + 1) % 3, r.y = (r.z + 2) % 3;
    r.shear[0] = d[r.x] / d[r.z], r.shear[1] = d[r.y] / d[r.z], r.shear[2] = T(1) / d[r.z];
    return r;
  }
};

// A corner in the coordinates of the ray: x, y across, z along, in units of t. `v` holds x, y, z relative to the
// origin.
template <class T, class V>
RECON_HD Vec3<V> along_ray(const Ray<T>& ray, const V* v) {
  const V depth = v[ray.z];
  return {cross_term(v[ray.x], V(1), V(ray.shear[0]), depth), cross_term(v[ray.y], V(1), V(ray.shear[1]), depth),
          V(ray.shear[2]) * depth};
}

// Where the ray hits the triangle: t, or infinity where it misses. The three areas have one sign, or are 0 on the
// border: neighbours compute that of their common edge from the same products, so that no ray passes between them.
template <class V>
RECON_HD V hit(Vec3<V> a, Vec3<V> b, Vec3<V> c) {
  const V u = cross_term(c.x, b.y, c.y, b.x), v = cross_term(a.x, c.y, a.y, c.x), w = cross_term(b.x, a.y, b.y, a.x);
  const V least = minimum(minimum(u, v), w), most = maximum(maximum(u, v), w), det = u + v + w;
  const V t = (u * a.z + v * b.z + w * c.z) / det;
  // Not (least < 0 and most > 0), det not 0, t not before the origin; NaN is none of that.
  const V valid = select(least >= V(0), V(1), select(most <= V(0), V(1), V(0)));
  const V faces = select(det < V(0), valid, select(det > V(0), valid, V(0)));
  return select(faces > V(0), select(t >= V(0), t, V(INFINITY)), V(INFINITY));
}

RECON_SIMD_DECLARE(template <class T>
                   void trace_rays(const RayMesh<T>& in, const SimplexTree<T>& tree, int64_t begin, int64_t end))

template <class T>
void ray_mesh_cuda(const RayMesh<T>& in, const Device& device);

}  // namespace recon
