// The points are put in the order of the first plane that they vote in. A thread then owns some planes: while they are
// in cache, what belongs to a voxel lies in one row, [density, some features], so that a vote is a few registers. Where
// few points vote in many voxels the volumes are written and read directly. Voxels get their votes, and points their
// gradients, in an order that depends on the points alone.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "core/parallel.h"
#include "core/scratch.h"
#include "ops/points_to_volumes/kernels.h"

namespace recon {
namespace RECON_SIMD {

namespace {

constexpr int64_t slab_bytes = 256 << 10, widest = 16;
constexpr Device cpu;

template <class T>
void check_point(const Votes<T>& v, int64_t n, int64_t i) {
  const T* p = v.points + 3 * (n * v.P + i);
  for (int k = 0; k < 3; ++k)
    if (!std::isfinite(p[k]) && v.counts(n, i))
      throw std::invalid_argument("points_to_volumes: points must be finite, got " + std::to_string(p[k]) + " at [" +
                                  std::to_string(n) + ", " + std::to_string(i) + ", " + std::to_string(k) +
                                  "]: mask such points");
}

// The points of each volume that vote, in the order of their first planes, and in each plane by index.
template <class T>
class Voters {
 public:
  explicit Voters(const Votes<T>& v) : planes_(v.size[0] + 1), first_(v.N * planes_ + 1, 0), sorted_(v.N * v.P, cpu) {
    const int64_t ranges = std::clamp<int64_t>(v.P / 4096, 1, int64_t{4} * num_threads());
    const Scratch<int32_t> plane_of(v.N * v.P, cpu);  // counted from 1; -1 for those that do not vote
    std::vector<int64_t> counts(v.N * ranges * planes_, 0);
    const auto for_each_point = [&](const auto& body) {
      for_each_task(v.N * ranges, [&](int64_t task, int) {
        const int64_t n = task / ranges, r = task % ranges;
        for (int64_t i = v.P * r / ranges; i < v.P * (r + 1) / ranges; ++i)
          body(n, i, plane_of[n * v.P + i], counts.data() + task * planes_);
      });
    };
    for_each_point([&](int64_t n, int64_t i, int32_t& plane, int64_t* count) {
      Place<T> place;
      plane = find_place(v, n, i, place) ? place.first[0] + 1 : -1;
      if (plane >= 0)
        ++count[plane];
      else
        check_point(v, n, i);
    });
    // counts becomes where the voters of a range and plane go.
    int64_t total = 0;
    for (int64_t n = 0; n < v.N; ++n)
      for (int64_t plane = 0; plane < planes_; ++plane) {
        first_[n * planes_ + plane] = total;
        for (int64_t r = 0; r < ranges; ++r) {
          int64_t& count = counts[(n * ranges + r) * planes_ + plane];
          total += count, count = total - count;
        }
      }
    first_.back() = total;
    for_each_point([&](int64_t, int64_t i, int32_t plane, int64_t* at) {
      if (plane >= 0) sorted_[at[plane]++] = i;
    });
  }

  // Voter number k, a point of its volume.
  int64_t operator[](int64_t k) const { return sorted_[k]; }
  // The first voter of volume n whose first plane is `plane` or a later one; planes count from -1.
  int64_t from(int64_t n, int64_t plane) const { return first_[n * planes_ + plane + 1]; }

 private:
  int64_t planes_;
  std::vector<int64_t> first_;
  Scratch<int64_t> sorted_;
};

// How the work is divided: into slabs of some planes, and the channels into groups that fit into rows with the density.
struct Division {
  int64_t groups, width, planes, slabs;

  template <class T>
  explicit Division(const Votes<T>& v) {
    groups = std::max<int64_t>(1, (v.C + widest - 2) / (widest - 1));
    width = ((v.C + groups - 1) / groups + 1 + 3) / 4 * 4;
    const int64_t plane = std::max<int64_t>(1, v.size[1] * v.size[2] * width * static_cast<int64_t>(sizeof(T)));
    planes = std::clamp<int64_t>(slab_bytes / plane, 1, std::max<int64_t>(1, (v.size[0] + 7) / 8));
    slabs = (v.size[0] + planes - 1) / planes;
  }
};

// body(std::integral_constant of the width)
template <class F>
void with_width(int64_t width, const F& body) {
  if (width <= 4) return body(std::integral_constant<int, 4>());
  if (width <= 8) return body(std::integral_constant<int, 8>());
  if (width <= 12) return body(std::integral_constant<int, 12>());
  body(std::integral_constant<int, 16>());
}

// W numbers in registers of four.
template <int W, class T>
struct Row {
  typedef T Four __attribute__((vector_size(4 * sizeof(T))));
  Four parts[W / 4] = {};

