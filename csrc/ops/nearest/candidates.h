#pragma once
// The K best of the points that a search comes across. For cpu.cpp files.
#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "ops/nearest/lanes.h"

#ifdef RECON_SIMD
namespace recon {
namespace RECON_SIMD {

// Candidates are collected as they come, and only when there are many are all but the K best dropped. Best: by distance
// and then by index. `limit` is a distance within which K points are known to lie.
template <class T>
class Candidates {
  static constexpr int lanes = Pack<T>::lanes;
  static constexpr int64_t few = 160;
  static constexpr int32_t any_id = std::numeric_limits<int32_t>::max();

 public:
  explicit Candidates(int64_t K) : K_(K), capacity_(2 * K + 64) {
    const auto size = static_cast<size_t>(capacity_ + 2 * lanes);
    for (auto* dist : {&dist_, &other_dist_}) dist->resize(size);
    for (auto* ids : {&ids_, &other_ids_}) ids->resize(size);
  }

  void clear(T limit) { count_ = 0, limit_ = limit, limit_id_ = any_id; }
  void lower_limit(T limit) { limit_ = limit; }
  T limit() const { return limit_; }
  int64_t count() const { return count_; }
  int32_t id(int64_t k) const { return ids_[k]; }

  // Whether something at that distance, with no lower index than that, may be among the best.
  bool wants(T dist, int32_t least_id) const { return dist < limit_ || (dist == limit_ && least_id <= limit_id_); }

  // Those of a register of points, with indices first + ids[0], first + ids[1], ..., that lie within the limit.
  void offer(Pack<T> dist, int32_t first, const int32_t* ids) {
    const Mask<T> near = dist <= Pack<T>(limit_);
    if (!any(near)) return;
    if (limit_id_ == any_id) {
      count_ += append(dist, near, first, ids, &dist_[count_], &ids_[count_]);
    } else {
      for (uint32_t bits = near.bits(); bits; bits &= bits - 1) {
        const int lane = __builtin_ctz(bits);
        if (wants(dist[lane], first + ids[lane])) dist_[count_] = dist[lane], ids_[count_++] = first + ids[lane];
      }
    }
    if (count_ < capacity_) return;
    keep_best();
    limit_ = dist_[K_ - 1], limit_id_ = ids_[K_ - 1];
  }

  // Leaves the best, in order, and returns how many there are.
  int64_t finish() {
    if (count_ > few) {
      keep_best();
      sort_pairs(std::min(K_, count_));
    } else {
      sort_few();
    }
    return count_;
  }

  // Slots that no point can fill hold 0 beyond the cloud, as the padding of a ragged batch, and NaN where the cloud has
  // points, but none at a distance. After finish().
  void write(T* dist, int64_t* idx, int64_t available) const {
    const int64_t points = std::min(available, K_);
    std::copy(dist_.begin(), dist_.begin() + count_, dist);
    std::copy(ids_.begin(), ids_.begin() + count_, idx);
    std::fill(dist + count_, dist + std::max(points, count_), std::numeric_limits<T>::quiet_NaN());
    std::fill(dist + std::max(points, count_), dist + K_, T(0));
    std::fill(idx + count_, idx + K_, int64_t{0});
  }

 private:
  using Pair = std::pair<T, int32_t>;  // compares by distance, then by index

  // The K best come first; the K-th lies where it belongs.
  void keep_best() {
    if (count_ <= few) return sort_few();
    to_pairs();
    if (count_ > K_) {
      std::nth_element(pairs_.begin(), pairs_.begin() + (K_ - 1), pairs_.end());
      count_ = K_;
    }
    from_pairs();
  }

  void sort_pairs(int64_t n) {
    count_ = n;
    to_pairs();
    std::sort(pairs_.begin(), pairs_.end());
    from_pairs();
  }

  void to_pairs() {
    pairs_.resize(static_cast<size_t>(count_));
    for (int64_t i = 0; i < count_; ++i) pairs_[i] = {dist_[i], ids_[i]};
  }

  void from_pairs() {
    for (int64_t i = 0; i < count_; ++i) dist_[i] = pairs_[i].first, ids_[i] = pairs_[i].second;
  }

  // The place of each is the number of those that are better.
  void sort_few() {
    for (int64_t i = count_; i % lanes; ++i) dist_[i] = std::numeric_limits<T>::quiet_NaN();
    for (int64_t i = 0; i < count_; ++i) {
      const Pack<T> dist(dist_[i]);
      int64_t better = 0, equal = 0;
      for (int64_t j = 0; j < count_; j += lanes) {
        better += __builtin_popcount((Pack<T>::load(&dist_[j]) < dist).bits());
        equal += __builtin_popcount((Pack<T>::load(&dist_[j]) == dist).bits());
      }
      for (int64_t j = 0; equal > 1 && j < count_; ++j) better += dist_[j] == dist_[i] && ids_[j] < ids_[i];
      other_dist_[better] = dist_[i], other_ids_[better] = ids_[i];
    }
    dist_.swap(other_dist_), ids_.swap(other_ids_);
    count_ = std::min(count_, K_);
  }

  int64_t K_, capacity_, count_ = 0;
  T limit_ = 0;
  int32_t limit_id_ = any_id;
  std::vector<T> dist_, other_dist_;
  std::vector<int32_t> ids_, other_ids_;
  std::vector<Pair> pairs_;
};

}  // namespace RECON_SIMD
}  // namespace recon
#endif
