// Forward: a thread goes through the faces of its pixel, first for what the weights are relative to (the nearest depth,
// and the last of the K nearest where there are more), then for the colours. Nothing is kept for a hit, whatever K is.
// Backward: after the same first pass the threads of a warp look at one face at a time and add up what they make of it.
// In deterministic mode a block gathers the pixels of one face instead, from what the first pass left for each pixel.
#include <limits>

#include "math/blend.h"
#include "ops/render_faces/shade.h"
#include "raster/cuda.h"

namespace recon {

namespace {

constexpr int round_size = 16;
constexpr int most_sums = 9 + 3 * most_attributes + 6 + 6;  // verts, attributes, uvs, lights of a face

// What the weights of a pixel's faces are relative to; the names are those of softmax_blend.cpp.
template <class T>
struct PixelState {
  T clear, nearest, total, last_z;
  int32_t last_face, nearest_face;  // -1: all faces count, none is there
};

// One face at one pixel, as Shade wants it.
template <class T>
struct CudaHit {
  using V = T;
  static constexpr int lanes = 1, n = 1;
  const RasterInput<T>* in;
  int32_t f;
  Triple<T> w;

  RECON_HD static T lane(T v, int) { return v; }
  RECON_HD static T pack(const T* values) { return values[0]; }
  RECON_HD T of_corner(int c, const T* table, int64_t width, int64_t j) const {
    return table[in->faces[3 * int64_t{f} + c] * width + j];
  }
  RECON_HD T of_face(const T* table, int64_t width, int64_t j) const { return table[f * width + j]; }
  RECON_HD int32_t face(int) const { return f; }
  // An index out of range cannot raise from here: it shows no image.
  RECON_HD int64_t map_of(const Surface<T>& surface, int) const {
    const int64_t map = surface.map_of_face[f];
    return map >= 0 && map < surface.M ? map : -1;
  }
};

// Whether a face hits a pixel in its box and counts there: of the two halves of a clipped face the one closer to the
// pixel does, and the first where they are equally close.
template <class T>
__device__ bool hits(const CudaScene<T>& s, int32_t f, int64_t row, int64_t column, T px, T py, FaceAtPixel<T>& at) {
  const RasterInput<T>& in = s.in;
  const auto evaluate = [&](int64_t face, FaceAtPixel<T>& result) {
    return face_at_pixel(s.faces[face], px, py, in.blur_radius, in.perspective, in.clip, result);
  };
  if (!evaluate(f, at)) return false;
  const int64_t neighbor = in.neighbors ? in.neighbors[f] : -1;
  if (neighbor < 0 || neighbor >= in.F) return true;
  const PixelBox b = s.boxes[neighbor];
  FaceAtPixel<T> other;
  if (column < b.i0 || column > b.i1 || row < b.j0 || row > b.j1 || !evaluate(neighbor, other)) return true;
  const T mine = fabs(at.dist), its = fabs(other.dist);
  return mine < its || (mine == its && f < neighbor);
}

template <class T>
__device__ bool counts(const PixelState<T>& state, T z, int32_t f) {
  return state.last_face < 0 || z < state.last_z || (z == state.last_z && f <= state.last_face);
}

template <class T>
__device__ T depth_of(const Blend<T>& blend, int64_t mesh, T z) {
  const T near = blend.planes[2 * mesh], far = blend.planes[2 * mesh + 1];
  return (far - z) / (far - near);
}

template <class T>
__device__ T background_weight(const Blend<T>& blend, T nearest) {
  const T epsilon = static_cast<T>(blend_epsilon);
  return maximum(exp((epsilon - nearest) / blend.gamma), epsilon);
}

template <class T>
__device__ T weight_of(const Blend<T>& blend, const PixelState<T>& state, T cover, T depth) {
  return cover * exp((depth - state.nearest) / blend.gamma);
}

// The state of the thread's pixel. Every thread of the block must take part.
template <class T>
__device__ PixelState<T> pixel_state(const CudaScene<T>& s, const CudaPixel<T>& pixel, const Blend<T>& blend) {
  PixelState<T> state = {T(1), static_cast<T>(blend_epsilon), T(0), T(-1), -1, -1};
  T nearest_z(0);
  int64_t found = 0;
  for_each_face(s, pixel, [&](int32_t f) {
    FaceAtPixel<T> at;
    if (!hits(s, f, pixel.row, pixel.column, pixel.px, pixel.py, at)) return;
    state.clear *= T(1) - coverage(at.dist, blend.sigma);
    if (state.nearest_face < 0 || at.z < nearest_z) nearest_z = at.z, state.nearest_face = f;
    ++found;
  });

  // A crowded pixel: its nearest K are found some at a time, each round taking those that follow the last one taken.
  int64_t left = found > blend.K ? blend.K : 0;
  if (left > 0) state.clear = T(1);
  while (__syncthreads_or(left > 0)) {
    T z[round_size] = {}, dist[round_size] = {};
    int32_t face[round_size] = {};
    int n = 0;
    for_each_face(s, pixel, [&](int32_t f) {
      FaceAtPixel<T> at;
      if (left <= 0 || !hits(s, f, pixel.row, pixel.column, pixel.px, pixel.py, at)) return;
      if (at.z < state.last_z || (at.z == state.last_z && f <= state.last_face)) return;
      if (n == round_size && !(at.z < z[n - 1])) return;
      int k = n < round_size ? n++ : n - 1;
      for (; k > 0 && at.z < z[k - 1]; --k) z[k] = z[k - 1], dist[k] = dist[k - 1], face[k] = face[k - 1];
      z[k] = at.z, dist[k] = at.dist, face[k] = f;
    });
    for (int k = 0; k < n && left > 0; ++k, --left) {
      state.clear *= T(1) - coverage(dist[k], blend.sigma);
      state.last_z = z[k], state.last_face = face[k];
    }
  }
  if (state.nearest_face >= 0) {
    const T depth = depth_of(blend, pixel.mesh, nearest_z);
    if (depth >= state.nearest)
      state.nearest = depth;
    else
      state.nearest_face = -1;
  }
  return state;
}

template <class T>
__device__ Light<T> light_of(const Surface<T>& surface, int64_t mesh) {
  const T none[Light<T>::size] = {};
  const bool per_image = surface.lighting == Lighting::ambient || surface.lights_points();
  return Light<T>::load(per_image ? surface.lights + Light<T>::size * mesh : none);
}

template <class T>
__global__ void render_hard_kernel(CudaScene<T> s, Surface<T> surface, Blend<T> blend, T* image) {
  const CudaPixel<T> pixel(s);
  FaceAtPixel<T> nearest = {};
  int32_t face = -1;
  for_each_face(
      s, pixel,
      [&](int32_t f) {
        FaceAtPixel<T> at;
        if (!hits(s, f, pixel.row, pixel.column, pixel.px, pixel.py, at)) return;
        if (face < 0 || at.z < nearest.z) nearest = at, face = f;
      },
      [&] { return face < 0 ? std::numeric_limits<T>::infinity() : nearest.z; });
  if (!pixel.in_image) return;
  T* out = image + pixel.index(s) * 4;
  Vec3<T> color = Vec3<T>::load(blend.background);
  if (face >= 0) {
    const CudaHit<T> hit = {&s.in, face, nearest.weights};
    color = Shade<T, CudaHit<T>>(surface, hit, light_of(surface, pixel.mesh)).color;
  }
  color.store(out);
  out[3] = face >= 0 ? T(1) : T(0);
}

template <class T>
__global__ void render_soft_kernel(CudaScene<T> s, Surface<T> surface, Blend<T> blend, T* image) {
  const CudaPixel<T> pixel(s);
  const PixelState<T> state = pixel_state(s, pixel, blend);
  const Light<T> light = light_of(surface, pixel.mesh);
  const T background = background_weight(blend, state.nearest);
  Vec3<T> color = Vec3<T>::load(blend.background) * background;
  T total = background;
  for_each_face(s, pixel, [&](int32_t f) {
    FaceAtPixel<T> at;
    if (!hits(s, f, pixel.row, pixel.column, pixel.px, pixel.py, at) || !counts(state, at.z, f)) return;
    const T weight = weight_of(blend, state, coverage(at.dist, blend.sigma), depth_of(blend, pixel.mesh, at.z));
    if (weight == T(0)) return;
    const CudaHit<T> hit = {&s.in, f, at.weights};
    color += Shade<T, CudaHit<T>>(surface, hit, light).color * weight;
    total += weight;
  });
  if (!pixel.in_image) return;
  T* out = image + pixel.index(s) * 4;
  Vec3<T>{color.x / total, color.y / total, color.z / total}.store(out);
  out[3] = T(1) - state.clear;
}

// Hard: which face is the nearest. Soft: what the weights are relative to, with their sum. Every thread of the block
// must take part.
template <class T>
__device__ PixelState<T> full_state(const CudaScene<T>& s, const CudaPixel<T>& pixel, const Blend<T>& blend) {
  PixelState<T> state = {T(1), T(0), T(1), T(-1), -1, -1};
  if (blend.hard) {
    T nearest_z = std::numeric_limits<T>::infinity();
    for_each_face(
        s, pixel,
        [&](int32_t f) {
          FaceAtPixel<T> at;
          if (!hits(s, f, pixel.row, pixel.column, pixel.px, pixel.py, at)) return;
          if (state.nearest_face < 0 || at.z < nearest_z) nearest_z = at.z, state.nearest_face = f;
        },
        [&] { return nearest_z; });
    return state;
  }
  state = pixel_state(s, pixel, blend);
  state.total = background_weight(blend, state.nearest);
  for_each_face(s, pixel, [&](int32_t f) {
    FaceAtPixel<T> at;
    if (!hits(s, f, pixel.row, pixel.column, pixel.px, pixel.py, at) || !counts(state, at.z, f)) return;
    state.total += weight_of(blend, state, coverage(at.dist, blend.sigma), depth_of(blend, pixel.mesh, at.z));
  });
  return state;
}

template <class T>
__global__ void state_kernel(CudaScene<T> s, Blend<T> blend, PixelState<T>* states) {
  const CudaPixel<T> pixel(s);
  const PixelState<T> state = full_state(s, pixel, blend);
  if (pixel.in_image) states[pixel.index(s)] = state;
}

// Adds what one pixel gives to the gradients of face f, in the order of most_sums; returns whether there is anything.
template <class T>
__device__ bool add_pixel(const CudaScene<T>& s, const Surface<T>& surface, const Blend<T>& blend,
                          const RenderGrads<T>& grads, const PixelState<T>& state, const Light<T>& light, int32_t f,
                          int64_t mesh, int64_t row, int64_t column, T (&sums)[most_sums],
                          T (&light_sums)[Light<T>::size]) {
  const RasterInput<T>& in = s.in;
  if (blend.hard && state.nearest_face != f) return false;
  const T px = pixel_center<T>(in.W - 1 - column, in.W, in.H), py = pixel_center<T>(in.H - 1 - row, in.H, in.W);
  FaceAtPixel<T> at;
  if (!hits(s, f, row, column, px, py, at) || !counts(state, at.z, f)) return false;
  const int64_t pixel = ((mesh * in.H + row) * in.W + column) * 4;
  const Vec3<T> grad = Vec3<T>::load(grads.grad_image + pixel);
  T weight(1), cover(1), grad_z(0), grad_dist(0);
  if (!blend.hard) {
    cover = coverage(at.dist, blend.sigma);
    weight = weight_of(blend, state, cover, depth_of(blend, mesh, at.z)) / state.total;
    grad_dist = -grads.grad_image[pixel + 3] * clear_dist_gradient(state.clear, cover, blend.sigma);
  }
  Triple<T> grad_bary = {T(0), T(0), T(0)};
  if (weight != T(0)) {
    const CudaHit<T> hit = {&in, f, at.weights};
    const Shade<T, CudaHit<T>> shade(surface, hit, light);
    if (!blend.hard) {
      const Vec3<T> rgb = Vec3<T>::load(grads.image + pixel);
      const T near = blend.planes[2 * mesh], far = blend.planes[2 * mesh + 1];
      const T q = dot(grad, shade.color - rgb) * weight;
      T grad_depth = q / blend.gamma;
      const T background = background_weight(blend, state.nearest);
      // The background held at its least weight is what moves when the nearest depth does.
      if (state.nearest_face == f && background <= static_cast<T>(blend_epsilon))
        grad_depth += dot(grad, Vec3<T>::load(blend.background) - rgb) * background / (state.total * blend.gamma);
      grad_z = grad_depth / (near - far);
      grad_dist -= q * (T(1) - cover) / blend.sigma;
    }
    const auto g = shade.vjp(light, grad * weight, light_sums, [&](const Footprint<T>& print, T red, T green, T blue) {
      if (!grads.maps) return;
      for_each_texel(print, surface.rows, surface.columns, [&](int64_t texel, T share, T, T) {
        atomic_add(grads.maps + 3 * texel, share * red);
        atomic_add(grads.maps + 3 * texel + 1, share * green);
        atomic_add(grads.maps + 3 * texel + 2, share * blue);
      });
    });
    grad_bary = g.bary;
    const T w[3] = {at.weights.a, at.weights.b, at.weights.c};
    for (int c = 0; c < 3; ++c) {
      for (int j = 0; j < surface.A; ++j) sums[9 + most_attributes * c + j] += w[c] * g.attributes[j];
      if (surface.texture == Texture::image)
        for (int d = 0; d < 2; ++d) sums[9 + 3 * most_attributes + 2 * c + d] += w[c] * g.uv[d];
    }
    if (surface.lighting == Lighting::face)
      for (int d = 0; d < 6; ++d) sums[15 + 3 * most_attributes + d] += g.face_light[d];
  } else if (grad_dist == T(0)) {
    return false;
  }
  if (!grads.verts) return weight != T(0);
  T x[3], y[3], z[3], out[9];
  for (int c = 0; c < 3; ++c) {
    const T* v = in.verts + 3 * in.faces[3 * int64_t{f} + c];
    x[c] = v[0], y[c] = v[1], z[c] = v[2];
  }
  raster_vjp<T>(px, py, x, y, z, in.perspective, in.clip, grad_z, grad_bary, grad_dist, out);
  for (int d = 0; d < 9; ++d) sums[d] += out[d];
  return true;
}

// Calls add(place of a gradient, its position in the sums) for all gradients of face f that are asked for.
template <class T, class F>
__device__ void for_each_sum(const RasterInput<T>& in, const Surface<T>& surface, const RenderGrads<T>& grads,
                             int32_t f, const F& add) {
  for (int c = 0; c < 3; ++c) {
    const int64_t v = in.faces[3 * int64_t{f} + c];
    if (grads.verts)
      for (int d = 0; d < 3; ++d) add(grads.verts + 3 * v + d, 3 * c + d);
    if (grads.attributes)
      for (int j = 0; j < surface.A; ++j) add(grads.attributes + surface.A * v + j, 9 + most_attributes * c + j);
  }
  if (grads.uvs && surface.texture == Texture::image)
    for (int d = 0; d < 6; ++d) add(grads.uvs + 6 * int64_t{f} + d, 9 + 3 * most_attributes + d);
  if (grads.lights && surface.lighting == Lighting::face)
    for (int d = 0; d < 6; ++d) add(grads.lights + 6 * int64_t{f} + d, 15 + 3 * most_attributes + d);
}

template <class T>
__global__ void backward_kernel(CudaScene<T> s, Surface<T> surface, Blend<T> blend, RenderGrads<T> grads,
                                bool sums_lights) {
  const CudaPixel<T> pixel(s);
  const PixelState<T> state = full_state(s, pixel, blend);
  const Light<T> light = light_of(surface, pixel.mesh);
  T light_sums[Light<T>::size] = {};
  for_each_face_of_warp(s, pixel, [&](int32_t f, bool mine) {
    T sums[most_sums] = {};
    const bool adds = mine && add_pixel(s, surface, blend, grads, state, light, f, pixel.mesh, pixel.row, pixel.column,
                                        sums, light_sums);
    if (!__any_sync(whole_warp, adds)) return;
    for_each_sum(s.in, surface, grads, f, [&](T* place, int at) {
      T total[1] = {sums[at]};
      warp_sum(total);
      if (threadIdx.x % 32 == 0) atomic_add(place, total[0]);
    });
  });
  if (!sums_lights) return;
  block_sum(light_sums);
  for (int i = 0; threadIdx.x == 0 && i < Light<T>::size; ++i)
    atomic_add(grads.lights + pixel.mesh * Light<T>::size + i, light_sums[i]);
}

// The first mesh that a face belongs to.
template <class T>
__device__ int64_t owner_of(const RasterInput<T>& in, int64_t f) {
  int64_t n = 0;
  while (n < in.N && (f < in.first[n] || f >= in.first[n] + in.count[n])) ++n;
  return n;
}

// One block for a face. face_lights (F Light::size) holds what each face gives to the light of its image, to be added
// in a fixed order.
template <class T>
__global__ void backward_deterministic_kernel(CudaScene<T> s, Surface<T> surface, Blend<T> blend, RenderGrads<T> grads,
                                              const PixelState<T>* states, T* face_lights) {
  const RasterInput<T>& in = s.in;
  const auto f = static_cast<int32_t>(blockIdx.x);
  const PixelBox box = s.boxes[f];
  const int64_t across = box.i1 - box.i0 + 1, pixels = across > 0 ? across * (box.j1 - box.j0 + 1) : 0;
  const int64_t owner = owner_of(in, f);
  T sums[most_sums] = {};
  for (int64_t n = owner; n < in.N; ++n) {
    if (f < in.first[n] || f >= in.first[n] + in.count[n]) continue;
    const Light<T> light = light_of(surface, n);
    T light_sums[Light<T>::size] = {};
    for (int64_t p = threadIdx.x; p < pixels; p += blockDim.x) {
      const int64_t row = box.j0 + p / across, column = box.i0 + p % across;
      add_pixel(s, surface, blend, grads, states[(n * in.H + row) * in.W + column], light, f, n, row, column, sums,
                light_sums);
    }
    if (face_lights) {
      block_sum(light_sums);
      for (int i = 0; threadIdx.x == 0 && i < Light<T>::size; ++i)
        if (n == owner)
          face_lights[f * int64_t{Light<T>::size} + i] = light_sums[i];
        else
          atomic_add(grads.lights + n * Light<T>::size + i, light_sums[i]);
    }
  }
  block_sum(sums);
  // The face is the only one to add to its vertices: Python gave it its own.
  if (threadIdx.x == 0 && pixels > 0)
    for_each_sum(in, surface, grads, f, [&](T* place, int at) { atomic_add(place, sums[at]); });
}

// One block for the light of an image: the sum over its faces, in a fixed order.
template <class T>
__global__ void sum_lights_kernel(RasterInput<T> in, const T* face_lights, T* grad_lights) {
  const int64_t n = blockIdx.x, stop = in.first[n] + in.count[n];
  const int64_t first = in.first[n] < 0 ? 0 : in.first[n], end = stop > in.F ? in.F : stop;
  T sums[Light<T>::size] = {};
  for (int64_t f = first + threadIdx.x; f < end; f += blockDim.x)
    for (int i = 0; i < Light<T>::size && owner_of(in, f) == n; ++i) sums[i] += face_lights[f * Light<T>::size + i];
  block_sum(sums);
  for (int i = 0; threadIdx.x == 0 && i < Light<T>::size; ++i)
    atomic_add(grad_lights + n * Light<T>::size + i, sums[i]);
}

}  // namespace

template <class T>
void render_faces_cuda(const RasterInput<T>& in, const Surface<T>& surface, const Blend<T>& blend, T* image,
                       const Device& device) {
  const CudaSceneMemory<T> memory(in, device);
  if (memory.num_tiles() == 0) return;
  launch(blend.hard ? render_hard_kernel<T> : render_soft_kernel<T>, static_cast<unsigned>(memory.num_tiles()),
         cuda_threads, device, memory.scene, surface, blend, image);
}

template <class T>
void render_faces_backward_cuda(const RasterInput<T>& in, const Surface<T>& surface, const Blend<T>& blend,
                                const RenderGrads<T>& grads, const Device& device) {
  const CudaSceneMemory<T> memory(in, device);
  if (memory.num_tiles() == 0 || in.F == 0) return;
  const auto tiles = static_cast<unsigned>(memory.num_tiles());
  const bool sums_lights = grads.lights && surface.lighting != Lighting::face && surface.lighting != Lighting::none;
  if (!deterministic())
    return launch(backward_kernel<T>, tiles, cuda_threads, device, memory.scene, surface, blend, grads, sums_lights);
  const Scratch<PixelState<T>> states(in.N * in.H * in.W, device);
  const Scratch<T> face_lights(sums_lights ? in.F * Light<T>::size : 0, device);
  launch(state_kernel<T>, tiles, cuda_threads, device, memory.scene, blend, states.data());
  launch(backward_deterministic_kernel<T>, static_cast<unsigned>(in.F), 128, device, memory.scene, surface, blend,
         grads, states.data(), sums_lights ? face_lights.data() : nullptr);
  if (sums_lights)
    launch(sum_lights_kernel<T>, static_cast<unsigned>(in.N), cuda_threads / 2, device, in, face_lights.data(),
           grads.lights);
}

template void render_faces_cuda(const RasterInput<float>&, const Surface<float>&, const Blend<float>&, float*,
                                const Device&);
template void render_faces_cuda(const RasterInput<double>&, const Surface<double>&, const Blend<double>&, double*,
                                const Device&);
template void render_faces_backward_cuda(const RasterInput<float>&, const Surface<float>&, const Blend<float>&,
                                         const RenderGrads<float>&, const Device&);
template void render_faces_backward_cuda(const RasterInput<double>&, const Surface<double>&, const Blend<double>&,
                                         const RenderGrads<double>&, const Device&);

}  // namespace recon