  static Row load(const T* p) {
    Row row;
    std::memcpy(row.parts, p, sizeof(row.parts));
    return row;
  }
  void store(T* p) const { std::memcpy(p, parts, sizeof(parts)); }
  void add(T scale, const Row& other) {
    for (int i = 0; i < W / 4; ++i) parts[i] += scale * other.parts[i];
  }
  T operator[](int64_t j) const { return parts[j / 4][j % 4]; }
};

// Planes [plane, plane + planes) of volume n, and channels [channel, channel + channels).
struct Slab {
  int64_t n, plane, planes, channel, channels;

  template <class T>
  int64_t begin(const Votes<T>& v) const {
    return plane * v.size[1] * v.size[2];
  }
  template <class T>
  int64_t end(const Votes<T>& v) const {
    return (plane + planes) * v.size[1] * v.size[2];
  }
  bool holds(int64_t z) const { return z >= plane && z < plane + planes; }
};

// Whether so few points vote that turning voxels into rows would be most of the work.
bool is_sparse(int64_t voters, int64_t voxels) { return 16 * voters < voxels; }

// The voxels along one axis, of those between two bounds, that a point votes for: where their rows are, the shares, and
// how these change along the axis.
template <class T>
struct Line {
  int64_t at[2];
  T share[2], slope[2];
  int count = 0;

  Line(const Place<T>& place, int axis, int ends, int64_t from, int64_t to, int64_t stride) {
    for (int up = 0; up < ends; ++up) {
      const int64_t i = place.first[axis] + up;
      if (i < from || i >= to) continue;
      at[count] = (i - from) * stride;
      share[count] = up ? place.up[axis] : 1 - place.up[axis], slope[count] = up ? T(1) : T(-1), ++count;
    }
  }
};

// The rows of a slab that a point votes for.
template <int W, class T>
struct Corners {
  Line<T> z, y, x;

  Corners(const Votes<T>& v, const Slab& s, const int64_t* grid, const Place<T>& place)
      : z(place, 0, v.trilinear ? 2 : 1, s.plane, std::min(s.plane + s.planes, grid[0]), v.size[1] * v.size[2] * W),
        y(place, 1, v.trilinear ? 2 : 1, 0, grid[1], v.size[2] * W),
        x(place, 2, v.trilinear ? 2 : 1, 0, grid[2], W) {}

