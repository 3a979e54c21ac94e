"""Distances between meshes and point clouds."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from recon_engine.ops._point_mesh import point_mesh
from recon_engine.structures import Meshes, Pointclouds


class _NotGiven(float):
    """The default of `min_triangle_area`: a number that tells whether the caller chose it."""


# Triangles whose area is below that are edges to PyTorch3D, unless another limit is given.
_DEFAULT_MIN_TRIANGLE_AREA: float = _NotGiven(5e-3)


def point_face_distance(
    points: Tensor,
    points_first_idx: Tensor,
    tris: Tensor,
    tris_first_idx: Tensor,
    max_points: int,
    min_triangle_area: float = _DEFAULT_MIN_TRIANGLE_AREA,
) -> Tensor:
    """The squared distance of every point to the closest triangle of its mesh.

    Args:
        points: (P, 3) the clouds of a batch, packed.
        points_first_idx: (N,) int64, the first point of each cloud.
        tris: (T, 3, 3) the corners of all triangles, packed.
        tris_first_idx: (N,) int64, the first triangle of each mesh.
        max_points: the size of the largest cloud; not needed, any number will do.
        min_triangle_area: where it is given, triangles with a smaller area count as their edges. Without it no triangle
            does: small ones are computed as well as large ones.

    Returns:
        (P,) squared distances; infinity where the mesh has no triangles. Differentiable in `points` and `tris`.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, numbers that are not finite (on the CPU).
    """
    return _point_triangle(points, points_first_idx, tris, tris_first_idx, min_triangle_area, True)


def face_point_distance(
    points: Tensor,
    points_first_idx: Tensor,
    tris: Tensor,
    tris_first_idx: Tensor,
    max_tris: int,
    min_triangle_area: float = _DEFAULT_MIN_TRIANGLE_AREA,
) -> Tensor:
    """The squared distance of every triangle to the closest point of its cloud.

    Args:
        points: (P, 3) the clouds of a batch, packed.
        points_first_idx: (N,) int64, the first point of each cloud.
        tris: (T, 3, 3) the corners of all triangles, packed.
        tris_first_idx: (N,) int64, the first triangle of each mesh.
        max_tris: the size of the largest mesh; not needed, any number will do.
        min_triangle_area: as in `point_face_distance`.

    Returns:
        (T,) squared distances; infinity where the cloud has no points. Differentiable in `points` and `tris`.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, numbers that are not finite (on the CPU).
    """
    return _point_triangle(points, points_first_idx, tris, tris_first_idx, min_triangle_area, False)


def point_edge_distance(
    points: Tensor, points_first_idx: Tensor, segms: Tensor, segms_first_idx: Tensor, max_points: int
) -> Tensor:
    """The squared distance of every point to the closest edge of its mesh.

    Args:
        points: (P, 3) the clouds of a batch, packed.
        points_first_idx: (N,) int64, the first point of each cloud.
        segms: (S, 2, 3) the ends of all edges, packed.
        segms_first_idx: (N,) int64, the first edge of each mesh.
        max_points: the size of the largest cloud; not needed, any number will do.

    Returns:
        (P,) squared distances; infinity where the mesh has no edges. Differentiable in `points` and `segms`.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, numbers that are not finite (on the CPU).
    """
    _check_corners("segms", segms, 2)
    return point_mesh(points, points_first_idx, segms, segms_first_idx)[0]


def edge_point_distance(
    points: Tensor, points_first_idx: Tensor, segms: Tensor, segms_first_idx: Tensor, max_segms: int
) -> Tensor:
    """The squared distance of every edge to the closest point of its cloud.

    Args:
        points: (P, 3) the clouds of a batch, packed.
        points_first_idx: (N,) int64, the first point of each cloud.
        segms: (S, 2, 3) the ends of all edges, packed.
        segms_first_idx: (N,) int64, the first edge of each mesh.
        max_segms: the largest number of edges of a mesh; not needed, any number will do.

    Returns:
        (S,) squared distances; infinity where the cloud has no points. Differentiable in `points` and `segms`.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, numbers that are not finite (on the CPU).
    """
    _check_corners("segms", segms, 2)
    return point_mesh(points, points_first_idx, segms, segms_first_idx, from_points=False)[0]


def point_mesh_edge_distance(meshes: Meshes, pcls: Pointclouds) -> Tensor:
    """How far clouds and the edges of meshes are apart.

    For a mesh and its cloud: the mean over the points of the squared distance to the closest edge, plus the mean over
    the edges of the squared distance to the closest point. The loss is the mean of that over the batch.

    Args:
        meshes: `Meshes` of N meshes.
        pcls: `Pointclouds` of N clouds.

    Returns:
        The loss, a number. Differentiable in the vertices and the points.

    Raises:
        ValueError: batches of different sizes, numbers that are not finite (on the CPU).
    """
    _check_sizes(meshes, pcls)
    segms = meshes.verts_packed()[meshes.edges_packed()]
    edges = segms, meshes.mesh_to_edges_packed_first_idx()
    clouds = pcls.points_packed(), pcls.cloud_to_packed_first_idx()
    from_points, _ = point_mesh(*clouds, *edges)
    from_edges, _ = point_mesh(*clouds, *edges, from_points=False)
    count = meshes.num_edges_per_mesh()
    return _mean(from_points, pcls.num_points_per_cloud(), pcls.packed_to_cloud_idx()) + _mean(
        from_edges, count, meshes.edges_packed_to_mesh_idx()
    )


def point_mesh_face_distance(
    meshes: Meshes, pcls: Pointclouds, min_triangle_area: float = _DEFAULT_MIN_TRIANGLE_AREA
) -> Tensor:
    """How far clouds and the surfaces of meshes are apart.

    For a mesh and its cloud: the mean over the points of the squared distance to the closest triangle, plus the mean
    over the triangles of the squared distance to the closest point. The loss is the mean of that over the batch.

    Args:
        meshes: `Meshes` of N meshes.
        pcls: `Pointclouds` of N clouds.
        min_triangle_area: where it is given, triangles with a smaller area count as their edges. Without it no triangle
            does, whatever the unit of length is.

    Returns:
        The loss, a number. Differentiable in the vertices and the points.

    Raises:
        ValueError: batches of different sizes, numbers that are not finite (on the CPU).
    """
    _check_sizes(meshes, pcls)
    tris = meshes.verts_packed()[meshes.faces_packed()]
    faces = tris, meshes.mesh_to_faces_packed_first_idx()
    clouds = pcls.points_packed(), pcls.cloud_to_packed_first_idx()
    min_area = _limit(min_triangle_area)
    from_points, _ = point_mesh(*clouds, *faces, min_area=min_area)
    from_faces, _ = point_mesh(*clouds, *faces, from_points=False, min_area=min_area)
    count = meshes.num_faces_per_mesh()
    return _mean(from_points, pcls.num_points_per_cloud(), pcls.packed_to_cloud_idx()) + _mean(
        from_faces, count, meshes.faces_packed_to_mesh_idx()
    )


def _point_triangle(
    points: Tensor, points_first: Tensor, tris: Tensor, tris_first: Tensor, min_area: float, from_points: bool
) -> Tensor:
    _check_corners("tris", tris, 3)
    return point_mesh(points, points_first, tris, tris_first, from_points=from_points, min_area=_limit(min_area))[0]


def _limit(min_triangle_area: float) -> float:
    return 0.0 if isinstance(min_triangle_area, _NotGiven) else float(min_triangle_area)


def _check_corners(name: str, simplices: Tensor, corners: int) -> None:
    if simplices.ndim != 3 or simplices.shape[1:] != (corners, 3):
        raise ValueError(f"{name} must be of shape (*, {corners}, 3), got {tuple(simplices.shape)}")


def _check_sizes(meshes: Meshes, pcls: Pointclouds) -> None:
    if len(meshes) != len(pcls):
        raise ValueError(
            f"meshes and pointclouds must be equal sized batches, got {len(meshes)} meshes and {len(pcls)} clouds"
        )


def _mean(dist: Tensor, counts: Tensor, owner: Tensor) -> Tensor:
    """The mean over the batch of the mean of each element, which `owner` names for every distance."""
    weights = counts.clamp(min=1).to(dist.dtype).reciprocal()
    return (dist * weights[owner]).sum() / max(len(counts), 1)


# The names under which PyTorch3D's modules and users know the functions that these are called through.
def _applied(function: Any) -> type:
    return type(function.__name__, (), {"apply": staticmethod(function), "__doc__": function.__doc__})


_PointFaceDistance = _applied(point_face_distance)
_FacePointDistance = _applied(face_point_distance)
_PointEdgeDistance = _applied(point_edge_distance)
_EdgePointDistance = _applied(edge_point_distance)
