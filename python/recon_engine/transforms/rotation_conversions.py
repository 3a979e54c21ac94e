"""Conversions between rotation matrices, quaternions, axis-angle vectors, Euler angles and the 6D representation.

Convention: matrices act on column vectors, `R @ p`; transpose them for row vectors. Quaternions are (w, x, y, z), real
part first. Angles are in radians and turn counter-clockwise. All leading dimensions are batch dimensions.

Every function can be compiled by `torch.jit.script` and `torch.compile`, is differentiable, works in the dtype and on
the device of its input, and has finite gradients at the identity, at half turns and at gimbal lock.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.datatypes import Device


def quaternion_to_matrix(quaternions: Tensor) -> Tensor:
    """Rotation matrices of quaternions.

    Args:
        quaternions: (..., 4), real part first; they need not have unit length.

    Returns:
        (..., 3, 3) rotation matrices.
    """
    w, x, y, z = quaternions.unbind(-1)
    # R = I + (2 / |q|^2) (w [v]x + [v]x^2) for q = (w, v)
    s = 2.0 / (quaternions * quaternions).sum(-1)
    sx, sy, sz = s * x, s * y, s * z
    xx, yy, zz = sx * x, sy * y, sz * z
    xy, xz, yz = sx * y, sx * z, sy * z
    wx, wy, wz = sx * w, sy * w, sz * w
    rows = (1 - yy - zz, xy - wz, xz + wy, xy + wz, 1 - xx - zz, yz - wx, xz - wy, yz + wx, 1 - xx - yy)
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """Unit quaternions of rotation matrices.

    Args:
        matrix: (..., 3, 3) rotation matrices.

    Returns:
        (..., 4), real part first and not negative.

    Raises:
        ValueError: when the last two dimensions are not 3 and 3.
    """
    _check_matrix(matrix)
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = matrix.flatten(-2).unbind(-1)
    wx, wy, wz = m21 - m12, m02 - m20, m10 - m01
    xy, xz, yz = m10 + m01, m20 + m02, m21 + m12
    squares = (1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22)
    # The symmetric matrix 4 q q^T, column by column. The sum of its diagonal is 4, so the largest square is at least 1
    # and its column gives q without cancellation: column i is 4 q_i q and 2 sqrt(4 q_i^2) is 4 |q_i|.
    outer = torch.stack(
        (squares[0], wx, wy, wz, wx, squares[1], xy, xz, wy, xy, squares[2], yz, wz, xz, yz, squares[3]), -1
    ).unflatten(-1, (4, 4))
    square, best = torch.stack(squares, -1).max(-1, keepdim=True)
    column = torch.take_along_dim(outer, best[..., None], -2).squeeze(-2)
    return standardize_quaternion(column / (2.0 * square.sqrt()))


def standardize_quaternion(quaternions: Tensor) -> Tensor:
    """The quaternion of each pair q, -q (the same rotation) whose real part is not negative.

    Args:
        quaternions: (..., 4), real part first.

    Returns:
        (..., 4) quaternions.
    """
    return torch.where(quaternions[..., :1] < 0, -quaternions, quaternions)


def quaternion_raw_multiply(a: Tensor, b: Tensor) -> Tensor:
    """The product of quaternions: the rotation `b` followed by the rotation `a`.

    Args:
        a: (..., 4), real part first.
        b: (..., 4), broadcast against `a`.

    Returns:
        (..., 4) products; their real part may be negative.
    """
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        (
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ),
        -1,
    )


def quaternion_multiply(a: Tensor, b: Tensor) -> Tensor:
    """The rotation `b` followed by the rotation `a`, as a quaternion with a real part that is not negative.

    Args:
        a: (..., 4), real part first.
        b: (..., 4), broadcast against `a`.

    Returns:
        (..., 4) products.
    """
    return standardize_quaternion(quaternion_raw_multiply(a, b))


def quaternion_invert(quaternion: Tensor) -> Tensor:
    """The inverse rotations of unit quaternions: their conjugates.

    Args:
        quaternion: (..., 4) unit quaternions, real part first.

    Returns:
        (..., 4) quaternions.
    """
    return torch.cat([quaternion[..., :1], -quaternion[..., 1:]], dim=-1)


def quaternion_apply(quaternion: Tensor, point: Tensor) -> Tensor:
    """Points rotated by unit quaternions.

    Args:
        quaternion: (..., 4), real part first. A length l other than 1 scales the result by l^2.
        point: (..., 3), broadcast against the quaternions.

    Returns:
        (..., 3) rotated points.

    Raises:
        ValueError: when the points are not 3D.
    """
    if point.shape[-1] != 3:
        raise ValueError(f"Points are not in 3D, {point.shape}.")
    w, v = quaternion[..., :1], quaternion[..., 1:]
    v, p = torch.broadcast_tensors(v, point)
    # q p q* = (w^2 - v.v) p + 2 (v.p) v + 2 w (v x p)
    along = (v * p).sum(-1, keepdim=True)
    return (w * w - (v * v).sum(-1, keepdim=True)) * p + 2 * (along * v + w * torch.linalg.cross(v, p))


def axis_angle_to_matrix(axis_angle: Tensor, fast: bool = False) -> Tensor:
    """Rotation matrices of axis-angle vectors, by Rodrigues' formula.

    Args:
        axis_angle: (..., 3), the axis times the angle.
        fast: accepted and not needed; there is one way, accurate and fast.

    Returns:
        (..., 3, 3) rotation matrices.
    """
    del fast
    angle = torch.linalg.vector_norm(axis_angle, dim=-1)
    # R = I + a [v]x + b [v]x^2 with a = sin t / t and b = (1 - cos t) / t^2 = 2 sin^2(t / 2) / t^2, the second form of
    # which is free of cancellation
    a = torch.sinc(angle / math.pi)
    half = torch.sinc(angle / (2 * math.pi))
    b = 0.5 * half * half
    x, y, z = axis_angle.unbind(-1)
    ax, ay, az = a * x, a * y, a * z
    bx, by, bz = b * x, b * y, b * z
    xx, yy, zz = bx * x, by * y, bz * z
    xy, xz, yz = bx * y, bx * z, by * z
    rows = (1 - yy - zz, xy - az, xz + ay, xy + az, 1 - xx - zz, yz - ax, xz - ay, yz + ax, 1 - xx - yy)
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def matrix_to_axis_angle(matrix: Tensor, fast: bool = False) -> Tensor:
    """Axis-angle vectors of rotation matrices.

    Args:
        matrix: (..., 3, 3) rotation matrices.
        fast: accepted and not needed; there is one way, which is also right at half turns.

    Returns:
        (..., 3), of length at most pi.

    Raises:
        ValueError: when the last two dimensions are not 3 and 3.
    """
    del fast
    return quaternion_to_axis_angle(matrix_to_quaternion(matrix))


def axis_angle_to_quaternion(axis_angle: Tensor) -> Tensor:
    """Unit quaternions of axis-angle vectors.

    Args:
        axis_angle: (..., 3), the axis times the angle.

    Returns:
        (..., 4), real part first.
    """
    half = 0.5 * torch.linalg.vector_norm(axis_angle, dim=-1, keepdim=True)
    return torch.cat([torch.cos(half), 0.5 * torch.sinc(half / math.pi) * axis_angle], dim=-1)


def quaternion_to_axis_angle(quaternions: Tensor) -> Tensor:
    """Axis-angle vectors of quaternions.

    Args:
        quaternions: (..., 4), real part first, of any length.

    Returns:
        (..., 3), of length at most pi where the real part is not negative, at most 2 pi elsewhere.
    """
    w, v = quaternions[..., :1], quaternions[..., 1:]
    length = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    # v / |v| times the angle 2 atan2(|v|, w). At v = 0 the factor has the limit 2 / w: 2 w for unit quaternions.
    is_zero = length == 0
    safe = torch.where(is_zero, torch.ones_like(length), length)
    return v * torch.where(is_zero, 2 * w, 2 * torch.atan2(safe, w) / safe)


def rotation_6d_to_matrix(d6: Tensor) -> Tensor:
    """Rotation matrices of the continuous 6D representation, by Gram-Schmidt orthogonalisation.

    Args:
        d6: (..., 6), two vectors.

    Returns:
        (..., 3, 3), whose first two rows span the same plane.

    References:
        Zhou et al., On the Continuity of Rotation Representations in Neural Networks, CVPR 2019, section B.
    """
    if d6.shape[-1] != 6:
        raise ValueError(f"rotation_6d_to_matrix: d6 must have shape (..., 6), got {d6.shape}")
    first, second = d6[..., :3], d6[..., 3:]
    b1 = F.normalize(first, dim=-1)
    b2 = F.normalize(second - (b1 * second).sum(-1, keepdim=True) * b1, dim=-1)
    return torch.stack((b1, b2, torch.linalg.cross(b1, b2)), dim=-2)


def matrix_to_rotation_6d(matrix: Tensor) -> Tensor:
    """The continuous 6D representation of rotation matrices: their first two rows.

    Args:
        matrix: (..., 3, 3) rotation matrices.

    Returns:
        (..., 6) in new memory.

    References:
        Zhou et al., On the Continuity of Rotation Representations in Neural Networks, CVPR 2019.
    """
    _check_matrix(matrix)
    return matrix[..., :2, :].clone().flatten(-2)


# Euler angles: R = R_a(alpha) R_b(beta) R_c(gamma) for the convention "abc".


def euler_angles_to_matrix(euler_angles: Tensor, convention: str) -> Tensor:
    """Rotation matrices of Euler angles.

    Args:
        euler_angles: (..., 3), one angle for each letter.
        convention: three letters of X, Y, Z, neighbours different; `"XYZ"` is `R_x @ R_y @ R_z`.

    Returns:
        (..., 3, 3) rotation matrices.

    Raises:
        ValueError: for a wrong shape or convention.
    """
    if euler_angles.dim() == 0 or euler_angles.shape[-1] != 3:
        raise ValueError(f"Invalid input euler angles: expected shape (..., 3), got {euler_angles.shape}.")
    _axes_of(convention)
    a = _axis_angle_rotation(convention[0], euler_angles[..., 0])
    b = _axis_angle_rotation(convention[1], euler_angles[..., 1])
    c = _axis_angle_rotation(convention[2], euler_angles[..., 2])
    # As sums, which torch.autocast does not round to half precision.
    ab = (a[..., None] * b[..., None, :, :]).sum(-2)
    return (ab[..., None] * c[..., None, :, :]).sum(-2)


def matrix_to_euler_angles(matrix: Tensor, convention: str) -> Tensor:
    """Euler angles of rotation matrices.

    Args:
        matrix: (..., 3, 3) rotation matrices.
        convention: three letters of X, Y, Z, neighbours different.

    Returns:
        (..., 3): the first and the third angle in [-pi, pi]; the second in [-pi / 2, pi / 2] when the first and the
        third letter differ, in [0, pi] when they are equal. The angles give back the matrix also where they are not
        unique (gimbal lock); the third angle is 0 there.

    Raises:
        ValueError: for a wrong shape or convention.
    """
    a, b, c = _axes_of(convention)
    _check_matrix(matrix)
    # Row a of R is R_c(-gamma) R_b(-beta) e_a. It holds beta and gamma.
    if a != c:
        sin_gamma, cos_gamma = -_sign(c, a) * matrix[..., a, b], matrix[..., a, a]
        beta = torch.atan2(-_sign(b, a) * matrix[..., a, c], _length(sin_gamma, cos_gamma))
    else:
        k = 3 - a - b
        sin_gamma, cos_gamma = matrix[..., a, b], -_sign(b, a) * matrix[..., a, k]
        beta = torch.atan2(_length(sin_gamma, cos_gamma), matrix[..., a, a])
    gamma = _atan2(sin_gamma, cos_gamma)
    # R_a(alpha) e_b = R R_c(-gamma) e_b, because R_b leaves e_b alone. Taking alpha from R and gamma, and not from R
    # alone, makes up for whatever gamma came out as where only the sum of the two is determined.
    cos, sin = torch.cos(gamma), torch.sin(gamma)
    k, m = 3 - c - b, 3 - a - b
    cos_alpha = cos * matrix[..., b, b] - sin * _sign(c, b) * matrix[..., b, k]
    sin_alpha = cos * matrix[..., m, b] - sin * _sign(c, b) * matrix[..., m, k]
    return torch.stack((torch.atan2(_sign(a, b) * sin_alpha, cos_alpha), beta, gamma), -1)


def _axis_angle_rotation(axis: str, angle: Tensor) -> Tensor:
    """Matrices (..., 3, 3) of rotations about the axis "X", "Y" or "Z" by angles (...)."""
    cos, sin = torch.cos(angle), torch.sin(angle)
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)
    if axis == "X":
        rows = (one, zero, zero, zero, cos, -sin, zero, sin, cos)
    elif axis == "Y":
        rows = (cos, zero, sin, zero, one, zero, -sin, zero, cos)
    elif axis == "Z":
        rows = (cos, -sin, zero, sin, cos, zero, zero, zero, one)
    else:
        raise ValueError(f"letter must be either X, Y or Z, got {axis}.")
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def _axes_of(convention: str) -> tuple[int, int, int]:
    """The numbers 0, 1, 2 of the letters of a checked convention."""
    if len(convention) != 3:
        raise ValueError(f"Convention must have 3 letters, got {convention}.")
    if convention[1] in (convention[0], convention[2]):
        raise ValueError(f"Invalid convention {convention}: neighbouring letters must differ.")
    for letter in convention:
        if letter not in ("X", "Y", "Z"):
            raise ValueError(f"Invalid letter {letter} in convention string.")
    number = {"X": 0, "Y": 1, "Z": 2}
    return number[convention[0]], number[convention[1]], number[convention[2]]


def _sign(i: int, j: int) -> int:
    """The sign s of e_i x e_j = s e_k for different axes i and j."""
    return 1 if (j - i) % 3 == 1 else -1


def _length(x: Tensor, y: Tensor) -> Tensor:
    """sqrt(x^2 + y^2) with gradient 0 at the origin."""
    return torch.linalg.vector_norm(torch.stack((x, y), -1), dim=-1)


def _atan2(y: Tensor, x: Tensor) -> Tensor:
    """`atan2` with value 0 and gradient 0 at the origin."""
    at_origin = (x == 0) & (y == 0)
    return torch.atan2(y, torch.where(at_origin, torch.ones_like(x), x))


# Random rotations


def random_quaternions(n: int, dtype: torch.dtype | None = None, device: Device | None = None) -> Tensor:
    """Random unit quaternions, uniform over all rotations.

    Args:
        n: how many.
        dtype: their dtype; torch's default when None.
        device: their device; torch's default when None.

    Returns:
        (n, 4), real part first and not negative.
    """
    q = torch.randn((n, 4), dtype=dtype, device=device)
    return standardize_quaternion(q / torch.linalg.vector_norm(q, dim=1, keepdim=True))


def random_rotations(n: int, dtype: torch.dtype | None = None, device: Device | None = None) -> Tensor:
    """Random rotation matrices, uniform over all rotations.

    Args:
        n: how many.
        dtype: their dtype; torch's default when None.
        device: their device; torch's default when None.

    Returns:
        (n, 3, 3) rotation matrices.
    """
    return quaternion_to_matrix(random_quaternions(n, dtype=dtype, device=device))


def random_rotation(dtype: torch.dtype | None = None, device: Device | None = None) -> Tensor:
    """One random rotation matrix, uniform over all rotations.

    Args:
        dtype: its dtype; torch's default when None.
        device: its device; torch's default when None.

    Returns:
        (3, 3) rotation matrix.
    """
    return random_rotations(1, dtype, device)[0]


def _check_matrix(matrix: Tensor) -> None:
    if matrix.shape[-2:] != (3, 3):
        raise ValueError(f"Invalid rotation matrix shape {matrix.shape}.")
