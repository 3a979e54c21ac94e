#pragma once
// A tensor as the engine sees it: plain memory, shape and strides. No torch, no Python.
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#ifdef __CUDACC__
#define RECON_HD __host__ __device__ __forceinline__
#else
#define RECON_HD inline
#endif

namespace recon {

enum class DType : uint8_t { f32, f64, f16, bf16, i32, i64, u8, b8 };

struct Device {
  bool cuda = false;
  int index = 0;
  void* stream = nullptr;  // cudaStream_t when cuda
};

// N-dimensional strided view of elements of type T; trivially copyable, so kernels take it by value.
template <class T, int N>
struct View {
  T* data;
  int64_t shape[N], stride[N];

  template <class... I>
  RECON_HD T& operator()(I... i) const {
    static_assert(sizeof...(I) == N, "one index per dimension");
    const int64_t at[N] = {static_cast<int64_t>(i)...};
    int64_t offset = 0;
    for (int d = 0; d < N; ++d) offset += at[d] * stride[d];
    return data[offset];
  }
};

template <class T>
constexpr DType dtype_of() {
  using U = std::remove_const_t<T>;
  if constexpr (std::is_same_v<U, float>) return DType::f32;
  if constexpr (std::is_same_v<U, double>) return DType::f64;
  if constexpr (std::is_same_v<U, int32_t>) return DType::i32;
  if constexpr (std::is_same_v<U, int64_t>) return DType::i64;
  if constexpr (std::is_same_v<U, uint8_t>) return DType::u8;
  if constexpr (std::is_same_v<U, bool>) return DType::b8;
}

inline const char* dtype_name(DType d) {
  constexpr const char* names[] = {"float32", "float64", "float16", "bfloat16", "int32", "int64", "uint8", "bool"};
  return names[static_cast<int>(d)];
}

inline bool is_float(DType d) { return d <= DType::bf16; }

struct Tensor {
  void* data = nullptr;
  int ndim = 0;
  const int64_t* shape = nullptr;
  const int64_t* stride = nullptr;  // in elements
  DType dtype = DType::f32;
  Device device;

  int64_t numel() const {
    int64_t n = 1;
    for (int d = 0; d < ndim; ++d) n *= shape[d];
    return n;
  }

  bool is_contiguous() const {
    if (numel() == 0) return true;
    int64_t expected = 1;
    for (int d = ndim - 1; d >= 0; --d) {
      if (shape[d] != 1 && stride[d] != expected) return false;
      expected *= shape[d];
    }
    return true;
  }

  // A kernel's fields are views, so a tensor turns into the view of the field it initialises.
  template <class T, int N>
  operator View<T, N>() const {
    require<T>();
    if (ndim != N)
      throw std::invalid_argument("expected " + std::to_string(N) + " dimensions, got " + std::to_string(ndim));
    View<T, N> v{static_cast<T*>(data), {}, {}};
    for (int d = 0; d < N; ++d) v.shape[d] = shape[d], v.stride[d] = stride[d];
    return v;
  }

  // The elements in row-major order; the Python side hands hot kernels contiguous tensors.
  template <class T>
  T* packed() const {
    require<T>();
    if (!is_contiguous()) throw std::invalid_argument("expected a contiguous tensor");
    return static_cast<T*>(data);
  }

 private:
  template <class T>
  void require() const {
    if (dtype != dtype_of<T>())
      throw std::invalid_argument(std::string("expected ") + dtype_name(dtype_of<T>()) + ", got " + dtype_name(dtype));
  }
};

// Calls f(T{}) with T the C++ type of a floating dtype.
template <class F>
void dispatch_float(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f(float{});
    case DType::f64:
      return f(double{});
    default:
      throw std::invalid_argument(std::string("kernels compute in float32 or float64, got ") + dtype_name(dtype) +
                                  ": convert with .float()");
  }
}

}  // namespace recon
