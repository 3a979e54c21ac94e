// box3d_overlap: the volume that two boxes (or any hexahedra with flat faces, convex) share, and its part of their
// union.
//
//   vol = 1/3 sum over the faces of the common body of (height over a point) x area
//
// Those faces are the faces of each box, cut down to the other one. Everything is computed in double precision relative
// to the centre of the first box, whatever the dtype and however far from the origin the boxes are.
#include <cmath>

#include "core/op.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "math/vec.h"

namespace recon {

namespace {

using Vec = Vec3<double>;

constexpr int faces = 6, most_corners = 4 + faces;

// Corners closer to a plane than that, for the size of the box, lie on it. The line in which two planes meet is the
// less certain the smaller the angle between them: at an angle of d it is off by 1e-16 / d. Either error stays below
// 1e-8.
constexpr double coplanar = 1e-8;

RECON_HD int corner_of(int face, int k) {
  constexpr int corners[faces][4] = {{0, 1, 2, 3}, {3, 2, 6, 7}, {0, 1, 5, 4},
                                     {0, 3, 7, 4}, {1, 2, 6, 5}, {4, 5, 6, 7}};
  return corners[face][k];
}

// A box relative to its own centre.
struct Box {
  Vec center, corners[8];
  Vec normals[faces];     // outwards, of length 1
  double offsets[faces];  // a point x of face f has normals[f] . x = offsets[f] ...
  double slack;           // ... up to this: how far the corners of a face are from lying in one plane
  bool turned[faces];     // the corners of the face run clockwise, seen from outside
  double volume;

