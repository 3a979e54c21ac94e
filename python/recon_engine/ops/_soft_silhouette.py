from __future__ import annotations

import torch
from torch import Tensor

from recon_engine._op import Op
from recon_engine.ops._raster_reference import rasterize_reference
from recon_engine.ops._rasterize_faces import checked_size, unshared_if_deterministic


def soft_silhouette(
    verts: Tensor,
    faces: Tensor,
    mesh_to_face_first_idx: Tensor,
    num_faces_per_mesh: Tensor,
    image_size: tuple[int, int],
    blur_radius: float,
    faces_per_pixel: int,
    sigma: float,
    perspective_correct: bool = False,
    clip_barycentric_coords: bool = False,
    cull_backfaces: bool = False,
) -> Tensor:
    """Soft silhouettes: `sigmoid_alpha_blend` of `rasterize_faces`, without ever writing the K fragments of a pixel.

    Args:
        verts: (V, 3) x and y in NDC (+x left, +y up, the shorter image side spans [-1, 1]), z in view space.
        faces: (F, 3) int64 indices into `verts`.
        mesh_to_face_first_idx: (N,) int64, the first face of each mesh.
        num_faces_per_mesh: (N,) int64, how many faces follow it.
        image_size: (H, W) in pixels.
        blur_radius: squared NDC distance by which faces are dilated.
        faces_per_pixel: K; of the faces that hit a pixel the K nearest count.
        sigma: softness, a squared NDC distance; positive.
        perspective_correct: as in `rasterize_faces`; decides only which faces are the K nearest.
        clip_barycentric_coords: likewise.
        cull_backfaces: skip faces whose vertices run clockwise in NDC.

    Returns:
        alpha: (N, H, W) opacity `1 - prod_k(1 - sigmoid(-dists_k / sigma))`.

    Differentiable in `verts` (x and y). CPU and CUDA, float32 and float64.

    Cost: 8 bytes of memory for a pixel whatever K is; the backward pass finds the hits again.

    Raises:
        ValueError: as `rasterize_faces`.

    References:
        Liu et al., Soft Rasterizer, ICCV 2019, equations 1 and 3.
    """
    height, width, K = checked_size(image_size, faces_per_pixel)
    verts, faces = unshared_if_deterministic(verts, faces)
    clear = _soft_silhouette(
        verts,
        faces,
        mesh_to_face_first_idx,
        num_faces_per_mesh,
        height,
        width,
        float(blur_radius),
        K,
        float(sigma),
        perspective_correct,
        clip_barycentric_coords,
        cull_backfaces,
    )
    return 1 - clear


def _reference(
    verts: Tensor,
    faces: Tensor,
    first: Tensor,
    count: Tensor,
    height: int,
    width: int,
    blur_radius: float,
    faces_per_pixel: int,
    sigma: float,
    perspective_correct: bool,
    clip_barycentric_coords: bool,
    cull_backfaces: bool,
) -> Tensor:
    options = (perspective_correct, clip_barycentric_coords, cull_backfaces)
    pix_to_face, _, _, dists = rasterize_reference(
        verts, faces, first, count, None, (height, width), blur_radius, faces_per_pixel, *options
    )
    return torch.where(pix_to_face >= 0, 1 - torch.sigmoid(-dists / sigma), 1.0).prod(-1)


def _outputs(
    verts: Tensor,
    faces: Tensor,
    mesh_to_face_first_idx: Tensor,
    num_faces_per_mesh: Tensor,
    height: int,
    width: int,
    blur_radius: float,
    faces_per_pixel: int,
    sigma: float,
    perspective_correct: bool,
    clip_barycentric_coords: bool,
    cull_backfaces: bool,
) -> tuple[Tensor, Tensor]:
    clear = verts.new_empty((mesh_to_face_first_idx.shape[0], height, width))
    return clear, torch.empty_like(clear, dtype=torch.int32)


_soft_silhouette = Op("soft_silhouette", _outputs, _reference, kept=1)  # last_face
