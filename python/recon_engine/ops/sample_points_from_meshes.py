"""Random points on the surfaces of meshes."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from recon_engine._compile import can_look
from recon_engine._precision import widened
from recon_engine.ops._surface_points import surface_points
from recon_engine.ops.mesh_face_areas_normals import mesh_face_areas_normals
from recon_engine.ops.packed_to_padded import packed_to_padded

# torch.multinomial takes no more categories than this.
_MAX_CATEGORIES = 2**24


def sample_points_from_meshes(
    meshes: Any, num_samples: int = 10000, return_normals: bool = False, return_textures: bool = False
) -> Tensor | tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    """Points spread evenly over the surface of each mesh: a face by its area, then a place on it.

    A seed gives the points that it gives in PyTorch3D: random numbers are drawn in the same order.

    Args:
        meshes: a batch of N meshes (`Meshes`).
        num_samples: the number S of points on each mesh.
        return_normals: also return the unit normals of the faces that the points lie on.
        return_textures: also return the values of the meshes' textures at the points.

    Returns:
        samples: (N, S, 3) points.
        normals: (N, S, 3), only with `return_normals`.
        textures: (N, S, C), only with `return_textures`.
        Rows of empty meshes are 0.

    Raises:
        ValueError: all meshes are empty, a vertex is not finite, a mesh has no face with an area, or textures are
            asked for and there are none.

    Differentiable in the vertices and in the textures; which faces are chosen is not. CPU and CUDA, float32 and
    float64. Synchronises once on CUDA, to check that vertices are finite.
    """
    if meshes.isempty():
        raise ValueError("Meshes are empty.")
    verts, faces = widened(meshes.verts_packed()), meshes.faces_packed()
    if can_look(verts) and not torch.isfinite(verts).all():
        raise ValueError("Meshes contain nan or inf.")
    if return_textures and meshes.textures is None:
        raise ValueError("Meshes do not contain textures.")

    topology = meshes.topology()
    N, num_faces = len(meshes), topology.num_faces
    valid = [n for n in range(N) if topology.num_verts[n] > 0 and num_faces[n] > 0]
    # The meshes that have a surface; all of them is the usual case, and needs no indices.
    rows = None if len(valid) == N else torch.tensor(valid, device=verts.device)
    first = meshes.mesh_to_faces_packed_first_idx()
    first = first if rows is None else first[rows]
    with torch.no_grad():
        areas, _ = mesh_face_areas_normals(verts, faces)
        if len(valid) * max(num_faces) == len(areas):
            padded = areas.reshape(len(valid), -1)
        else:
            padded = packed_to_padded(areas, first, max(num_faces))
        face_idx = _draw_faces(padded, num_samples) + first[:, None]
    bary = _draw_barycentric(len(valid), num_samples, verts)

    def for_all_meshes(values: Tensor, fill: float = 0) -> Tensor:
        if rows is None:
            return values
        return values.new_full((N, *values.shape[1:]), fill).index_copy(0, rows, values)

    flat_idx = face_idx.reshape(-1)
    samples = surface_points(verts, faces, flat_idx, bary.reshape(-1, 3)).reshape(len(valid), num_samples, 3)
    result = [for_all_meshes(samples)]
    if return_normals:
        v0, v1, v2 = verts[faces[face_idx]].unbind(2)
        normals = torch.linalg.cross(v1 - v0, v2 - v1)
        normals = normals / normals.norm(dim=-1, keepdim=True).clamp(min=sys.float_info.epsilon)
        result.append(for_all_meshes(normals))
    if return_textures:
        result.append(_textures_at(meshes, for_all_meshes(face_idx, -1), for_all_meshes(bary)))
    return result[0] if len(result) == 1 else tuple(result)  # type: ignore[return-value]


def _draw_faces(areas: Tensor, num_samples: int) -> Tensor:
    """(N, num_samples) faces, drawn with probabilities proportional to the areas (N, F)."""
    if areas.shape[1] <= _MAX_CATEGORIES:
        try:
            return areas.multinomial(num_samples, replacement=True)
        except RuntimeError as error:
            if areas.is_cuda:
                raise
            if not torch.isfinite(areas.sum(1)).all():
                raise ValueError(
                    "sample_points_from_meshes: vertices are so far apart that areas are infinite"
                ) from error
            if (areas.sum(1) > 0).all():
                raise
            raise ValueError(
                "sample_points_from_meshes: every mesh needs a face with an area > 0, mesh "
                f"{int((areas.sum(1) <= 0).nonzero()[0])} of those with faces has none"
            ) from error
    # float64 tells more faces apart than fit into memory.
    cumulative = areas.double().cumsum(1)
    # 1 - rand is never 0, so that a face without area is never the first to reach it.
    drawn = 1 - torch.rand(len(areas), num_samples, dtype=torch.float64, device=areas.device)
    return torch.searchsorted(cumulative, drawn * cumulative[:, -1:]).clamp(max=areas.shape[1] - 1)


def _draw_barycentric(N: int, num_samples: int, like: Tensor) -> Tensor:
    """(N, num_samples, 3) barycentric coordinates, uniform in a triangle."""
    u, v = torch.rand(2, N, num_samples, dtype=like.dtype, device=like.device).unbind(0)
    root = u.sqrt()  # the distance from a corner grows with the root of the area
    return torch.stack([1 - root, root * (1 - v), root * v], dim=-1)


def _textures_at(meshes: Any, face_idx: Tensor, bary: Tensor) -> Tensor:
    from recon_engine.renderer.mesh.rasterizer import Fragments

    pix_to_face = face_idx[:, :, None, None]
    unused = bary.new_zeros(pix_to_face.shape)
    fragments = Fragments(pix_to_face=pix_to_face, zbuf=unused, bary_coords=bary[:, :, None, None, :], dists=unused)
    textures: Tensor = meshes.sample_textures(fragments)[:, :, 0, 0, :]
    return textures
