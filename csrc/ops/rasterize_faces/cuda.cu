// Forward: a thread keeps the keys (z, face) of its K nearest hits, in registers for small K, in local memory for
// larger ones and in the outputs themselves for any other, and writes their details at the end. Backward: lanes of a
// warp that hit the same face add up before one of them adds to the vertices; in deterministic mode a block gathers all
// pixels of a face instead.
#include "ops/rasterize_faces/kernels.h"
#include "raster/cuda.h"

namespace recon {

namespace {

// The keys of the nearest hits so far, ascending, in registers: every index is known to the compiler.
template <class T, int K>
struct KeysInRegisters {
  static constexpr bool can_remove = false;
  T z[K];
  int32_t face[K];

  __device__ KeysInRegisters() {
#pragma unroll
    for (int k = 0; k < K; ++k) z[k] = T(INFINITY), face[k] = -1;
  }
  // The depth that the next hit must stay below.
  __device__ T limit() const { return z[K - 1]; }
  __device__ int32_t operator[](int64_t k) const {
    int32_t found = -1;
#pragma unroll
    for (int i = 0; i < K; ++i)
      if (i == k) found = face[i];
    return found;
  }
  __device__ void add(T depth, int32_t f) {
    bool found = false;  // its place: from there on, each key moves to the next one
#pragma unroll
    for (int k = 0; k < K; ++k) {
      found = found || depth < z[k] || face[k] < 0;
      const T next_z = found ? z[k] : depth;
      const int32_t next_face = found ? face[k] : f;
      z[k] = found ? depth : z[k], face[k] = found ? f : face[k];
      depth = next_z, f = next_face;
    }
  }
};

// The same in any memory, for any K.
template <class T, class I>
struct KeysInMemory {
  static constexpr bool can_remove = true;
  T* z;
  I* face;
  int64_t K, n = 0;

  __device__ KeysInMemory(T* z, I* face, int64_t K) : z(z), face(face), K(K) {}

