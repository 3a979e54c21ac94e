"""Conversions between our cameras and those of OpenCV and of the sphere renderer Pulsar.

OpenCV: +X right, +Y down, +Z forward, column vectors, pixels. Ours: +X left, +Y up, +Z forward, row vectors, NDC.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from recon_engine.transforms import matrix_to_rotation_6d

from .cameras import PerspectiveCameras

LOGGER = logging.getLogger(__name__)


def _half_short_side_and_center(image_size: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 1) half of the short side in pixels and (N, 2) the image centre (x, y)."""
    size_wh = image_size.to(like).flip(dims=(1,))
    return size_wh.amin(dim=1, keepdim=True) / 2.0, size_wh / 2.0


def _flip_xy(R: Tensor, T: Tensor) -> tuple[Tensor, Tensor]:
    """Negate the view's x and y axes of row-vector extrinsics."""
    flip = R.new_tensor([-1.0, -1.0, 1.0])
    return R * flip, T * flip


def _cameras_from_opencv_projection(
    R: Tensor, tvec: Tensor, camera_matrix: Tensor, image_size: Tensor
) -> PerspectiveCameras:
    """Cameras in NDC from OpenCV's x_pixel ~ camera_matrix (R x_world + tvec).

    Args:
        R: (N, 3, 3) rotations for column vectors.
        tvec: (N, 3) translations.
        camera_matrix: (N, 3, 3) intrinsics in pixels.
        image_size: (N, 2) (height, width).
    """
    half, center = _half_short_side_and_center(image_size, R)
    focal = torch.stack((camera_matrix[:, 0, 0], camera_matrix[:, 1, 1]), dim=-1)
    R_ours, T_ours = _flip_xy(R.transpose(1, 2), tvec)
    return PerspectiveCameras(
        R=R_ours,
        T=T_ours,
        focal_length=focal / half,
        principal_point=(center - camera_matrix[:, :2, 2]) / half,
        image_size=image_size,
        device=R.device,
    )


def _opencv_from_cameras_projection(cameras: PerspectiveCameras, image_size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """OpenCV's (R, tvec, camera_matrix), (N, 3, 3), (N, 3) and (N, 3, 3), of cameras in NDC or in pixels.

    Args:
        cameras: perspective cameras.
        image_size: (N, 2) (height, width).
    """
    R, T = _flip_xy(cameras.R, cameras.T)
    focal, point = cameras.focal_length, cameras.principal_point
    if cameras.in_ndc():
        half, center = _half_short_side_and_center(image_size, R)
        focal, point = focal * half, center - point * half
    camera_matrix = torch.zeros_like(R)
    camera_matrix[:, 0, 0], camera_matrix[:, 1, 1], camera_matrix[:, 2, 2] = focal[:, 0], focal[:, 1], 1.0
    camera_matrix[:, :2, 2] = point
    return R.transpose(1, 2), T, camera_matrix


def _pulsar_from_opencv_projection(
    R: Tensor, tvec: Tensor, camera_matrix: Tensor, image_size: Tensor, znear: float = 0.1
) -> Tensor:
    """Pulsar's camera vectors: position 3, rotation 6, focal length, sensor width, principal point offset 2.

    Args:
        R: (N, 3, 3) OpenCV rotations.
        tvec: (N, 3) or (N, 3, 1) OpenCV translations.
        camera_matrix: (N, 3, 3) OpenCV intrinsics.
        image_size: (N, 2) (height, width), the same for all.
        znear: near plane; the focal length is just in front of it.

    Returns:
        (N, 13) camera vectors.
    """
    tvec = tvec[..., None] if tvec.dim() == 2 else tvec
    N = camera_matrix.shape[0]
    for name, value, shape in (
        ("camera_matrix", camera_matrix, (N, 3, 3)),
        ("R", R, (N, 3, 3)),
        ("tvec", tvec, (N, 3, 1)),
    ):
        if tuple(value.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}; got {tuple(value.shape)}")
    if not bool((image_size > 0).all()) or not bool((image_size == image_size[:1]).all()):
        raise ValueError(
            f"image_size must hold the same positive (height, width) for the whole batch; got {image_size}"
        )
    height, width = image_size.to(R)[0]
    fx, fy = camera_matrix[:, 0, 0, None], camera_matrix[:, 1, 1, None]
    if bool(((fx / fy - 1.0).abs() > 0.01).any()):
        LOGGER.warning("Pulsar has one focal length: those of x and y differ by more than 1 % and are averaged.")
    focal = torch.full_like(fx, znear - 1e-5)
    sensor_width = focal * width / (0.5 * (fx + fy))
    offset_x = width / 2 - camera_matrix[:, 0, 2, None]
    offset_y = camera_matrix[:, 1, 2, None] - height / 2
    R_rows = R.transpose(1, 2)
    position = -(R_rows @ tvec)[..., 0]
    return torch.cat((position, matrix_to_rotation_6d(R_rows), focal, sensor_width, offset_x, offset_y), dim=1)


def _pulsar_from_cameras_projection(cameras: PerspectiveCameras, image_size: Tensor) -> Tensor:
    """Pulsar's camera vectors, (N, 13), of perspective cameras; image_size is (N, 2) (height, width)."""
    return _pulsar_from_opencv_projection(*_opencv_from_cameras_projection(cameras, image_size), image_size)
