"""Extrinsics: where a camera stands and where it looks, as (R, T) with x_view = x_world R + T (row vectors)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recon_engine._precision import full_precision
from recon_engine.common.datatypes import Device
from recon_engine.transforms import Rotate, Transform3d, Translate

from .utils import convert_to_tensors_and_broadcast

DEFAULT_R = torch.eye(3)[None]
DEFAULT_T = torch.zeros(1, 3)

BatchFloat = float | Sequence[float] | Tensor


def get_world_to_view_transform(R: Tensor = DEFAULT_R, T: Tensor = DEFAULT_T) -> Transform3d:
    """Build the transform x_view = x_world R + T.

    Args:
        R: (N, 3, 3) rotations, applied to row vectors.
        T: (N, 3) translations, in view space.

    Returns:
        a `Transform3d` of batch N, in the dtype of R and T. Differentiable in both.
    """
    check_extrinsics(R, T)
    dtype = torch.promote_types(R.dtype, T.dtype)
    return Rotate(R, dtype=dtype, device=R.device).compose(Translate(T, dtype=dtype, device=T.device))


def check_extrinsics(R: Tensor, T: Tensor) -> None:
    """Raise ValueError unless R is (N, 3, 3) and T is (N, 3)."""
    if T.dim() == 2 and T.shape[1] == 3 and R.shape == (T.shape[0], 3, 3):
        return
    if T.dim() != 2 or T.shape[1] != 3:
        raise ValueError(f"Expected T to have shape (N, 3); got {tuple(T.shape)}")
    if R.dim() != 3 or R.shape[1:] != (3, 3):
        raise ValueError(f"Expected R to have shape (N, 3, 3); got {tuple(R.shape)}")
    raise ValueError(f"Expected R, T to have the same batch dimension; got {R.shape[0]}, {T.shape[0]}")


def camera_position_from_spherical_angles(
    distance: BatchFloat, elevation: BatchFloat, azimuth: BatchFloat, degrees: bool = True, device: Device = "cpu"
) -> Tensor:
    """Camera positions on spheres around the origin.

    (x, y, z) = distance (cos(elev) sin(azim), sin(elev), cos(elev) cos(azim)): elevation is measured from the plane
    y = 0, azimuth from +Z towards +X.

    Args:
        distance: number or (N,) distances from the origin.
        elevation: number or (N,) angles.
        azimuth: number or (N,) angles.
        degrees: whether the angles are in degrees.
        device: where the result lives.

    Returns:
        (N, 3) positions. Differentiable in all three.
    """
    dist, elev, azim = convert_to_tensors_and_broadcast(distance, elevation, azimuth, device=device)
    if degrees:
        elev, azim = elev * (math.pi / 180.0), azim * (math.pi / 180.0)
    ground = dist * torch.cos(elev)
    xyz = (ground * torch.sin(azim), dist * torch.sin(elev), ground * torch.cos(azim))
    return torch.stack(xyz, dim=1).view(-1, 3)


@full_precision
def look_at_rotation(
    camera_position: Any, at: Any = ((0, 0, 0),), up: Any = ((0, 1, 0),), device: Device = "cpu"
) -> Tensor:
    """Rotations of cameras that look from `camera_position` to `at`.

    The columns of R are the camera's axes in the world: left (+X), up (+Y), forward (+Z). When `up` is parallel to the
    viewing direction, the left axis is free; it is then taken opposite to the world's x axis, which is the limit of
    looking ever steeper from azimuth 0.

    Args:
        camera_position: (N, 3) or (1, 3) or a tuple, world coordinates.
        at: (N, 3) or (1, 3) or a tuple, the points looked at.
        up: (N, 3) or (1, 3) or a tuple, directions that appear upwards in the image.
        device: where the result lives.

    Returns:
        (N, 3, 3) rotations for row vectors, x_view = x_world R + T. Differentiable in all three.
    """
    vectors = {"camera_position": camera_position, "at": at, "up": up}
    tensors = convert_to_tensors_and_broadcast(*vectors.values(), device=device)
    for name, tensor in zip(vectors, tensors, strict=True):
        if tensor.shape[-1] != 3:
            raise ValueError(f"Expected arg {name} to have shape (N, 3); got {tuple(tensor.shape)}")
    position, at, up = _to_common_float(tensors)
    forward = F.normalize(at - position, eps=1e-5)
    left = torch.linalg.cross(up, forward, dim=1)
    # However short `left` is, where `up` is nearly parallel to `forward`, it has a direction, unless it is 0.
    left = torch.where((left == 0).all(dim=1, keepdim=True), _left_without_up(forward), left)
    left = left / torch.linalg.vector_norm(left, dim=1, keepdim=True)
    upward = F.normalize(torch.linalg.cross(forward, left, dim=1), eps=1e-5)
    return torch.stack((left, upward, forward), dim=2)


def _left_without_up(forward: Tensor) -> Tensor:
    """A vector across `forward` (N, 3): -x made orthogonal, or -y where forward is along x."""
    along_x = (forward[:, :1].abs() > 0.9).to(forward.dtype)
    axis = F.pad(torch.cat((along_x - 1, -along_x), 1), (0, 1))
    return axis - (axis * forward).sum(1, keepdim=True) * forward


def _to_common_float(tensors: Sequence[Tensor]) -> list[Tensor]:
    dtype = torch.float32
    for tensor in tensors:
        if tensor.is_floating_point():
            dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]


@full_precision
def look_at_view_transform(
    dist: BatchFloat = 1.0,
    elev: BatchFloat = 0.0,
    azim: BatchFloat = 0.0,
    degrees: bool = True,
    eye: Sequence[Any] | Tensor | None = None,
    at: Any = ((0, 0, 0),),
    up: Any = ((0, 1, 0),),
    device: Device = "cpu",
) -> tuple[Tensor, Tensor]:
    """Extrinsics of cameras that look at a point, from spherical angles around it or from `eye`.

    Args:
        dist: number or (N,) distances from `at`.
        elev: number or (N,) angles above the plane y = 0.
        azim: number or (N,) angles around +Y, from +Z towards +X.
        degrees: whether the angles are in degrees.
        eye: (N, 3) or (1, 3) camera positions; overrides dist, elev and azim.
        at: (N, 3) or (1, 3) points looked at.
        up: (N, 3) or (1, 3) directions that appear upwards in the image.
        device: where the results live.

    Returns:
        R: (N, 3, 3) rotations for row vectors.
        T: (N, 3) translations; x_view = x_world R + T.
    """
    if eye is not None:
        center, at, up = convert_to_tensors_and_broadcast(eye, at, up, device=device)
    else:
        dist, elev, azim, at, up = convert_to_tensors_and_broadcast(dist, elev, azim, at, up, device=device)
        center = camera_position_from_spherical_angles(dist, elev, azim, degrees=degrees, device=device) + at
    R = look_at_rotation(center, at, up, device=device)
    T = -(center.to(R.dtype)[:, None] @ R)[:, 0]
    return R, T
