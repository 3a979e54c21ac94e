"""Compiled regularisers over a topology: one sum for each mesh of a batch, computed together with its gradient.

V vertices, F faces, N meshes. A list of lists is given as `offsets` and its entries: row i has the entries
`offsets[i]` to `offsets[i + 1]`. `segments` (N + 1) are the first rows of each mesh and the end of the last, `mesh_of`
(V) is the mesh of each vertex, None for one mesh. `with_grad` says whether a gradient will be asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recon_engine._op import Op


def _row_of(offsets: Tensor, num_entries: int) -> Tensor:
    counts = offsets[1:] - offsets[:-1]
    return torch.arange(len(counts), device=offsets.device).repeat_interleave(counts, output_size=num_entries)


def _per_mesh(terms: Tensor, segments: Tensor) -> Tensor:
    mesh = _row_of(segments, len(terms))
    return terms.new_zeros(len(segments) - 1).index_add(0, mesh, terms)


def _notes(verts: Tensor, segments: Tensor, with_grad: bool) -> tuple[Tensor, Tensor]:
    """The sums of the meshes, and the gradient that waits for the way back."""
    return verts.new_empty(segments.shape[0] - 1), verts.new_empty(verts.shape[0] if with_grad else 0, 3)


def _edge_reference(
    verts: Tensor,
    offsets: Tensor,
    neighbors: Tensor,
    segments: Tensor,
    mesh_of: Tensor | None,
    target: float,
    with_grad: bool,
) -> Tensor:
    row = _row_of(offsets, len(neighbors))
    length = (verts[row] - verts[neighbors]).norm(dim=1)
    # Each edge is in the lists of both of its ends.
    terms = verts.new_zeros(len(verts)).index_add(0, row, (length - target).square() / 2)
    return _per_mesh(terms, segments)


def _edge_outputs(
    verts: Tensor,
    offsets: Tensor,
    neighbors: Tensor,
    segments: Tensor,
    mesh_of: Tensor | None,
    target: float,
    with_grad: bool,
) -> tuple[Tensor, Tensor]:
    return _notes(verts, segments, with_grad)


# sum over the edges of (length - target)^2
edge_loss = Op("edge_loss", _edge_outputs, _edge_reference, kept=1)


def _uniform_reference(
    verts: Tensor, offsets: Tensor, neighbors: Tensor, segments: Tensor, mesh_of: Tensor | None, with_grad: bool
) -> Tensor:
    row = _row_of(offsets, len(neighbors))
    degree = (offsets[1:] - offsets[:-1]).clamp(min=1).to(verts.dtype)
    mean = torch.zeros_like(verts).index_add(0, row, verts[neighbors]) / degree[:, None]
    return _per_mesh((mean - verts).norm(dim=1), segments)


def _uniform_outputs(
    verts: Tensor, offsets: Tensor, neighbors: Tensor, segments: Tensor, mesh_of: Tensor | None, with_grad: bool
) -> tuple[Tensor, Tensor]:
    return _notes(verts, segments, with_grad)


# sum over the vertices of |mean of the neighbours - vertex|
uniform_laplacian_loss = Op("uniform_laplacian_loss", _uniform_outputs, _uniform_reference, kept=1)


def _cot_reference(
    verts: Tensor,
    faces: Tensor,
    offsets: Tensor,
    neighbors: Tensor,
    edge_at: Tensor,
    edge_first: Tensor,
    half_edges: Tensor,
    corner_offsets: Tensor,
    corners: Tensor,
    segments: Tensor,
    mesh_of: Tensor | None,
    curvature: bool,
    weights: bool,
    with_grad: bool,
) -> Tensor:
    from recon_engine.ops.laplacian_matrices import cotangents, sum_at_corners

    with torch.set_grad_enabled(weights and torch.is_grad_enabled()):
        cot, face_areas = cotangents(verts, faces)
        total = sum_at_corners(cot[:, [1, 2, 0]] + cot[:, [2, 0, 1]], faces, len(verts))[:, None]
        areas = sum_at_corners(face_areas[:, None].expand(-1, 3), faces, len(verts))[:, None]
        divisor = 4 * areas if curvature else total
        # A sum of weights that is not positive is not divided by, but multiplied with: so is PyTorch3D's.
        scale = torch.where(divisor > 0, 1 / torch.where(divisor > 0, divisor, 1), divisor)
    row, column, values = faces[:, [1, 2, 0]].flatten(), faces[:, [2, 0, 1]].flatten(), cot.reshape(-1, 1)
    sums = torch.zeros_like(verts).index_add(0, row, values * verts[column])
    sums = sums.index_add(0, column, values * verts[row])
    r = (sums - total * verts) * scale if curvature else sums * scale - verts
    return _per_mesh(r.norm(dim=1), segments)


def _cot_outputs(
    verts: Tensor,
    faces: Tensor,
    offsets: Tensor,
    neighbors: Tensor,
    edge_at: Tensor,
    edge_first: Tensor,
    half_edges: Tensor,
    corner_offsets: Tensor,
    corners: Tensor,
    segments: Tensor,
    mesh_of: Tensor | None,
    curvature: bool,
    weights: bool,
    with_grad: bool,
) -> tuple[Tensor, Tensor]:
    return _notes(verts, segments, with_grad)


# sum over the vertices of |L v|, L with cotangent weights, whose gradient counts where `weights` says so; `edge_at` are
# the edges to the neighbours, `half_edges` of each edge the half-edges k * F + f, opposite to corner k of face f,
# `corners` of each vertex the corners 3 * f + k
cot_laplacian_loss = Op("cot_laplacian_loss", _cot_outputs, _cot_reference, kept=1)


def _normal_reference(
    verts: Tensor,
    faces: Tensor,
    across_offsets: Tensor,
    across: Tensor,
    corner_offsets: Tensor,
    corners: Tensor,
    segments: Tensor,
    mesh_of: Tensor | None,
    with_grad: bool,
) -> Tensor:
    v0, v1, v2 = verts[faces].unbind(1)
    c = torch.linalg.cross(v1 - v0, v2 - v0)
    length = c.norm(dim=1, keepdim=True)
    flat = ~(length > 1e-8)
    # The direction of a face without area means nothing, nor does its gradient.
    normals = torch.where(flat, (c / 1e-8).detach(), c / torch.where(flat, 1, length))
    row = _row_of(across_offsets, len(across))
    sign = torch.where(across % 2 == 1, -1.0, 1.0).to(verts.dtype)
    cos = sign * (normals[row] * normals[across // 2]).sum(1)
    terms = verts.new_zeros(len(faces)).index_add(0, row, (1 - cos) / 2)
    return _per_mesh(terms, segments)


def _normal_outputs(
    verts: Tensor,
    faces: Tensor,
    across_offsets: Tensor,
    across: Tensor,
    corner_offsets: Tensor,
    corners: Tensor,
    segments: Tensor,
    mesh_of: Tensor | None,
    with_grad: bool,
) -> tuple[Tensor, Tensor]:
    return _notes(verts, segments, with_grad)


# sum over pairs of faces at an edge of 1 - cos(angle between their normals); `across` lists for each face the faces
# beside it, as 2 * face, + 1 where both run along the edge in the same direction; `segments` are of the faces
normal_consistency_loss = Op("normal_consistency_loss", _normal_outputs, _normal_reference, kept=1)
