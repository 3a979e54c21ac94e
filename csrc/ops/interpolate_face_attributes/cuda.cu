// Forward: a thread for each number that is written. Backward: a warp goes through the slots of 8 x 4 pixels; lanes
// that show the same face add up before one of them adds to its attributes. In deterministic mode a block gathers all
// slots of a face instead, from the box of pixels that show it.
#include "core/parallel.h"
#include "core/scratch.h"
#include "ops/interpolate_face_attributes/kernels.h"

namespace recon {

namespace {

constexpr int threads = 128;

template <class T>
struct InterpolateValue {
  FaceInterpolation<T> in;
  T* values;

  RECON_HD void operator()(int64_t i) const {
    const int64_t slot = i / in.D, d = i - slot * in.D, f = in.pix_to_face[slot];
    T value = f < 0 ? T(0) : T(NAN);
    if (f >= 0 && f < in.F) {
      const T *a = in.attributes + f * 3 * in.D + d, *b = in.bary + 3 * slot;
      value = b[0] * a[0] + b[1] * a[in.D] + b[2] * a[2 * in.D];
    }
    values[i] = value;
  }
};

// The first slot of the pixel that a lane has in the patch of 8 x 4 pixels of its warp, or -1 outside the image.
template <class T>
__device__ int64_t first_slot(const FaceInterpolation<T>& in, int64_t patch) {
  const int lane = threadIdx.x % 32;
  const int64_t across = (in.W + 7) / 8, down = (in.H + 3) / 4, in_image = patch % (across * down);
  const int64_t n = patch / (across * down);
  const int64_t column = in_image % across * 8 + lane % 8, row = in_image / across * 4 + lane / 8;
  return n < in.N && column < in.W && row < in.H ? ((n * in.H + row) * in.W + column) * in.K : -1;
}

template <class T>
__device__ void bary_gradient(const FaceInterpolation<T>& in, const FaceInterpolationGrads<T>& g, int64_t slot,
                              int64_t f) {
  T sums[3] = {T(0), T(0), T(0)};
  const T *a = in.attributes + f * 3 * in.D, *values = g.grad_values + slot * in.D;
  for (int64_t d = 0; f >= 0 && d < in.D; ++d)
    for (int k = 0; k < 3; ++k) sums[k] += values[d] * a[k * in.D + d];
  for (int k = 0; k < 3; ++k) g.grad_bary[3 * slot + k] = sums[k];
}

template <class T>
__global__ void backward_kernel(FaceInterpolation<T> in, FaceInterpolationGrads<T> g, bool add, int64_t patches) {
  const int64_t patch = (blockIdx.x * int64_t(threads) + threadIdx.x) / 32;
  if (patch >= patches) return;  // the same for all lanes of a warp
  const int64_t first = first_slot(in, patch);
  for (int64_t k = 0; k < in.K; ++k) {
    const int64_t slot = first + k;
    int64_t f = first >= 0 ? in.pix_to_face[slot] : -1;
    if (f >= in.F) f = -1;
    if (first >= 0 && g.grad_bary) bary_gradient(in, g, slot, f);
    const unsigned active = __ballot_sync(~0u, f >= 0);
    if (!add || f < 0) continue;
    const unsigned peers = __match_any_sync(active, f);
    const bool leads = static_cast<int>(threadIdx.x % 32) == __ffs(peers) - 1;
    const T bary[3] = {in.bary[3 * slot], in.bary[3 * slot + 1], in.bary[3 * slot + 2]};
    for (int64_t d = 0; d < in.D; ++d) {
      const T value = g.grad_values[slot * in.D + d];
      for (int c = 0; c < 3; ++c) {
        const T term = bary[c] * value;
        T total(0);
        for (unsigned rest = peers; rest; rest &= rest - 1) total += __shfl_sync(peers, term, __ffs(rest) - 1);
        if (leads) atomic_add(g.grad_attributes + (f * 3 + c) * in.D + d, total);
      }
    }
  }
}

// Where a face is shown: the least and the greatest image, row and column.
struct ShownBox {
  int low[3], high[3];
};

struct EmptyBox {
  ShownBox* boxes;
  RECON_HD void operator()(int64_t f) const {
    for (int d = 0; d < 3; ++d) boxes[f].low[d] = 0x7fffffff, boxes[f].high[d] = -1;
  }
};

template <class T>
__global__ void box_kernel(FaceInterpolation<T> in, ShownBox* boxes) {
  for (int64_t slot = blockIdx.x * int64_t(threads) + threadIdx.x; slot < in.S; slot += int64_t(gridDim.x) * threads) {
    const int64_t f = in.pix_to_face[slot], pixel = slot / in.K;
    if (f < 0 || f >= in.F) continue;
    const int at[3] = {static_cast<int>(pixel / in.W / in.H), static_cast<int>(pixel / in.W % in.H),
                       static_cast<int>(pixel % in.W)};
    for (int d = 0; d < 3; ++d) atomicMin(&boxes[f].low[d], at[d]), atomicMax(&boxes[f].high[d], at[d]);
  }
}

// One block for a face: every thread sums some pixels in order, then the threads are summed in order.
template <class T>
__global__ void ordered_kernel(FaceInterpolation<T> in, FaceInterpolationGrads<T> g, const ShownBox* boxes) {
  constexpr int channels = 4;  // that go through the pixels together
  __shared__ T part[threads][3 * channels];
  const int64_t f = blockIdx.x;
  const ShownBox box = boxes[f];
  int64_t size[3];
  for (int d = 0; d < 3; ++d) size[d] = box.high[d] < box.low[d] ? 0 : int64_t(box.high[d]) - box.low[d] + 1;
  const int64_t pixels = size[0] * size[1] * size[2];
  for (int64_t d0 = 0; pixels > 0 && d0 < in.D; d0 += channels) {
    const int n = static_cast<int>(in.D - d0 < channels ? in.D - d0 : channels);
    T sums[3 * channels] = {};
    for (int64_t p = threadIdx.x; p < pixels; p += threads) {
      const int64_t image = box.low[0] + p / (size[1] * size[2]), row = box.low[1] + p / size[2] % size[1],
                    column = box.low[2] + p % size[2];
      const int64_t first = ((image * in.H + row) * in.W + column) * in.K;
      for (int64_t slot = first; slot < first + in.K; ++slot) {
        if (in.pix_to_face[slot] != f) continue;
        for (int d = 0; d < channels; ++d)
          for (int c = 0; d < n && c < 3; ++c)
            sums[3 * d + c] += in.bary[3 * slot + c] * g.grad_values[slot * in.D + d0 + d];
      }
    }
    for (int i = 0; i < 3 * channels; ++i) part[threadIdx.x][i] = sums[i];
    for (int width = threads / 2; width > 0; width /= 2) {
      __syncthreads();
      if (static_cast<int>(threadIdx.x) < width)
        for (int i = 0; i < 3 * channels; ++i) part[threadIdx.x][i] += part[threadIdx.x + width][i];
    }
    if (threadIdx.x == 0)
      for (int i = 0; i < 3 * n; ++i) g.grad_attributes[(f * 3 + i % 3) * in.D + d0 + i / 3] = part[0][i];
    __syncthreads();
  }
}

template <class T>
void add_in_order(const FaceInterpolation<T>& in, const FaceInterpolationGrads<T>& g, const Device& device) {
  const Scratch<ShownBox> boxes(in.F, device);
  parallel_for(device, in.F, EmptyBox{boxes.data()});
  const auto blocks = static_cast<unsigned>(std::min<int64_t>((in.S + threads - 1) / threads, 65535));
  launch(box_kernel<T>, blocks, threads, device, in, boxes.data());
  launch(ordered_kernel<T>, static_cast<unsigned>(in.F), threads, device, in, g, boxes.data());
}

}  // namespace

template <class T>
void interpolate_face_attributes_cuda(const FaceInterpolation<T>& in, T* values, const Device& device) {
  parallel_for(device, in.S * in.D, InterpolateValue<T>{in, values});
}

template <class T>
void interpolate_face_attributes_backward_cuda(const FaceInterpolation<T>& in, const FaceInterpolationGrads<T>& g,
                                               const Device& device) {
  const bool sum = g.grad_attributes && in.F * in.D > 0, ordered = sum && deterministic();
  if (sum) {
    const DeviceGuard guard(device);
    cudaMemsetAsync(g.grad_attributes, 0, in.F * 3 * in.D * sizeof(T), stream_of(device));
  }
  if (in.S == 0) return;
  if (g.grad_bary || (sum && !ordered)) {
    const int64_t patches = in.N * ((in.H + 3) / 4) * ((in.W + 7) / 8);
    const auto blocks = static_cast<unsigned>((patches * 32 + threads - 1) / threads);
    launch(backward_kernel<T>, blocks, threads, device, in, g, sum && !ordered, patches);
  }
  if (ordered) add_in_order(in, g, device);
}

template void interpolate_face_attributes_cuda(const FaceInterpolation<float>&, float*, const Device&);
template void interpolate_face_attributes_cuda(const FaceInterpolation<double>&, double*, const Device&);
template void interpolate_face_attributes_backward_cuda(const FaceInterpolation<float>&,
                                                        const FaceInterpolationGrads<float>&, const Device&);
template void interpolate_face_attributes_backward_cuda(const FaceInterpolation<double>&,
                                                        const FaceInterpolationGrads<double>&, const Device&);

}  // namespace recon
