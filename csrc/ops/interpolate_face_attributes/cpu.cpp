// Forward: ranges of slots, a chunk of them at a time, of which empty ones are passed over.
// Backward: the slots that show a face are sorted by it, by counting; blocks of equally many sorted slots then sum the
// gradients of each face in order. Sums of a face that goes on in other blocks are put together at the end: the order
// depends on neither the number of threads nor the instruction set.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "core/scratch.h"
#include "ops/interpolate_face_attributes/kernels.h"

namespace recon {
namespace RECON_SIMD {

namespace {

constexpr Device cpu;
constexpr int64_t chunk = 32;           // slots whose emptiness is a word of bits
constexpr int64_t block = 2048;         // sorted slots that are summed together
constexpr int64_t fewest_slots = 8192;  // that are worth another thread

// D as a constant where it is small, so that loops over it unroll; otherwise as it is.
template <int fixed>
struct Channels {
  int64_t D;
  operator int64_t() const { return fixed ? fixed : D; }
};

template <class F>
void with_channels(int64_t D, const F& f) {
  if (D == 1) return f(Channels<1>{D});
  if (D == 2) return f(Channels<2>{D});
  if (D == 3) return f(Channels<3>{D});
  if (D == 6) return f(Channels<6>{D});
  f(Channels<0>{D});
}

template <class T>
int64_t face_at(const FaceInterpolation<T>& in, int64_t slot) {
  const int64_t f = in.pix_to_face[slot];
  if (f >= in.F)
    throw std::invalid_argument("pix_to_face has index " + std::to_string(f) + " but face_attributes has " +
                                std::to_string(in.F) + " faces");
  return f;
}

// Calls empty(slot, count) for runs of slots without a face and shown(slot, face) for the others, in ascending order.
template <class T, class Empty, class Shown>
void for_each_slot(const FaceInterpolation<T>& in, int64_t begin, int64_t end, const Empty& empty, const Shown& shown) {
  for (int64_t at = begin; at < end; at += chunk) {
    const int n = static_cast<int>(std::min(chunk, end - at));
    uint32_t faces = non_negative(in.pix_to_face + at, n);
    int next = 0;
    for (; faces; faces &= faces - 1) {
      const int i = __builtin_ctz(faces);
      if (i > next) empty(at + next, i - next);
      shown(at + i, face_at(in, at + i));
      next = i + 1;
    }
    if (next < n) empty(at + next, n - next);
  }
}

template <class T, class C>
void interpolate(const T* bary, const T* a, C D, T* out) {
  const T b0 = bary[0], b1 = bary[1], b2 = bary[2];
  for (int64_t d = 0; d < D; ++d) out[d] = b0 * a[d] + b1 * a[D + d] + b2 * a[2 * D + d];
}

template <class T, class C>
void bary_gradient(const T* g, const T* a, C D, T* out) {
  T sums[3] = {};
  int64_t d = 0;
  using V = Pack<T>;
  if (D >= V::lanes) {
    V wide[3] = {T(0), T(0), T(0)};
    for (; d + V::lanes <= D; d += V::lanes)
      for (int i = 0; i < 3; ++i) wide[i] += V::load(g + d) * V::load(a + i * D + d);
    for (int i = 0; i < 3; ++i) sums[i] = sum(wide[i]);
  }
  for (; d < D; ++d)
    for (int i = 0; i < 3; ++i) sums[i] += g[d] * a[i * D + d];
  for (int i = 0; i < 3; ++i) out[i] = sums[i];
}

template <class T>
void set_zero(T* data, int64_t n) {
  if (n > 0) std::memset(data, 0, n * sizeof(T));
}

// The slots that show a face, sorted by (face, slot).
template <class T>
class SlotsByFace {
  const FaceInterpolation<T>& in_;
  const int64_t parts_;      // of the slots, each sorted by one thread; counting one means going through all faces
  Scratch<int64_t> places_;  // for each part and face: where its next slot goes

 public:
  explicit SlotsByFace(const FaceInterpolation<T>& in)
      : in_(in),
        parts_(std::min<int64_t>(num_threads(), 1 + in.S / (4 * in.F + fewest_slots))),
        places_(parts_ * in.F, cpu),
        slots(0, cpu),
        ends(places_.data() + (parts_ - 1) * in.F) {
    for_each_part([&](int64_t* places, int64_t begin, int64_t end) {
      std::fill(places, places + in.F, 0);
      for_each_slot(in, begin, end, [](int64_t, int) {}, [&](int64_t, int64_t f) { ++places[f]; });
    });
    int64_t size = 0;
    for (int64_t f = 0; f < in.F; ++f)
      for (int64_t part = 0; part < parts_; ++part) {
        int64_t& place = places_[part * in.F + f];
        const int64_t count = place;
        place = size, size += count;
      }
    slots.resize(size);
    for_each_part([&](int64_t* places, int64_t begin, int64_t end) {
      for_each_slot(in, begin, end, [](int64_t, int) {}, [&](int64_t s, int64_t f) { slots[places[f]++] = s; });
    });
  }

