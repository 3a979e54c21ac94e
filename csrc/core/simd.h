#pragma once
// CPU instruction sets, chosen at run time. A file csrc/ops/<op>/cpu.cpp is compiled once for each of them, in the
// namespace recon::RECON_SIMD; its maths is written once on Pack<T>, which holds as many T as a register does.
#include <cstdint>
#include <string>

namespace recon {

enum class SimdLevel { baseline, avx2, avx512 };

SimdLevel simd_level();                         // what kernels use now
const char* simd_name(SimdLevel level);         //
bool set_simd_level(const std::string& level);  // false if this CPU does not have it
void prefer_huge_pages(void* data, int64_t bytes);

}  // namespace recon

// Declares a function that every instruction set implements; RECON_SIMD_CALL picks the one to run.
#if defined(__x86_64__)
#define RECON_SIMD_DECLARE(...) \
  namespace baseline {          \
  __VA_ARGS__;                  \
  }                             \
  namespace avx2 {              \
  __VA_ARGS__;                  \
  }                             \
  namespace avx512 {            \
  __VA_ARGS__;                  \
  }
#define RECON_SIMD_CALL(f, ...)                                                 \
  (::recon::simd_level() == ::recon::SimdLevel::avx512 ? avx512::f(__VA_ARGS__) \
   : ::recon::simd_level() == ::recon::SimdLevel::avx2 ? avx2::f(__VA_ARGS__)   \
                                                       : baseline::f(__VA_ARGS__))
#else
#define RECON_SIMD_DECLARE(...) \
  namespace baseline {          \
  __VA_ARGS__;                  \
  }
#define RECON_SIMD_CALL(f, ...) baseline::f(__VA_ARGS__)
#endif

#ifdef RECON_SIMD
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstring>
#include <type_traits>

#include "core/select.h"

namespace recon {

namespace RECON_SIMD {

template <class T>
using IntOf = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// The compiler's register types.
typedef float Floats __attribute__((vector_size(RECON_SIMD_BYTES)));
typedef double Doubles __attribute__((vector_size(RECON_SIMD_BYTES)));
typedef int32_t Ints __attribute__((vector_size(RECON_SIMD_BYTES)));
typedef int64_t Longs __attribute__((vector_size(RECON_SIMD_BYTES)));
template <class T>
using RawOf = std::conditional_t<sizeof(T) == 4, Floats, Doubles>;

template <class T>
struct Pack;

// One truth value for each lane.
template <class T>
struct Mask {
  static constexpr int lanes = RECON_SIMD_BYTES / sizeof(T);
#if RECON_SIMD_BYTES == 64
  using Raw = std::conditional_t<sizeof(T) == 4, __mmask16, __mmask8>;
  Raw raw;
  static Mask of_bits(uint32_t bits) { return {static_cast<Raw>(bits)}; }
  uint32_t bits() const { return raw; }
  friend Mask operator&(Mask a, Mask b) { return {static_cast<Raw>(a.raw & b.raw)}; }
  friend Mask operator|(Mask a, Mask b) { return {static_cast<Raw>(a.raw | b.raw)}; }
  friend Mask operator!(Mask a) { return {static_cast<Raw>(~a.raw)}; }
#else
  using Raw = std::conditional_t<sizeof(T) == 4, Ints, Longs>;
  Raw raw;
  static Mask of_bits(uint32_t bits) {
    Mask m;
    for (int i = 0; i < lanes; ++i) m.raw[i] = -static_cast<IntOf<T> >(bits >> i & 1);
    return m;
  }
  uint32_t bits() const {
#if defined(__AVX2__)
    if constexpr (sizeof(T) == 4) return static_cast<uint32_t>(_mm256_movemask_ps((__m256)raw));
    if constexpr (sizeof(T) == 8) return static_cast<uint32_t>(_mm256_movemask_pd((__m256d)raw));
#elif defined(__SSE2__)
    if constexpr (sizeof(T) == 4) return static_cast<uint32_t>(_mm_movemask_ps((__m128)raw));
    if constexpr (sizeof(T) == 8) return static_cast<uint32_t>(_mm_movemask_pd((__m128d)raw));
#else
    uint32_t b = 0;
    for (int i = 0; i < lanes; ++i) b |= static_cast<uint32_t>(raw[i] & 1) << i;
    return b;
#endif
  }
  friend Mask operator&(Mask a, Mask b) { return {a.raw & b.raw}; }
  friend Mask operator|(Mask a, Mask b) { return {a.raw | b.raw}; }
  friend Mask operator!(Mask a) { return {~a.raw}; }
#endif
};

template <class T>
inline bool any(Mask<T> m) {
  return m.bits() != 0;
}

template <class T>
struct Pack {
  static constexpr int lanes = RECON_SIMD_BYTES / sizeof(T);
  using Raw = RawOf<T>;
  Raw raw;

