// Forward: a thread multiplies up the faces of its pixel; where a pixel is crowded, its nearest K are found some at a
// time, each round taking those that follow the last one taken. Backward: the hits are found again, and a warp adds up
// what its pixels make of a face before one lane adds it to the vertices; in deterministic mode a block gathers the
// pixels of one face instead, so that nothing is added twice to a vertex by the same face.
#include "math/blend.h"
#include "ops/soft_silhouette/kernels.h"
#include "raster/cuda.h"

namespace recon {

namespace {

constexpr int round_size = 16;

template <class T>
__global__ void silhouette_kernel(CudaScene<T> s, Silhouette<T> image) {
  const CudaPixel<T> pixel(s);
  const RasterInput<T>& in = s.in;
  const auto evaluate = [&](int32_t f, FaceAtPixel<T>& at) {
    return face_at_pixel(s.faces[f], pixel.px, pixel.py, in.blur_radius, in.perspective, in.clip, at);
  };
  T clear(1);
  int64_t hits = 0;
  for_each_face(s, pixel, [&](int32_t f) {
    FaceAtPixel<T> at;
    if (!evaluate(f, at)) return;
    clear *= T(1) - coverage(at.dist, image.sigma);
    ++hits;
  });

  int32_t last_face = -1;
  int64_t left = hits > image.K ? image.K : 0;
  T last_z = T(-1);
  if (left > 0) clear = T(1);
  while (__syncthreads_or(left > 0)) {
    T z[round_size] = {}, dist[round_size] = {};
    int32_t face[round_size] = {};
    int n = 0;
    const auto add = [&](int32_t f) {
      FaceAtPixel<T> at;
      if (!evaluate(f, at)) return;
      if (at.z < last_z || (at.z == last_z && f <= last_face)) return;
      if (n == round_size && !(at.z < z[n - 1])) return;
      int k = n < round_size ? n++ : n - 1;
      for (; k > 0 && at.z < z[k - 1]; --k) z[k] = z[k - 1], dist[k] = dist[k - 1], face[k] = face[k - 1];
      z[k] = at.z, dist[k] = at.dist, face[k] = f;
    };
    for_each_face(s, pixel, add, [&] { return left <= 0 ? T(0) : n < round_size ? T(INFINITY) : z[n - 1]; });
    for (int k = 0; k < n && left > 0; ++k, --left) {
      clear *= T(1) - coverage(dist[k], image.sigma);
      last_z = z[k], last_face = face[k];
    }
  }
  if (!pixel.in_image) return;
  image.clear[pixel.index(s)] = clear;
  image.last_face[pixel.index(s)] = last_face;
}

// What a pixel asks of the faces that hit it: those up to the last one get a share of the gradient.
template <class T>
struct PixelGrad {
  T px, py, scale;
  int32_t last_face;
  T last_z;

  __device__ PixelGrad(const CudaScene<T>& s, const Silhouette<T>& image, int64_t at, T px, T py)
      : px(px),
        py(py),
        scale(image.grad_clear[at] * clear_dist_gradient(image.clear[at], T(1), image.sigma)),
        last_face(image.last_face[at]),
        last_z(0) {
    if (scale == T(0) || last_face < 0) return;
    FaceAtPixel<T> last = {};
    face_at_pixel(s.faces[last_face], px, py, s.in.blur_radius, s.in.perspective, s.in.clip, last);
    last_z = last.z;
  }

