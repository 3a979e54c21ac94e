// render_faces: rasterise, look up textures, light and blend in one pass that never writes the K fragments of a pixel.
//
// A face at a pixel has the barycentric coordinates w and the depth z of rasterize_faces. Its colour is
//   texel        attributes interpolated by w, or an image looked up at uv interpolated by w, or the texel of an atlas
//   none         colour = texel
//   face         colour = texel lights[f, :3] + lights[f, 3:]
//   ambient      colour = texel ambient
//   directional, point    phong.h at the interpolated position, with the interpolated normal
// and the pixel is the nearest face (hard), or softmax_blend of the K nearest.
//
// The backward pass finds the hits again. With D the sum of all weights, g = grad_rgb and q_k = g . (colour_k - rgb) /
// D:
//   d colour_k = g w_k / D    d z_k = q_k w_k / gamma    d dist_k = -(q_k w_k (1 - p_k) + grad_alpha clear p_k) / sigma
// Weights are relative to the nearest depth m, but a softmax does not change when all its arguments do: m has no
// gradient unless the weight of the background is held at its least.
#include "core/op.h"
#include "core/parallel.h"
#include "ops/render_faces/kernels.h"
#include "raster/arguments.h"

namespace recon {

namespace {

template <class T>
Surface<T> surface_of(const RasterInput<T>& in, const Tensor& attributes, const Tensor& uvs, const Tensor& maps,
                      const Tensor& map_of_face, const Tensor& lights, int64_t lighting, int64_t texture,
                      int64_t padding, bool nearest, bool align_corners) {
  const Surface<T> s = {attributes.packed<T>(),
                        attributes.shape[1],
                        uvs.shape[0] > 0 ? uvs.packed<T>() : nullptr,
                        maps.packed<T>(),
                        map_of_face.packed<int64_t>(),
                        maps.shape[0],
                        maps.shape[1],
                        maps.shape[2],
                        lights.packed<T>(),
                        static_cast<Lighting>(lighting),
                        static_cast<Texture>(texture),
                        {static_cast<Padding>(padding), nearest, align_corners}};
  const auto require = [](bool ok, const std::string& what, const std::string& expected, const Tensor& got) {
    if (ok) return;
    std::string shape;
    for (int d = 0; d < got.ndim; ++d) shape += (d ? ", " : "") + std::to_string(got.shape[d]);
    throw std::invalid_argument("render_faces: " + what + " must have shape (" + expected + "), got (" + shape + ")");
  };
  const int64_t wanted = s.color_at() + (s.texture == Texture::vertex ? 3 : 0);
  require(s.A == wanted, "attributes", "V, " + std::to_string(wanted), attributes);
  const std::string F = std::to_string(in.F);
  if (s.texture == Texture::image || s.uvs) require(uvs.shape[0] == in.F, "uvs", F + ", 3, 2", uvs);
  if (s.texture == Texture::atlas) {
    const std::string M = s.uvs ? std::to_string(s.M) : F;
    require((s.uvs || s.M == in.F) && s.rows == s.columns, "maps", M + ", R, R, 3", maps);
  }
  if (s.texture != Texture::vertex && in.F > 0)
    require(s.M > 0 && s.rows > 0 && s.columns > 0, "maps", "at least one texel", maps);
  if (s.lighting == Lighting::face)
    require(lights.shape[0] == in.F && lights.shape[1] == 6, "lights", F + ", 6", lights);
  else if (s.lighting != Lighting::none)
    require(lights.shape[0] == in.N && lights.shape[1] == Light<T>::size, "lights",
            std::to_string(in.N) + ", " + std::to_string(Light<T>::size), lights);
  return s;
}

template <class T>
Blend<T> blend_of(const RasterInput<T>& in, bool hard, double sigma, double gamma, int64_t K, const Tensor& planes,
                  const Tensor& background) {
  // The nearest face alone is enough, unless one half of a clipped face decides about the other.
  const int64_t kept = hard && !in.neighbors ? 1 : K;
  return {hard, static_cast<T>(sigma), static_cast<T>(gamma), kept, planes.packed<T>(), background.packed<T>()};
}

template <class T>
T* packed_or_null(const std::optional<Tensor>& t) {
  return t ? t->packed<T>() : nullptr;
}

}  // namespace

#define RENDER_FACES_ARGUMENTS                                                                                     \
  "verts: V 3, faces: i64 F 3, mesh_to_face_first_idx: i64 N, num_faces_per_mesh: i64 N, "                         \
  "clipped_faces_neighbor_idx?: i64 F, attributes: V A, uvs: U 3 2, maps: M R S 3, map_of_face: i64 U, "           \
  "lights: L D, planes: N 2, background: 3, height: int>0, width: int>0, blur_radius: real>=0, "                   \
  "faces_per_pixel: int>0, perspective_correct: bool, clip_barycentric_coords: bool, cull_backfaces: bool, "       \
  "lighting: none|face|ambient|directional|point, texture: vertex|image|atlas, padding: zeros|border|reflection, " \
  "nearest: bool, align_corners: bool, hard: bool, sigma: real>0, gamma: real>0, image: N H W 4"

void render_faces(Tensor verts, Tensor faces, Tensor first, Tensor count, std::optional<Tensor> neighbors,
                  Tensor attributes, Tensor uvs, Tensor maps, Tensor map_of_face, Tensor lights, Tensor planes,
                  Tensor background, int64_t, int64_t, double blur_radius, int64_t K, bool perspective, bool clip,
                  bool cull, int64_t lighting, int64_t texture, int64_t padding, bool nearest, bool align_corners,
                  bool hard, double sigma, double gamma, Tensor image) {
  dispatch_float(verts.dtype, [&](auto number) {
    using T = decltype(number);
    const auto in = raster_input<T>(verts, faces, first, count, neighbors, blur_radius, perspective, clip, cull, image);
    const auto surface = surface_of<T>(in, attributes, uvs, maps, map_of_face, lights, lighting, texture, padding,
                                       nearest, align_corners);
    const auto blend = blend_of<T>(in, hard, sigma, gamma, K, planes, background);
    if (!verts.device.cuda) return RECON_SIMD_CALL(render_faces_cpu, in, surface, blend, image.packed<T>());
#ifdef RECON_CUDA
    render_faces_cuda(in, surface, blend, image.packed<T>(), verts.device);
#endif
  });
}
RECON_OP(render_faces, RENDER_FACES_ARGUMENTS);

void render_faces_backward(Tensor verts, Tensor faces, Tensor first, Tensor count, std::optional<Tensor> neighbors,
                           Tensor attributes, Tensor uvs, Tensor maps, Tensor map_of_face, Tensor lights, Tensor planes,
                           Tensor background, int64_t, int64_t, double blur_radius, int64_t K, bool perspective,
                           bool clip, bool cull, int64_t lighting, int64_t texture, int64_t padding, bool nearest,
                           bool align_corners, bool hard, double sigma, double gamma, Tensor image, Tensor grad_image,
                           std::optional<Tensor> grad_verts, std::optional<Tensor> grad_attributes,
                           std::optional<Tensor> grad_uvs, std::optional<Tensor> grad_maps,
                           std::optional<Tensor> grad_lights) {
  dispatch_float(verts.dtype, [&](auto number) {
    using T = decltype(number);
    const auto in = raster_input<T>(verts, faces, first, count, neighbors, blur_radius, perspective, clip, cull, image);
    const auto surface = surface_of<T>(in, attributes, uvs, maps, map_of_face, lights, lighting, texture, padding,
                                       nearest, align_corners);
    const auto blend = blend_of<T>(in, hard, sigma, gamma, K, planes, background);
    const RenderGrads<T> grads = {image.packed<T>(),
                                  grad_image.packed<T>(),
                                  packed_or_null<T>(grad_verts),
                                  packed_or_null<T>(grad_attributes),
                                  packed_or_null<T>(grad_uvs),
                                  packed_or_null<T>(grad_maps),
                                  packed_or_null<T>(grad_lights)};
    if (!verts.device.cuda) return RECON_SIMD_CALL(render_faces_backward_cpu, in, surface, blend, grads);
#ifdef RECON_CUDA
    if (deterministic() && grads.maps && surface.texture != Texture::vertex)
      throw std::runtime_error(
          "render_faces: the gradient of maps is summed in any order on CUDA, which "
          "torch.use_deterministic_algorithms(True) forbids: render on the CPU, or with maps that need no gradient");
    render_faces_backward_cuda(in, surface, blend, grads, verts.device);
#endif
  });
}
RECON_OP(render_faces_backward, RENDER_FACES_ARGUMENTS
         ", grad_image: N H W 4, grad_verts?: V 3, grad_attributes?: V A, grad_uvs?: U 3 2, grad_maps?: M R S 3, "
         "grad_lights?: L D");

}  // namespace recon