  Scratch<int64_t> slots;
  const int64_t* const ends;  // of each face in `slots`

 private:
  template <class F>
  void for_each_part(const F& body) const {
    for_each_task(parts_, [&](int64_t part, int) {
      body(places_.data() + part * in_.F, in_.S * part / parts_, in_.S * (part + 1) / parts_);
    });
  }
};

// Adds bary_k grad_value of some slots to out (3 D).
template <class T, class C>
void add_slots(const FaceInterpolation<T>& in, const T* grad_values, const int64_t* slots, int64_t count, C D,
               T* __restrict out) {
  for (int64_t i = 0; i < count; ++i) {
    const T *g = grad_values + slots[i] * D, *bary = in.bary + 3 * slots[i];
    for (int k = 0; k < 3; ++k)
      for (int64_t d = 0; d < D; ++d) out[k * D + d] += bary[k] * g[d];
  }
}

template <class T, class C>
void sum_by_face(const FaceInterpolation<T>& in, const FaceInterpolationGrads<T>& g, C D) {
  const int64_t width = 3 * D;
  for_each_range(in.F, 1 + fewest_slots / (width + 1), [&](int64_t begin, int64_t end) {
    set_zero(g.grad_attributes + begin * width, (end - begin) * width);
  });
  const SlotsByFace<T> sorted(in);
  const int64_t size = sorted.slots.size(), blocks = (size + block - 1) / block;
  // A block's first and its last face may go on in other blocks: what it has of them waits here.
  const Scratch<T> sums(2 * blocks * width, cpu);
  std::vector<int64_t> faces(2 * blocks, -1);
  for_each_task(blocks, [&](int64_t b, int) {
    int64_t i = b * block;
    const int64_t end = std::min(i + block, size);
    for (int64_t f = std::upper_bound(sorted.ends, sorted.ends + in.F, i) - sorted.ends; i < end; ++f) {
      const int64_t stop = std::min(sorted.ends[f], end);
      if (stop == i) continue;
      T* out = g.grad_attributes + f * width;
      const bool went_on = (f > 0 ? sorted.ends[f - 1] : 0)<i, goes_on = sorted.ends[f]> end;
      if (went_on || goes_on) {
        const int64_t place = 2 * b + (went_on ? 0 : 1);
        faces[place] = f;
        set_zero(out = sums.data() + place * width, width);
      }
      add_slots(in, g.grad_values, sorted.slots.data() + i, stop - i, D, out);
      i = stop;
    }
  });
  for (int64_t place = 0; place < 2 * blocks; ++place)
    for (int64_t d = 0; faces[place] >= 0 && d < width; ++d)
      g.grad_attributes[faces[place] * width + d] += sums[place * width + d];
}

}  // namespace

template <class T>
void interpolate_face_attributes_cpu(const FaceInterpolation<T>& in, T* values) {
  with_channels(in.D, [&](auto D) {
    for_each_range(in.S, fewest_slots, [&](int64_t begin, int64_t end) {
      for_each_slot(
          in, begin, end, [&](int64_t slot, int count) { set_zero(values + slot * D, count * D); },
          [&](int64_t slot, int64_t f) {
            interpolate(in.bary + 3 * slot, in.attributes + f * 3 * D, D, values + slot * D);
          });
    });
  });
}

template <class T>
void interpolate_face_attributes_backward_cpu(const FaceInterpolation<T>& in, const FaceInterpolationGrads<T>& g) {
  with_channels(in.D, [&](auto D) {
    if (g.grad_bary)
      for_each_range(in.S, fewest_slots, [&](int64_t begin, int64_t end) {
        for_each_slot(
            in, begin, end, [&](int64_t slot, int count) { set_zero(g.grad_bary + 3 * slot, 3 * count); },
            [&](int64_t slot, int64_t f) {
              bary_gradient(g.grad_values + slot * D, in.attributes + f * 3 * D, D, g.grad_bary + 3 * slot);
            });
      });
    if (g.grad_attributes) sum_by_face(in, g, D);
  });
}

template void interpolate_face_attributes_cpu(const FaceInterpolation<float>&, float*);
template void interpolate_face_attributes_cpu(const FaceInterpolation<double>&, double*);
template void interpolate_face_attributes_backward_cpu(const FaceInterpolation<float>&,
                                                       const FaceInterpolationGrads<float>&);
template void interpolate_face_attributes_backward_cpu(const FaceInterpolation<double>&,
                                                       const FaceInterpolationGrads<double>&);

}  // namespace RECON_SIMD
}  // namespace recon
