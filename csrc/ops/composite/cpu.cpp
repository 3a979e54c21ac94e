// Some neighbouring pixels at a time, a register of channels at a time: the features of a point lie next to each other,
// and what belongs to the image is turned between its planes and rows of channels in cache. The gradient of the
// features is added up by threads that own some channels of some points, in the order of the pixels.
#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "core/rows.h"
#include "core/scratch.h"
#include "ops/composite/kernels.h"

namespace recon {
namespace RECON_SIMD {

namespace {

constexpr int64_t block = 16;  // pixels

// The pixels [s, s + count) of image n.
struct PixelBlock {
  int64_t n, s, count;

  template <class T>
  PixelBlock(const Composite<T>& p, int64_t index) {
    const int64_t per_image = (p.S + block - 1) / block;
    n = index / per_image, s = index % per_image * block, count = std::min(block, p.S - s);
  }
  template <class T>
  static int64_t number(const Composite<T>& p) {
    return p.N * ((p.S + block - 1) / block);
  }
};

// Rows of `width` channels from `from` on: one for each pixel of the block.
template <class T>
void load_rows(const Composite<T>& p, const PixelBlock& b, int64_t from, int64_t width, T* rows) {
  for (int64_t c = 0; c < width; ++c) {
    const T* plane = p.grad_image + (b.n * p.C + from + c) * p.S + b.s;
    for (int64_t i = 0; i < b.count; ++i) rows[i * width + c] = plane[i];
  }
}

template <class T>
void store_rows(const Composite<T>& p, const PixelBlock& b, const T* rows) {
  for (int64_t c = 0; c < p.C; ++c) {
    T* plane = p.image + (b.n * p.C + c) * p.S + b.s;
    for (int64_t i = 0; i < b.count; ++i) plane[i] = rows[i * p.C + c];
  }
}

// The hits of a block with those of a pixel next to each other, whatever the layout of the tensors: planes lie a power
// of two apart, which caches do not like.
template <class T>
class BlockHits {
 public:
  explicit BlockHits(const Composite<T>& p) : view(p), idx_(block * p.K), alphas_(block * p.K), grads_(block * p.K) {
    view.S = block, view.per_pixel = p.K, view.per_hit = 1;
    view.idx = idx_.data(), view.alphas = alphas_.data();
    view.grad_alphas = p.grad_alphas ? grads_.data() : nullptr;
  }

  void load(const Composite<T>& p, const PixelBlock& b) {
    for_each_slot(p, b, [&](int64_t from, int64_t to) {
      if (p.idx[from] >= p.P)
        throw std::invalid_argument("pointsidx has " + std::to_string(p.idx[from]) + " but there are features of " +
                                    std::to_string(p.P) + " points");
      idx_[to] = p.idx[from], alphas_[to] = p.alphas[from];
    });
    std::fill(grads_.begin(), grads_.end(), T(0));
  }
  void store_grads(const Composite<T>& p, const PixelBlock& b) {
    for_each_slot(p, b, [&](int64_t to, int64_t from) { p.grad_alphas[to] = grads_[from]; });
  }

  Composite<T> view;  // of these hits: pixel i of the block is its pixel i

 private:
  // body(position in the tensors, position here)
  template <class F>
  void for_each_slot(const Composite<T>& p, const PixelBlock& b, const F& body) {
    const int64_t first = p.first_hit(b.n * p.S + b.s);
    if (p.per_hit == 1) {
      for (int64_t j = 0; j < b.count * p.K; ++j) body(first + j, j);
      return;
    }
    for (int64_t k = 0; k < p.K; ++k)
      for (int64_t i = 0; i < b.count; ++i) body(first + k * p.per_hit + i, i * p.K + k);
  }

  std::vector<int32_t> idx_;
  std::vector<T> alphas_, grads_;
};

// The points of one pixel and their weights.
template <class T>
struct Hits {
  std::vector<const T*> rows;
  std::vector<T> weights;
  int64_t size = 0;