  __device__ T limit() const { return n < K ? T(INFINITY) : z[K - 1]; }
  __device__ int32_t operator[](int64_t k) const { return k < n ? static_cast<int32_t>(face[k]) : -1; }
  __device__ void add(T depth, int32_t f) {
    if (n == K && !(depth < z[K - 1])) return;
    int64_t k = n < K ? n++ : K - 1;
    for (; k > 0 && depth < z[k - 1]; --k) z[k] = z[k - 1], face[k] = face[k - 1];
    z[k] = depth, face[k] = f;
  }
  __device__ void remove(int64_t k) {
    for (--n; k < n; ++k) z[k] = z[k + 1], face[k] = face[k + 1];
  }
};

template <class T, class Keys>
__device__ void rasterize_pixel(const CudaScene<T>& s, const CudaPixel<T>& pixel, const Fragments<T>& out,
                                Keys nearest) {
  const RasterInput<T>& in = s.in;
  const auto evaluate = [&](int64_t f, FaceAtPixel<T>& at) {
    return face_at_pixel(s.faces[f], pixel.px, pixel.py, in.blur_radius, in.perspective, in.clip, at);
  };
  const auto add = [&](int32_t f) {
    FaceAtPixel<T> at, other;
    if (!evaluate(f, at)) return;
    if constexpr (Keys::can_remove) {
      const int64_t neighbor = in.neighbors ? in.neighbors[f] : -1;
      if (neighbor >= 0)  // the two halves of a clipped face count once: the one closer to the pixel
        for (int64_t k = 0; k < nearest.n; ++k)
          if (nearest.face[k] == neighbor) {
            evaluate(neighbor, other);
            if (!(fabs(at.dist) < fabs(other.dist))) return;
            nearest.remove(k);
            break;
          }
    }
    nearest.add(at.z, f);
  };
  // A deeper half may still take the place of the other.
  for_each_face(s, pixel, add, [&] { return in.neighbors ? T(INFINITY) : nearest.limit(); });
  if (!pixel.in_image) return;
  const int64_t first = pixel.index(s) * out.K;
  for (int64_t k = 0; k < out.K; ++k) {
    const int64_t at = first + k, f = nearest[k];
    FaceAtPixel<T> hit = {T(-1), T(-1), {T(-1), T(-1), T(-1)}};
    if (f >= 0) evaluate(f, hit);
    out.pix_to_face[at] = f, out.zbuf[at] = hit.z, out.dists[at] = hit.dist;
    out.bary[3 * at] = hit.weights.a, out.bary[3 * at + 1] = hit.weights.b, out.bary[3 * at + 2] = hit.weights.c;
  }
}

template <class T, int K>
__global__ void rasterize_in_registers_kernel(CudaScene<T> s, Fragments<T> out) {
  rasterize_pixel(s, CudaPixel<T>(s), out, KeysInRegisters<T, K>());
}

constexpr int local_keys = 64;

template <class T>
__global__ void rasterize_in_local_memory_kernel(CudaScene<T> s, Fragments<T> out) {
  T z[local_keys];
  int32_t face[local_keys];
  rasterize_pixel(s, CudaPixel<T>(s), out, KeysInMemory<T, int32_t>(z, face, out.K));
}

template <class T>
__global__ void rasterize_in_outputs_kernel(CudaScene<T> s, Fragments<T> out) {
  const CudaPixel<T> pixel(s);
  const int64_t first = pixel.in_image ? pixel.index(s) * out.K : 0;
  rasterize_pixel(s, pixel, out, KeysInMemory<T, int64_t>(out.zbuf + first, out.pix_to_face + first, out.K));
}

template <class T>
__device__ void hit_vjp(const RasterInput<T>& in, const FragmentGrads<T>& g, int64_t at, int64_t f, T px, T py,
                        T* grad) {
  T x[3], y[3], z[3];
  for (int c = 0; c < 3; ++c) {
    const T* v = in.verts + 3 * in.faces[3 * f + c];
    x[c] = v[0], y[c] = v[1], z[c] = v[2];
  }
  const Triple<T> grad_bary = {g.grad_bary[3 * at], g.grad_bary[3 * at + 1], g.grad_bary[3 * at + 2]};
  raster_vjp<T>(px, py, x, y, z, in.perspective, in.clip, g.grad_zbuf[at], grad_bary, g.grad_dists[at], grad);
}

template <class T>
__device__ void add_to_verts(const RasterInput<T>& in, int64_t f, const T* grad, T* grad_verts) {
  for (int c = 0; c < 3; ++c)
    for (int d = 0; d < 3; ++d) atomic_add(grad_verts + 3 * in.faces[3 * f + c] + d, grad[3 * c + d]);
}

template <class T>
__device__ bool any_grad(const FragmentGrads<T>& g, int64_t at) {
  const T* bary = g.grad_bary + 3 * at;
  return g.grad_zbuf[at] != T(0) || g.grad_dists[at] != T(0) || bary[0] != T(0) || bary[1] != T(0) || bary[2] != T(0);
}

template <class T>
__global__ void backward_kernel(CudaScene<T> s, FragmentGrads<T> g) {
  const CudaPixel<T> pixel(s);
  const int64_t first = pixel.in_image ? pixel.index(s) * g.K : 0;
  bool more = pixel.in_image;
  for (int64_t k = 0; k < g.K; ++k) {
    const int64_t f = more ? g.pix_to_face[first + k] : -1;
    more = f >= 0;  // hits come first
    if (!__any_sync(whole_warp, more)) break;
    const bool counts = more && f < s.in.F && any_grad(g, first + k);
    const unsigned active = __ballot_sync(whole_warp, counts);
    if (!counts) continue;
    T grad[9];
    hit_vjp(s.in, g, first + k, f, pixel.px, pixel.py, grad);
    const unsigned peers = __match_any_sync(active, f);
    if (peers == whole_warp) {
      warp_sum(grad);
    } else {
      for (int d = 0; d < 9; ++d) {
        T total(0);
        for (unsigned rest = peers; rest; rest &= rest - 1) total += __shfl_sync(peers, grad[d], __ffs(rest) - 1);
        grad[d] = total;
      }
    }
    if (static_cast<int>(threadIdx.x % 32) == __ffs(peers) - 1) add_to_verts(s.in, f, grad, g.grad_verts);
  }
}

// One block for a face; with vertices of its own, the face is the only one to add to them.
template <class T>
__global__ void backward_deterministic_kernel(CudaScene<T> s, FragmentGrads<T> g) {
  const int64_t f = blockIdx.x;
  const PixelBox box = s.boxes[f];
  const int64_t across = box.i1 - box.i0 + 1, pixels = across > 0 ? across * (box.j1 - box.j0 + 1) : 0;
  T sums[9] = {};
  for (int64_t n = 0; n < s.in.N; ++n) {
    if (f < s.in.first[n] || f >= s.in.first[n] + s.in.count[n]) continue;
    for (int64_t p = threadIdx.x; p < pixels; p += blockDim.x) {
      const int64_t row = box.j0 + p / across, column = box.i0 + p % across;
      const int64_t first = ((n * s.in.H + row) * s.in.W + column) * g.K;
      for (int64_t at = first; at < first + g.K && g.pix_to_face[at] >= 0; ++at) {
        if (g.pix_to_face[at] != f) continue;
        T grad[9];
        hit_vjp(s.in, g, at, f, pixel_center<T>(s.in.W - 1 - column, s.in.W, s.in.H),
                pixel_center<T>(s.in.H - 1 - row, s.in.H, s.in.W), grad);
        for (int d = 0; d < 9; ++d) sums[d] += grad[d];
      }
    }
  }
  block_sum(sums);
  if (threadIdx.x == 0 && pixels > 0) add_to_verts(s.in, f, sums, g.grad_verts);
}

}  // namespace

template <class T>
void rasterize_faces_cuda(const RasterInput<T>& in, const Fragments<T>& out, const Device& device) {
  const CudaSceneMemory<T> memory(in, device);
  const auto tiles = static_cast<unsigned>(memory.num_tiles());
  if (tiles == 0) return;
  const auto run = [&](auto kernel) { launch(kernel, tiles, cuda_threads, device, memory.scene, out); };
  if (out.K > local_keys)
    run(rasterize_in_outputs_kernel<T>);
  else if (out.K > 8 || in.neighbors)
    run(rasterize_in_local_memory_kernel<T>);
  else if (out.K > 4)
    run(rasterize_in_registers_kernel<T, 8>);
  else if (out.K > 2)
    run(rasterize_in_registers_kernel<T, 4>);
  else if (out.K == 2)
    run(rasterize_in_registers_kernel<T, 2>);
  else
    run(rasterize_in_registers_kernel<T, 1>);
}

template <class T>
void rasterize_faces_backward_cuda(const RasterInput<T>& in, const FragmentGrads<T>& grads, const Device& device) {
  if (deterministic()) {
    if (in.F == 0) return;
    const CudaSceneMemory<T> memory(in, device, false);
    return launch(backward_deterministic_kernel<T>, static_cast<unsigned>(in.F), 128, device, memory.scene, grads);
  }
  const CudaScene<T> scene(in);
  if (scene.num_tiles() == 0) return;
  launch(backward_kernel<T>, static_cast<unsigned>(scene.num_tiles()), cuda_threads, device, scene, grads);
}

template void rasterize_faces_cuda(const RasterInput<float>&, const Fragments<float>&, const Device&);
template void rasterize_faces_cuda(const RasterInput<double>&, const Fragments<double>&, const Device&);
template void rasterize_faces_backward_cuda(const RasterInput<float>&, const FragmentGrads<float>&, const Device&);
template void rasterize_faces_backward_cuda(const RasterInput<double>&, const FragmentGrads<double>&, const Device&);

}  // namespace recon
