"""Questions that points and rays ask of a mesh: what is closest, what is inside, what is hit."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recon_engine.ops._point_mesh import closest_weights, point_mesh
from recon_engine.ops._ray_mesh import point_mesh_winding, ray_mesh


class ClosestPoints(NamedTuple):
    """What `closest_points_on_mesh` finds.

    Args:
        points: (P, 3) the closest points of the mesh.
        distance: (P,) how far they are.
        face_idx: (P,) int64, the faces they lie on.
        bary: (P, 3) their barycentric coordinates there.
    """

    points: Tensor
    distance: Tensor
    face_idx: Tensor
    bary: Tensor


class RayHits(NamedTuple):
    """What `ray_mesh_intersection` finds.

    Args:
        t: (R,) the hits are at `origins + t * directions`; infinity where nothing is hit.
        face_idx: (R,) int64, the faces that are hit; -1 where nothing is.
        bary: (R, 3) barycentric coordinates of the hits; 0 where nothing is hit.
    """

    t: Tensor
    face_idx: Tensor
    bary: Tensor


def closest_points_on_mesh(points: Tensor, verts: Tensor, faces: Tensor) -> ClosestPoints:
    """The point of a mesh that is closest to each of some points.

    Exact for every mesh: needles, faces without area, duplicated faces (the lower index wins).

    Args:
        points: (P, 3).
        verts: (V, 3) vertices.
        faces: (F, 3) int64 indices of vertices; at least one.

    Returns:
        The closest points, distances, faces and barycentric coordinates. All but the faces are differentiable in
        `points` and `verts`; the gradient of a distance of 0 is 0.

    Raises:
        ValueError: a mesh without faces, indices out of range or numbers that are not finite (on the CPU), shapes,
            dtypes or devices that do not fit together.

    Cost: on the CPU (P + F) log F, usually; on CUDA P F.
    """
    tris = _triangles(verts, faces)
    if len(tris) == 0:
        raise ValueError("closest_points_on_mesh: faces must hold at least one face, got none: it has no closest point")
    first = torch.zeros(1, dtype=torch.int64, device=points.device)
    _, face_idx = point_mesh(points.detach(), first, tris.detach(), first)
    face_idx = face_idx.clamp(min=0)  # on a GPU a point that is not a number has found nothing
    corners = tris[face_idx] - points[:, None]
    bary = closest_weights(corners)
    offset = (bary[:, :, None] * corners).sum(1)
    return ClosestPoints(points + offset, _length(offset), face_idx, bary)


def winding_number(points: Tensor, verts: Tensor, faces: Tensor) -> Tensor:
    """How often a mesh surrounds each of some points: the generalised winding number.

    1 inside of a closed mesh whose faces run counter-clockwise seen from outside, 0 outside, the sum over nested
    parts, and a number in between for meshes with holes. The sum is exact, over all faces: no approximation.

    Args:
        points: (P, 3).
        verts: (V, 3) vertices.
        faces: (F, 3) int64 indices of vertices.

    Returns:
        (P,) winding numbers; not differentiable. On a closed surface it is one of the values of the two sides.

    Raises:
        ValueError: indices out of range or numbers that are not finite (on the CPU), shapes, dtypes or devices that do
            not fit together.

    Cost: P F.

    References:
        Jacobson, Kavan, Sorkine-Hornung, Robust Inside-Outside Segmentation using Generalized Winding Numbers, 2013.
    """
    winding: Tensor = point_mesh_winding(points.detach(), _triangles(verts, faces).detach())
    return winding


def signed_distance(points: Tensor, verts: Tensor, faces: Tensor) -> Tensor:
    """The distance of points to a closed mesh, negative inside.

    Inside is where the winding number is closer to 1 or -1 than to 0, so that small holes do no harm and the
    orientation of the mesh does not matter.

    Args:
        points: (P, 3).
        verts: (V, 3) vertices.
        faces: (F, 3) int64 indices of vertices; at least one.

    Returns:
        (P,) signed distances. Differentiable in `points` and `verts`; 0 on the surface, where the gradient is 0 too.

    Raises:
        ValueError: as `closest_points_on_mesh`.

    Cost: P F, for the winding number.
    """
    distance = closest_points_on_mesh(points, verts, faces).distance
    inside = winding_number(points, verts, faces).abs() > 0.5
    return torch.where(inside, -distance, distance)


def ray_mesh_intersection(
    origins: Tensor, directions: Tensor, verts: Tensor, faces: Tensor, t_max: float = torch.inf
) -> RayHits:
    """The first hit of each ray on a mesh.

    Watertight: no ray passes between faces that share an edge. Both sides of a face are hit. Of faces at the same t the
    one with the lower index is.

    Args:
        origins: (R, 3) where the rays start; a hit right there counts.
        directions: (R, 3) where they go, of any length but 0.
        verts: (V, 3) vertices.
        faces: (F, 3) int64 indices of vertices.
        t_max: hits beyond that do not count.

    Returns:
        t, faces and barycentric coordinates of the hits. t and barycentric coordinates are differentiable in all
        tensors.

    Raises:
        ValueError: directions of length 0, numbers that are not finite or indices out of range (on the CPU), shapes,
            dtypes or devices that do not fit together.

    Cost: on the CPU R log F, usually; on CUDA R F.

    References:
        Woop, Benthin, Wald, Watertight Ray/Triangle Intersection, 2013.
    """
    tris = _triangles(verts, faces)
    t, face_idx = ray_mesh(origins.detach(), directions.detach(), tris.detach(), float(t_max), False)
    hit = face_idx >= 0
    if len(tris) == 0:
        return RayHits(t, face_idx, origins.new_zeros(len(origins), 3))
    a, b, c = (tris[face_idx.clamp(min=0)] - origins[:, None]).unbind(1)
    n = torch.linalg.cross(b - a, c - a)
    towards = (n * directions).sum(-1)
    towards = torch.where(hit & (towards != 0), towards, 1)
    exact_t = (n * a).sum(-1) / towards
    # Signed areas of what the ray cuts off, over that of the face, seen along the ray.
    to_b = (torch.linalg.cross(c, a) * directions).sum(-1) / towards
    to_c = (torch.linalg.cross(a, b) * directions).sum(-1) / towards
    bary = torch.stack([1 - to_b - to_c, to_b, to_c], -1)
    return RayHits(torch.where(hit, exact_t, t), face_idx, torch.where(hit[:, None], bary, 0))


def ray_mesh_any_hit(
    origins: Tensor, directions: Tensor, verts: Tensor, faces: Tensor, t_max: float = torch.inf
) -> Tensor:
    """Whether each ray hits a mesh at all: shadows and visibility, faster than asking for the first hit.

    Args:
        origins: (R, 3) where the rays start; a hit right there counts.
        directions: (R, 3) where they go, of any length but 0.
        verts: (V, 3) vertices.
        faces: (F, 3) int64 indices of vertices.
        t_max: hits beyond `origins + t_max * directions` do not count.

    Returns:
        (R,) bool.

    Raises:
        ValueError: as `ray_mesh_intersection`.
    """
    tris = _triangles(verts, faces).detach()
    _, face_idx = ray_mesh(origins.detach(), directions.detach(), tris, float(t_max), True)
    return face_idx >= 0


def _triangles(verts: Tensor, faces: Tensor) -> Tensor:
    if verts.ndim != 2 or verts.shape[1] != 3:
        raise ValueError(f"verts must be of shape (V, 3), got {tuple(verts.shape)}")
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype != torch.int64:
        raise ValueError(f"faces must be int64 of shape (F, 3), got {faces.dtype} of shape {tuple(faces.shape)}")
    if not faces.is_cuda and faces.numel() > 0:
        low, high = (int(i) for i in faces.aminmax())
        if low < 0 or high >= len(verts):
            raise ValueError(f"faces must hold indices of {len(verts)} vertices, got {low} to {high}")
    return verts[faces]


def _length(offset: Tensor) -> Tensor:
    """(..., 3) -> (...) lengths, with the gradient 0 where they are 0."""
    squared = offset.square().sum(-1)
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1).sqrt(), 0)
