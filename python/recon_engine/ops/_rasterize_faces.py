from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recon_engine._op import Op, empty_output
from recon_engine.ops._raster_reference import rasterize_reference


def rasterize_faces(
    verts: Tensor,
    faces: Tensor,
    mesh_to_face_first_idx: Tensor,
    num_faces_per_mesh: Tensor,
    clipped_faces_neighbor_idx: Tensor | None = None,
    image_size: tuple[int, int] = (256, 256),
    blur_radius: float = 0.0,
    faces_per_pixel: int = 8,
    perspective_correct: bool = False,
    clip_barycentric_coords: bool = False,
    cull_backfaces: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The K faces nearest to the camera at every pixel.

    A face takes part at a pixel whose centre lies strictly inside it, or closer to it than `sqrt(blur_radius)`. Faces
    with a vertex at or behind the camera plane, without area, so large that the squares of their edges overflow, or (on
    request) facing away are skipped.

    Args:
        verts: (V, 3) x and y in NDC (+x left, +y up, the shorter image side spans [-1, 1]), z in view space.
        faces: (F, 3) int64 indices into `verts`.
        mesh_to_face_first_idx: (N,) int64, the first face of each mesh.
        num_faces_per_mesh: (N,) int64, how many faces follow it.
        clipped_faces_neighbor_idx: (F,) int64 or None. Where a face was clipped into two, each names the other (else
            -1): of the two only the one nearer to the pixel counts.
        image_size: (H, W) in pixels.
        blur_radius: squared NDC distance by which faces are dilated.
        faces_per_pixel: K, any number.
        perspective_correct: interpolate depth and barycentric coordinates in world space.
        clip_barycentric_coords: clamp barycentric coordinates of pixels outside a face to the face.
        cull_backfaces: skip faces whose vertices run clockwise in NDC.

    Returns:
        pix_to_face: (N, H, W, K) int64 rows of `faces`, sorted by depth and then by index; -1 where there is none. Not
            differentiable.
        zbuf: (N, H, W, K) depth of each face at the pixel, -1 where there is none.
        bary: (N, H, W, K, 3) barycentric coordinates, -1 where there is none.
        dists: (N, H, W, K) squared NDC distance of the pixel to the face, negative inside; -1 where there is none.

    Differentiable in `verts`. CPU and CUDA, float32 and float64. On the CPU the float32 results equal PyTorch3D's
    (0.7.9) bit for bit, on any number of threads.

    Raises:
        ValueError: for shapes that disagree, indices out of range, and (on the CPU) vertices in front of the camera
            that are not finite.

    References:
        Liu et al., Soft Rasterizer, ICCV 2019; Ravi et al., Accelerating 3D Deep Learning with PyTorch3D, 2020.
    """
    height, width, K = checked_size(image_size, faces_per_pixel)
    verts, faces = unshared_if_deterministic(verts, faces)
    return _rasterize_faces(
        verts,
        faces,
        mesh_to_face_first_idx,
        num_faces_per_mesh,
        clipped_faces_neighbor_idx,
        height,
        width,
        float(blur_radius),
        K,
        perspective_correct,
        clip_barycentric_coords,
        cull_backfaces,
    )


def checked_size(image_size: Sequence[int], faces_per_pixel: int) -> tuple[int, int, int]:
    """Height, width and K. What cannot be the shape of the outputs is refused here, before they are allocated."""
    if not hasattr(image_size, "__len__") or len(image_size) != 2:
        raise ValueError(f"image_size must be two ints (H, W), got {image_size}")
    sizes = []
    for name, size in (
        ("image_size", image_size[0]),
        ("image_size", image_size[1]),
        ("faces_per_pixel", faces_per_pixel),
    ):
        if not isinstance(size, int):  # an int of NumPy, say; those of torch.compile stay symbols
            if not hasattr(size, "__index__"):
                raise TypeError(f"{name} must be made of ints, got {size!r} ({type(size).__name__})")
            size = int(size)
        if size <= 0:
            raise ValueError(f"{name} must be > 0, got {size}")
        sizes.append(size)
    return sizes[0], sizes[1], sizes[2]


def unshared_if_deterministic(verts: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Gives every face its own vertices where the CUDA kernels would otherwise add to a vertex in any order."""
    if not (verts.is_cuda and torch.are_deterministic_algorithms_enabled()):
        return verts, faces
    return verts[faces.flatten()], torch.arange(faces.numel(), device=faces.device).view(-1, 3)


def _reference(
    verts: Tensor,
    faces: Tensor,
    first: Tensor,
    count: Tensor,
    neighbors: Tensor | None,
    height: int,
    width: int,
    blur_radius: float,
    faces_per_pixel: int,
    perspective_correct: bool,
    clip_barycentric_coords: bool,
    cull_backfaces: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return rasterize_reference(
        verts,
        faces,
        first,
        count,
        neighbors,
        (height, width),
        blur_radius,
        faces_per_pixel,
        perspective_correct,
        clip_barycentric_coords,
        cull_backfaces,
    )


def _outputs(
    verts: Tensor,
    faces: Tensor,
    mesh_to_face_first_idx: Tensor,
    num_faces_per_mesh: Tensor,
    clipped_faces_neighbor_idx: Tensor | None,
    height: int,
    width: int,
    blur_radius: float,
    faces_per_pixel: int,
    perspective_correct: bool,
    clip_barycentric_coords: bool,
    cull_backfaces: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (mesh_to_face_first_idx.shape[0], height, width, faces_per_pixel)
    pix_to_face = empty_output(verts, shape, torch.int64)
    return pix_to_face, empty_output(verts, shape), empty_output(verts, (*shape, 3)), empty_output(verts, shape)


_rasterize_faces = Op("rasterize_faces", _outputs, _reference, reads=[0])
