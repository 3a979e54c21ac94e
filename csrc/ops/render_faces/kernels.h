#pragma once
// What the entry points of render_faces hand to the kernels of each device.
#include "core/simd.h"
#include "math/phong.h"
#include "math/texture.h"
#include "raster/scene.h"

namespace recon {

// How faces look.
template <class T>
struct Surface {
  // V A: what is interpolated over a face. Position and normal (6) where points are lit, then the colour (3) where the
  // texture is one of vertices.
  const T* attributes;
  int64_t A;
  const T* uvs;                // F 3 2: the place of each corner in its map; null for atlases: then it is w
  const T* maps;               // M rows columns 3: images or atlases
  const int64_t* map_of_face;  // F, where there are uvs: else each face has its own
  int64_t M, rows, columns;
  // none: nothing; face: F 6, a factor of the texture and what is added to it; else N Light::size
  const T* lights;
  Lighting lighting;
  Texture texture;
  Sampling sampling;

  RECON_HD bool lights_points() const { return lighting == Lighting::directional || lighting == Lighting::point; }
  RECON_HD int64_t color_at() const { return lights_points() ? 6 : 0; }  // first attribute of the colour
};

// How the faces of a pixel become its colour: the nearest alone, or softmax_blend of the K nearest.
template <class T>
struct Blend {
  bool hard;
  T sigma, gamma;
  int64_t K;            // how many of the nearest are kept; hard takes the first of them
  const T* planes;      // N 2: near and far
  const T* background;  // 3
};

// Gradients; each of the inputs' may be null.
template <class T>
struct RenderGrads {
  const T *image, *grad_image;  // N H W 4
  T *verts, *attributes, *uvs, *maps, *lights;
};

RECON_SIMD_DECLARE(template <class T> void render_faces_cpu(const RasterInput<T>& in, const Surface<T>& surface,
                                                            const Blend<T>& blend, T* image))
RECON_SIMD_DECLARE(template <class T> void render_faces_backward_cpu(const RasterInput<T>& in,
                                                                     const Surface<T>& surface, const Blend<T>& blend,
                                                                     const RenderGrads<T>& grads))

template <class T>
void render_faces_cuda(const RasterInput<T>& in, const Surface<T>& surface, const Blend<T>& blend, T* image,
                       const Device& device);
template <class T>
void render_faces_backward_cuda(const RasterInput<T>& in, const Surface<T>& surface, const Blend<T>& blend,
                                const RenderGrads<T>& grads, const Device& device);

}  // namespace recon
