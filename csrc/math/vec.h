#pragma once
// Vectors of three numbers.
#include <cmath>

#include "core/tensor.h"

namespace recon {

template <class T>
struct Vec3 {
  T x, y, z;

  RECON_HD static Vec3 load(const T* p) { return {p[0], p[1], p[2]}; }
  RECON_HD void store(T* p) const { p[0] = x, p[1] = y, p[2] = z; }

  friend RECON_HD Vec3 operator+(Vec3 a, Vec3 b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
  friend RECON_HD Vec3 operator-(Vec3 a, Vec3 b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
  friend RECON_HD Vec3 operator-(Vec3 a) { return {-a.x, -a.y, -a.z}; }
  friend RECON_HD Vec3 operator*(Vec3 a, T s) { return {a.x * s, a.y * s, a.z * s}; }
  friend RECON_HD Vec3 operator*(T s, Vec3 a) { return a * s; }
  RECON_HD Vec3& operator+=(Vec3 b) { return *this = *this + b; }
};

template <class T>
RECON_HD T dot(Vec3<T> a, Vec3<T> b) {
  return a.x * b.x + a.y * b.y + a.z * b.z;
}

template <class T>
RECON_HD Vec3<T> cross(Vec3<T> a, Vec3<T> b) {
  return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

template <class T>
RECON_HD T norm(Vec3<T> a) {
  using std::sqrt;
  return sqrt(dot(a, a));
}

}  // namespace recon
