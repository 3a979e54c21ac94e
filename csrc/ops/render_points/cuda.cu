// One thread for a pixel. Its nearest points are found some at a time, each round taking those that follow the last one
// taken: one round where K is small, and no memory that grows with K. Forward, they are added to the image as they
// come. Backward, the mode alpha goes through them from the back, so each round is found again by the rounds before it.
// Gradients are added to the points by atomics; in deterministic mode a pixel writes down what it has to add, K entries
// of it, and a block for each point gathers them.
#include <algorithm>

#include "ops/render_points/kernels.h"
#include "raster/cuda_points.h"

namespace recon {

namespace {

template <class T, int K>
struct NearestInLocalMemory : NearestInMemory<T> {
  static constexpr int capacity = K;
  T zs[K];
  int32_t points[K];

  __device__ NearestInLocalMemory() : NearestInMemory<T>(zs, points, K) {}
};

// Calls body(point) for the `most` nearest points of a pixel, front to back. Every thread of the block must take part.
template <class Nearest, class T, class F>
__device__ void for_each_nearest(const CudaPoints<T>& s, const CudaPixel<T>& pixel, int64_t most, const F& body) {
  int64_t left = pixel.in_image ? most : 0;
  T last_z(-1);
  int32_t last = -1;
  while (__syncthreads_or(left > 0)) {
    Nearest nearest;
    for_each_hit(s, pixel, [&](int32_t p, T z) {
      if (left > 0 && (z > last_z || (z == last_z && p > last))) nearest.add(z, p);
    });
    for (int k = 0; k < Nearest::capacity && left > 0; ++k, --left) {
      const int32_t p = nearest[k];
      if (p < 0) {
        left = 0;
        break;
      }
      body(p);
      last_z = s.in.points[3 * int64_t{p} + 2], last = p;
    }
  }
}

// A point at a pixel.
template <class T>
struct PointAtPixel {
  T dx, dy, inverse, q;
  Opacity<T> opacity;

