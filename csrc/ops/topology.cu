// group_rows, half_edges, faces_across: which entries belong to a row, which edges a mesh has, and which faces meet
// there. Counting instead of comparing, on the CPU; CUDA tensors are sorted by torch.
#include <algorithm>
#include <vector>

#include "core/op.h"
#include "core/parallel.h"
#include "core/scratch.h"

namespace recon {

namespace {

void need_cpu(const char* name, const Device& device) {
  if (device.cuda) throw std::invalid_argument(std::string(name) + ": the tensors must be on the CPU");
}

// Turns the numbers of entries that each part has for each row into where the part writes them, those of part 0 first.
template <class Index>
void starts(Index* counts, int64_t parts, int64_t R, int64_t* offsets) {
  Index total = 0;
  for (int64_t r = 0; r < R; ++r) {
    offsets[r] = total;
    for (int64_t p = 0; p < parts; ++p) {
      const Index count = counts[p * R + r];
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
    int64_t signs = 0;  // negative when one of them is outside
    for (int64_t i = begin; i < end; ++i) signs |= rows[i] | (R - 1 - rows[i]);
    for (int64_t i = begin; signs < 0 && i < end; ++i)
      if (rows[i] < 0 || rows[i] >= R)
        throw std::invalid_argument(std::string(name) + ": entry " + std::to_string(i) + " is " +
                                    std::to_string(rows[i]) + ", which is not one of " + std::to_string(R) + " " +
                                    what);
  });
}

// A half-edge with the larger of its vertices, in the order in which those of one smaller vertex are listed: by vertex,
// then by half-edge. In one number where both fit, which is half the memory.
struct NarrowEnd {
  using Index = uint32_t;
  uint64_t key;

  NarrowEnd() = default;
  NarrowEnd(int64_t vertex, int64_t half_edge)
      : key(static_cast<uint64_t>(vertex) << 32 | static_cast<uint64_t>(half_edge)) {}
  int64_t vertex() const { return static_cast<int64_t>(key >> 32); }
  int64_t half_edge() const { return static_cast<int64_t>(key & 0xffffffffu); }
  friend bool operator<(NarrowEnd a, NarrowEnd b) { return a.key < b.key; }
};

struct WideEnd {
  using Index = int64_t;
  int64_t vertex_, half_edge_;

  WideEnd() = default;
  WideEnd(int64_t vertex, int64_t half_edge) : vertex_(vertex), half_edge_(half_edge) {}
  int64_t vertex() const { return vertex_; }
  int64_t half_edge() const { return half_edge_; }
  friend bool operator<(const WideEnd& a, const WideEnd& b) {
    return a.vertex_ < b.vertex_ || (a.vertex_ == b.vertex_ && a.half_edge_ < b.half_edge_);
  }
};

// Few of them are usual: the faces at a vertex.
template <class End>
void sort_ends(End* ends, int64_t n) {
  if (n > 24) return std::sort(ends, ends + n);
  for (int64_t i = 1; i < n; ++i) {
    const End end = ends[i];
    int64_t j = i;
    for (; j > 0 && end < ends[j - 1]; --j) ends[j] = ends[j - 1];
    ends[j] = end;
  }
}

// What the op of the same name returns, as plain memory.
template <class End>
struct HalfEdges {
  const int64_t* faces;
  int64_t F, V;
  int64_t *lower, *order, *edge, *first, *edges;

  // The number of edges.
  int64_t find() const {
    const int64_t K = 3 * F;
    const Scratch<End> ends(K, Device());
    const Scratch<int64_t> edges_before(V + 1, Device());
    group_by_lower(ends.data());
    edges_before[0] = 0;
    for_each_range(V, 2048, [&](int64_t begin, int64_t end) {
      for (int64_t v = begin; v < end; ++v) {
        End* at = ends.data() + lower[v];
        const int64_t n = lower[v + 1] - lower[v];
        sort_ends(at, n);
        int64_t different = n > 0;
        for (int64_t i = 1; i < n; ++i) different += at[i - 1].vertex() < at[i].vertex();
        edges_before[v + 1] = different;
      }
    });
    for (int64_t v = 0; v < V; ++v) edges_before[v + 1] += edges_before[v];
    for_each_range(V, 2048, [&](int64_t begin, int64_t end) {
      for (int64_t v = begin; v < end; ++v) {
        int64_t e = edges_before[v] - 1, before = -1;
        for (int64_t i = lower[v]; i < lower[v + 1]; ++i) {
          const End at = ends[i];
          if (at.vertex() != before) ++e, first[e] = i, edges[2 * e] = v, edges[2 * e + 1] = before = at.vertex();
          order[i] = at.half_edge(), edge[at.half_edge()] = e;
        }
      }
    });
    first[edges_before[V]] = K;
    return edges_before[V];
  }

