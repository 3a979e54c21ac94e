// group_rows, half_edges, faces_across: which entries belong to a row, which edges a mesh has, and which faces meet
// there. Counting instead of comparing, on the CPU; CUDA tensors are sorted by torch.
#include <algorithm>
#include <memory>
#include <vector>

#include "core/op.h"
#include "core/parallel.h"

namespace recon {

namespace {

void need_cpu(const char* name, const Device& device) {
  if (device.cuda) throw std::invalid_argument(std::string(name) + ": the tensors must be on the CPU");
}

// Turns the numbers of entries that each part has for each row into where the part writes them, those of part 0 first.
void starts(int64_t* counts, int64_t parts, int64_t R, int64_t* offsets) {
  int64_t total = 0;
  for (int64_t r = 0; r < R; ++r) {
    offsets[r] = total;
    for (int64_t p = 0; p < parts; ++p) {
      const int64_t count = counts[p * R + r];
      counts[p * R + r] = total, total += count;
    }
  }
  offsets[R] = total;
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
  starts(next.data(), parts, R, offsets);
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

// A half-edge at its smaller vertex, with the other one.
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

// What the op of the same name returns, as plain memory.
struct HalfEdges {
  const int64_t* faces;
  int64_t F, V;
  int64_t *lower, *order, *edge, *first, *edges;

  // Both ends of half-edge k * F + f, which is opposite to corner k of face f.
  int64_t from(int64_t f, int64_t k) const { return faces[3 * f + (k + 1) % 3]; }
  int64_t to(int64_t f, int64_t k) const { return faces[3 * f + (k + 2) % 3]; }

  // The number of edges.
  int64_t find() const {
    const int64_t K = 3 * F;
    const std::unique_ptr<End[]> ends(new End[static_cast<size_t>(K)]);
    group_by_lower(ends.get());
    std::vector<int64_t> edges_before(static_cast<size_t>(V + 1), 0);
    for_each_range(V, 2048, [&](int64_t begin, int64_t end) {
      for (int64_t v = begin; v < end; ++v) {
        End* at = ends.get() + lower[v];
        const int64_t n = lower[v + 1] - lower[v];
        sort_stable(at, n);
        int64_t different = n > 0;
        for (int64_t i = 1; i < n; ++i) different += at[i - 1].vertex < at[i].vertex;
        edges_before[v + 1] = different;
      }
    });
    for (int64_t v = 0; v < V; ++v) edges_before[v + 1] += edges_before[v];
    for_each_range(V, 2048, [&](int64_t begin, int64_t end) {
      for (int64_t v = begin; v < end; ++v) {
        int64_t e = edges_before[v] - 1;
        for (int64_t i = lower[v]; i < lower[v + 1]; ++i) {
          if (i == lower[v] || ends[i - 1].vertex < ends[i].vertex)
            ++e, first[e] = i, edges[2 * e] = v, edges[2 * e + 1] = ends[i].vertex;
          order[i] = ends[i].half_edge, edge[ends[i].half_edge] = e;
        }
      }
    });
    first[edges_before[V]] = K;
    return edges_before[V];
  }

 private:
  // As group(), with the ends in place of numbers.
  void group_by_lower(End* ends) const {
    const int64_t parts = F < 8192 ? 1 : std::min<int64_t>(num_threads(), std::max<int64_t>(1, 12 * F / (V + 1)));
    std::vector<int64_t> next(static_cast<size_t>(parts * V), 0);
    const auto for_each_half_edge = [&](int64_t part, const auto& body) {
      const int64_t begin = 3 * F * part / parts, end = 3 * F * (part + 1) / parts;
      for (int64_t k = begin / std::max<int64_t>(F, 1); k < 3; ++k)
        for (int64_t f = std::max<int64_t>(begin - k * F, 0); f < std::min(end - k * F, F); ++f)
          body(std::min(from(f, k), to(f, k)), std::max(from(f, k), to(f, k)), k * F + f);
    };
    for_each_task(parts, [&](int64_t part, int) {
      int64_t* count = next.data() + part * V;
      for_each_half_edge(part, [&](int64_t low, int64_t, int64_t) { ++count[low]; });
    });
    starts(next.data(), parts, V, lower);
    for_each_task(parts, [&](int64_t part, int) {
      int64_t* at = next.data() + part * V;
      for_each_half_edge(part, [&](int64_t low, int64_t high, int64_t h) { ends[at[low]++] = {high, h}; });
    });
  }
};

}  // namespace

void group_rows(Tensor rows, Tensor offsets, Tensor order) {
  need_cpu("group_rows", rows.device);
  const int64_t K = rows.shape[0], R = offsets.shape[0] - 1;
  const int64_t* row = rows.packed<int64_t>();
  check_rows("group_rows", row, K, R, "rows");
  group(K, R, [&](int64_t i) { return row[i]; }, offsets.packed<int64_t>(), order.packed<int64_t>());
}
RECON_OP(group_rows, "rows: i64 K, offsets: i64 O, order: i64 K");

// The half-edges grouped by edge, edges in lexicographic order, and the edge of each half-edge. `lower` are V + 1
// offsets: the half-edges whose smaller vertex it is. Of `first` and `edges` the first rows are used, as many as there
// are edges, which `count` says; `first` ends with the number of half-edges.
void half_edges(Tensor faces, Tensor lower, Tensor order, Tensor edge, Tensor first, Tensor edges, Tensor count) {
  need_cpu("half_edges", faces.device);
  const int64_t F = faces.shape[0], K = 3 * F, V = lower.shape[0] - 1;
  const int64_t* corners = faces.packed<int64_t>();
  if (order.shape[0] != K || first.shape[0] != K + 1)
    throw std::invalid_argument("half_edges: outputs must have an entry for each half-edge");
  check_rows("half_edges", corners, K, V, "vertices");
  const HalfEdges found{corners,
                        F,
                        V,
                        lower.packed<int64_t>(),
                        order.packed<int64_t>(),
                        edge.packed<int64_t>(),
                        first.packed<int64_t>(),
                        edges.packed<int64_t>()};
  *count.packed<int64_t>() = found.find();
}
RECON_OP(half_edges,
         "faces: i64 F 3, lower: i64 V, order: i64 K, edge: i64 K, first: i64 L, edges: i64 K 2, count: i64 1");

// The neighbours of each vertex, ascending, and the edges to them, from edges in lexicographic order.
void vert_neighbors(Tensor edges, Tensor offsets, Tensor neighbors, Tensor edge_at) {
  need_cpu("vert_neighbors", edges.device);
  const int64_t E = edges.shape[0], V = offsets.shape[0] - 1;
  const int64_t* ends = edges.packed<int64_t>();
  int64_t *offset = offsets.packed<int64_t>(), *neighbor = neighbors.packed<int64_t>(), *at = edge_at.packed<int64_t>();
  check_rows("vert_neighbors", ends, 2 * E, V, "vertices");
  std::vector<int64_t> next(static_cast<size_t>(V + 1), 0);
  for (int64_t i = 0; i < 2 * E; ++i) ++next[ends[i] + 1];
  for (int64_t v = 0; v < V; ++v) next[v + 1] += next[v];
  std::copy(next.begin(), next.end(), offset);
  // The smaller neighbours first; both kinds come in ascending order.
  for (const int64_t side : {1, 0})
    for (int64_t e = 0; e < E; ++e) {
      const int64_t place = next[ends[2 * e + side]]++;
      neighbor[place] = ends[2 * e + 1 - side], at[place] = e;
    }
}
RECON_OP(vert_neighbors, "edges: i64 E 2, offsets: i64 O, neighbors: i64 M, edge_at: i64 M");

// For each face the faces that share an edge with it: how many there are up to each face, and then, with `across`,
// which ones, as 2 * face, + 1 where both run along the edge in the same direction.
void faces_across(Tensor faces, Tensor order, Tensor edge, Tensor first, Tensor offsets, std::optional<Tensor> across) {
  need_cpu("faces_across", faces.device);
  const int64_t F = faces.shape[0];
  const int64_t *corners = faces.packed<int64_t>(), *half_edge = order.packed<int64_t>();
  const int64_t *edge_of = edge.packed<int64_t>(), *begin_of = first.packed<int64_t>();
  int64_t* offset = offsets.packed<int64_t>();
  if (!across) {
    for_each_range(F, 4096, [&](int64_t begin, int64_t end) {
      for (int64_t f = begin; f < end; ++f) {
        offset[f + 1] = 0;
        for (int64_t h = f; h < 3 * F; h += F) offset[f + 1] += begin_of[edge_of[h] + 1] - begin_of[edge_of[h]] - 1;
      }
    });
    offset[0] = 0;
    for (int64_t f = 0; f < F; ++f) offset[f + 1] += offset[f];
    return;
  }
  int64_t* out = across->packed<int64_t>();
  for_each_range(F, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t f = begin; f < end; ++f) {
      int64_t at = offset[f];
      for (int64_t k = 0; k < 3; ++k) {
        const int64_t own = k * F + f, e = edge_of[own], start = corners[3 * f + (k + 1) % 3];
        for (int64_t i = begin_of[e]; i < begin_of[e + 1]; ++i) {
          if (half_edge[i] == own) continue;
          // A half-edge is opposite to corner l of face g.
          const int64_t l = half_edge[i] < F ? 0 : half_edge[i] < 2 * F ? 1 : 2, g = half_edge[i] - l * F;
          out[at++] = 2 * g + (corners[3 * g + (l + 1) % 3] == start);
        }
      }
    }
  });
}
RECON_OP(faces_across, "faces: i64 F 3, order: i64 K, edge: i64 K, first: i64 L, offsets: i64 O, across?: i64 A");

}  // namespace recon
