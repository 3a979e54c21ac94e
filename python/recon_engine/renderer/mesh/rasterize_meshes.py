"""Rasterisation of meshes in NDC, and the scalar geometry of a pixel and a face."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recon_engine._compile import is_traced

from ..utils import parse_image_size
from .clip import (
    ClipFrustum,
    ClippedFaces,
    clip_faces,
    clip_faces_to_fixed_size,
    convert_clipped_rasterization_to_original_faces,
    look_is_free,
)

kEpsilon = 1e-8
"""Smallest area and depth of a face that is drawn."""

kMaxFacesPerBin = 22
"""Bins per side from which PyTorch3D refuses a `bin_size`."""


def rasterize_meshes(
    meshes: Any,
    image_size: int | Sequence[int] = 256,
    blur_radius: float = 0.0,
    faces_per_pixel: int = 8,
    bin_size: int | None = None,
    max_faces_per_bin: int | None = None,
    perspective_correct: bool = False,
    clip_barycentric_coords: bool = False,
    cull_backfaces: bool = False,
    z_clip_value: float | Tensor | None = None,
    cull_to_frustum: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find the K nearest faces of every pixel.

    Args:
        meshes: N meshes with x, y in NDC (+X left, +Y up, short side of the image in [-1, 1]) and z in view space.
        image_size: side of square images, or (height, width), in pixels. Pixels are square.
        blur_radius: squared NDC distance up to which a face also counts for pixels outside of it.
        faces_per_pixel: K, without limit.
        bin_size: accepted and checked; the engine needs no tuning.
        max_faces_per_bin: accepted; the engine's bins cannot overflow.
        perspective_correct: whether x and y come from a perspective projection; corrects barycentric coordinates.
        clip_barycentric_coords: whether coordinates outside of the face are moved to its border, before depth is
            computed from them.
        cull_backfaces: whether faces with clockwise vertices are dropped.
        z_clip_value: depth in front of which faces are kept, cut where they cross it; None keeps faces whole and
            drops those that reach behind the camera.
        cull_to_frustum: accepted; faces outside of the image cost nothing and never change it.

    Returns:
        pix_to_face: (N, H, W, K) int64 packed face indices by increasing depth, -1 where there are fewer than K.
        zbuf: (N, H, W, K) depths, -1 where empty.
        barycentric: (N, H, W, K, 3) coordinates in the faces, -1 where empty.
        dists: (N, H, W, K) squared NDC distances to the faces' borders, negative inside, -1 where empty.

    Differentiable in the vertices. CPU and CUDA, float32 and float64. Never waits for the device.

    Raises:
        ValueError: an argument out of range, or a `bin_size` that gives 22 or more bins per side.
    """
    from recon_engine import ops

    size = check_raster_arguments(image_size, blur_radius, faces_per_pixel, bin_size, max_faces_per_bin)
    verts, faces = meshes.verts_packed(), meshes.faces_packed()
    first, count = meshes.mesh_to_faces_packed_first_idx(), meshes.num_faces_per_mesh()
    options = (
        float(blur_radius),
        int(faces_per_pixel),
        bool(perspective_correct),
        bool(clip_barycentric_coords),
        bool(cull_backfaces),
    )
    plane = plane_to_look_at(verts, z_clip_value)
    if plane is not None:
        from . import _in_front

        found = _in_front.rasterize_faces(plane, verts, faces, first, count, None, *size, *options)
        return found[0], found[1], found[2], found[3]
    neighbors = None
    clipped = clip_where_needed(verts, faces, first, count, perspective_correct, z_clip_value)
    if clipped is not None:
        verts = clipped.face_verts.reshape(-1, 3)
        faces = torch.arange(verts.shape[0], device=verts.device).view(-1, 3)
        first, count = clipped.mesh_to_face_first_idx, clipped.num_faces_per_mesh
        neighbors = clipped.clipped_faces_neighbor_idx
    pix_to_face, zbuf, bary, dists = ops.rasterize_faces(
        verts,
        faces,
        first,
        count,
        neighbors,
        size,
        *options,
    )
    if clipped is not None:
        pix_to_face, bary = convert_clipped_rasterization_to_original_faces(pix_to_face, bary, clipped)
    return pix_to_face, zbuf, bary, dists