  explicit Hits(int64_t K) : rows(K), weights(K) {}
};

// sum_k weight_k row_k for the channels from `c` on, N registers of them.
template <int N, class T>
void mix(const Hits<T>& hits, int64_t c, T* out) {
  using V = Pack<T>;
  V sums[N];
  for (int i = 0; i < N; ++i) sums[i] = V(T(0));
  for (int64_t k = 0; k < hits.size; ++k) {
    const V weight(hits.weights[k]);
    for (int i = 0; i < N; ++i) sums[i] += weight * V::load(hits.rows[k] + c + i * V::lanes);
  }
  for (int i = 0; i < N; ++i) sums[i].store(out + c + i * V::lanes);
}

// What is left of a hit for the gradient of the features. Those of a pixel lie next to each other.
template <class T>
struct Kept {
  int32_t point;
  T weight;
};

template <class T>
void add_features(const Composite<T>& p, const Kept<T>* kept, int64_t channel, int64_t width, int64_t begin,
                  int64_t end) {
  std::vector<T> rows(block * width);
  for (int64_t index = 0; index < PixelBlock::number(p); ++index) {
    const PixelBlock b(p, index);
    load_rows(p, b, channel, width, rows.data());
    const Kept<T>* hit = kept + (b.n * p.S + b.s) * p.K;
    for (int64_t i = 0; i < b.count; ++i)
      for (int64_t k = 0; k < p.K; ++k, ++hit)
        if (hit->point >= begin && hit->point < end)
          add_scaled(p.grad_features + hit->point * p.C + channel, hit->weight, rows.data() + i * width, width);
  }
}

}  // namespace

template <class T>
void composite_cpu(const Composite<T>& p) {
  constexpr int lanes = Pack<T>::lanes;
  for_each_range(PixelBlock::number(p), 1 + 4000 / (block * p.K + 1), [&](int64_t begin, int64_t end) {
    std::vector<T> rows(block * p.C);
    Hits<T> hits(p.K);
    BlockHits<T> local(p);
    for (int64_t index = begin; index < end; ++index) {
      const PixelBlock b(p, index);
      local.load(p, b);
      for (int64_t i = 0; i < b.count; ++i) {
        hits.size = 0;
        for_each_hit(local.view, i, [&](int64_t at, T scale) {
          hits.rows[hits.size] = p.features + local.view.idx[at] * p.C;
          hits.weights[hits.size++] = local.view.alphas[at] * scale;
        });
        T* out = rows.data() + i * p.C;
        int64_t c = 0;
        for (; c + 4 * lanes <= p.C; c += 4 * lanes) mix<4>(hits, c, out);
        for (; c + lanes <= p.C; c += lanes) mix<1>(hits, c, out);
        for (; c < p.C; ++c) {
          T total(0);
          for (int64_t k = 0; k < hits.size; ++k) total += hits.weights[k] * hits.rows[k][c];
          out[c] = total;
        }
      }
      store_rows(p, b, rows.data());
    }
  });
}

template <class T>
void composite_backward_cpu(const Composite<T>& p) {
  constexpr Device cpu;
  const int64_t grain = 1 + 4000 / (block * p.K + 1);
  const Scratch<Kept<T>> kept(p.grad_features ? p.N * p.S * p.K : 0, cpu);
  for_each_range(PixelBlock::number(p), grain, [&](int64_t begin, int64_t end) {
    std::vector<T> rows(block * p.C), scales(block * p.K);
    BlockHits<T> local(p);
    local.view.scale = scales.data();
    const Composite<T>& q = local.view;
    for (int64_t index = begin; index < end; ++index) {
      const PixelBlock b(p, index);
      local.load(p, b);
      if (p.grad_alphas) load_rows(p, b, 0, p.C, rows.data());
      for (int64_t i = 0; i < b.count; ++i) {
        const T total = for_each_hit(q, i, [&](int64_t at, T scale) {
          q.scale[at] = scale;
          if (p.grad_alphas) q.grad_alphas[at] = dot(rows.data() + i * p.C, p.features + q.idx[at] * p.C, p.C);
        });
        if (p.grad_alphas) finish_alphas(q, i, total);
      }
      if (p.grad_alphas) local.store_grads(p, b);
      Kept<T>* target = kept.data() + (b.n * p.S + b.s) * p.K;
      for (int64_t j = 0; p.grad_features && j < b.count * p.K; ++j)
        target[j] = {q.idx[j], q.idx[j] >= 0 ? q.alphas[j] * q.scale[j] : T(0)};
    }
  });
  if (!p.grad_features || p.C == 0) return;
  // Each part goes through all hits and adds those of its points to its channels: no two write to the same place.
  constexpr int64_t channels = 32;
  const int64_t groups = (p.C + channels - 1) / channels, small = p.N * p.S * p.K < 20000;
  const int64_t shares = small ? 1 : (num_threads() + groups - 1) / groups;
  for_each_task(groups * shares, [&](int64_t part, int) {
    const int64_t group = part / shares, share = part % shares;
    const int64_t channel = p.C * group / groups, width = p.C * (group + 1) / groups - channel;
    add_features(p, kept.data(), channel, width, p.P * share / shares, p.P * (share + 1) / shares);
  });
}

template void composite_cpu(const Composite<float>&);
template void composite_cpu(const Composite<double>&);
template void composite_backward_cpu(const Composite<float>&);
template void composite_backward_cpu(const Composite<double>&);

}  // namespace RECON_SIMD
}  // namespace recon
