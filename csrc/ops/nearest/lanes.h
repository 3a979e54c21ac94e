#pragma once
// Indices beside registers of distances. For cpu.cpp files.
#include "core/simd.h"

#ifdef RECON_SIMD
namespace recon {
namespace RECON_SIMD {

// Indices, beside a Pack<T>.
template <class T>
using Ids = std::conditional_t<sizeof(T) == 4, Ints, Longs>;

template <class T>
Ids<T> pick(Mask<T> m, Ids<T> a, Ids<T> b) {
#if RECON_SIMD_BYTES == 64
  if constexpr (sizeof(T) == 4)
    return (Ids<T>)_mm512_mask_blend_epi32(m.raw, (__m512i)b, (__m512i)a);
  else
    return (Ids<T>)_mm512_mask_blend_epi64(m.raw, (__m512i)b, (__m512i)a);
#else
  return m.raw ? a : b;
#endif
}

// Writes the lanes of `dist` that are `chosen`, and first + ids[lane] for each of them; returns how many they are.
// There must be room for all lanes.
template <class T>
int append(Pack<T> dist, Mask<T> chosen, int32_t first, const int32_t* ids, T* to_dist, int32_t* to_ids) {
#if RECON_SIMD_BYTES == 64
  // Without branches: which lanes are chosen cannot be predicted.
  if constexpr (sizeof(T) == 4) {
    const __m512i index = _mm512_add_epi32(_mm512_loadu_si512(ids), _mm512_set1_epi32(first));
    _mm512_storeu_ps(to_dist, _mm512_maskz_compress_ps(chosen.raw, (__m512)dist.raw));
    _mm512_storeu_si512(to_ids, _mm512_maskz_compress_epi32(chosen.raw, index));
  } else {
    const __m256i some = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(ids));
    const __m256i index = _mm256_add_epi32(some, _mm256_set1_epi32(first));
    _mm512_storeu_pd(to_dist, _mm512_maskz_compress_pd(chosen.raw, (__m512d)dist.raw));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to_ids), _mm256_maskz_compress_epi32(chosen.raw, index));
  }
  return __builtin_popcount(chosen.bits());
#else
  int count = 0;
  for (uint32_t bits = chosen.bits(); bits; bits &= bits - 1) {
    const int lane = __builtin_ctz(bits);
    to_dist[count] = dist[lane], to_ids[count++] = first + ids[lane];
  }
  return count;
#endif
}

// The indices of consecutive points, from 0.
constexpr int32_t lane_ids[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

}  // namespace RECON_SIMD
}  // namespace recon
#endif
