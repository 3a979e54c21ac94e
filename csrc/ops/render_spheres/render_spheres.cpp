// render_spheres: images of spheres that blend by depth and by how near to their middle a ray passes.
//
//   weight of a sphere     w = closeness opacity exp(opacity (max_depth - depth) / (gamma (max_depth - min_depth)))
//   of the background      exp(background_depth / gamma)
//   image                  sum w color / sum w
//
// closeness falls from 1 in the middle of a sphere to 0 at its border, depth is where the ray enters. gamma -> 0 shows
// the nearest sphere alone. Weights are relative to the largest exponent of the pixel, so nothing overflows.
//
// Cost: proportional to the spheres, plus the pixels in their bounding boxes as far as anything can be seen of them.
//
// Lassner, Zollhoefer: Pulsar: Efficient Sphere-based Neural Rendering, CVPR 2021, section 3.
#include <algorithm>
#include <limits>

#include "core/op.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "ops/render_spheres/kernels.h"

namespace recon {

namespace {

template <class T>
SpheresInput<T> spheres_input(const Tensor& points, const Tensor& radii, const Tensor& colors, const Tensor& opacity,
                              const Tensor& camera, const Tensor& background, const Tensor& order, const Tensor& offset,
                              const Tensor& image, const Tensor& ids) {
  if (points.shape[1] > std::numeric_limits<int32_t>::max())
    throw std::invalid_argument("render_spheres: at most 2^31 - 1 spheres can be rendered");
  SpheresInput<T> in = {};
  in.points = points.packed<T>(), in.radii = radii.packed<T>(), in.colors = colors.packed<T>();
  in.opacity = opacity.packed<T>(), in.camera = camera.packed<T>(), in.background = background.packed<T>();
  in.order = order.packed<int64_t>(), in.offset = offset.packed<int32_t>();
  in.B = points.shape[0], in.N = points.shape[1], in.C = colors.shape[2];
  in.H = image.shape[1], in.W = image.shape[2], in.K = ids.shape[3];
  return in;
}

template <class T>
void set_numbers(SpheresInput<T>& in, double gamma, double min_depth, double max_depth, double background_depth,
                 bool orthogonal, bool right_handed, int64_t max_hits, bool count_all, bool average) {
  if (!(max_depth > min_depth)) throw std::invalid_argument("render_spheres: max_depth must be above min_depth");
  in.gamma = static_cast<T>(gamma), in.background_depth = static_cast<T>(background_depth);
  in.min_depth = static_cast<T>(min_depth), in.max_depth = static_cast<T>(max_depth);
  in.orthogonal = orthogonal, in.right_handed = right_handed, in.max_hits = max_hits;
  in.count_all = count_all, in.average = average;
}

// out[i] += the sum of `size` terms, for `count` such segments; in double precision and in order.
template <class T>
void add_sums(const T* terms, int64_t count, int64_t size, T* out) {
  for_each_task(count, [&](int64_t i, int) {
    double sum = 0;
    for (int64_t k = 0; k < size; ++k) sum += static_cast<double>(terms[i * size + k]);
    out[i] += static_cast<T>(sum);
  });
}

template <class T>
void render_spheres_backward_cpu(const SpheresInput<T>& in, const SpheresGrads<T>& g) {
  constexpr Device cpu;
  constexpr int64_t each = FinishSphere<T>::camera_terms;
  const Scratch<T> sums(in.B * in.N * (SphereSums::colors + in.C), cpu);
  std::fill(sums.begin(), sums.end(), T(0));
  RECON_SIMD_CALL(sum_spheres_cpu, in, g, sums.data());
  const auto for_each = [](int64_t n, const auto& f) {
    for_each_range(n, 512, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) f(i);
    });
  };
  const Scratch<T> terms(g.camera ? in.B * each * in.N : 0, cpu);
  for_each(in.B * in.N, FinishSphere<T>{in, g, sums.data(), g.camera ? terms.data() : nullptr});
  if (g.camera) {
    const Scratch<T> totals(in.B * each, cpu);
    std::fill(totals.begin(), totals.end(), T(0));
    add_sums(terms.data(), in.B * each, in.N, totals.data());
    for_each(in.B, FinishCamera<T>{totals.data(), g.camera, in.average});
  }
  if (g.background) {
    const int64_t pixels = in.B * in.H * in.W;
    const Scratch<T> of_pixels(in.C * pixels, cpu);
    for_each(pixels, BackgroundTerms<T>{in, g, of_pixels.data()});
    add_sums(of_pixels.data(), in.C, pixels, g.background);
  }
}

}  // namespace

