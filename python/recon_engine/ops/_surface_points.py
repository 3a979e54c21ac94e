from __future__ import annotations

import torch
from torch import Tensor

from recon_engine._op import Op


def surface_points(verts: Tensor, faces: Tensor, face_idx: Tensor, bary: Tensor) -> Tensor:
    """Points on faces: `sum_k bary[s, k] * verts[faces[face_idx[s], k]]`.

    Args:
        verts: (V, 3) packed vertices.
        faces: (F, 3) int64 indices of vertices.
        face_idx: (S,) int64, the face of each point.
        bary: (S, 3) barycentric coordinates.

    Returns:
        (S, 3) points; on CUDA NaN where an index is out of range.

    Raises:
        ValueError: shapes or dtypes that do not fit; on the CPU an index out of range.

    Differentiable in `verts` and `bary`. CPU and CUDA, float32 and float64. Repeatable bit by bit on the CPU, on CUDA
    with `torch.use_deterministic_algorithms(True)`.
    """
    if needs_ordered_sum(verts, bary):
        return _reference(verts, faces, face_idx, bary)
    points: Tensor = _surface_points(verts, faces, face_idx, bary)
    return points


def needs_ordered_sum(*inputs: Tensor) -> bool:
    """Whether gradients must not be summed by atomics, the order of which differs from run to run."""
    return torch.are_deterministic_algorithms_enabled() and inputs[0].is_cuda and any(a.requires_grad for a in inputs)


def _reference(verts: Tensor, faces: Tensor, face_idx: Tensor, bary: Tensor) -> Tensor:
    return (verts[faces[face_idx]] * bary[:, :, None]).sum(1)


def _outputs(verts: Tensor, faces: Tensor, face_idx: Tensor, bary: Tensor) -> Tensor:
    return verts.new_empty(face_idx.shape[0], 3)


_surface_points = Op("surface_points", _outputs, _reference, optional_grads=True)
