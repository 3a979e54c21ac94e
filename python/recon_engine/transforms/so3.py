"""The group of rotations and its logarithm.

Rotation matrices (N, 3, 3) and their logarithms, axis-angle vectors (N, 3): the axis times the angle in radians.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from recon_engine._precision import full_precision

from .math import acos_linear_extrapolation
from .rotation_conversions import axis_angle_to_matrix, matrix_to_axis_angle

_SKEW_TOLERANCE = 1e-5


@full_precision
def so3_relative_angle(
    R1: Tensor,
    R2: Tensor,
    cos_angle: bool = False,
    cos_bound: float = 1e-4,
    eps: float = 1e-4,
) -> Tensor:
    """The angle of the rotation between two rotations, `R1 @ R2^T`: their geodesic distance.

    Args:
        R1: (N, 3, 3) rotation matrices.
        R2: (N, 3, 3) rotation matrices.
        cos_angle: return the cosine of the angle.
        cos_bound: how far from -1 and 1 the cosine is extrapolated linearly, which keeps gradients finite.
        eps: tolerance of the check of the trace.

    Returns:
        (N,) angles in radians, or their cosines.

    Raises:
        ValueError: for a wrong shape, or a trace that no rotation has.
    """
    return so3_rotation_angle(R1 @ R2.transpose(1, 2), cos_angle=cos_angle, cos_bound=cos_bound, eps=eps)


def so3_rotation_angle(
    R: Tensor,
    eps: float = 1e-4,
    cos_angle: bool = False,
    cos_bound: float = 1e-4,
) -> Tensor:
    """The angles of rotations, acos((trace(R) - 1) / 2).

    Args:
        R: (N, 3, 3) rotation matrices.
        eps: tolerance of the check that the trace is in [-1, 3].
        cos_angle: return the cosine of the angle.
        cos_bound: how far from -1 and 1 the cosine is extrapolated linearly, which keeps gradients finite; 0 for none.

    Returns:
        (N,) angles in radians, or their cosines.

    Raises:
        ValueError: for a wrong shape, or a trace that no rotation has. On CUDA the check waits for the device.
    """
    _check_matrices(R)
    trace = R.diagonal(dim1=1, dim2=2).sum(1)
    if bool(((trace < -1.0 - eps) | (trace > 3.0 + eps)).any()):
        raise ValueError("A matrix has trace outside valid range [-1-eps,3+eps].")
    cosine = 0.5 * (trace - 1.0)
    if cos_angle:
        return cosine
    if cos_bound > 0.0:
        return acos_linear_extrapolation(cosine, (cos_bound - 1.0, 1.0 - cos_bound))
    return torch.acos(cosine)


@full_precision
def so3_exp_map(log_rot: Tensor, eps: float = 0.0001) -> Tensor:
    """Rotation matrices of their logarithms, by Rodrigues' formula.

    Args:
        log_rot: (N, 3) axis-angle vectors.
        eps: accepted and not needed; the formula has no singularity.

    Returns:
        (N, 3, 3) rotation matrices.

    Raises:
        ValueError: when `log_rot` has another shape.
    """
    del eps
    if log_rot.ndim != 2 or log_rot.shape[1] != 3:
        raise ValueError(f"Input tensor shape has to be Nx3. Got {log_rot.shape}.")
    return axis_angle_to_matrix(log_rot)


def so3_exponential_map(log_rot: Tensor, eps: float = 0.0001) -> Tensor:
    """Deprecated name of `so3_exp_map`."""
    warnings.warn(
        "so3_exponential_map is deprecated, use so3_exp_map instead.", PendingDeprecationWarning, stacklevel=2
    )
    return so3_exp_map(log_rot, eps)


def so3_log_map(R: Tensor, eps: float = 0.0001, cos_bound: float = 1e-4) -> Tensor:
    """Logarithms of rotation matrices.

    Args:
        R: (N, 3, 3) rotation matrices.
        eps: accepted and not needed.
        cos_bound: accepted and not needed.

    Returns:
        (N, 3) axis-angle vectors of length at most pi.

    Raises:
        ValueError: when `R` has another shape.
    """
    del eps, cos_bound
    _check_matrices(R)
    return matrix_to_axis_angle(R)


def hat(v: Tensor) -> Tensor:
    """Skew-symmetric matrices of vectors: `hat(v) @ p` is the cross product of v and p.

    Args:
        v: (N, 3) vectors.

    Returns:
        (N, 3, 3) matrices.

    Raises:
        ValueError: when `v` has another shape.
    """
    if v.ndim != 2 or v.shape[1] != 3:
        raise ValueError(f"Input vectors have to be 3-dimensional: expected shape (N, 3), got {tuple(v.shape)}.")
    x, y, z = v.unbind(1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), 1).unflatten(1, (3, 3))


def hat_inv(h: Tensor) -> Tensor:
    """Vectors of skew-symmetric matrices, the inverse of `hat`.

    Args:
        h: (N, 3, 3) skew-symmetric matrices.

    Returns:
        (N, 3) vectors.

    Raises:
        ValueError: for a wrong shape, or a matrix that is not skew-symmetric. On CUDA the check waits for the device.
    """
    _check_matrices(h)
    if bool(((h + h.transpose(1, 2)).abs() > _SKEW_TOLERANCE).any()):
        raise ValueError("One of input matrices is not skew-symmetric.")
    return torch.stack((h[:, 2, 1], h[:, 0, 2], h[:, 1, 0]), dim=1)


def _check_matrices(R: Tensor) -> None:
    if R.ndim != 3 or R.shape[1:] != (3, 3):
        raise ValueError(f"Input has to be a batch of 3x3 Tensors. Got {R.shape}.")