def rasterize_meshes_python(
    meshes: Any,
    image_size: int | Sequence[int] = 256,
    blur_radius: float = 0.0,
    faces_per_pixel: int = 8,
    perspective_correct: bool = False,
    clip_barycentric_coords: bool = False,
    cull_backfaces: bool = False,
    z_clip_value: float | Tensor | None = None,
    cull_to_frustum: bool = True,
    clipped_faces_neighbor_idx: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`rasterize_meshes` by the plain torch reference and not by the kernels: slow, for comparisons.

    Args:
        meshes: as in `rasterize_meshes`, like all arguments but the last.
        image_size: side or (height, width).
        blur_radius: squared NDC distance.
        faces_per_pixel: K.
        perspective_correct: whether x and y come from a perspective projection.
        clip_barycentric_coords: whether coordinates outside of a face move to its border.
        cull_backfaces: whether clockwise faces are dropped.
        z_clip_value: depth to cut faces at.
        cull_to_frustum: accepted.
        clipped_faces_neighbor_idx: accepted; the neighbours of faces cut here are found here.
    """
    from recon_engine._op import reference

    with reference():
        return rasterize_meshes(
            meshes,
            image_size,
            blur_radius,
            faces_per_pixel,
            perspective_correct=perspective_correct,
            clip_barycentric_coords=clip_barycentric_coords,
            cull_backfaces=cull_backfaces,
            z_clip_value=z_clip_value,
            cull_to_frustum=cull_to_frustum,
        )


class _RasterizeFaceVerts:
    """Rasterises corners of faces: the function of PyTorch3D below `rasterize_meshes`, which its tests call."""

    @staticmethod
    def apply(
        face_verts: Tensor,
        mesh_to_face_first_idx: Tensor,
        num_faces_per_mesh: Tensor,
        clipped_faces_neighbor_idx: Tensor,
        image_size: int | Sequence[int],
        blur_radius: float = 0.01,
        faces_per_pixel: int = 8,
        bin_size: int = 0,
        max_faces_per_bin: int = 0,
        perspective_correct: bool = False,
        clip_barycentric_coords: bool = False,
        cull_backfaces: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """pix_to_face, zbuf, barycentric coordinates and distances of the faces `face_verts` (F, 3, 3) in NDC."""
        from recon_engine import ops

        size = check_raster_arguments(image_size, blur_radius, faces_per_pixel, bin_size, max_faces_per_bin)
        return ops.rasterize_faces(
            face_verts.reshape(-1, 3),
            torch.arange(3 * len(face_verts), device=face_verts.device).view(-1, 3),
            mesh_to_face_first_idx,
            num_faces_per_mesh,
            clipped_faces_neighbor_idx,
            size,
            float(blur_radius),
            int(faces_per_pixel),
            bool(perspective_correct),
            bool(clip_barycentric_coords),
            bool(cull_backfaces),
        )


def check_number(name: str, value: Any) -> float:
    """Return `value` as a float, or raise ValueError for what is no number."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be a number, got {value!r} ({type(value).__name__})") from None


def check_raster_arguments(
    image_size: int | Sequence[int],
    blur_radius: float,
    faces_per_pixel: int,
    bin_size: int | None = None,
    max_faces_per_bin: int | None = None,
) -> tuple[int, int]:
    """Return (height, width), or raise ValueError for a setting that cannot be rasterised with."""
    height, width = parse_image_size(image_size)
    if not 0.0 <= check_number("blur_radius", blur_radius) < math.inf:
        raise ValueError(f"blur_radius must be a finite number >= 0 (a squared NDC distance), got {blur_radius}")
    if not _is_integer("faces_per_pixel", faces_per_pixel) or faces_per_pixel < 1:
        raise ValueError(f"faces_per_pixel must be an integer >= 1, got {faces_per_pixel}")
    for name, value in (("bin_size", bin_size), ("max_faces_per_bin", max_faces_per_bin)):
        if value is not None and (not _is_integer(name, value) or value < 0):
            raise ValueError(f"{name} must be None or an integer >= 0, got {value}")
    if bin_size:
        bins = 1 + (max(height, width) - 1) // bin_size
        if bins >= kMaxFacesPerBin:
            raise ValueError(
                f"bin_size too small, number of faces per bin must be less than {kMaxFacesPerBin}; got {bins}"
            )
    return height, width


def _is_integer(name: str, value: Any) -> bool:
    return not isinstance(value, bool) and check_number(name, value).is_integer()


def reaches_behind(verts: Tensor, z_clip_value: float | Tensor | None) -> bool:
    """Whether a vertex lies in front of no clipping plane. Synchronises on CUDA when there is a plane."""
    if z_clip_value is None or verts.shape[0] == 0:
        return False
    # Of NaN the minimum is NaN: clipping then looks closer.
    return not verts.detach()[:, 2].min().item() >= z_clip_value


