// rasterize_faces: the K nearest faces of every pixel.
//
//   verts (V,3) x, y in NDC and z in view space; faces (F,3); mesh n owns faces first[n] ... first[n] + count[n] - 1
//   a face hits a pixel centre that lies inside it, or closer to it than sqrt(blur_radius) in NDC
//   -> pix_to_face, zbuf, bary, dists (N,H,W,K[,3]): sorted by depth, then by face; -1 where there is no face
//
// Cost: proportional to the faces, plus the pixels that their blurred bounding boxes cover, plus the output.
#include "core/op.h"
#include "ops/rasterize_faces/kernels.h"
#include "raster/arguments.h"

namespace recon {

void rasterize_faces(Tensor verts, Tensor faces, Tensor first, Tensor count, std::optional<Tensor> neighbors, int64_t,
                     int64_t, double blur_radius, int64_t, bool perspective, bool clip, bool cull, Tensor pix_to_face,
                     Tensor zbuf, Tensor bary, Tensor dists) {
  dispatch_float(verts.dtype, [&](auto number) {
    using T = decltype(number);
    const auto in =
        raster_input<T>(verts, faces, first, count, neighbors, blur_radius, perspective, clip, cull, pix_to_face);
    const Fragments<T> out = {pix_to_face.packed<int64_t>(), zbuf.packed<T>(), bary.packed<T>(), dists.packed<T>(),
                              pix_to_face.shape[3]};
    if (!verts.device.cuda) return RECON_SIMD_CALL(rasterize_faces_cpu, in, out);
#ifdef RECON_CUDA
    rasterize_faces_cuda(in, out, verts.device);
#endif
  });
}
RECON_OP(rasterize_faces,
         "verts: V 3, faces: i64 F 3, mesh_to_face_first_idx: i64 N, num_faces_per_mesh: i64 N, "
         "clipped_faces_neighbor_idx?: i64 F, height: int>0, width: int>0, blur_radius: real>=0, faces_per_pixel: "
         "int>0, perspective_correct: bool, clip_barycentric_coords: bool, cull_backfaces: bool, "
         "pix_to_face: i64 N H W K, zbuf: N H W K, bary: N H W K 3, dists: N H W K");

void rasterize_faces_backward(Tensor verts, Tensor faces, Tensor first, Tensor count, std::optional<Tensor> neighbors,
                              int64_t, int64_t, double blur_radius, int64_t, bool perspective, bool clip, bool cull,
                              Tensor pix_to_face, std::optional<Tensor>, std::optional<Tensor>, std::optional<Tensor>,
                              Tensor grad_zbuf, Tensor grad_bary, Tensor grad_dists, Tensor grad_verts) {
  dispatch_float(verts.dtype, [&](auto number) {
    using T = decltype(number);
    const auto in =
        raster_input<T>(verts, faces, first, count, neighbors, blur_radius, perspective, clip, cull, pix_to_face);
    const FragmentGrads<T> grads = {pix_to_face.packed<int64_t>(), grad_zbuf.packed<T>(),  grad_bary.packed<T>(),
                                    grad_dists.packed<T>(),        grad_verts.packed<T>(), pix_to_face.shape[3]};
    if (!verts.device.cuda) return RECON_SIMD_CALL(rasterize_faces_backward_cpu, in, grads);
#ifdef RECON_CUDA
    rasterize_faces_backward_cuda(in, grads, verts.device);
#endif
  });
}
RECON_OP(rasterize_faces_backward,
         "verts: V 3, faces: i64 F 3, mesh_to_face_first_idx: i64 N, num_faces_per_mesh: i64 N, "
         "clipped_faces_neighbor_idx?: i64 F, height: int>0, width: int>0, blur_radius: real>=0, faces_per_pixel: "
         "int>0, perspective_correct: bool, clip_barycentric_coords: bool, cull_backfaces: bool, "
         "pix_to_face: i64 N H W K, zbuf?: N H W K, bary?: N H W K 3, dists?: N H W K, "
         "grad_zbuf: N H W K, grad_bary: N H W K 3, grad_dists: N H W K, grad_verts: V 3");

}  // namespace recon
