#pragma once
// Building a PointTree.
#include "ops/nearest/kernels.h"

namespace recon {

// A point on its way into the order of the curve.
struct CurveEntry {
  uint32_t key;
  int32_t id;
};

// The number of T and of int32 that a tree over `count` points is made of.
template <class T>
int64_t tree_values(int64_t count);
int64_t tree_ids(int64_t count);

// The places of a tree over `count` points in memory of the sizes above, which build_tree has filled or will fill.
template <class T>
PointTree<T> tree_in(int64_t count, T* values, int32_t* ids);

// The tree over points (count D), in memory of the sizes above; `entries` holds 2 * count.
template <class T>
PointTree<T> build_tree(const T* points, int64_t count, int64_t D, T* values, int32_t* ids, CurveEntry* entries);

// Writes 0 .. count-1 in the order of the curve.
template <class T>
void curve_order(const T* points, int64_t count, int64_t D, int32_t* ids, CurveEntry* entries);

}  // namespace recon
