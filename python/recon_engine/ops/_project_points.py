from __future__ import annotations

import torch
from torch import Tensor

from recon_engine._op import Op, empty_output

_TINY_DEPTH = 1e-12
"""Stands for a depth of exactly 0, so that projections and their gradients stay finite."""


def project_points(points: Tensor, R: Tensor, T: Tensor, matrix: Tensor, eps: float | None = None) -> Tensor:
    """World points to what rasterisers read: x, y in NDC and the depth in view space.

    With view = p R + T and (x, y, z, w) = (view, 1) matrix, the result is (x / w, y / w, view_z). Depths and divisors
    that are exactly 0 count as 1e-12.

    Args:
        points: (N, P, 3) in the world.
        R: (N, 3, 3) or (1, 3, 3) rotations for row vectors.
        T: (N, 3) or (1, 3) translations.
        matrix: (N, 4, 4) or (1, 4, 4) projections for row vectors; the column of z is not read.
        eps: keeps the divisor at least this far from 0, with its sign.

    Returns:
        (N, P, 3). Differentiable in everything but eps. CPU and CUDA, float32 and float64. Repeatable bit by bit.

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit together.
    """
    projected: Tensor = _project_points(points, R, T, matrix, 0.0 if eps is None else float(eps))
    return projected


def _reference(points: Tensor, R: Tensor, T: Tensor, matrix: Tensor, eps: float) -> Tensor:
    view = points @ R + T[:, None]
    x, y, _, w = (view @ matrix[:, :3] + matrix[:, 3:]).split(1, dim=-1)
    depth, divisor = (torch.where(value == 0, _TINY_DEPTH, value) for value in (view[..., 2:], w))
    divisor = torch.where(divisor < 0, -1.0, 1.0).to(w) * divisor.abs().clamp(min=eps)
    return torch.cat((x / divisor, y / divisor, depth), dim=-1)


def _outputs(points: Tensor, R: Tensor, T: Tensor, matrix: Tensor, eps: float) -> Tensor:
    return empty_output(points, tuple(points.shape))


_project_points = Op("project_points", _outputs, _reference, reads=[], optional_grads=True, writes_all=True)