  // Adds the gradient in x and y of the corners of face f; returns whether there is any.
  __device__ bool add(const CudaScene<T>& s, int64_t f, T sigma, T (&grad)[6]) const {
    const RasterFace<T> face = s.faces[f];
    FaceAtPixel<T> hit = {};
    if (!face_at_pixel(face, px, py, s.in.blur_radius, s.in.perspective, s.in.clip, hit)) return false;
    if (last_face >= 0 && (hit.z > last_z || (hit.z == last_z && f > last_face))) return false;
    const T x[3] = {face.x0, face.x1, face.x2}, y[3] = {face.y0, face.y1, face.y2};
    const T g = scale * coverage(hit.dist, sigma) * (hit.dist < T(0) ? T(-1) : T(1));
    T gx[3], gy[3];
    nearest_edge_vjp<T>(px, py, x, y, face.sq01, face.sq02, face.sq12, g, gx, gy);
    for (int c = 0; c < 3; ++c) grad[2 * c] += gx[c], grad[2 * c + 1] += gy[c];
    return true;
  }
};

template <class T>
__device__ void add_to_verts(const RasterInput<T>& in, int64_t f, const T (&grad)[6], T* grad_verts) {
  for (int c = 0; c < 3; ++c)
    for (int d = 0; d < 2; ++d) atomic_add(grad_verts + 3 * in.faces[3 * f + c] + d, grad[2 * c + d]);
}

template <class T>
__global__ void silhouette_backward_kernel(CudaScene<T> s, Silhouette<T> image) {
  const CudaPixel<T> pixel(s);
  // Threads beyond the image borrow the corner's pixel, and no face is theirs.
  const PixelGrad<T> at(s, image, pixel.in_image ? pixel.index(s) : 0, pixel.px, pixel.py);
  const bool wanted = pixel.in_image && at.scale != T(0);
  if (!__syncthreads_or(wanted)) return;
  for_each_face_of_warp(s, pixel, [&](int32_t f, bool mine) {
    T grad[6] = {};
    const bool hit = mine && wanted && at.add(s, f, image.sigma, grad);
    if (!__any_sync(whole_warp, hit)) return;
    warp_sum(grad);
    if (threadIdx.x % 32 == 0) add_to_verts(s.in, f, grad, image.grad_verts);
  });
}

template <class T>
__global__ void silhouette_backward_deterministic_kernel(CudaScene<T> s, Silhouette<T> image) {
  const RasterInput<T>& in = s.in;
  const int64_t f = blockIdx.x;
  const PixelBox box = s.boxes[f];
  const int64_t across = box.i1 - box.i0 + 1, pixels = across > 0 ? across * (box.j1 - box.j0 + 1) : 0;
  T sums[6] = {};
  for (int64_t n = 0; n < in.N; ++n) {
    if (f < in.first[n] || f >= in.first[n] + in.count[n]) continue;
    for (int64_t p = threadIdx.x; p < pixels; p += blockDim.x) {
      const int64_t row = box.j0 + p / across, column = box.i0 + p % across;
      const PixelGrad<T> at(s, image, (n * in.H + row) * in.W + column, pixel_center<T>(in.W - 1 - column, in.W, in.H),
                            pixel_center<T>(in.H - 1 - row, in.H, in.W));
      if (at.scale != T(0)) at.add(s, f, image.sigma, sums);
    }
  }
  block_sum(sums);
  if (threadIdx.x == 0 && pixels > 0) add_to_verts(in, f, sums, image.grad_verts);
}

}  // namespace

template <class T>
void soft_silhouette_cuda(const RasterInput<T>& in, const Silhouette<T>& s, const Device& device) {
  const CudaSceneMemory<T> memory(in, device);
  if (memory.num_tiles() == 0) return;
  launch(silhouette_kernel<T>, static_cast<unsigned>(memory.num_tiles()), cuda_threads, device, memory.scene, s);
}

template <class T>
void soft_silhouette_backward_cuda(const RasterInput<T>& in, const Silhouette<T>& s, const Device& device) {
  const CudaSceneMemory<T> memory(in, device, !deterministic());
  if (deterministic() && in.F > 0)
    launch(silhouette_backward_deterministic_kernel<T>, static_cast<unsigned>(in.F), 128, device, memory.scene, s);
  else if (memory.num_tiles() > 0)
    launch(silhouette_backward_kernel<T>, static_cast<unsigned>(memory.num_tiles()), cuda_threads, device, memory.scene,
           s);
}

template void soft_silhouette_cuda(const RasterInput<float>&, const Silhouette<float>&, const Device&);
template void soft_silhouette_cuda(const RasterInput<double>&, const Silhouette<double>&, const Device&);
template void soft_silhouette_backward_cuda(const RasterInput<float>&, const Silhouette<float>&, const Device&);
template void soft_silhouette_backward_cuda(const RasterInput<double>&, const Silhouette<double>&, const Device&);

}  // namespace recon