  RECON_HD Vec corner(int face, int k) const { return corners[corner_of(face, turned[face] ? 3 - k : k)]; }
};

// A part of a face.
struct Polygon {
  Vec at[most_corners];
  int count = 0;
};

// 6 times the volume of the cone from the origin to the polygon.
RECON_HD double cone(const Polygon& p) {
  double sum = 0;
  for (int i = 2; i < p.count; ++i) sum += dot(p.at[0], cross(p.at[i - 1], p.at[i]));
  return sum;
}

RECON_HD Polygon face_of(const Box& box, int face, Vec offset) {
  Polygon p;
  for (p.count = 0; p.count < 4; ++p.count) p.at[p.count] = box.corner(face, p.count) + offset;
  return p;
}

template <class T>
RECON_HD Box load_box(const T* corners) {
  Box box;
  box.center = {0, 0, 0};
  for (int i = 0; i < 8; ++i) {
    box.corners[i] = {corners[3 * i], corners[3 * i + 1], corners[3 * i + 2]};
    box.center += 0.125 * box.corners[i];
  }
  double size = 0;
  for (int i = 0; i < 8; ++i) {
    box.corners[i] = box.corners[i] - box.center;
    size = fmax(size, norm(box.corners[i]));
  }
  box.volume = 0, box.slack = coplanar * size;
  for (int f = 0; f < faces; ++f) {
    Vec c[4], middle{0, 0, 0};
    for (int k = 0; k < 4; ++k) c[k] = box.corners[corner_of(f, k)], middle += 0.25 * c[k];
    const Vec n = cross(c[2] - c[0], c[3] - c[1]);
    const double length = norm(n);
    box.turned[f] = dot(n, middle) < 0;
    box.normals[f] = (length > 0 ? (box.turned[f] ? -1 : 1) / length : 0) * n;
    box.offsets[f] = dot(box.normals[f], middle);
    for (int k = 0; k < 4; ++k) box.slack = fmax(box.slack, 2 * fabs(dot(box.normals[f], c[k]) - box.offsets[f]));
    box.volume += cone(face_of(box, f, {0, 0, 0}));
  }
  box.volume /= 6;
  return box;
}

// Cuts off what lies outside of a plane by more than the slack (Sutherland, Hodgman, Reentrant Polygon Clipping,
// CACM 1974). `out` is another polygon than `p`.
RECON_HD void clip(const Polygon& p, Vec normal, double offset, double slack, Polygon& out) {
  out.count = 0;
  if (p.count == 0) return;
  Vec from = p.at[p.count - 1];
  double outside_from = dot(normal, from) - offset;
  for (int i = 0; i < p.count; ++i) {
    const Vec to = p.at[i];
    const double outside_to = dot(normal, to) - offset;
    if ((outside_from <= slack) != (outside_to <= slack) && out.count < most_corners) {
      // A corner within the slack is taken to be on the plane.
      const double a = outside_from <= slack ? fmin(outside_from, 0.0) : outside_from;
      const double b = outside_to <= slack ? fmin(outside_to, 0.0) : outside_to;
      out.at[out.count++] = from + (a / (a - b)) * (to - from);
    }
    if (outside_to <= slack && out.count < most_corners) out.at[out.count++] = to;
    from = to, outside_from = outside_to;
  }
}

// One of two boxes among the planes of the other one.
struct Placed {
  const Box& box;
  Vec offset;            // where its centre is
  double planes[faces];  // offsets of its planes there
  uint32_t in[faces];    // for each plane of the other box: which corners of this one are inside or on it ...
  uint32_t out[faces];   // ... and which are outside or on it
};

RECON_HD void compare(Placed& a, const Placed& b, double slack) {
  for (int f = 0; f < faces; ++f) {
    a.in[f] = a.out[f] = 0;
    for (int i = 0; i < 8; ++i) {
      const double outside = dot(b.box.normals[f], a.box.corners[i] + a.offset) - b.planes[f];
      a.in[f] |= static_cast<uint32_t>(outside <= slack) << i;
      a.out[f] |= static_cast<uint32_t>(outside >= -slack) << i;
    }
  }
}

// Whether all of the box is outside of a face of the other one.
RECON_HD bool apart(const Placed& a) {
  for (int f = 0; f < faces; ++f)
    if (a.out[f] == 0xff) return true;
  return false;
}

// Whether all of the box is inside of the other one.
RECON_HD bool contained(const Placed& a) {
  for (int f = 0; f < faces; ++f)
    if (a.in[f] != 0xff) return false;
  return true;
}

// The cones of the faces of a inside b. A face that both boxes have belongs to the first of them.
RECON_HD double cones(const Placed& a, const Placed& b, double slack, bool first) {
  double sum = 0;
  for (int f = 0; f < faces; ++f) {
    uint32_t corners = 0;
    for (int k = 0; k < 4; ++k) corners |= 1u << corner_of(f, k);
    bool gone = false;
    uint32_t cut = 0;  // by which planes
    for (int k = 0; k < faces; ++k) {
      const bool inside = (corners & ~a.in[k]) == 0, outside = (corners & ~a.out[k]) == 0;
      const bool keeps = inside && outside && first && dot(b.box.normals[k], a.box.normals[f]) > 0;
      gone = gone || (outside && !keeps);
      cut |= static_cast<uint32_t>(!inside) << k;
    }
    if (gone) continue;
    Polygon parts[2];
    parts[0] = face_of(a.box, f, a.offset);
    int now = 0;
    for (int k = 0; k < faces; ++k) {
      if (!(cut >> k & 1)) continue;
      clip(parts[now], b.box.normals[k], b.planes[k], slack, parts[1 - now]);
      now = 1 - now;
    }
    sum += cone(parts[now]);
  }
  return sum;
}

RECON_HD double shared_volume(const Box& box1, const Box& box2) {
  Placed a{box1, {0, 0, 0}, {}, {}, {}}, b{box2, box2.center - box1.center, {}, {}, {}};
  for (int f = 0; f < faces; ++f) {
    a.planes[f] = box1.offsets[f];
    b.planes[f] = box2.offsets[f] + dot(box2.normals[f], b.offset);
  }
  const double slack = fmax(box1.slack, box2.slack);
  compare(a, b, slack);
  if (apart(a)) return 0;
  compare(b, a, slack);
  if (apart(b)) return 0;
  const double smaller = fmin(box1.volume, box2.volume);
  if (contained(a) || contained(b)) return smaller;
  const double volume = (cones(a, b, slack, true) + cones(b, a, slack, false)) / 6;
  return fmax(0.0, fmin(volume, smaller));
}

template <class T>
struct LoadBoxes {
  const T* corners;
  Box* boxes;

  RECON_HD void operator()(int64_t i) const { boxes[i] = load_box(corners + 24 * i); }
};

template <class T>
struct Overlap {
  const Box *boxes1, *boxes2;
  int64_t M;
  T *vol, *iou;

  RECON_HD void operator()(int64_t pair) const {
    const Box &a = boxes1[pair / M], &b = boxes2[pair % M];
    const double shared = shared_volume(a, b), both = a.volume + b.volume - shared;
    vol[pair] = static_cast<T>(shared);
    iou[pair] = static_cast<T>(both > 0 ? shared / both : 0);
  }
};

}  // namespace

void box3d_overlap(Tensor boxes1, Tensor boxes2, Tensor vol, Tensor iou) {
  dispatch_float(boxes1.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Device& device = boxes1.device;
    const int64_t N = boxes1.shape[0], M = boxes2.shape[0];
    const Scratch<Box> scratch(N + M, device);
    parallel_for(device, N, LoadBoxes<T>{boxes1.packed<T>(), scratch.data()}, 1024);
    parallel_for(device, M, LoadBoxes<T>{boxes2.packed<T>(), scratch.data() + N}, 1024);
    parallel_for(device, N * M, Overlap<T>{scratch.data(), scratch.data() + N, M, vol.packed<T>(), iou.packed<T>()},
                 64);
  });
}
RECON_OP(box3d_overlap, "boxes1: N 8 3, boxes2: M 8 3, vol: N M, iou: N M");

}  // namespace recon