 private:
  // As group(), with the ends in place of numbers.
  void group_by_lower(End* ends) const {
    using Index = typename End::Index;
    const int64_t parts = F < 8192 ? 1 : std::min<int64_t>(num_threads(), std::max<int64_t>(1, 12 * F / (V + 1)));
    std::vector<Index> next(static_cast<size_t>(parts * V), 0);
    for_each_task(parts, [&](int64_t part, int) {
      Index* count = next.data() + part * V;
      for (int64_t f = F * part / parts; f < F * (part + 1) / parts; ++f) {
        const int64_t a = faces[3 * f], b = faces[3 * f + 1], c = faces[3 * f + 2];
        ++count[std::min(a, b)], ++count[std::min(b, c)], ++count[std::min(c, a)];
      }
    });
    starts(next.data(), parts, V, lower);
    // The half-edge k * F + f is opposite to corner k of face f.
    for_each_task(parts, [&](int64_t part, int) {
      Index* at = next.data() + part * V;
      for (int64_t f = F * part / parts; f < F * (part + 1) / parts; ++f) {
        const int64_t a = faces[3 * f], b = faces[3 * f + 1], c = faces[3 * f + 2];
        ends[at[std::min(b, c)]++] = End(std::max(b, c), f);
        ends[at[std::min(c, a)]++] = End(std::max(c, a), F + f);
        ends[at[std::min(a, b)]++] = End(std::max(a, b), 2 * F + f);
      }
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
  const auto find = [&](auto end) {
    const HalfEdges<decltype(end)> found{corners,
                                         F,
                                         V,
                                         lower.packed<int64_t>(),
                                         order.packed<int64_t>(),
                                         edge.packed<int64_t>(),
                                         first.packed<int64_t>(),
                                         edges.packed<int64_t>()};
    return found.find();
  };
  constexpr int64_t narrow = int64_t{1} << 32;
  *count.packed<int64_t>() = K < narrow && V <= narrow ? find(NarrowEnd()) : find(WideEnd());
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

namespace {

// A half-edge as the corner of the face that it is opposite to.
struct Corner {
  int64_t face, k;

  Corner(int64_t half_edge, int64_t F) : k(half_edge < F ? 0 : half_edge < 2 * F ? 1 : 2) { face = half_edge - k * F; }
  // Where the half-edge starts.
  int64_t start(const int64_t* faces) const { return faces[3 * face + (k == 2 ? 0 : k + 1)]; }
};

// Whether every edge has two half-edges, as those of closed surfaces do.
bool all_in_pairs(const int64_t* first, int64_t E, int64_t F) {
  int64_t differences = 2 * E ^ 3 * F;
  for (int64_t e = 0; differences == 0 && e < E; ++e) differences |= first[e] ^ 2 * e;
  return differences == 0;
}

// `across` where every edge has two half-edges: a row has an entry for each corner.
void pairs_across(const int64_t* faces, const int64_t* order, int64_t E, int64_t F, int64_t* across) {
  for_each_range(E, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t e = begin; e < end; ++e) {
      const Corner a(order[2 * e], F), b(order[2 * e + 1], F);
      const int64_t same = a.start(faces) == b.start(faces);
      across[3 * a.face + a.k] = 2 * b.face + same;
      across[3 * b.face + b.k] = 2 * a.face + same;
    }
  });
}

}  // namespace

// For each face the faces that share an edge with it: how many there are up to each face, and then, with `across`,
// which ones, as 2 * face, + 1 where both run along the edge in the same direction.
void faces_across(Tensor faces, Tensor order, Tensor edge, Tensor first, Tensor offsets, std::optional<Tensor> across) {
  need_cpu("faces_across", faces.device);
  const int64_t F = faces.shape[0];
  const int64_t *corners = faces.packed<int64_t>(), *half_edge = order.packed<int64_t>();
  const int64_t *edge_of = edge.packed<int64_t>(), *begin_of = first.packed<int64_t>();
  int64_t* offset = offsets.packed<int64_t>();
  const int64_t E = first.shape[0] - 1;
  const bool in_pairs = all_in_pairs(begin_of, E, F);
  if (in_pairs && across) return pairs_across(corners, half_edge, E, F, across->packed<int64_t>());
  if (in_pairs) {
    for (int64_t f = 0; f <= F; ++f) offset[f] = 3 * f;
    return;
  }
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
          const Corner other(half_edge[i], F);
          out[at++] = 2 * other.face + (other.start(corners) == start);
        }
      }
    }
  });
}
RECON_OP(faces_across, "faces: i64 F 3, order: i64 K, edge: i64 K, first: i64 L, offsets: i64 O, across?: i64 A");

}  // namespace recon
