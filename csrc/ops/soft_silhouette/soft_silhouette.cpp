// soft_silhouette: rasterize_faces and sigmoid_alpha_blend in one pass that never writes the K fragments of a pixel.
//
//   p_k = 1 / (1 + exp(dist_k / sigma))      clear = prod over the K nearest faces of (1 - p_k)      opacity = 1 -
//   clear d clear / d dist_k = clear p_k / sigma
//
// A product does not depend on its order, so faces are not sorted unless a pixel is hit by more than K of them. The
// backward pass finds the hits again instead of keeping them: it needs `clear` and, for crowded pixels, which face was
// the last to count.
#include "core/op.h"
#include "ops/soft_silhouette/kernels.h"
#include "raster/arguments.h"

namespace recon {

void soft_silhouette(Tensor verts, Tensor faces, Tensor first, Tensor count, int64_t, int64_t, double blur_radius,
                     int64_t K, double sigma, bool perspective, bool clip, bool cull, Tensor clear, Tensor last_face) {
  dispatch_float(verts.dtype, [&](auto number) {
    using T = decltype(number);
    const auto in =
        raster_input<T>(verts, faces, first, count, std::nullopt, blur_radius, perspective, clip, cull, clear);
    const Silhouette<T> s = {clear.packed<T>(), last_face.packed<int32_t>(), nullptr,
                             nullptr,           static_cast<T>(sigma),       K};
    if (!verts.device.cuda) return RECON_SIMD_CALL(soft_silhouette_cpu, in, s);
#ifdef RECON_CUDA
    soft_silhouette_cuda(in, s, verts.device);
#endif
  });
}
RECON_OP(soft_silhouette,
         "verts: V 3, faces: i64 F 3, mesh_to_face_first_idx: i64 N, num_faces_per_mesh: i64 N, height: int>0, width: "
         "int>0, blur_radius: real>=0, faces_per_pixel: int>0, sigma: real>0, perspective_correct: bool, "
         "clip_barycentric_coords: bool, cull_backfaces: bool, clear: N H W, last_face: i32 N H W");

void soft_silhouette_backward(Tensor verts, Tensor faces, Tensor first, Tensor count, int64_t, int64_t,
                              double blur_radius, int64_t K, double sigma, bool perspective, bool clip, bool cull,
                              Tensor clear, Tensor last_face, Tensor grad_clear, Tensor grad_verts) {
  dispatch_float(verts.dtype, [&](auto number) {
    using T = decltype(number);
    const auto in =
        raster_input<T>(verts, faces, first, count, std::nullopt, blur_radius, perspective, clip, cull, clear);
    const Silhouette<T> s = {clear.packed<T>(),      last_face.packed<int32_t>(), grad_clear.packed<T>(),
                             grad_verts.packed<T>(), static_cast<T>(sigma),       K};
    if (!verts.device.cuda) return RECON_SIMD_CALL(soft_silhouette_backward_cpu, in, s);
#ifdef RECON_CUDA
    soft_silhouette_backward_cuda(in, s, verts.device);
#endif
  });
}
RECON_OP(soft_silhouette_backward,
         "verts: V 3, faces: i64 F 3, mesh_to_face_first_idx: i64 N, num_faces_per_mesh: i64 N, height: int>0, width: "
         "int>0, blur_radius: real>=0, faces_per_pixel: int>0, sigma: real>0, perspective_correct: bool, "
         "clip_barycentric_coords: bool, cull_backfaces: bool, clear: N H W, last_face: i32 N H W, grad_clear: N H W, "
         "grad_verts: V 3");

}  // namespace recon
