#pragma once
// Rows of numbers, a register at a time; for files compiled once for each instruction set.
#include "core/simd.h"

namespace recon {
namespace RECON_SIMD {

template <class T>
T dot(const T* a, const T* b, int64_t n) {
  using V = Pack<T>;
  V sums(T(0));
  int64_t c = 0;
  for (; c + V::lanes <= n; c += V::lanes) sums += V::load(a + c) * V::load(b + c);
  T total = c > 0 ? sum(sums) : T(0);
  for (; c < n; ++c) total += a[c] * b[c];
  return total;
}

// row += weight * values
template <class T>
void add_scaled(T* row, T weight, const T* values, int64_t n) {
  using V = Pack<T>;
  int64_t c = 0;
  for (; c + V::lanes <= n; c += V::lanes) (V::load(row + c) + V(weight) * V::load(values + c)).store(row + c);
  for (; c < n; ++c) row[c] += weight * values[c];
}

}  // namespace RECON_SIMD
}  // namespace recon
