#pragma once
// From the tensors of a call to what the rasterisers take.
#include <optional>

#include "raster/scene.h"

namespace recon {

// `image` is any output of shape (N, H, W, ...).
template <class T>
RasterInput<T> raster_input(const Tensor& verts, const Tensor& faces, const Tensor& first, const Tensor& count,
                            const std::optional<Tensor>& neighbors, double blur_radius, bool perspective, bool clip,
                            bool cull, const Tensor& image) {
  return {verts.packed<T>(),
          verts.shape[0],
          faces.packed<int64_t>(),
          faces.shape[0],
          first.packed<int64_t>(),
          count.packed<int64_t>(),
          neighbors ? neighbors->packed<int64_t>() : nullptr,
          image.shape[0],
          image.shape[1],
          image.shape[2],
          static_cast<T>(blur_radius),
          perspective,
          clip,
          cull};
}

}  // namespace recon
