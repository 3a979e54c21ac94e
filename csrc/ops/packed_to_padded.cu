// packed_to_padded, padded_to_packed: rows one after the other, or in a batch filled up with zeros. Element n of the
// batch owns the packed rows from first[n] up to first[n + 1], the last one up to the end. Each is the other's
// gradient.
#include "core/op.h"
#include "core/parallel.h"

namespace recon {

namespace {

// One row of the batch.
template <class T, bool to_padded>
struct CopyRow {
  T *packed, *padded;
  const int64_t* first;
  int64_t rows, batch, size, channels;

  RECON_HD void operator()(int64_t i) const {
    const int64_t n = i / size, begin = first[n], row = begin + i % size;
    const int64_t next = n + 1 < batch ? first[n + 1] : rows;
    const bool exists = begin >= 0 && row < (next < rows ? next : rows);
    T *a = packed + row * channels, *b = padded + i * channels;
    if (to_padded)
      for (int64_t c = 0; c < channels; ++c) b[c] = exists ? a[c] : T(0);
    else if (exists)
      for (int64_t c = 0; c < channels; ++c) a[c] = b[c];
  }
};

template <class T>
struct Zero {
  T* data;
  RECON_HD void operator()(int64_t i) const { data[i] = T(0); }
};

template <bool to_padded>
void copy_rows(const Tensor& packed, const Tensor& padded, const Tensor& first) {
  dispatch_float(packed.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (!to_padded) parallel_for(packed.device, packed.numel(), Zero<T>{packed.packed<T>()}, 1 << 16);
    const int64_t batch = padded.shape[0], size = padded.shape[1], channels = padded.shape[2];
    parallel_for(packed.device, batch * size,
                 CopyRow<T, to_padded>{packed.packed<T>(), padded.packed<T>(), first.packed<int64_t>(), packed.shape[0],
                                       batch, size, channels},
                 1 + (1 << 16) / (channels + 1));
  });
}

}  // namespace

void packed_to_padded(Tensor packed, Tensor first, int64_t, Tensor padded) { copy_rows<true>(packed, padded, first); }
RECON_OP(packed_to_padded, "packed: R C, first: i64 N, max_size: int>=0, padded: N S C");

void packed_to_padded_backward(Tensor, Tensor first, int64_t, Tensor, Tensor grad_padded, Tensor grad_packed) {
  copy_rows<false>(grad_packed, grad_padded, first);
}
RECON_OP(packed_to_padded_backward,
         "packed: R C, first: i64 N, max_size: int>=0, padded: N S C, grad_padded: N S C, grad_packed: R C");

void padded_to_packed(Tensor padded, Tensor first, int64_t, Tensor packed) { copy_rows<false>(packed, padded, first); }
RECON_OP(padded_to_packed, "padded: N S C, first: i64 N, num_inputs: int>=0, packed: R C");

void padded_to_packed_backward(Tensor, Tensor first, int64_t, Tensor, Tensor grad_packed, Tensor grad_padded) {
  copy_rows<true>(grad_packed, grad_padded, first);
}
RECON_OP(padded_to_packed_backward,
         "padded: N S C, first: i64 N, num_inputs: int>=0, packed: R C, grad_packed: R C, grad_padded: N S C");

}  // namespace recon
