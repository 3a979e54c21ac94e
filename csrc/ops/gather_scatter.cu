// gather_rows: sums of the rows of the neighbours of each vertex of a graph, out_v = sum_n input[index_n]. The entries
// of vertex v are index[offsets[v]] ... index[offsets[v + 1] - 1]; `back` is the graph with its edges turned around.
#include <cmath>

#include "core/op.h"
#include "core/parallel.h"

namespace recon {

namespace {

template <class T>
struct Graph {
  const T* input;  // V D
  const int64_t *offsets, *index;
  int64_t V, D;
  T* out;  // V D

  // Channels [begin, end) of vertex v. An entry that is no vertex gives NaN: a GPU cannot raise an error for it.
  RECON_HD void sum(int64_t v, int64_t begin, int64_t end) const {
    T* to = out + v * D;
    for (int64_t d = begin; d < end; ++d) to[d] = T(0);
    for (int64_t n = offsets[v]; n < offsets[v + 1]; ++n) {
      const bool exists = index[n] >= 0 && index[n] < V;
      const T* from = input + (exists ? index[n] : 0) * D;
      if (exists)
        for (int64_t d = begin; d < end; ++d) to[d] += from[d];
      else
        for (int64_t d = begin; d < end; ++d) to[d] = T(NAN);
    }
  }
};

// On a CPU a row at a time, which lies in the cache while it is added to; on a GPU a channel for each thread.
template <class T>
struct SumRow {
  Graph<T> graph;
  RECON_HD void operator()(int64_t v) const { graph.sum(v, 0, graph.D); }
};

template <class T>
struct SumChannel {
  Graph<T> graph;
  RECON_HD void operator()(int64_t i) const { graph.sum(i / graph.D, i % graph.D, i % graph.D + 1); }
};

void sum_neighbors(const Tensor& input, const Tensor& offsets, const Tensor& index, const Tensor& out) {
  dispatch_float(input.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t V = input.shape[0], D = input.shape[1];
    if (offsets.shape[0] != V + 1)
      throw std::invalid_argument("gather_rows: offsets must have " + std::to_string(V + 1) +
                                  " entries, one more than there are vertices, got " +
                                  std::to_string(offsets.shape[0]));
    const Graph<T> graph{input.packed<T>(), offsets.packed<int64_t>(), index.packed<int64_t>(), V, D, out.packed<T>()};
    if (input.device.cuda)
      parallel_for(input.device, V * D, SumChannel<T>{graph});
    else
      parallel_for(input.device, V, SumRow<T>{graph}, 1 + (1 << 13) / (D + 1));
  });
}

}  // namespace

void gather_rows(Tensor input, Tensor offsets, Tensor index, Tensor, Tensor, Tensor out) {
  sum_neighbors(input, offsets, index, out);
}
RECON_OP(gather_rows, "input: V D, offsets: i64 O, index: i64 E, back_offsets: i64 O, back_index: i64 B, out: V D");

void gather_rows_backward(Tensor, Tensor, Tensor, Tensor back_offsets, Tensor back_index, std::optional<Tensor>,
                          Tensor grad_out, Tensor grad_input) {
  sum_neighbors(grad_out, back_offsets, back_index, grad_input);
}
RECON_OP(gather_rows_backward,
         "input: V D, offsets: i64 O, index: i64 E, back_offsets: i64 O, back_index: i64 B, out?: V D, grad_out: V D, "
         "grad_input: V D");

}  // namespace recon
