"""Laplacians of meshes as sparse matrices."""

from __future__ import annotations

import torch
from torch import Tensor


def laplacian(verts: Tensor, edges: Tensor) -> Tensor:
    """The uniform Laplacian: -1 on the diagonal, 1 / degree(i) where vertices i and j share an edge.

    Args:
        verts: (V, 3) vertices; only their number, dtype and device matter.
        edges: (E, 2) int64 unique edges.

    Returns:
        (V, V) sparse COO matrix.
    """
    V = verts.shape[0]
    row, column = _both_ways(edges)
    degree = torch.zeros(V, dtype=verts.dtype, device=verts.device)
    degree.index_add_(0, row, torch.ones_like(row, dtype=verts.dtype))
    diagonal = torch.arange(V, device=verts.device)
    values = torch.cat([degree.reciprocal()[row], -torch.ones_like(degree)])
    return _sparse(torch.cat([row, diagonal]), torch.cat([column, diagonal]), values, V)


def cot_laplacian(verts: Tensor, faces: Tensor, eps: float = 1e-12) -> tuple[Tensor, Tensor]:
    """The cotangent Laplacian without its diagonal, and one over the area around each vertex.

    L[i, j] is half the sum of the cotangents of the angles opposite to edge (i, j), times 2:
    (b^2 + c^2 - a^2) / (4 area) for the angle opposite to the side of length a in each face.

    Args:
        verts: (V, 3) vertices.
        faces: (F, 3) int64 indices of vertices.
        eps: the square of the least area; smaller faces count with it.

    Returns:
        L: (V, V) sparse COO matrix, symmetric.
        inv_areas: (V, 1), one over the sum of the areas of the faces at each vertex, 0 where there is none.

    Differentiable in `verts`.
    """
    V = verts.shape[0]
    cot, area = cotangents(verts, faces, eps)
    row, column = faces[:, [1, 2, 0]].reshape(-1), faces[:, [2, 0, 1]].reshape(-1)
    values = cot.reshape(-1).repeat(2)
    L = _sparse(torch.cat([row, column]), torch.cat([column, row]), values, V)
    areas = sum_at_corners(area[:, None].expand(-1, 3), faces, V)
    has_area = areas > 0
    inv_areas = torch.where(has_area, 1 / torch.where(has_area, areas, 1), areas)
    return L, inv_areas[:, None]


def cotangents(verts: Tensor, faces: Tensor, eps: float = 1e-12) -> tuple[Tensor, Tensor]:
    """The cotangents of the angles (F, 3) and the areas (F,) of faces.

    Args:
        verts: (V, 3) vertices.
        faces: (F, 3) int64 indices of vertices.
        eps: the square of the least area; smaller faces count with it.
    """
    v0, v1, v2 = verts[faces].unbind(1)
    sides = torch.stack([(v1 - v2).norm(dim=1), (v0 - v2).norm(dim=1), (v0 - v1).norm(dim=1)], dim=1)
    s = sides.sum(1) / 2
    area = (s * (s[:, None] - sides).prod(1)).clamp(min=eps).sqrt()
    squared = sides.square()
    # Side k is opposite to corner k: b^2 + c^2 - a^2 is the sum of all squares minus twice its own.
    return (squared.sum(1, keepdim=True) - 2 * squared) / (4 * area[:, None]), area


def sum_at_corners(values: Tensor, faces: Tensor, num_verts: int) -> Tensor:
    """(num_verts,) the sum of the values (F, 3) of the corners at each vertex."""
    return values.new_zeros(num_verts).index_add(0, faces.reshape(-1), values.reshape(-1))


def norm_laplacian(verts: Tensor, edges: Tensor, eps: float = 1e-12) -> Tensor:
    """The matrix of inverse edge lengths: L[i, j] = 1 / (|v_i - v_j| + eps) where i and j share an edge.

    Args:
        verts: (V, 3) vertices.
        edges: (E, 2) int64 unique edges.
        eps: added to each length.

    Returns:
        (V, V) sparse COO matrix, symmetric, with an empty diagonal.

    Differentiable in `verts`.
    """
    v0, v1 = verts[edges].unbind(1)
    weight = ((v0 - v1).norm(dim=1) + eps).reciprocal()
    row, column = _both_ways(edges)
    return _sparse(row, column, weight.repeat(2), verts.shape[0])


def _both_ways(edges: Tensor) -> tuple[Tensor, Tensor]:
    v0, v1 = edges.unbind(1)
    return torch.cat([v0, v1]), torch.cat([v1, v0])


def _sparse(row: Tensor, column: Tensor, values: Tensor, size: int) -> Tensor:
    indices = torch.stack([row, column])
    return torch.sparse_coo_tensor(indices, values, (size, size), check_invariants=False).coalesce()
