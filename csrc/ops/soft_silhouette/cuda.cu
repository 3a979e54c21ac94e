// Forward: a thread multiplies up the faces of its pixel; where a pixel is crowded, its nearest K are found some at a
// time, each round taking those that follow the last one taken. Backward: a block gathers the pixels of one face, so
// nothing is added twice to a vertex by the same face.
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
    for_each_face(s, pixel, [&](int32_t f) {
      FaceAtPixel<T> at;
      if (left <= 0 || !evaluate(f, at)) return;
      if (at.z < last_z || (at.z == last_z && f <= last_face)) return;
      if (n == round_size && !(at.z < z[n - 1])) return;
      int k = n < round_size ? n++ : n - 1;
      for (; k > 0 && at.z < z[k - 1]; --k) z[k] = z[k - 1], dist[k] = dist[k - 1], face[k] = face[k - 1];
      z[k] = at.z, dist[k] = at.dist, face[k] = f;
    });
    for (int k = 0; k < n && left > 0; ++k, --left) {
      clear *= T(1) - coverage(dist[k], image.sigma);
      last_z = z[k], last_face = face[k];
    }
  }
  if (!pixel.in_image) return;
  image.clear[pixel.index(s)] = clear;
  image.last_face[pixel.index(s)] = last_face;
}

template <class T>
__global__ void silhouette_backward_kernel(CudaScene<T> s, Silhouette<T> image) {
  const RasterInput<T>& in = s.in;
  const int64_t f = blockIdx.x;
  const PixelBox box = s.boxes[f];
  const RasterFace<T> face = s.faces[f];
  const T x[3] = {face.x0, face.x1, face.x2}, y[3] = {face.y0, face.y1, face.y2};
  const int64_t across = box.i1 - box.i0 + 1, pixels = across > 0 ? across * (box.j1 - box.j0 + 1) : 0;
  T sums[6] = {};
  for (int64_t n = 0; n < in.N; ++n) {
    if (f < in.first[n] || f >= in.first[n] + in.count[n]) continue;
    for (int64_t p = threadIdx.x; p < pixels; p += blockDim.x) {
      const int64_t row = box.j0 + p / across, column = box.i0 + p % across, at = (n * in.H + row) * in.W + column;
      const T scale = image.grad_clear[at] * clear_dist_gradient(image.clear[at], T(1), image.sigma);
      if (scale == T(0)) continue;
      const T px = pixel_center<T>(in.W - 1 - column, in.W, in.H), py = pixel_center<T>(in.H - 1 - row, in.H, in.W);
      FaceAtPixel<T> hit = {}, last = {};
      if (!face_at_pixel(face, px, py, in.blur_radius, in.perspective, in.clip, hit)) continue;
      if (const int32_t last_face = image.last_face[at]; last_face >= 0) {
        face_at_pixel(s.faces[last_face], px, py, in.blur_radius, in.perspective, in.clip, last);
        if (hit.z > last.z || (hit.z == last.z && f > last_face)) continue;
      }
      const T g = scale * coverage(hit.dist, image.sigma) * (hit.dist < T(0) ? T(-1) : T(1));
      T gx[3], gy[3];
      nearest_edge_vjp<T>(px, py, x, y, face.sq01, face.sq02, face.sq12, g, gx, gy);
      for (int c = 0; c < 3; ++c) sums[2 * c] += gx[c], sums[2 * c + 1] += gy[c];
    }
  }
  block_sum(sums);
  if (threadIdx.x != 0 || pixels == 0) return;
  for (int c = 0; c < 3; ++c)
    for (int d = 0; d < 2; ++d) atomic_add(image.grad_verts + 3 * in.faces[3 * f + c] + d, sums[2 * c + d]);
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
  const CudaSceneMemory<T> memory(in, device);
  if (in.F == 0) return;
  launch(silhouette_backward_kernel<T>, static_cast<unsigned>(in.F), 128, device, memory.scene, s);
}

template void soft_silhouette_cuda(const RasterInput<float>&, const Silhouette<float>&, const Device&);
template void soft_silhouette_cuda(const RasterInput<double>&, const Silhouette<double>&, const Device&);
template void soft_silhouette_backward_cuda(const RasterInput<float>&, const Silhouette<float>&, const Device&);
template void soft_silhouette_backward_cuda(const RasterInput<double>&, const Silhouette<double>&, const Device&);

}  // namespace recon
