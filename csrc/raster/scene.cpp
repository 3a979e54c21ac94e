#include "raster/scene.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/parallel.h"

namespace recon {

namespace {

constexpr Device cpu;

template <class T>
void check_ranges(const RasterInput<T>& in) {
  if (in.F > std::numeric_limits<int32_t>::max())
    throw std::invalid_argument("at most 2^31 - 1 faces can be rasterised");
  for (int64_t n = 0; n < in.N; ++n)
    if (in.first[n] < 0 || in.first[n] > in.F || in.count[n] < 0 || in.count[n] > in.F - in.first[n])
      throw std::invalid_argument("mesh " + std::to_string(n) + " claims " + std::to_string(in.count[n]) +
                                  " faces from face " + std::to_string(in.first[n]) +
                                  " (num_faces_per_mesh, mesh_to_face_first_idx) but there are " +
                                  std::to_string(in.F));
}

template <class T>
void set_up_faces(const RasterInput<T>& in, const T* px, const T* py, RasterFace<T>* faces, PixelBox* boxes) {
  const auto columns = [px](int64_t i) { return px[i]; };
  const auto rows = [py](int64_t i) { return py[i]; };
  for_each_range(in.F, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t f = begin; f < end; ++f) {
      const int64_t* v = in.faces + 3 * f;
      for (int c = 0; c < 3; ++c)
        if (v[c] < 0 || v[c] >= in.V)
          throw std::invalid_argument("faces has index " + std::to_string(v[c]) + " in row " + std::to_string(f) +
                                      " but there are " + std::to_string(in.V) + " vertices");
      RasterFace<T>& face = faces[f];
      boxes[f] = {0, -1, 0, -1};
      const FaceKind kind = make_raster_face(in.verts + 3 * v[0], in.verts + 3 * v[1], in.verts + 3 * v[2],
                                             in.blur_radius, in.cull_backfaces, face);
      if (kind == FaceKind::not_finite)
        throw std::invalid_argument(
            "verts must be finite in front of the camera, got NaN or infinity in a corner of "
            "face " +
            std::to_string(f) + " (vertices " + std::to_string(v[0]) + ", " + std::to_string(v[1]) + ", " +
            std::to_string(v[2]) + ")");
      if (kind == FaceKind::visible) boxes[f] = pixel_box(face, columns, rows, in.H, in.W, in.blur_radius);
    }
  });
}

template <class T>
void fill_centers(Scratch<T>& centers, int64_t size, int64_t other) {
  for (int64_t i = 0; i < centers.size(); ++i) centers[i] = pixel_center<T>(size - 1 - i, size, other);
}

// Contiguous faces of one mesh that one thread sorts into tiles.
struct Chunk {
  int64_t mesh, begin, end;
};

}  // namespace

template <class T>
TiledScene<T>::TiledScene(const RasterInput<T>& in, int tile_height)
    : input(in),
      tile_height(tile_height),
      tiles_x((in.W + tile_width - 1) / tile_width),
      tiles_y((in.H + tile_height - 1) / tile_height),
      faces(in.F, cpu),
      boxes(in.F, cpu),
      px(in.W + tile_width, cpu),
      py(in.H + tile_height, cpu),
      offsets(in.N * tiles_x * tiles_y + 1, cpu),
      list(0, cpu) {
  check_ranges(in);
  fill_centers(px, in.W, in.H);
  fill_centers(py, in.H, in.W);
  set_up_faces(in, px.data(), py.data(), faces.data(), boxes.data());

  const int64_t tiles = tiles_x * tiles_y;
  std::vector<Chunk> chunks;
  const int64_t chunk_size = std::max<int64_t>(4096, in.F / num_threads() + 1);
  for (int64_t n = 0; n < in.N; ++n)
    for (int64_t f = in.first[n]; f < in.first[n] + in.count[n]; f += chunk_size)
      chunks.push_back({n, f, std::min(f + chunk_size, in.first[n] + in.count[n])});
  Scratch<int64_t> places(static_cast<int64_t>(chunks.size()) * tiles, cpu);
  const auto for_each_pair = [&](const Chunk& chunk, const auto& body) {
    for (int64_t f = chunk.begin; f < chunk.end; ++f) {
      const PixelBox& b = boxes[f];
      if (b.i1 < b.i0) continue;
      for (int64_t ty = b.j0 / this->tile_height; ty <= b.j1 / this->tile_height; ++ty)
        for (int64_t tx = b.i0 / tile_width; tx <= b.i1 / tile_width; ++tx) body(f, ty * tiles_x + tx);
    }
  };
  for_each_task(static_cast<int64_t>(chunks.size()), [&](int64_t c, int) {
    int64_t* place = places.data() + c * tiles;
    std::fill(place, place + tiles, 0);
    for_each_pair(chunks[c], [&](int64_t, int64_t tile) { ++place[tile]; });
  });
  int64_t total = 0;
  size_t c = 0;
  for (int64_t n = 0; n < in.N; ++n) {
    size_t end = c;
    while (end < chunks.size() && chunks[end].mesh == n) ++end;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      offsets[n * tiles + tile] = total;
      for (size_t k = c; k < end; ++k) {
        int64_t& place = places[static_cast<int64_t>(k) * tiles + tile];
        const int64_t pairs = place;
        place = total, total += pairs;
      }
    }
    c = end;
  }
  offsets[in.N * tiles] = total;
  list.resize(total);
  for_each_task(static_cast<int64_t>(chunks.size()), [&](int64_t k, int) {
    int64_t* place = places.data() + k * tiles;
    for_each_pair(chunks[k], [&](int64_t f, int64_t tile) { list[place[tile]++] = static_cast<int32_t>(f); });
  });
}

template <class T>
void scatter_to_verts(const RasterInput<T>& in, const std::vector<FaceGrads<T>>& parts, int components, int width,
                      T* grad_verts) {
  int64_t n = 0;
  for (const auto& part : parts) n += part.n;
  // Below some thousand entries one thread is faster than waking another.
  const int64_t shares = n < 4096 ? 1 : num_threads();
  for_each_task(shares, [&](int64_t share, int) {
    const int64_t begin = in.V * share / shares, end = in.V * (share + 1) / shares;
    for (const auto& part : parts)
      for (int64_t q = 0; q < part.n; ++q) {
        if (part.faces[q] < 0) continue;
        const int64_t* v = in.faces + 3 * int64_t{part.faces[q]};
        const T* g = part.grads + q * part.stride;
        for (int c = 0; c < 3; ++c)
          if (v[c] >= begin && v[c] < end)
            for (int d = 0; d < components; ++d) grad_verts[width * v[c] + d] += g[c * components + d];
      }
  });
}

template class TiledScene<float>;
template class TiledScene<double>;
template void scatter_to_verts(const RasterInput<float>&, const std::vector<FaceGrads<float>>&, int, int, float*);
template void scatter_to_verts(const RasterInput<double>&, const std::vector<FaceGrads<double>>&, int, int, double*);

}  // namespace recon