def _check_plane(z_clip_value: float | Tensor | None) -> None:
    if isinstance(z_clip_value, Tensor):
        if z_clip_value.numel() != 1:
            raise ValueError(f"z_clip_value must be one number, got a tensor of shape {tuple(z_clip_value.shape)}")
    elif z_clip_value is not None and not math.isfinite(check_number("z_clip_value", z_clip_value)):
        raise ValueError(f"z_clip_value must be None or a finite number, got {z_clip_value}")


def plane_to_look_at(verts: Tensor, z_clip_value: float | Tensor | None) -> Tensor | None:
    """The plane as a tensor where only the ops of `_in_front` can look whether faces are cut; else None."""
    if not is_traced() or verts.is_cuda or z_clip_value is None or verts.shape[0] == 0:
        return None
    _check_plane(z_clip_value)
    return torch.as_tensor(z_clip_value, dtype=verts.dtype, device=verts.device).reshape(())


def clip_where_needed(
    verts: Tensor,
    faces: Tensor,
    first: Tensor,
    count: Tensor,
    perspective_correct: bool,
    z_clip_value: float | Tensor | None,
) -> ClippedFaces | None:
    """The faces cut at z = z_clip_value, or None where none is cut.

    On the CPU a look at the depths finds that nothing is cut. On CUDA a look would wait for the device: there the
    result has room for two pieces of every face whenever there is a plane.
    """
    _check_plane(z_clip_value)
    if z_clip_value is None or verts.shape[0] == 0:
        return None
    frustum = ClipFrustum(perspective_correct=perspective_correct, cull=False, z_clip_value=z_clip_value)
    if not look_is_free(verts):
        return clip_faces_to_fixed_size(verts.index_select(0, faces.reshape(-1)).view(-1, 3, 3), first, count, frustum)
    if not reaches_behind(verts, z_clip_value):
        return None
    clipped = clip_faces(verts[faces], first, count, frustum)
    return clipped if clipped.faces_clipped_to_unclipped_idx is not None else None


def non_square_ndc_range(S1: float, S2: float) -> float:
    """The extent in NDC of an image side of S1 pixels when the other has S2: 2 for the shorter, 2 S1 / S2 else."""
    return 2.0 * S1 / S2 if S1 > S2 else 2.0


def pix_to_non_square_ndc(i: Any, S1: float, S2: float) -> Any:
    """The NDC coordinate of the centre of pixel `i` along a side of S1 pixels when the other has S2."""
    extent = non_square_ndc_range(S1, S2)
    half = extent / 2.0
    return -half + (extent * i + half) / S1


def edge_function(p: Any, v0: Any, v1: Any) -> Any:
    """Twice the signed area of the triangle (v0, v1, p) in x and y, positive when p lies on the right of v0 -> v1."""
    return (p[0] - v0[0]) * (v1[1] - v0[1]) - (p[1] - v0[1]) * (v1[0] - v0[0])


def barycentric_coordinates(p: Any, v0: Any, v1: Any, v2: Any) -> tuple[Any, Any, Any]:
    """The barycentric coordinates of p in the triangle (v0, v1, v2), in x and y."""
    area = edge_function(v2, v0, v1) + kEpsilon
    return edge_function(p, v1, v2) / area, edge_function(p, v2, v0) / area, edge_function(p, v0, v1) / area


def barycentric_coordinates_clip(bary: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Set negative barycentric coordinates to zero and scale them to sum 1: a point on the triangle's border."""
    w0, w1, w2 = (torch.clamp(w, min=0.0) for w in bary)
    total = torch.clamp(w0 + w1 + w2, min=1e-5)
    return w0 / total, w1 / total, w2 / total


def point_line_distance(p: Tensor, v0: Tensor, v1: Tensor) -> Tensor:
    """The squared distance of p (D,) to the segment from v0 to v1."""
    if not p.shape == v0.shape == v1.shape:
        raise ValueError(
            "All points must have the same number of coordinates; "
            f"got shapes {tuple(p.shape)}, {tuple(v0.shape)}, {tuple(v1.shape)}"
        )
    edge = v1 - v0
    squared_length = edge.dot(edge)
    if squared_length <= kEpsilon:
        return (p - v1).dot(p - v1)
    t = torch.clamp(edge.dot(p - v0) / squared_length, min=0.0, max=1.0)
    offset = v0 + t * edge - p
    return offset.dot(offset)


def point_triangle_distance(p: Tensor, v0: Tensor, v1: Tensor, v2: Tensor) -> Tensor:
    """The squared distance of p (D,) to the border of the triangle (v0, v1, v2)."""
    edges = ((v0, v1), (v0, v2), (v1, v2))
    return torch.stack([point_line_distance(p, start, end) for start, end in edges]).min()
