#pragma once
// What the entry points of `nearest` hand to the kernels of each device.
#include <cstdint>

#include "core/simd.h"
#include "core/tensor.h"

namespace recon {

// A batch of searches: the K nearest of `lengths_y` points for each of `lengths_x` points.
template <class T>
struct Nearest {
  const T *x, *y;                        // B N D, B M D
  const int64_t *lengths_x, *lengths_y;  // B, or null: all of N, all of M
  bool l1;                               // sum of absolute differences instead of the squared distance
  int64_t B, N, M, D, K;
  T* dist;       // B N K
  int64_t* idx;  // B N K

  RECON_HD int64_t count_x(int64_t b) const { return clamped(lengths_x, b, N); }
  RECON_HD int64_t count_y(int64_t b) const { return clamped(lengths_y, b, M); }

 private:
  RECON_HD static int64_t clamped(const int64_t* lengths, int64_t b, int64_t size) {
    if (!lengths) return size;
    return lengths[b] < 0 ? 0 : lengths[b] < size ? lengths[b] : size;
  }
};

// The same batch on the way back.
template <class T>
struct NearestBackward {
  Nearest<T> search;   // dist is not used
  const T* grad_dist;  // B N K
  T *grad_x, *grad_y;  // B N D, B M D; null where nobody needs it
};

constexpr int node_width = 16;

// One cloud along a space-filling curve, under a hierarchy of boxes with 16 children each. D <= 3.
// Level 0 are leaves of 16 points; a node of level l holds the boxes of the 16 nodes below it; the last level is one
// node. A box distance is computed by the operations of a point distance on numbers that are not larger, so that
// rounding cannot hide a nearer point: the search is exact to the last bit.
template <class T>
struct PointTree {
  static constexpr int max_levels = 9;  // 16^9 > 2^31
  int64_t count = 0;
  T* points = nullptr;     // leaves x 3 x 16: x, y, z of 16 points; NaN beyond the last
  int32_t* ids = nullptr;  // leaves x 16: their index in the cloud; in this order they follow the curve
  int levels = 0;          // level of the root
  int64_t size[max_levels] = {};
  T* boxes[max_levels] = {};  // boxes[l], l >= 1: size[l] x 6 x 16: least x, y, z, largest x, y, z
  // least_ids[l], l >= 1: size[l] x 16: of two boxes at equal distances only one with a lower index can matter. Without
  // this, clouds of many equal points would be searched whole.
  int32_t* least_ids[max_levels] = {};
};

// A cloud coordinate by coordinate, for the search that compares everything: D x stride, NaN beyond the last point.
template <class T>
struct PointColumns {
  static constexpr int unroll = 4, step = unroll * 16;
  const T* columns = nullptr;
  int64_t stride = 0;
};

// One part of one search: queries order[begin..end) (order null: begin..end) of batch element b.
template <class T>
struct NearestTask {
  int64_t b, begin, end;
  const int32_t* order;
};

RECON_SIMD_DECLARE(template <class T>
                   void search_tree(const Nearest<T>& p, const PointTree<T>& tree, const NearestTask<T>& task))
RECON_SIMD_DECLARE(template <class T>
                   void search_columns(const Nearest<T>& p, const PointColumns<T>& y, const NearestTask<T>& task))

// Adds the gradients of xy and, where there is one, of yx: on a CPU in an order that does not depend on the threads.
// Slots of a query from the first negative index on are empty.
template <class T>
void search_backward(const NearestBackward<T>& xy, const NearestBackward<T>* yx, const Device& device);

template <class T>
void nearest_cuda(const Nearest<T>& p, const Device& device);
template <class T>
void nearest_backward_cuda(const NearestBackward<T>& p, const Device& device);

}  // namespace recon
