#pragma once
// What the entry point of `ball_query` hands to the kernels of each device.
#include "ops/nearest/kernels.h"

namespace recon {

// A batch of searches: of the points of y nearer than a radius, the first K by index. Unused slots hold -1 and 0.
template <class T>
struct BallQuery {
  Nearest<T> search;
  T radius2;
};

// The queries of a task; `tree` may be null, and is then not needed.
RECON_SIMD_DECLARE(template <class T> void search_balls(const BallQuery<T>& p, const PointColumns<T>& y,
                                                        const PointTree<T>* tree, const NearestTask<T>& task))

template <class T>
void ball_query_cuda(const BallQuery<T>& p, const Device& device);

}  // namespace recon
