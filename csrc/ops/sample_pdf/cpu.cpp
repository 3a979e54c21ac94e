// Bins are found in a tree over the sums of the weights in which a node is a register: one comparison for each level.
#include <algorithm>
#include <limits>
#include <vector>

#include "ops/sample_pdf/kernels.h"

namespace recon {
namespace RECON_SIMD {

namespace {

// The sums of the weights of all but the last bin, and above them the last entry of every register, level by level.
// Each level ends in infinity, which no quantile exceeds: a search never leaves it.
template <class T>
class Search {
 public:
  explicit Search(int64_t bins) : sums(bins), bins_(bins) {
    int64_t size = bins;
    do {
      const int64_t registers = (size + lanes - 1) / lanes;
      levels_.emplace_back(registers * lanes, std::numeric_limits<T>::infinity());
      size = registers;
    } while (size > 1);
  }

  void build(const T* weights) {
    T total(0);
    for (int64_t b = 0; b < bins_; ++b) sums[b] = total += weights[b];
    std::copy(sums.begin(), sums.end() - 1, levels_[0].begin());
    for (size_t k = 1; k < levels_.size(); ++k)
      for (size_t i = 0; i < levels_[k - 1].size() / lanes; ++i) levels_[k][i] = levels_[k - 1][i * lanes + lanes - 1];
  }

  // The first bin whose sum is at least v, or the last bin.
  int64_t find(T v) const {
    const Pack<T> wanted(v);
    int64_t at = 0;
    for (size_t k = levels_.size(); k-- > 0;) {
      const T* node = levels_[k].data() + at * lanes;
      at = at * lanes + __builtin_popcount((Pack<T>::load(node) < wanted).bits());
    }
    return at;
  }

  std::vector<T> sums;

 private:
  static constexpr int lanes = Pack<T>::lanes;
  int64_t bins_;
  std::vector<std::vector<T>> levels_;
};

template <class T>
void sample_ray(const SamplePdf<T>& p, int64_t ray, const Search<T>& search) {
  const T *bins = p.bins + ray * (p.B + 1), *weights = p.weights + ray * p.B;
  const T total = search.sums[p.B - 1] + p.eps;
  const T* u = p.u + ray * p.u_step;
  T* samples = p.samples + ray * p.N;
  for (int64_t s = 0; s < p.N; ++s) {
    const T v = total * u[s];
    const int64_t b = search.find(v);
    const PlaceInBin<T> place(v - (b > 0 ? search.sums[b - 1] : T(0)), weights[b], p.eps);
    samples[s] = place.between(bins[b], bins[b + 1]);
  }
}

}  // namespace

template <class T>
void sample_pdf_range(const SamplePdf<T>& p, int64_t begin, int64_t end) {
  Search<T> search(p.B);
  for (int64_t ray = begin; ray < end; ++ray) {
    search.build(p.weights + ray * p.B);
    if (p.samples)
      sample_ray(p, ray, search);
    else
      sample_pdf_gradients(p, ray, search.sums.data(), [&](T v) { return search.find(v); });
  }
}

template void sample_pdf_range(const SamplePdf<float>&, int64_t, int64_t);
template void sample_pdf_range(const SamplePdf<double>&, int64_t, int64_t);

}  // namespace RECON_SIMD
}  // namespace recon
