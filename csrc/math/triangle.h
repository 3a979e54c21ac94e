#pragma once
// Triangles in space: normals, areas, cotangents, the point of a triangle or an edge that is closest to another.
#include "core/select.h"
#include "math/vec.h"

namespace recon {

template <class T>
struct Triangle {
  Vec3<T> v[3];

  // Face f of a mesh.
  RECON_HD static Triangle load(const T* verts, const int64_t* faces, int64_t f) {
    return {{Vec3<T>::load(verts + 3 * faces[3 * f]), Vec3<T>::load(verts + 3 * faces[3 * f + 1]),
             Vec3<T>::load(verts + 3 * faces[3 * f + 2])}};
  }
};

// (v1 - v0) x (v2 - v0): along the normal, twice the area long.
template <class T>
RECON_HD Vec3<T> area_vector(const Triangle<T>& t) {
  return cross(t.v[1] - t.v[0], t.v[2] - t.v[0]);
}

// Gradient of g . area_vector in corner k. The area vector is v0 x v1 + v1 x v2 + v2 x v0, the same from every corner.
template <class T>
RECON_HD Vec3<T> area_vector_vjp(const Triangle<T>& t, int k, Vec3<T> g) {
  return cross(t.v[(k + 1) % 3] - t.v[(k + 2) % 3], g);
}

// Cotangents of the three angles and the area, which is kept above 1e-6. With a and b two sides from one corner:
//   cot = a . b / |a x b| = a . b / (2 area)
template <class T>
struct Cotangents {
  T cot[3], area;
};

template <class T>
RECON_HD Cotangents<T> cotangents(const Triangle<T>& t) {
  using std::sqrt;
  const Vec3<T> a = t.v[2] - t.v[1], b = t.v[0] - t.v[2], c = t.v[1] - t.v[0], n = cross(c, a);
  const T squared = T(0.25) * dot(n, n);
  const T area = sqrt(squared > T(1e-12) ? squared : T(1e-12));
  const T scale = T(-0.5) / area;
  return {{dot(b, c) * scale, dot(c, a) * scale, dot(a, b) * scale}, area};
}

// ---- closest points: all corners are given relative to the point that asks, so that it is the origin; V is a number
// ---- or a register of numbers

template <class M, class V>
RECON_HD Vec3<V> select(M m, Vec3<V> a, Vec3<V> b) {
  return {select(m, a.x, b.x), select(m, a.y, b.y), select(m, a.z, b.z)};
}

template <class V>
RECON_HD Vec3<V> minimum(Vec3<V> a, Vec3<V> b) {
  return {minimum(a.x, b.x), minimum(a.y, b.y), minimum(a.z, b.z)};
}

template <class V>
RECON_HD Vec3<V> maximum(Vec3<V> a, Vec3<V> b) {
  return {maximum(a.x, b.x), maximum(a.y, b.y), maximum(a.z, b.z)};
}

// A point of an edge or a triangle, its squared distance from the origin, and its weights of all corners but the first.
template <class V>
struct Closest {
  Vec3<V> at;
  V dist, weight[2];
};

// The part of the way from a to b, not more than half of it, where the edge is closest; a is the closer end.
// Edges that are too short for their square to be a number end at b.
template <class V>
RECON_HD V part_of_edge(Vec3<V> a, Vec3<V> ab) {
  const V along = -dot(a, ab), length = dot(ab, ab);
  return select(along > V(0), select(along < length, along / length, V(1)), V(0));
}

// Rounding must not carry the point out of the box around the corners: then no box that holds them is farther away than
// the point is, to the last bit, and a search through boxes misses nothing.
template <class V>
RECON_HD void keep_in_box(Closest<V>& point, Vec3<V> low, Vec3<V> high) {
  point.at = minimum(maximum(point.at, low), high);
  point.dist = dot(point.at, point.at);
}

// On the edge from a to b, a being the closer end.
template <class V>
RECON_HD Closest<V> closest_of_sorted(Vec3<V> a, Vec3<V> b) {
  const Vec3<V> ab = b - a;
  const V part = part_of_edge(a, ab);
  Closest<V> best{a + ab * part, V(0), {part, V(0)}};
  keep_in_box(best, minimum(a, b), maximum(a, b));
  return best;
}

// On the triangle, whose corners are sorted by distance. Every candidate (a point of each edge, the foot of the normal
// where it is inside) is a point of the triangle, so that the smallest distance is right for needles and triangles
// without area too; distances are rounded relative to that of the closest corner. Where the squared length of the area
// vector is below `smallest` only the edges count.
template <class V>
RECON_HD Closest<V> closest_of_sorted(Vec3<V> a, Vec3<V> b, Vec3<V> c, V smallest) {
  const Vec3<V> ab = b - a, ac = c - a, bc = c - b;
  const V on_ab = part_of_edge(a, ab), on_ac = part_of_edge(a, ac), on_bc = part_of_edge(b, bc);
  Closest<V> best{a + ab * on_ab, V(0), {on_ab, V(0)}};
  best.dist = dot(best.at, best.at);

  const auto offer = [&best](auto allowed, Vec3<V> at, V to_b, V to_c) {
    const V dist = select(allowed, dot(at, at), V(INFINITY));
    const auto better = dist < best.dist;
    best = {select(better, at, best.at),
            select(better, dist, best.dist),
            {select(better, to_b, best.weight[0]), select(better, to_c, best.weight[1])}};
  };
  offer(on_ac >= V(0), a + ac * on_ac, V(0), on_ac);
  offer(on_bc >= V(0), b + bc * on_bc, V(1) - on_bc, on_bc);

  const Vec3<V> n = cross(ab, ac);
  const V area = dot(n, n), to_b = dot(n, cross(ac, a)), to_c = dot(n, cross(a, ab));
  // The least of the three, and of how far the area is above its limit, says whether the foot counts.
  const V inside = minimum(minimum(to_b, to_c), area - (to_b + to_c));
  const V scale = V(1) / area, counts = select(area >= smallest, inside, V(-1));
  offer(counts > V(0), a + ab * (to_b * scale) + ac * (to_c * scale), to_b * scale, to_c * scale);
  keep_in_box(best, minimum(minimum(a, b), c), maximum(maximum(a, b), c));
  return best;
}

template <class V>
RECON_HD void sort_by_distance(Vec3<V>& a, Vec3<V>& b, V& dist_a, V& dist_b) {
  const auto swap = dist_b < dist_a;
  const Vec3<V> closer = select(swap, b, a);
  const V dist = select(swap, dist_b, dist_a);
  b = select(swap, a, b), a = closer;
  dist_b = select(swap, dist_a, dist_b), dist_a = dist;
}

// The squared distance of the origin from an edge (H = 2) or a triangle (H = 3).
template <int H, class V>
RECON_HD V squared_distance(const Vec3<V>* corners, V smallest) {
  Vec3<V> a = corners[0], b = corners[1];
  V dist_a = dot(a, a), dist_b = dot(b, b);
  sort_by_distance(a, b, dist_a, dist_b);
  if constexpr (H == 2) {
    (void)smallest;
    return closest_of_sorted(a, b).dist;
  } else {
    Vec3<V> c = corners[2];
    V dist_c = dot(c, c);
    sort_by_distance(b, c, dist_b, dist_c);
    sort_by_distance(a, b, dist_a, dist_b);
    return closest_of_sorted(a, b, c, smallest).dist;
  }
}

// The closest point of an edge (H = 2) or a triangle (H = 3) and, in `weights`, its barycentric coordinates.
template <int H, class T>
RECON_HD Vec3<T> closest_point(const Vec3<T>* corners, T smallest, T* weights) {
  int order[3] = {0, 1, 2};
  const auto sort = [&](int i, int j) {
    const Vec3<T> a = corners[order[i]], b = corners[order[j]];
    if (!(dot(b, b) < dot(a, a))) return;
    const int before = order[i];
    order[i] = order[j], order[j] = before;
  };
  Closest<T> best;
  sort(0, 1);
  if constexpr (H == 2) {
    best = closest_of_sorted(corners[order[0]], corners[order[1]]);
  } else {
    sort(1, 2), sort(0, 1);
    best = closest_of_sorted(corners[order[0]], corners[order[1]], corners[order[2]], smallest);
    weights[order[2]] = best.weight[1];
  }
  weights[order[0]] = T(1) - best.weight[0] - best.weight[1];
  weights[order[1]] = best.weight[0];
  if constexpr (H == 2) {
    // The ends of an edge without length share it, whatever their order.
    const Vec3<T> ab = corners[1] - corners[0];
    if (!(dot(ab, ab) > T(0))) weights[0] = weights[1] = T(0.5);
  }
  return best.at;
}

}  // namespace recon
