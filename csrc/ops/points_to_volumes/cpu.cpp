// The points are put in the order of the first plane that they vote in. A thread then owns some planes of some
// channels, which stay in cache while they are copied, voted for and divided: voxels get their votes in an order that
// depends on the points alone.
#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "core/scratch.h"
#include "ops/points_to_volumes/kernels.h"

namespace recon {
namespace RECON_SIMD {

namespace {

constexpr int64_t slab_bytes = 64 << 10, channels_at_once = 16;
constexpr Device cpu;

// A point that votes.
template <class T>
struct Voter {
  int64_t index;
  Place<T> place;
};

template <class T>
void check_point(const Votes<T>& v, int64_t n, int64_t i) {
  const T* p = v.points + 3 * (n * v.P + i);
  for (int k = 0; k < 3; ++k)
    if (!std::isfinite(p[k]) && v.counts(n, i))
      throw std::invalid_argument("points_to_volumes: points must be finite, got " + std::to_string(p[k]) + " at [" +
                                  std::to_string(n) + ", " + std::to_string(i) + ", " + std::to_string(k) +
                                  "]: mask such points");
}

// Those of each volume in the order of their first planes, and in each plane by index.
template <class T>
class Voters {
 public:
  explicit Voters(const Votes<T>& v) : planes_(v.size[0] + 1), first_(v.N * planes_ + 1, 0), sorted_(v.N * v.P, cpu) {
    const int64_t ranges = std::clamp<int64_t>(v.P / 4096, 1, int64_t{4} * num_threads());
    const Scratch<Voter<T>> found(v.N * v.P, cpu);
    std::vector<int64_t> counts(v.N * ranges * planes_, 0), ends(v.N * ranges);
    for_each_task(v.N * ranges, [&](int64_t task, int) {
      const int64_t n = task / ranges, r = task % ranges, begin = v.P * r / ranges, end = v.P * (r + 1) / ranges;
      Voter<T>* out = found.data() + n * v.P + begin;
      for (int64_t i = begin; i < end; ++i) {
        out->index = i;
        if (find_place(v, n, i, out->place))
          ++counts[task * planes_ + out->place.first[0] + 1], ++out;
        else
          check_point(v, n, i);
      }
      ends[task] = out - found.data();
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
    for_each_task(v.N * ranges, [&](int64_t task, int) {
      const int64_t n = task / ranges, r = task % ranges;
      for (int64_t k = n * v.P + v.P * r / ranges; k < ends[task]; ++k)
        sorted_[counts[task * planes_ + found[k].place.first[0] + 1]++] = found[k];
    });
  }

  int64_t size() const { return first_.back(); }
  const Voter<T>& operator[](int64_t k) const { return sorted_[k]; }
  // The first voter of volume n whose first plane is `plane` or a later one; planes count from -1.
  int64_t from(int64_t n, int64_t plane) const { return first_[n * planes_ + plane + 1]; }
  int64_t volume_of(int64_t k) const {
    int64_t n = 0;
    while (first_[(n + 1) * planes_] <= k) ++n;
    return n;
  }

 private:
  int64_t planes_;
  std::vector<int64_t> first_;
  Scratch<Voter<T>> sorted_;
};

// Some planes of some channels of volume n. The first task of the channels also owns the densities.
struct Slab {
  int64_t n, plane, planes, channel, channels;
};

// The voxels next to each other along x that a voter votes for, with the shares of the first and the second one.
template <class T>
struct Pair {
  int64_t voxel;
  T share[2];
};

// Up to four pairs inside of a slab; returns how many.
template <class T>
int pairs_of(const Votes<T>& v, const Slab& s, const Place<T>& place, Pair<T>* pairs) {
  int count = 0;
  for_each_vote(v, s.n, place, [&](int64_t voxel, const T* share, const int* up) {
    const int64_t z = place.first[0] + up[0];
    if (z < s.plane || z >= s.plane + s.planes) return;
    const T vote = share[0] * share[1] * share[2] * v.weight;
    const bool joins = up[2] && place.first[2] >= 0;  // the pair whose first voxel came just before
    if (!joins)
      pairs[count++] = {voxel, {vote, T(0)}};
    else
      pairs[count - 1].share[1] = vote;
  });
  return count;
}

template <class T>
void add_votes(const Votes<T>& v, const Voters<T>& voters, const Slab& s, bool densities) {
  for (int64_t k = voters.from(s.n, s.plane - 1); k < voters.from(s.n, s.plane + s.planes); ++k) {
    const Voter<T>& voter = voters[k];
    Pair<T> pairs[8];
    const int count = pairs_of(v, s, voter.place, pairs);
    const T* features = v.features + (s.n * v.P + voter.index) * v.C;
    for (int j = 0; j < count; ++j) {
      const Pair<T>& pair = pairs[j];
      const bool second = pair.share[1] != 0;
      if (densities) {
        T* d = v.densities + s.n * v.V + pair.voxel;
        d[0] += pair.share[0];
        if (second) d[1] += pair.share[1];
      }
      T* f = v.volumes + (s.n * v.C + s.channel) * v.V + pair.voxel;
      for (int64_t c = s.channel; c < s.channel + s.channels; ++c, f += v.V) {
        f[0] += pair.share[0] * features[c];
        if (second) f[1] += pair.share[1] * features[c];
      }
    }
  }
}

template <class T>
void divide(const Votes<T>& v, int64_t n, int64_t channel, int64_t begin, int64_t end) {
  const T* densities = v.densities + n * v.V;
  T* features = v.volumes + (n * v.C + channel) * v.V;
  for (int64_t i = begin; i < end; ++i) features[i] /= densities[i] < v.least ? v.least : densities[i];
}

}  // namespace

template <class T>
void points_to_volumes_cpu(const Votes<T>& v) {
  const Voters<T> voters(v);
  const int64_t plane = v.size[1] * v.size[2],
                groups = std::max<int64_t>(1, (v.C + channels_at_once - 1) / channels_at_once);
  if (v.V == 0) return;
  const int64_t fitting = std::max<int64_t>(1, slab_bytes / (plane * static_cast<int64_t>(sizeof(T))));
  const int64_t planes = std::min(fitting, (v.size[0] + 7) / 8), slabs = (v.size[0] + planes - 1) / planes;
  for_each_task(v.N * slabs * groups, [&](int64_t task, int) {
    Slab s;
    s.n = task / (slabs * groups), s.plane = task / groups % slabs * planes;
    s.planes = std::min(planes, v.size[0] - s.plane);
    const int64_t group = task % groups;
    s.channel = v.C * group / groups, s.channels = v.C * (group + 1) / groups - s.channel;
    const int64_t begin = s.plane * plane, end = (s.plane + s.planes) * plane;
    const auto copy = [&](const T* from, T* to) { std::copy(from + begin, from + end, to + begin); };
    if (group == 0) copy(v.initial_densities + s.n * v.V, v.densities + s.n * v.V);
    for (int64_t c = s.channel; c < s.channel + s.channels; ++c)
      copy(v.initial_features + (s.n * v.C + c) * v.V, v.volumes + (s.n * v.C + c) * v.V);
    add_votes(v, voters, s, group == 0);
    for (int64_t c = 0; v.rescale && groups == 1 && c < v.C; ++c) divide(v, s.n, c, begin, end);
  });
  if (!v.rescale || groups == 1) return;
  for_each_task(v.N * v.C, [&](int64_t row, int) { divide(v, row / v.C, row % v.C, 0, v.V); });
}

template <class T>
void points_to_volumes_backward_cpu(const Votes<T>& v) {
  if (v.grad_points || v.grad_features) {
    const Voters<T> voters(v);
    for_each_range(voters.size(), 256, [&](int64_t begin, int64_t end) {
      int64_t n = voters.volume_of(begin);
      for (int64_t k = begin; k < end; ++k) {
        while (n + 1 < v.N && voters.from(n + 1, -1) <= k) ++n;
        vote_gradients(v, n, voters[k].index, voters[k].place);
      }
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