  __device__ PointAtPixel(const PointsInput<T>& in, const PointImage<T>& s, int64_t p, T px, T py)
      : dx(in.points[3 * p] - px),
        dy(in.points[3 * p + 1] - py),
        inverse(T(1) / s.scale[p]),
        q((dx * dx + dy * dy) * inverse),
        opacity(recon::opacity(s, q)) {}
};

template <class T, class Nearest>
__global__ void render_points_kernel(CudaPoints<T> s, PointImage<T> image) {
  const CudaPixel<T> pixel(s.scene);
  const int64_t at = pixel.in_image ? pixel.index(s.scene) : 0, C = image.C;
  const bool is_alpha = image.mode == Compositing::alpha;
  T* out = image.image + at * C;
  T carried = is_alpha ? T(1) : T(0);
  bool covered = false;
  for (int64_t c = 0; pixel.in_image && c < C; ++c) out[c] = T(0);
  for_each_nearest<Nearest>(s, pixel, image.K, [&](int32_t p) {
    const T alpha = PointAtPixel<T>(s.in, image, p, pixel.px, pixel.py).opacity.alpha;
    const T weight = is_alpha ? carried * alpha : alpha, *feature = image.features + p * C;
    for (int64_t c = 0; c < C; ++c) out[c] += weight * feature[c];
    carried = is_alpha ? carried * (T(1) - alpha) : carried + alpha;
    covered = true;
  });
  if (!pixel.in_image) return;
  image.covered[at] = covered;
  if (image.mode != Compositing::norm_weighted) return;
  const T scale = inverse_sum<T>(carried);
  for (int64_t c = 0; c < C; ++c) out[c] *= scale;
}

// Calls add(k, point, gradient of its q, its weight) for the points of a pixel; k counts from the front.
template <class Nearest, class T, class Add>
__device__ void differentiate_pixel(const CudaPoints<T>& s, const CudaPixel<T>& pixel, const PointImage<T>& image,
                                    int64_t at, const Add& add) {
  const T* grad = image.grad_image + at * image.C;
  const auto met = [&](int32_t p) { return PointAtPixel<T>(s.in, image, p, pixel.px, pixel.py).opacity; };
  const auto g_of = [&](int32_t p) {
    T sum(0);
    for (int64_t c = 0; image.wants_opacity() && c < image.C; ++c) sum += grad[c] * image.features[p * image.C + c];
    return sum;
  };
  if (image.mode != Compositing::alpha) {
    T scale(1), behind(0);
    if (image.mode == Compositing::norm_weighted) {
      T total(0);
      for_each_nearest<Nearest>(s, pixel, image.K, [&](int32_t p) {
        const T alpha = met(p).alpha;
        total += alpha, behind += alpha * g_of(p);
      });
      scale = inverse_sum<T>(total);
      behind = total < least_sum<T> ? T(0) : behind * scale;
    }
    int64_t k = 0;
    for_each_nearest<Nearest>(s, pixel, image.K, [&](int32_t p) {
      const Opacity<T> o = met(p);
      add(k++, p, scale * (g_of(p) - behind) * o.slope, scale * o.alpha);
    });
    return;
  }
  constexpr int capacity = Nearest::capacity;
  int64_t hits = pixel.in_image ? image.K : 0;
  if (image.K > capacity) {
    hits = 0;
    for_each_nearest<Nearest>(s, pixel, image.K, [&](int32_t) { ++hits; });
  }
  T behind(0);
  for (int64_t round = (hits + capacity - 1) / capacity - 1; __syncthreads_or(round >= 0); --round) {
    const int64_t end = (round + 1) * capacity < hits ? (round + 1) * capacity : hits;
    int32_t points[capacity];
    T before[capacity], carried(1);
    int64_t k = 0;
    for_each_nearest<Nearest>(s, pixel, end, [&](int32_t p) {
      points[k % capacity] = p, before[k % capacity] = carried;
      carried *= T(1) - met(p).alpha;
      ++k;
    });
    while (round >= 0 && k > round * capacity) {
      --k;
      const int32_t p = points[k % capacity];
      const T g = g_of(p), scale = before[k % capacity];
      const Opacity<T> o = met(p);
      add(k, p, scale * (g - behind) * o.slope, scale * o.alpha);
      behind = behind_next<T>(o.alpha, g, behind);
    }
  }
}

template <class T, class Nearest>
__global__ void render_points_backward_kernel(CudaPoints<T> s, PointImage<T> image) {
  const CudaPixel<T> pixel(s.scene);
  const int64_t at = pixel.in_image ? pixel.index(s.scene) : 0;
  const T* grad = image.grad_image + at * image.C;
  differentiate_pixel<Nearest>(s, pixel, image, at, [&](int64_t, int32_t p, T grad_q, T weight) {
    const PointAtPixel<T> met(s.in, image, p, pixel.px, pixel.py);
    const T g = met.inverse * grad_q;
    if (image.grad_points) {
      atomic_add(image.grad_points + 3 * int64_t{p}, T(2) * g * met.dx);
      atomic_add(image.grad_points + 3 * int64_t{p} + 1, T(2) * g * met.dy);
    }
    if (image.grad_scale) atomic_add(image.grad_scale + p, -g * met.q);
    for (int64_t c = 0; image.grad_features && c < image.C; ++c)
      atomic_add(image.grad_features + p * image.C + c, weight * grad[c]);
  });
}

// What the pixels have to add: K entries each, and the point -1 behind the last.
template <class T>
struct Entries {
  int32_t* point;
  T *grad_q, *weight;
};

template <class T, class Nearest>
__global__ void write_entries_kernel(CudaPoints<T> s, PointImage<T> image, Entries<T> entries) {
  const CudaPixel<T> pixel(s.scene);
  const int64_t at = pixel.in_image ? pixel.index(s.scene) : 0;
  for (int64_t k = 0; pixel.in_image && k < image.K; ++k) entries.point[at * image.K + k] = -1;
  differentiate_pixel<Nearest>(s, pixel, image, at, [&](int64_t k, int32_t p, T grad_q, T weight) {
    const int64_t e = at * image.K + k;
    entries.point[e] = p, entries.grad_q[e] = grad_q, entries.weight[e] = weight;
  });
}

// One block for a point, which alone adds to it.
template <class T>
__global__ void gather_entries_kernel(CudaPoints<T> s, PointImage<T> image, Entries<T> entries) {
  constexpr int together = 8;  // channels
  const PointsInput<T>& in = s.in;
  const int64_t p = blockIdx.x, C = image.C;
  const PixelBox box = s.scene.boxes[p];
  const int64_t across = box.i1 - box.i0 + 1, pixels = across > 0 ? across * (box.j1 - box.j0 + 1) : 0;
  // Calls body(pixel of the images, entry, centre) for the entries of the point.
  const auto for_each_entry = [&](const auto& body) {
    for (int64_t n = 0; n < in.N; ++n) {
      if (p < in.first[n] || p >= in.first[n] + in.count[n]) continue;
      for (int64_t i = threadIdx.x; i < pixels; i += blockDim.x) {
        const int64_t row = box.j0 + i / across, column = box.i0 + i % across, at = (n * in.H + row) * in.W + column;
        for (int64_t e = at * image.K; e < (at + 1) * image.K && entries.point[e] >= 0; ++e)
          if (entries.point[e] == p)
            body(at, e, pixel_center<T>(in.W - 1 - column, in.W, in.H), pixel_center<T>(in.H - 1 - row, in.H, in.W));
      }
    }
  };
  T sums[3] = {};
  for_each_entry([&](int64_t, int64_t e, T px, T py) {
    const PointAtPixel<T> met(in, image, p, px, py);
    const T g = met.inverse * entries.grad_q[e];
    sums[0] += T(2) * g * met.dx, sums[1] += T(2) * g * met.dy, sums[2] -= g * met.q;
  });
  block_sum(sums);
  if (threadIdx.x == 0 && image.grad_points)
    image.grad_points[3 * p] += sums[0], image.grad_points[3 * p + 1] += sums[1];
  if (threadIdx.x == 0 && image.grad_scale) image.grad_scale[p] += sums[2];
  for (int64_t c = 0; image.grad_features && c < C; c += together) {
    T parts[together] = {};
    for_each_entry([&](int64_t at, int64_t e, T, T) {
      for (int i = 0; i < together && c + i < C; ++i) parts[i] += entries.weight[e] * image.grad_image[at * C + c + i];
    });
    block_sum(parts);
    for (int i = 0; threadIdx.x == 0 && i < together && c + i < C; ++i) image.grad_features[p * C + c + i] += parts[i];
  }
}

template <class Nearest>
struct KernelsWith {
  template <class T>
  static void forward(const CudaPointsMemory<T>& memory, const PointImage<T>& s, unsigned tiles, const Device& device) {
    launch(render_points_kernel<T, Nearest>, tiles, cuda_threads, device, memory.points, s);
  }
  template <class T>
  static void backward(const CudaPointsMemory<T>& memory, const PointImage<T>& s, unsigned tiles,
                       const Device& device) {
    if (!deterministic())
      return launch(render_points_backward_kernel<T, Nearest>, tiles, cuda_threads, device, memory.points, s);
    const PointsInput<T>& in = memory.points.in;
    const int64_t size = in.N * in.H * in.W * s.K;
    const Scratch<int32_t> point(size, device);
    const Scratch<T> grad_q(size, device), weight(size, device);
    const Entries<T> entries = {point.data(), grad_q.data(), weight.data()};
    launch(write_entries_kernel<T, Nearest>, tiles, cuda_threads, device, memory.points, s, entries);
    launch(gather_entries_kernel<T>, static_cast<unsigned>(in.P), 128, device, memory.points, s, entries);
  }
};

// Calls run(kernels) with those that hold K points in registers, or some at a time in local memory.
template <class T, class F>
void with_kernels(int64_t K, const F& run) {
  if (K > 16)
    run(KernelsWith<NearestInLocalMemory<T, 64>>());
  else if (K > 8)
    run(KernelsWith<NearestInRegisters<T, 16>>());
  else if (K > 4)
    run(KernelsWith<NearestInRegisters<T, 8>>());
  else if (K > 1)
    run(KernelsWith<NearestInRegisters<T, 4>>());
  else
    run(KernelsWith<NearestInRegisters<T, 1>>());
}

}  // namespace

template <class T>
void render_points_cuda(const PointsInput<T>& in, const PointImage<T>& s, const Device& device) {
  const CudaPointsMemory<T> memory(in, device, true);
  const auto tiles = static_cast<unsigned>(memory.points.scene.num_tiles());
  if (tiles == 0) return;
  with_kernels<T>(s.K, [&](auto kernels) { kernels.forward(memory, s, tiles, device); });
}

template <class T>
void render_points_backward_cuda(const PointsInput<T>& in, const PointImage<T>& s, const Device& device) {
  const CudaPointsMemory<T> memory(in, device, true);
  const auto tiles = static_cast<unsigned>(memory.points.scene.num_tiles());
  if (tiles == 0 || in.P == 0) return;
  with_kernels<T>(s.K, [&](auto kernels) { kernels.backward(memory, s, tiles, device); });
}

template void render_points_cuda(const PointsInput<float>&, const PointImage<float>&, const Device&);
template void render_points_cuda(const PointsInput<double>&, const PointImage<double>&, const Device&);
template void render_points_backward_cuda(const PointsInput<float>&, const PointImage<float>&, const Device&);
template void render_points_backward_cuda(const PointsInput<double>&, const PointImage<double>&, const Device&);

}  // namespace recon
