"""Joining cameras into batches and turning them on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recon_engine._precision import full_precision
from recon_engine.transforms import Transform3d

from .cameras import CamerasBase


def camera_to_eye_at_up(world_to_view_transform: Transform3d) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments of `look_at_view_transform` that give back a world-to-view transform.

    Args:
        world_to_view_transform: rotation and translation of N cameras.

    Returns:
        eye: (N, 3) camera centres in the world.
        at: (N, 3) the points one unit in front of them.
        up: (N, 3) world directions that point upwards in the images.
    """
    matrix = world_to_view_transform.inverse().get_matrix()
    # Row i < 3 of the view-to-world matrix is the view's axis i in the world, row 3 its origin.
    eye = matrix[:, 3, :3]
    return eye, eye + matrix[:, 2, :3], matrix[:, 1, :3]


@full_precision
def rotate_on_spot(R: Tensor, T: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
    """Turn cameras by `rotation` without moving their centres.

    The new world-to-view rotation is R rotation^T; with the centre -T R^T kept, the new translation is T rotation^T.
    A rotation by a positive angle around +Y turns the camera to the right, around +X up.

    Args:
        R: (N, 3, 3) or (3, 3) rotations of the cameras.
        T: (N, 3) or (3,) translations of the cameras.
        rotation: (M, 3, 3) or (3, 3); N and M are equal or one of them is 1.

    Returns:
        R: (max(N, M), 3, 3) new rotations.
        T: (max(N, M), 3) new translations.
    """
    R = R[None] if R.ndim == 2 else R
    T = T[None] if T.ndim == 1 else T
    rotation = rotation[None] if rotation.ndim == 2 else rotation
    for name, value, shape in (("R", R, (3, 3)), ("T", T, (3,)), ("rotation", rotation, (3, 3))):
        if value.ndim != len(shape) + 1 or tuple(value.shape[1:]) != shape:
            raise ValueError(f"Invalid {name}: expected shape {('N', *shape)}, got {tuple(value.shape)}")
    new_R = R @ rotation.transpose(1, 2)
    center = R @ T[:, :, None]  # minus the camera centre
    new_T = (new_R.transpose(1, 2) @ center)[:, :, 0]
    return new_R, new_T


def join_cameras_as_batch(cameras_list: Sequence[CamerasBase]) -> CamerasBase:
    """Concatenate cameras of one type on one device into a batch.

    Args:
        cameras_list: cameras objects, each of one or more cameras.

    Raises:
        ValueError: an empty list, objects of different types or devices, or fields that only some of them have.
    """
    if not cameras_list:
        raise ValueError("join_cameras_as_batch: cameras_list is empty; give at least one cameras object")
    first = cameras_list[0]
    if not all(isinstance(cameras, CamerasBase) for cameras in cameras_list):
        raise ValueError("cameras in cameras_list must inherit from CamerasBase")
    if any(type(cameras) is not type(first) for cameras in cameras_list):
        raise ValueError("All cameras must be of the same type")
    if any(cameras.device != first.device for cameras in cameras_list):
        raise ValueError("All cameras in the batch must be on the same device")
    kwargs: dict[str, Any] = {"device": first.device}
    for field in first._FIELDS:
        values = [getattr(cameras, field) for cameras in cameras_list]
        if all(value is None for value in values):
            continue
        if any(value is None for value in values):
            raise ValueError(f"Attribute {field} is inconsistently present")
        if field in first._SHARED_FIELDS:
            if any(value != values[0] for value in values):
                raise ValueError(f"Attribute {field} is not constant across inputs")
            kwargs[field.removeprefix("_")] = values[0]
        elif isinstance(values[0], Tensor):
            kwargs[field] = torch.cat(values, dim=0)
        else:
            raise ValueError(f"Field {field} type is not supported for batching")
    return type(first)(**kwargs)
