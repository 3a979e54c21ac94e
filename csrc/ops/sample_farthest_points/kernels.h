#pragma once
// What the entry point of `sample_farthest_points` hands to the kernels of each device.
#include <cstdint>

#include "core/simd.h"
#include "core/tensor.h"
#include "ops/nearest/kernels.h"

namespace recon {

// A batch of clouds, and how many samples of each are wanted.
template <class T>
struct Sampling {
  const T* points;                          // B P D
  const int64_t *lengths, *wanted, *start;  // B each; lengths may be null: all of P
  int64_t B, P, D, size;
  int64_t* idx;  // B size, -1 beyond the last sample

  RECON_HD int64_t count_points(int64_t b) const {
    if (!lengths) return P;
    return lengths[b] < 0 ? 0 : lengths[b] < P ? lengths[b] : P;
  }
  RECON_HD int64_t count_samples(int64_t b) const {
    const int64_t most = count_points(b) < size ? count_points(b) : size;
    return wanted[b] < 0 ? 0 : wanted[b] < most ? wanted[b] : most;
  }
  RECON_HD int64_t first_sample(int64_t b) const {
    const int64_t last = count_points(b) - 1;
    return start[b] < 0 ? 0 : start[b] < last ? start[b] : last;
  }
};

// What the search through a tree keeps: for each point the distance to the nearest sample, and for each node of each
// level the farthest point below each of its children.
template <class T>
struct FarthestTree {
  PointTree<T> tree;
  T* dist = nullptr;                                // leaves x 16
  T* far[PointTree<T>::max_levels] = {};            // size[l] x 16
  int32_t* far_ids[PointTree<T>::max_levels] = {};  // size[l] x 16
};

// Both write count_samples(b) indices.
RECON_SIMD_DECLARE(template <class T> void sample_by_tree(const Sampling<T>& s, const FarthestTree<T>& far, int64_t b))
// columns: the cloud coordinate by coordinate, D x stride, stride a multiple of 16; dist: stride values to work with.
RECON_SIMD_DECLARE(template <class T>
                   void sample_by_comparing(const Sampling<T>& s, const T* columns, int64_t stride, T* dist, int64_t b))

template <class T>
void sample_farthest_points_cuda(const Sampling<T>& s, const Device& device);

}  // namespace recon
