"""Areas and normals of faces."""

from __future__ import annotations

import torch
from torch import Tensor

from recon_engine._op import Op
from recon_engine.ops._surface_points import needs_ordered_sum

_LEAST_LENGTH = 1e-6


def mesh_face_areas_normals(verts: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """The area and the unit normal of every face.

    With c = (v1 - v0) x (v2 - v0) the area is |c| / 2 and the normal c / max(|c|, 1e-6).

    Args:
        verts: (V, 3) packed vertices.
        faces: (F, 3) int64 indices of vertices.

    Returns:
        areas: (F,) areas.
        normals: (F, 3) normals, shorter than 1 where |c| < 1e-6. On CUDA both are NaN for a face that names no vertex.

    Raises:
        ValueError: shapes or dtypes that do not fit; on the CPU an index that is not a vertex.

    Differentiable in `verts`; the area of a face without extent has gradient 0. CPU and CUDA, float32 and float64.
    Repeatable bit by bit on the CPU, on CUDA with `torch.use_deterministic_algorithms(True)`.
    """
    if verts.ndim != 2 or verts.shape[1] != 3:
        raise ValueError(f"verts need to be of shape Vx3: mesh_face_areas_normals got {tuple(verts.shape)}")
    if faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"faces need to be of shape Fx3: mesh_face_areas_normals got {tuple(faces.shape)}")
    if faces.dtype != torch.int64:
        raise ValueError(f"faces need to be of type torch.int64: mesh_face_areas_normals got {faces.dtype}")
    if needs_ordered_sum(verts):
        return _reference(verts, faces)
    areas, normals = _face_areas_normals(verts, faces)
    return areas, normals


def _reference(verts: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    v0, v1, v2 = verts[faces].unbind(1)
    c = torch.linalg.cross(v1 - v0, v2 - v0)
    length = c.norm(dim=1)
    return length / 2, c / length.clamp(min=_LEAST_LENGTH)[:, None]


def _outputs(verts: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    return verts.new_empty(faces.shape[0]), verts.new_empty(faces.shape)


_face_areas_normals = Op("face_areas_normals", _outputs, _reference)
