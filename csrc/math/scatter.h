#pragma once
// Adding to rows that many elements share, the same way in every run and for every number of threads.
#include <algorithm>

#include "core/parallel.h"

namespace recon {

// On a GPU: fewer rows times elements than this are gathered, every row by a thread that goes through all elements, in
// a fixed order; more are scattered by atomics.
constexpr int64_t small_scatter = int64_t{1} << 26;

// Calls body(begin, end) for parts of [0, rows), in parallel when there are `work` elements to go through. Each call
// goes through all elements in order and keeps those of its own rows, so that no two threads write to the same row.
template <class F>
void for_each_row_range(int64_t rows, int64_t work, const F& body) {
  const int64_t parts = work < 20000 ? 1 : std::min<int64_t>(num_threads(), rows);
  if (parts <= 1) return body(int64_t{0}, rows);
  for_each_task(parts, [&](int64_t i, int) { body(rows * i / parts, rows * (i + 1) / parts); });
}

}  // namespace recon
