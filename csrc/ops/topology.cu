// group_rows, half_edges: which entries belong to a row, and which edges a mesh has. Counting instead of comparing, on
// the CPU; CUDA tensors are sorted by torch.
#include <algorithm>
#include <vector>

#include "core/op.h"
#include "core/parallel.h"

namespace recon {

namespace {

void need_cpu(const char* name, const Device& device) {
  if (device.cuda) throw std::invalid_argument(std::string(name) + ": the tensors must be on the CPU");
}

// Writes the numbers 0 ... K - 1 grouped by row(i), ascending within a row, and where each of the R rows begins.
template <class Row>
void group(int64_t K, int64_t R, const Row& row, int64_t* offsets, int64_t* order) {
  // Each part counts its own entries, so that it knows where they go.
  const int64_t parts = K < 20000 ? 1 : std::min<int64_t>(num_threads(), std::max<int64_t>(1, 4 * K / (R + 1)));
  std::vector<int64_t> next(static_cast<size_t>(parts * R), 0);
  for_each_task(parts, [&](int64_t p, int) {
    int64_t* count = next.data() + p * R;
    for (int64_t i = K * p / parts; i < K * (p + 1) / parts; ++i) ++count[row(i)];
  });
  int64_t total = 0;
  for (int64_t r = 0; r < R; ++r) {
    offsets[r] = total;
    for (int64_t p = 0; p < parts; ++p) {
      const int64_t count = next[p * R + r];
      next[p * R + r] = total, total += count;
    }
  }
  offsets[R] = total;
  for_each_task(parts, [&](int64_t p, int) {
    int64_t* at = next.data() + p * R;
    for (int64_t i = K * p / parts; i < K * (p + 1) / parts; ++i) order[at[row(i)]++] = i;
  });
}

void check_rows(const char* name, const int64_t* rows, int64_t K, int64_t R, const char* what) {
  for_each_range(K, 1 << 15, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      if (rows[i] < 0 || rows[i] >= R)
        throw std::invalid_argument(std::string(name) + ": entry " + std::to_string(i) + " is " +
                                    std::to_string(rows[i]) + ", which is not one of " + std::to_string(R) + " " +
                                    what);
  });
}

// The other vertex of a half-edge.
struct End {
  int64_t vertex, half_edge;
  friend bool operator<(const End& a, const End& b) { return a.vertex < b.vertex; }
};

// Few of them are usual: the faces at a vertex.
void sort_stable(End* ends, int64_t n) {
  if (n > 24) return std::stable_sort(ends, ends + n);
  for (int64_t i = 1; i < n; ++i) {
    const End end = ends[i];
    int64_t j = i;
    for (; j > 0 && end < ends[j - 1]; --j) ends[j] = ends[j - 1];
    ends[j] = end;
  }
}

}  // namespace

void group_rows(Tensor rows, Tensor offsets, Tensor order) {
  need_cpu("group_rows", rows.device);
  const int64_t K = rows.shape[0], R = offsets.shape[0] - 1;
  const int64_t* row = rows.packed<int64_t>();
  check_rows("group_rows", row, K, R, "rows");
  group(K, R, [&](int64_t i) { return row[i]; }, offsets.packed<int64_t>(), order.packed<int64_t>());
}
RECON_OP(group_rows, "rows: i64 K, offsets: i64 O, order: i64 K");

// The half-edges grouped by edge, edges in lexicographic order. `lower` are V + 1 offsets: the half-edges whose smaller
// vertex it is. Of `first` and `edges` the first rows are used, as many as there are edges, which `count` says; `first`
// ends with the number of half-edges.
void half_edges(Tensor faces, Tensor lower, Tensor order, Tensor edge, Tensor first, Tensor edges, Tensor count) {
  need_cpu("half_edges", faces.device);
  const int64_t F = faces.shape[0], K = 3 * F, V = lower.shape[0] - 1;
  const int64_t* corners = faces.packed<int64_t>();
  if (order.shape[0] != K || first.shape[0] != K + 1)
    throw std::invalid_argument("half_edges: outputs must have an entry for each half-edge");
  check_rows("half_edges", corners, K, V, "vertices");
  int64_t *offsets = lower.packed<int64_t>(), *order_data = order.packed<int64_t>();
  // Half-edge k * F + f is opposite to corner k of face f.
  std::vector<int64_t> low(static_cast<size_t>(K)), high(static_cast<size_t>(K));
  for_each_range(F, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t f = begin; f < end; ++f)
      for (int64_t k = 0; k < 3; ++k) {
        const int64_t a = corners[3 * f + (k + 1) % 3], b = corners[3 * f + (k + 2) % 3];
        low[k * F + f] = std::min(a, b), high[k * F + f] = std::max(a, b);
      }
  });
  group(K, V, [&](int64_t i) { return low[i]; }, offsets, order_data);

  std::vector<int64_t> edges_before(static_cast<size_t>(V + 1), 0);
  for_each_range(V, 2048, [&](int64_t begin, int64_t end) {
    std::vector<End> ends;
    for (int64_t v = begin; v < end; ++v) {
      int64_t* at = order_data + offsets[v];
      const int64_t n = offsets[v + 1] - offsets[v];
      ends.resize(static_cast<size_t>(n));
      for (int64_t i = 0; i < n; ++i) ends[i] = {high[at[i]], at[i]};
      sort_stable(ends.data(), n);
      int64_t different = 0;
      for (int64_t i = 0; i < n; ++i) {
        at[i] = ends[i].half_edge;
        different += i == 0 || ends[i - 1].vertex < ends[i].vertex;
      }
      edges_before[v + 1] = different;
    }
  });
  for (int64_t v = 0; v < V; ++v) edges_before[v + 1] += edges_before[v];

  int64_t *edge_data = edge.packed<int64_t>(), *first_data = first.packed<int64_t>();
  int64_t* edges_data = edges.packed<int64_t>();
  for_each_range(V, 2048, [&](int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) {
      int64_t e = edges_before[v] - 1;
      for (int64_t i = offsets[v]; i < offsets[v + 1]; ++i) {
        const int64_t other = high[order_data[i]];
        if (i == offsets[v] || other != edges_data[2 * e + 1])
          ++e, first_data[e] = i, edges_data[2 * e] = v, edges_data[2 * e + 1] = other;
        edge_data[i] = e;
      }
    }
  });
  *count.packed<int64_t>() = edges_before[V];
  first_data[edges_before[V]] = K;
}
RECON_OP(half_edges,
         "faces: i64 F 3, lower: i64 V, order: i64 K, edge: i64 K, first: i64 L, edges: i64 K 2, count: i64 1");

}  // namespace recon