void render_spheres(Tensor points, Tensor radii, Tensor colors, Tensor opacity, Tensor camera, Tensor background,
                    Tensor order, Tensor offset, int64_t, int64_t, double gamma, double min_depth, double max_depth,
                    double background_depth, bool orthogonal, bool right_handed, int64_t max_hits, bool count_all,
                    int64_t, bool average, Tensor image, Tensor stats, Tensor ids, Tensor depths) {
  dispatch_float(points.dtype, [&](auto number) {
    using T = decltype(number);
    auto in = spheres_input<T>(points, radii, colors, opacity, camera, background, order, offset, image, ids);
    set_numbers(in, gamma, min_depth, max_depth, background_depth, orthogonal, right_handed, max_hits, count_all,
                average);
    const SpheresOutput<T> out = {image.packed<T>(), stats.packed<T>(), ids.packed<int32_t>(), depths.packed<T>()};
    if (!points.device.cuda) return RECON_SIMD_CALL(render_spheres_cpu, in, out);
#ifdef RECON_CUDA
    render_spheres_cuda(in, out, points.device);
#endif
  });
}
RECON_OP(render_spheres,
         "points: B N 3, radii: B N, colors: B N C, opacity: B N, camera: B 4 3, background: C, order: i64 B N, "
         "offset: i32 B 2, height: int>0, width: int>0, gamma: real>0, min_depth: real, max_depth: real, "
         "background_depth: real, orthogonal: bool, right_handed: bool, max_hits: int>0, count_all: bool, "
         "track: int>=0, average: bool, image: B H W C, stats: B H W 4, ids: i32 B H W K, depths: B H W K");

void render_spheres_backward(Tensor points, Tensor radii, Tensor colors, Tensor opacity, Tensor camera,
                             Tensor background, Tensor order, Tensor offset, int64_t, int64_t, double gamma,
                             double min_depth, double max_depth, double background_depth, bool orthogonal,
                             bool right_handed, int64_t max_hits, bool count_all, int64_t, bool average, Tensor image,
                             Tensor stats, Tensor ids, std::optional<Tensor>, Tensor grad_image, std::optional<Tensor>,
                             std::optional<Tensor>, std::optional<Tensor> grad_points, std::optional<Tensor> grad_radii,
                             std::optional<Tensor> grad_colors, std::optional<Tensor> grad_opacity,
                             std::optional<Tensor> grad_camera, std::optional<Tensor> grad_background) {
  dispatch_float(points.dtype, [&](auto number) {
    using T = decltype(number);
    auto in = spheres_input<T>(points, radii, colors, opacity, camera, background, order, offset, image, ids);
    set_numbers(in, gamma, min_depth, max_depth, background_depth, orthogonal, right_handed, max_hits, count_all,
                average);
    const auto or_null = [](const std::optional<Tensor>& t) { return t ? t->packed<T>() : nullptr; };
    const SpheresGrads<T> grads = {image.packed<T>(),       stats.packed<T>(),     ids.packed<int32_t>(),
                                   grad_image.packed<T>(),  or_null(grad_points),  or_null(grad_radii),
                                   or_null(grad_colors),    or_null(grad_opacity), or_null(grad_camera),
                                   or_null(grad_background)};
    if (!points.device.cuda) return render_spheres_backward_cpu(in, grads);
#ifdef RECON_CUDA
    render_spheres_backward_cuda(in, grads, points.device);
#endif
  });
}
RECON_OP(render_spheres_backward,
         "points: B N 3, radii: B N, colors: B N C, opacity: B N, camera: B 4 3, background: C, order: i64 B N, "
         "offset: i32 B 2, height: int>0, width: int>0, gamma: real>0, min_depth: real, max_depth: real, "
         "background_depth: real, orthogonal: bool, right_handed: bool, max_hits: int>0, count_all: bool, "
         "track: int>=0, average: bool, image: B H W C, stats: B H W 4, ids: i32 B H W K, depths?: B H W K, "
         "grad_image: B H W C, grad_stats?: B H W 4, grad_depths?: B H W K, grad_points?: B N 3, grad_radii?: B N, "
         "grad_colors?: B N C, grad_opacity?: B N, grad_camera?: B 4 3, grad_background?: C");

}  // namespace recon
