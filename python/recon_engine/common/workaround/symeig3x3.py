"""Eigenvalues and eigenvectors of symmetric 3x3 matrices in closed form.

The trigonometric solution of the characteristic polynomial (O. K. Smith, Eigenvalues of a symmetric 3 x 3 matrix, CACM
1961) is accurate for the eigenvalue that lies farthest from the other two. That one gives the first eigenvector; the
problem is then reduced to the plane at right angles to it, where one Jacobi rotation solves it without cancellation, so
that the vectors are orthonormal and the values accurate also when eigenvalues coincide.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .utils import _safe_det_3x3


def symeig3x3(inputs: Tensor, eigenvectors: bool = True) -> tuple[Tensor, Tensor | None]:
    """Eigenvalues and eigenvectors of symmetric matrices.

    Args:
        inputs: (..., 3, 3) symmetric matrices.
        eigenvectors: whether to return the vectors.

    Returns:
        eigenvalues: (..., 3), ascending.
        eigenvectors: (..., 3, 3), unit vectors in the columns, or None.

    Raises:
        ValueError: when the last two dimensions are not 3 and 3.

    Differentiable. Gradients of the values are exact everywhere. The vectors of eigenvalues that coincide to rounding
    are arbitrary in their plane and have no gradient there; all other gradients are finite.
    """
    if inputs.shape[-2:] != (3, 3):
        raise ValueError(f"Only inputs of shape (..., 3, 3) are supported, got {tuple(inputs.shape)}.")
    scale = _positive(inputs.detach().abs().amax((-2, -1), keepdim=True))
    A = inputs / scale
    isolated, is_largest = _isolated_eigenvector(A)
    values, vectors = _solve_in_plane(A, isolated)
    # The isolated value is the largest or the smallest, and the two of the plane are ascending already.
    own_value = _quadratic_form(isolated, A, isolated)[..., None]
    eigenvalues = torch.where(
        is_largest[..., None], torch.cat([values, own_value], -1), torch.cat([own_value, values], -1)
    )
    eigenvalues = eigenvalues * scale[..., 0]
    if not eigenvectors:
        return eigenvalues, None
    own_vector = isolated[..., None]
    columns = torch.where(
        is_largest[..., None, None], torch.cat([vectors, own_vector], -1), torch.cat([own_vector, vectors], -1)
    )
    return eigenvalues, columns


def _isolated_eigenvector(A: Tensor) -> tuple[Tensor, Tensor]:
    """The unit eigenvector (..., 3) of the eigenvalue farthest from the others, and whether that is the largest one."""
    identity = torch.eye(3, dtype=A.dtype, device=A.device)
    mean = A.diagonal(dim1=-2, dim2=-1).sum(-1) / 3
    deviation = A - mean[..., None, None] * identity
    p = _positive((deviation * deviation).sum((-2, -1)) / 6).sqrt()
    # The eigenvalues are mean + 2 p cos(angle + 2 pi k / 3) with cos(3 angle) = det(deviation / p) / 2.
    margin = torch.finfo(A.dtype).eps
    cosine = (0.5 * _safe_det_3x3(deviation / p[..., None, None])).clamp(margin - 1, 1 - margin)
    is_largest = cosine > 0
    angle = torch.acos(cosine) / 3
    value = 2 * p * torch.cos(torch.where(is_largest, angle, angle + 2 * math.pi / 3))
    # All rows of the shifted matrix are at right angles to the eigenvector; the longest cross product is the best one.
    a, b, c = (deviation - value[..., None, None] * identity).unbind(-2)
    crosses = torch.stack((torch.linalg.cross(a, b), torch.linalg.cross(b, c), torch.linalg.cross(c, a)), -2)
    squares = (crosses * crosses).sum(-1)
    best = squares.argmax(-1, keepdim=True)[..., None].expand(*squares.shape[:-1], 1, 3)
    vector = crosses.gather(-2, best).squeeze(-2)
    # A multiple of the identity (to rounding) has no isolated eigenvalue: any direction will do.
    is_round = (p.detach() <= 4 * margin) | (deviation.detach() == 0).all(-1).all(-1)
    fixed = identity[0].expand_as(vector)
    return F.normalize(torch.where(is_round[..., None], fixed, vector), dim=-1, eps=0.0), is_largest


def _solve_in_plane(A: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending eigenvalues (..., 2) and eigenvectors (..., 3, 2) of A restricted to the plane with a unit normal."""
    # The coordinate axis that is farthest from the normal gives a basis without cancellation.
    axis = F.one_hot(normal.detach().abs().argmin(-1), 3).to(normal)
    u = F.normalize(torch.linalg.cross(normal, axis), dim=-1, eps=0.0)
    v = torch.linalg.cross(normal, u)
    uu, vv, uv = _quadratic_form(u, A, u), _quadratic_form(v, A, v), _quadratic_form(u, A, v)
    half_difference = 0.5 * (uu - vv)
    angle = _half_angle(uv, half_difference)
    cos, sin = torch.cos(angle)[..., None], torch.sin(angle)[..., None]
    middle, spread = 0.5 * (uu + vv), torch.linalg.vector_norm(torch.stack((half_difference, uv), -1), dim=-1)
    values = torch.stack((middle - spread, middle + spread), -1)
    return values, torch.stack((cos * v - sin * u, cos * u + sin * v), -1)


def _half_angle(y: Tensor, x: Tensor) -> Tensor:
    """Half of the angle of (x, y), without a gradient where the length is zero to rounding and the angle arbitrary."""
    margin = 4 * torch.finfo(x.dtype).eps
    is_round = (x.detach().abs() <= margin) & (y.detach().abs() <= margin)
    unique = torch.atan2(torch.where(is_round, torch.zeros_like(y), y), torch.where(is_round, torch.ones_like(x), x))
    return 0.5 * torch.where(is_round, torch.atan2(y.detach(), x.detach()), unique)


def _quadratic_form(x: Tensor, A: Tensor, y: Tensor) -> Tensor:
    return (x * (A @ y[..., None]).squeeze(-1)).sum(-1)


def _positive(x: Tensor) -> Tensor:
    """`x` where it is positive, 1 elsewhere: a divisor for numbers that are 0 with it."""
    return torch.where(x > 0, x, torch.ones_like(x))
