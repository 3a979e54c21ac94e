"""The group of rigid motions and its logarithm.

A rigid motion is a 4x4 matrix for row vectors, `[p, 1] @ [[R^T, 0], [T, 1]]`: the rotation R, then the translation T.
Its logarithm is the 6-vector (u, w) of a translational part u and the axis-angle vector w of R, with T = V(w) u.

References:
    J. L. Blanco, A tutorial on SE(3) transformation parameterizations and on-manifold optimization, 2010, section 9.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from recon_engine._compile import can_look
from recon_engine._precision import full_precision

from .so3 import so3_exp_map, so3_log_map

# Below this squared angle the coefficients are summed as power series, which are exact to rounding there.
_SERIES_BELOW = 0.25
# (t - sin t) / t^3 = sum_n (-1)^n t^2n / (2n + 3)!
_EXP_SERIES = [(-1) ** n / math.factorial(2 * n + 3) for n in range(7)]
# (1 - (t / 2) cot(t / 2)) / t^2 = sum_n |B_2n+2| t^2n / (2n + 2)!  with the Bernoulli numbers B
_LOG_SERIES = [1 / 12, 1 / 720, 1 / 30240, 1 / 1209600, 1 / 47900160, 691 / 1307674368000, 1 / 74724249600]


@full_precision
def se3_exp_map(log_transform: Tensor, eps: float = 1e-4) -> Tensor:
    """Rigid motions of their logarithms.

    Args:
        log_transform: (N, 6), the translational part before the axis-angle vector.
        eps: accepted and not needed; small rotations are computed exactly.

    Returns:
        (N, 4, 4) matrices for row vectors.

    Raises:
        ValueError: when `log_transform` has another shape.

    Differentiable in `log_transform`, with finite gradients everywhere.
    """
    del eps
    if log_transform.ndim != 2 or log_transform.shape[1] != 6:
        raise ValueError(f"Expected input to be of shape (N, 6), got {tuple(log_transform.shape)}.")
    u, w = log_transform[:, :3], log_transform[:, 3:]
    square = (w * w).sum(1, keepdim=True)
    # V = I + a [w]x + b [w]x^2 with a = (1 - cos t) / t^2 and b = (t - sin t) / t^3
    half = torch.sinc(torch.linalg.vector_norm(w, dim=1, keepdim=True) / (2 * math.pi))
    is_small, t = _angle_or_one(square)
    b = torch.where(is_small, _polynomial(_EXP_SERIES, square), (t - torch.sin(t)) / (t * t * t))
    w_u = torch.linalg.cross(w, u)
    translation = u + 0.5 * half * half * w_u + b * torch.linalg.cross(w, w_u)
    upper = torch.nn.functional.pad(so3_exp_map(w).transpose(1, 2), (0, 1))
    lower = torch.cat([translation, torch.ones_like(square)], dim=1)
    return torch.cat([upper, lower[:, None]], dim=1)


@full_precision
def se3_log_map(transform: Tensor, eps: float = 1e-4, cos_bound: float = 1e-4) -> Tensor:
    """Logarithms of rigid motions.

    Args:
        transform: (N, 4, 4) matrices for row vectors, with a rotation in the upper left.
        eps: accepted and not needed; small rotations are computed exactly.
        cos_bound: accepted and not needed.

    Returns:
        (N, 6), the translational part before the axis-angle vector.

    Raises:
        ValueError: for a wrong shape, or a last column that is not (0, 0, 0, 1). On CUDA the check waits for it.

    Differentiable in `transform`, with finite gradients at the identity and at half turns.
    """
    del eps, cos_bound
    if transform.ndim != 3 or transform.shape[1:] != (4, 4):
        raise ValueError(f"Input tensor shape has to be (N, 4, 4), got {tuple(transform.shape)}.")
    if can_look(transform) and bool((transform[:, :3, 3].abs() > 1e-8).any()):
        raise ValueError("All elements of `transform[:, :3, 3]` should be 0.")
    w = so3_log_map(transform[:, :3, :3].transpose(1, 2))
    translation = transform[:, 3, :3]
    square = (w * w).sum(1, keepdim=True)
    # V^-1 = I - [w]x / 2 + c [w]x^2 with c = (1 - (t / 2) cot(t / 2)) / t^2
    is_small, t = _angle_or_one(square)
    cot = torch.cos(0.5 * t) / torch.sin(0.5 * t)
    c = torch.where(is_small, _polynomial(_LOG_SERIES, square), (1 - 0.5 * t * cot) / (t * t))
    w_t = torch.linalg.cross(w, translation)
    return torch.cat([translation - 0.5 * w_t + c * torch.linalg.cross(w, w_t), w], dim=1)


def _angle_or_one(square: Tensor) -> tuple[Tensor, Tensor]:
    """Where the series hold, and the angle elsewhere (1 where they hold, so that no gradient is infinite)."""
    is_small = square < _SERIES_BELOW
    return is_small, torch.where(is_small, torch.ones_like(square), square).sqrt()


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total
