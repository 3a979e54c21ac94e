#pragma once
// The clouds of a batch in the forms that searches on a CPU need, made once for all that read them.
#include <limits>
#include <memory>
#include <vector>

#include "core/scratch.h"
#include "ops/nearest/kernels.h"
#include "ops/nearest/tree.h"

namespace recon {

// Measured: a search costs about 0.1 ns for each point compared, about 100 ns in a tree, which costs 20 ns a point to
// build.
inline bool tree_pays(int64_t D, int64_t points) { return D <= 3 && points > 768; }
inline bool tree_pays(int64_t D, int64_t queries, int64_t points) { return tree_pays(D, points) && queries > 64; }

// The trees of a batch of clouds in one piece of memory: for each cloud its values, then its ids.
template <class T>
struct TreeBytes {
  uint8_t* data = nullptr;
  int64_t size = 0;  // points in a cloud

  static int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }
  int64_t values_bytes() const { return aligned(tree_values<T>(size) * static_cast<int64_t>(sizeof(T))); }
  int64_t bytes_each() const {
    return values_bytes() + aligned(tree_ids(size) * static_cast<int64_t>(sizeof(int32_t)));
  }
  T* values(int64_t b) const { return reinterpret_cast<T*>(data + b * bytes_each()); }
  int32_t* ids(int64_t b) const { return reinterpret_cast<int32_t*>(data + b * bytes_each() + values_bytes()); }
};

// How a cloud takes part in a search.
struct Role {
  bool tree, queried_from, searched, columns;  // columns: wanted coordinate by coordinate too
  uint8_t* index;                              // trees that are there already, or null
};

// The clouds of a batch in the forms that the searches need.
template <class T>
class Clouds {
 public:
  Clouds(const T* points, int64_t B, int64_t size, int64_t D, const Role& role, const Device& device)
      : points_(points),
        size_(size),
        D_(D),
        tree_(role.tree && role.searched),
        ready_(role.index != nullptr),
        order_(role.tree && role.queried_from),
        columns_(role.columns) {
    bytes_.size = size, bytes_.data = role.index;
    if (tree_ && !ready_) {
      memory_ = std::make_unique<Scratch<uint8_t>>(B * bytes_.bytes_each(), device);
      bytes_.data = memory_->data();
    }
    if (order_ && !tree_) ids_ = std::make_unique<Scratch<int32_t>>(B * size, device);
    if ((tree_ && !ready_) || order_) entries_ = std::make_unique<Scratch<CurveEntry>>(B * 2 * size, device);
    stride_ = (size + PointColumns<T>::step - 1) / PointColumns<T>::step * PointColumns<T>::step;
    if (columns_) values_ = std::make_unique<Scratch<T>>(B * D * stride_, device);
    if (tree_) trees_.resize(static_cast<size_t>(B));
  }

  bool needs_work() const { return tree_ || order_ || columns_; }

  void prepare(int64_t b, int64_t count) {
    const T* points = points_ + b * size_ * D_;
    CurveEntry* entries = entries_ ? entries_->data() + b * 2 * size_ : nullptr;
    if (tree_ && ready_)
      trees_[b] = tree_in(count, bytes_.values(b), bytes_.ids(b));
    else if (tree_)
      trees_[b] = build_tree(points, count, D_, bytes_.values(b), bytes_.ids(b), entries);
    else if (order_)
      curve_order(points, count, D_, ids_->data() + b * size_, entries);
    if (!columns_) return;
    T* columns = values_->data() + b * D_ * stride_;
    for (int64_t d = 0; d < D_; ++d)
      for (int64_t j = 0; j < stride_; ++j)
        columns[d * stride_ + j] = j < count ? points[j * D_ + d] : std::numeric_limits<T>::quiet_NaN();
  }

  const int32_t* order(int64_t b) const { return !order_ ? nullptr : tree_ ? trees_[b].ids : ids_->data() + b * size_; }
  const PointTree<T>& tree(int64_t b) const { return trees_[b]; }
  PointColumns<T> columns(int64_t b) const {
    return columns_ ? PointColumns<T>{values_->data() + b * D_ * stride_, stride_} : PointColumns<T>{};
  }

 private:
  const T* points_;
  int64_t size_, D_, stride_;
  bool tree_, ready_, order_, columns_;
  TreeBytes<T> bytes_;
  std::unique_ptr<Scratch<uint8_t>> memory_;
  std::unique_ptr<Scratch<int32_t>> ids_;
  std::unique_ptr<Scratch<CurveEntry>> entries_;
  std::unique_ptr<Scratch<T>> values_;
  std::vector<PointTree<T>> trees_;
};

}  // namespace recon