  // body(row, a, b, c), numbers of a voxel along each axis
  template <class F>
  void for_each(const F& body) const {
    for (int a = 0; a < z.count; ++a)
      for (int b = 0; b < y.count; ++b)
        for (int c = 0; c < x.count; ++c) body(z.at[a] + y.at[b] + x.at[c], a, b, c);
  }
};

// Points lie anywhere in memory in the order of their planes.
template <class T>
void prefetch(const Votes<T>& v, const Voters<T>& voters, int64_t k, int64_t to, const Slab& s) {
  constexpr int64_t ahead = 12;
  if (k + ahead >= to) return;
  const int64_t i = s.n * v.P + voters[k + ahead];
  __builtin_prefetch(v.points + 3 * i);
  __builtin_prefetch(v.features + i * v.C + s.channel);
}

// rows += votes of the voters [from, to)
template <int W, class T>
void add_votes(const Votes<T>& v, const Voters<T>& voters, int64_t from, int64_t to, const Slab& s, T* rows) {
  const int64_t grid[3] = {v.grid(s.n, 0), v.grid(s.n, 1), v.grid(s.n, 2)};
  for (int64_t k = from; k < to; ++k) {
    prefetch(v, voters, k, to, s);
    Place<T> place;
    if (!find_place(v, s.n, voters[k], place)) continue;
    const T* features = v.features + (s.n * v.P + voters[k]) * v.C + s.channel;
    T values[W] = {v.weight};
    for (int64_t c = 0; c < s.channels; ++c) values[1 + c] = v.weight * features[c];
    const Row<W, T> vote_of = Row<W, T>::load(values);
    const Corners<W, T> corners(v, s, grid, place);
    corners.for_each([&](int64_t at, int a, int b, int c) {
      const T vote = corners.z.share[a] * corners.y.share[b] * corners.x.share[c];
      Row<W, T> row = Row<W, T>::load(rows + at);
      row.add(vote, vote_of);
      row.store(rows + at);
    });
  }
}

// The volumes from the initial ones and the votes in rows.
template <int W, class T>
void store_slab(const Votes<T>& v, const Slab& s, const T* rows) {
  constexpr int64_t block = 256;
  const T* initial = v.initial_densities + s.n * v.V;
  for (int64_t begin = s.begin(v); begin < s.end(v); begin += block, rows += block * W) {
    const int64_t count = std::min(block, s.end(v) - begin);
    T divisors[block];
    for (int64_t i = 0; i < count; ++i) {
      const T density = initial[begin + i] + rows[i * W];
      if (s.channel == 0) v.densities[s.n * v.V + begin + i] = density;
      divisors[i] = v.divisor(density);
    }
    for (int64_t c = 0; c < s.channels; ++c) {
      const int64_t at = (s.n * v.C + s.channel + c) * v.V + begin;
      for (int64_t i = 0; i < count; ++i)
        v.volumes[at + i] = (v.initial_features[at + i] + rows[i * W + 1 + c]) / divisors[i];
    }
  }
}

// The same for few votes, all channels.
template <class T>
void vote_directly(const Votes<T>& v, const Voters<T>& voters, int64_t from, int64_t to, const Slab& s) {
  const int64_t begin = s.begin(v), end = s.end(v);
  std::copy(v.initial_densities + s.n * v.V + begin, v.initial_densities + s.n * v.V + end,
            v.densities + s.n * v.V + begin);
  for (int64_t c = s.n * v.C; c < (s.n + 1) * v.C; ++c)
    std::copy(v.initial_features + c * v.V + begin, v.initial_features + c * v.V + end, v.volumes + c * v.V + begin);
  for (int64_t k = from; k < to; ++k) {
    Place<T> place;
    if (!find_place(v, s.n, voters[k], place)) continue;
    const T* features = v.features + (s.n * v.P + voters[k]) * v.C;
    for_each_vote(v, s.n, place, [&](int64_t voxel, const T* share, const int* up) {
      if (!s.holds(place.first[0] + up[0])) return;
      const T vote = share[0] * share[1] * share[2] * v.weight;
      v.densities[s.n * v.V + voxel] += vote;
      for (int64_t c = 0; c < v.C; ++c) v.volumes[(s.n * v.C + c) * v.V + voxel] += vote * features[c];
    });
  }
  for (int64_t c = 0; v.rescale && c < v.C; ++c) {
    const T* densities = v.densities + s.n * v.V;
    T* features = v.volumes + (s.n * v.C + c) * v.V;
    for (int64_t i = begin; i < end; ++i) features[i] /= v.divisor(densities[i]);
  }
}

// What a voxel hands to its votes: the gradient of the vote, but for the features of the point, and those of the sums.
template <int W, class T>
void load_gradients(const Votes<T>& v, const Slab& s, T* rows) {
  constexpr int64_t block = 256;
  for (int64_t begin = s.begin(v); begin < s.end(v); begin += block, rows += block * W) {
    const int64_t count = std::min(block, s.end(v) - begin), at = s.n * v.V + begin;
    T norms[block], moves[block];
    for (int64_t i = 0; i < count; ++i) {
      const T density = v.densities[at + i];
      norms[i] = T(1) / v.divisor(density);
      moves[i] = v.rescale && !(density < v.least) ? T(1) : T(0);
      rows[i * W] = s.channel == 0 ? v.grad_densities[at + i] : T(0);
    }
    for (int64_t c = 0; c < W - 1; ++c) {
      const int64_t k = (s.n * v.C + s.channel + c) * v.V + begin;
      for (int64_t i = 0; i < count; ++i) {
        const T grad = c < s.channels ? norms[i] * v.grad_volumes[k + i] : T(0);
        rows[i * W + 1 + c] = grad;
        if (c < s.channels) rows[i * W] -= moves[i] * grad * v.volumes[k + i];
      }
    }
  }
}

template <int W, class T>
void add_gradients(const Votes<T>& v, const Voters<T>& voters, int64_t from, int64_t to, const Slab& s, const T* rows) {
  const int64_t grid[3] = {v.grid(s.n, 0), v.grid(s.n, 1), v.grid(s.n, 2)};
  for (int64_t k = from; k < to; ++k) {
    prefetch(v, voters, k, to, s);
    const int64_t i = s.n * v.P + voters[k];
    Place<T> place;
    if (!find_place(v, s.n, voters[k], place)) continue;
    // Sums of rows with the votes, and with their derivatives along each axis.
    Row<W, T> sums, along[3];
    const Corners<W, T> corners(v, s, grid, place);
    corners.for_each([&](int64_t at, int a, int b, int c) {
      const Line<T>&lz = corners.z, &ly = corners.y, &lx = corners.x;
      const T vote = lz.share[a] * ly.share[b] * lx.share[c];
      const T z = lz.slope[a] * ly.share[b] * lx.share[c], y = lz.share[a] * ly.slope[b] * lx.share[c];
      const T x = lz.share[a] * ly.share[b] * lx.slope[c];
      const Row<W, T> row = Row<W, T>::load(rows + at);
      sums.add(vote, row), along[0].add(z, row), along[1].add(y, row), along[2].add(x, row);
    });
    const T* features = v.features + i * v.C + s.channel;
    for (int64_t c = 0; v.grad_features && c < s.channels; ++c)
      v.grad_features[i * v.C + s.channel + c] = v.weight * sums[1 + c];
    for (int axis = 0; v.grad_points && v.trilinear && axis < 3; ++axis) {
      T total = along[axis][0];
      for (int64_t c = 0; c < s.channels; ++c) total += features[c] * along[axis][1 + c];
      v.grad_points[3 * i + 2 - axis] += v.weight * total * v.per_unit(s.n, axis);
    }
  }
}

// body(channel, channels) for each group
template <class F>
void for_each_group(const Division& division, int64_t C, const F& body) {
  for (int64_t g = 0; g < division.groups; ++g) {
    const int64_t channel = C * g / division.groups;
    body(channel, C * (g + 1) / division.groups - channel);
  }
}

}  // namespace

template <class T>
void points_to_volumes_cpu(const Votes<T>& v) {
  const Voters<T> voters(v);
  if (v.V == 0) return;
  const Division division(v);
  const int64_t room = division.planes * v.size[1] * v.size[2] * division.width;
  const Scratch<T> memory(num_threads() * room, cpu);
  for_each_task(v.N * division.slabs, [&](int64_t task, int worker) {
    Slab s{task / division.slabs, task % division.slabs * division.planes, 0, 0, v.C};
    s.planes = std::min(division.planes, v.size[0] - s.plane);
    const int64_t from = voters.from(s.n, s.plane - 1), to = voters.from(s.n, s.plane + s.planes);
    if (is_sparse(to - from, s.end(v) - s.begin(v))) return vote_directly(v, voters, from, to, s);
    T* rows = memory.data() + worker * room;
    for_each_group(division, v.C, [&](int64_t channel, int64_t channels) {
      s.channel = channel, s.channels = channels;
      std::fill(rows, rows + room, T(0));
      with_width(division.width, [&](auto width) {
        add_votes<width()>(v, voters, from, to, s, rows);
        store_slab<width()>(v, s, rows);
      });
    });
  });
}

template <class T>
void points_to_volumes_backward_cpu(const Votes<T>& v) {
  if ((v.grad_points || v.grad_features) && v.V > 0) {
    const Voters<T> voters(v);
    const Division division(v);
    const int64_t room = (division.planes + 1) * v.size[1] * v.size[2] * division.width;
    const Scratch<T> memory(num_threads() * room, cpu);
    // A task has the points whose first plane is one of its planes or, for the first ones, the plane before.
    for_each_task(v.N * division.slabs, [&](int64_t task, int worker) {
      Slab s{task / division.slabs, task % division.slabs * division.planes, 0, 0, v.C};
      const int64_t last = std::min(s.plane + division.planes, v.size[0]);
      const int64_t from = voters.from(s.n, s.plane == 0 ? -1 : s.plane), to = voters.from(s.n, last);
      s.planes = std::min(last + 1, v.size[0]) - s.plane;
      if (is_sparse(to - from, s.end(v) - s.begin(v))) {
        for (int64_t k = from; k < to; ++k) {
          Place<T> place;
          if (!find_place(v, s.n, voters[k], place)) continue;
          vote_gradients(v, s.n, voters[k], place);
        }
        return;
      }
      T* rows = memory.data() + worker * room;
      for_each_group(division, v.C, [&](int64_t channel, int64_t channels) {
        s.channel = channel, s.channels = channels;
        with_width(division.width, [&](auto width) {
          load_gradients<width()>(v, s, rows);
          add_gradients<width()>(v, voters, from, to, s, rows);
        });
      });
    });
  }
  if (!v.grad_initial_densities && !v.grad_initial_features) return;
  constexpr int64_t block = 2048;
  const int64_t blocks = (v.V + block - 1) / block;
  for_each_task(v.N * blocks, [&](int64_t task, int) {
    const int64_t begin = task % blocks * block;
    initial_gradients(v, task / blocks, begin, std::min(v.V, begin + block));
  });
}

template void points_to_volumes_cpu(const Votes<float>&);
template void points_to_volumes_cpu(const Votes<double>&);
template void points_to_volumes_backward_cpu(const Votes<float>&);
template void points_to_volumes_backward_cpu(const Votes<double>&);

}  // namespace RECON_SIMD
}  // namespace recon