  Pack() = default;
  Pack(Raw r) : raw(r) {}
  Pack(T s) : raw(s - Raw{}) {}

  static Pack load(const T* p) {
    Pack v;
    std::memcpy(&v.raw, p, sizeof(Raw));
    return v;
  }
  void store(T* p) const { std::memcpy(p, &raw, sizeof(Raw)); }
  // lane i <- p[index[i]]
  template <class I>
  static Pack gather(const T* p, const I* index) {
    Pack v;
    for (int i = 0; i < lanes; ++i) v.raw[i] = p[index[i]];
    return v;
  }
  T operator[](int lane) const { return raw[lane]; }

  friend Pack operator+(Pack a, Pack b) { return a.raw + b.raw; }
  friend Pack operator-(Pack a, Pack b) { return a.raw - b.raw; }
  friend Pack operator*(Pack a, Pack b) { return a.raw * b.raw; }
  friend Pack operator/(Pack a, Pack b) { return a.raw / b.raw; }
  friend Pack operator-(Pack a) { return -a.raw; }
  Pack& operator+=(Pack b) { return *this = *this + b; }
  Pack& operator*=(Pack b) { return *this = *this * b; }

#if RECON_SIMD_BYTES == 64
#define RECON_COMPARE(op, predicate)                                          \
  friend Mask<T> operator op(Pack a, Pack b) {                                \
    if constexpr (sizeof(T) == 4)                                             \
      return {_mm512_cmp_ps_mask((__m512)a.raw, (__m512)b.raw, predicate)};   \
    else                                                                      \
      return {_mm512_cmp_pd_mask((__m512d)a.raw, (__m512d)b.raw, predicate)}; \
  }
  RECON_COMPARE(<, _CMP_LT_OQ)
  RECON_COMPARE(<=, _CMP_LE_OQ)
  RECON_COMPARE(>, _CMP_GT_OQ)
  RECON_COMPARE(>=, _CMP_GE_OQ)
  RECON_COMPARE(==, _CMP_EQ_OQ)
#undef RECON_COMPARE
  // m ? a : b, lane by lane
  friend Pack select(Mask<T> m, Pack a, Pack b) {
    if constexpr (sizeof(T) == 4)
      return (Raw)_mm512_mask_blend_ps(m.raw, (__m512)b.raw, (__m512)a.raw);
    else
      return (Raw)_mm512_mask_blend_pd(m.raw, (__m512d)b.raw, (__m512d)a.raw);
  }
#else
  friend Mask<T> operator<(Pack a, Pack b) { return {a.raw < b.raw}; }
  friend Mask<T> operator<=(Pack a, Pack b) { return {a.raw <= b.raw}; }
  friend Mask<T> operator>(Pack a, Pack b) { return {a.raw > b.raw}; }
  friend Mask<T> operator>=(Pack a, Pack b) { return {a.raw >= b.raw}; }
  friend Mask<T> operator==(Pack a, Pack b) { return {a.raw == b.raw}; }
  friend Pack select(Mask<T> m, Pack a, Pack b) { return m.raw ? a.raw : b.raw; }
#endif
};

// Bit i: whether p[i] >= 0, for the first `count` of 32 or fewer.
inline uint32_t non_negative(const int64_t* p, int64_t count) {
  uint32_t negative = 0;
  int i = 0;
#if defined(__AVX512DQ__)
  for (; i + 8 <= count; i += 8)
    negative |= static_cast<uint32_t>(_mm512_movepi64_mask(_mm512_loadu_si512(p + i))) << i;
#elif defined(__AVX2__)
  for (; i + 4 <= count; i += 4)
    negative |= static_cast<uint32_t>(_mm256_movemask_pd(_mm256_loadu_pd(reinterpret_cast<const double*>(p + i)))) << i;
#elif defined(__SSE2__)
  for (; i + 2 <= count; i += 2)
    negative |= static_cast<uint32_t>(_mm_movemask_pd(_mm_loadu_pd(reinterpret_cast<const double*>(p + i)))) << i;
#endif
  for (; i < count; ++i) negative |= static_cast<uint32_t>(p[i] < 0) << i;
  return ~negative & (count >= 32 ? ~0u : (1u << count) - 1u);
}

// The sum of all lanes, in a fixed order: the upper half is added to the lower until one is left.
template <class T>
inline T sum(Pack<T> a) {
#if RECON_SIMD_BYTES == 64
  if constexpr (sizeof(T) == 4) {
    __m256 halves[2];
    std::memcpy(halves, &a.raw, sizeof halves);
    const __m256 half = _mm256_add_ps(halves[0], halves[1]);
    const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    const __m128 two = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
#endif
  T lane[Pack<T>::lanes];
  a.store(lane);
  for (int width = Pack<T>::lanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}

// Copies around the caches where the addresses allow it; stream_end() before others may read.
inline void stream_copy(void* to, const void* from, size_t bytes) {
#if defined(__SSE2__)
  constexpr size_t line = 64;
  if (reinterpret_cast<uintptr_t>(to) % line == 0 && bytes % line == 0) {
    for (size_t i = 0; i < bytes; i += RECON_SIMD_BYTES) {
      const char* source = static_cast<const char*>(from) + i;
      char* target = static_cast<char*>(to) + i;
#if RECON_SIMD_BYTES == 64
      _mm512_stream_si512(reinterpret_cast<__m512i*>(target), _mm512_loadu_si512(source));
#elif RECON_SIMD_BYTES == 32
      _mm256_stream_si256(reinterpret_cast<__m256i*>(target), _mm256_loadu_si256((const __m256i*)source));
#else
      _mm_stream_si128(reinterpret_cast<__m128i*>(target), _mm_loadu_si128((const __m128i*)source));
#endif
    }
    return;
  }
#endif
  std::memcpy(to, from, bytes);
}

inline void stream_end() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// e^x to about 2 ulp; 0 below the smallest normal float, infinity above the largest.
inline Pack<float> exp(Pack<float> x) {
  using P = Pack<float>;
  const P upper(88.722839f), lower(-87.336545f);
  const P c = select(x < lower, lower, select(x > upper, upper, x));
  // x = n ln 2 + r, |r| <= ln 2 / 2; adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
  const P magic(12582912.0f);
  const P shifted = c * P(1.44269504f) + magic, n = shifted - magic;
  const P r = (c - n * P(0.693359375f)) - n * P(-2.12194440e-4f);
  P p(1.9875691500e-4f);
  for (const float k : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = p * r + P(k);
  p = p * (r * r) + r + P(1.0f);
  const Ints scaled = (Ints)p.raw + (((Ints)shifted.raw - (Ints)magic.raw) << 23);
  const P result((Floats)scaled);
  return select(x < lower, P(0.0f), select(x > upper, P(INFINITY), select(x == x, result, x)));
}

inline Pack<double> exp(Pack<double> x) {
  Pack<double> v;
  for (int i = 0; i < Pack<double>::lanes; ++i) v.raw[i] = std::exp(x.raw[i]);
  return v;
}

// ln x to about 2 ulp for positive normal numbers; nothing is promised for others.
inline Pack<float> log(Pack<float> x) {
  using P = Pack<float>;
  // x = 2^n (1 + m) with 1 + m between the square roots of a half and of two.
  const Ints bits = (Ints)x.raw - 0x3f3504f3;
  const Ints n = bits >> 23;
  const P m = P((Floats)((bits & 0x007fffff) + 0x3f3504f3)) - P(1.0f), e(__builtin_convertvector(n, Floats));
  P p(7.0376836292e-2f);
  for (const float k : {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f, -1.6668057665e-1f,
                        2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f})
    p = p * m + P(k);
  const P square = m * m;
  return (m + (p * m * square - e * P(2.12194440e-4f) - square * P(0.5f))) + e * P(0.693359375f);
}

inline Pack<double> log(Pack<double> x) {
  Pack<double> v;
  for (int i = 0; i < Pack<double>::lanes; ++i) v.raw[i] = std::log(x.raw[i]);
  return v;
}

template <class T>
inline Pack<T> sqrt(Pack<T> x) {
#if RECON_SIMD_BYTES == 64
  if constexpr (sizeof(T) == 4)
    return (RawOf<T>)_mm512_maskz_sqrt_ps(0xffff, (__m512)x.raw);
  else
    return (RawOf<T>)_mm512_maskz_sqrt_pd(0xff, (__m512d)x.raw);
#else
  Pack<T> v;
  for (int i = 0; i < Pack<T>::lanes; ++i) v.raw[i] = std::sqrt(x.raw[i]);
  return v;
#endif
}

}  // namespace RECON_SIMD
}  // namespace recon
#endif  // RECON_SIMD
