"""Conversions between our cameras and those of OpenCV and of the sphere renderer Pulsar.

Ours: +X left, +Y up, +Z forward, row vectors, NDC. OpenCV: +X right, +Y down, +Z forward, column vectors, pixels:
a pixel is x ~ camera_matrix (R x_world + tvec), as in `cv2.projectPoints`. The renderer is imported at the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from recon_engine.renderer.cameras import PerspectiveCameras

__all__ = [
    "cameras_from_opencv_projection",
    "opencv_from_cameras_projection",
    "pulsar_from_cameras_projection",
    "pulsar_from_opencv_projection",
]


def cameras_from_opencv_projection(
    R: Tensor, tvec: Tensor, camera_matrix: Tensor, image_size: Tensor
) -> PerspectiveCameras:
    """Cameras that show the same image as OpenCV's.

    Args:
        R: (N, 3, 3) rotations; `so3_exp_map` makes them of OpenCV's axis-angle vectors `rvec`.
        tvec: (N, 3) translations.
        camera_matrix: (N, 3, 3) intrinsics in pixels.
        image_size: (N, 2) height and width of each image.

    Returns:
        PerspectiveCameras: N cameras in NDC.

    Differentiable in `R`, `tvec` and `camera_matrix`.
    """
    from recon_engine.renderer.camera_conversions import _cameras_from_opencv_projection

    return _cameras_from_opencv_projection(R, tvec, camera_matrix, image_size)


def opencv_from_cameras_projection(cameras: PerspectiveCameras, image_size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """OpenCV's parameters of our cameras: the inverse of `cameras_from_opencv_projection`.

    Args:
        cameras: N perspective cameras.
        image_size: (N, 2) height and width of each image.

    Returns:
        R: (N, 3, 3) rotations; `so3_log_map` makes OpenCV's axis-angle vectors `rvec` of them.
        tvec: (N, 3) translations.
        camera_matrix: (N, 3, 3) intrinsics in pixels.

    Differentiable in the parameters of the cameras.
    """
    from recon_engine.renderer.camera_conversions import _opencv_from_cameras_projection

    return _opencv_from_cameras_projection(cameras, image_size)


def pulsar_from_opencv_projection(
    R: Tensor, tvec: Tensor, camera_matrix: Tensor, image_size: Tensor, znear: float = 0.1
) -> Tensor:
    """Camera vectors of the sphere renderer Pulsar from OpenCV's parameters.

    Pulsar has one focal length: the mean of both is taken. Its coordinate system must be left-handed, and its images
    come out upside down.

    Args:
        R: (N, 3, 3) rotations.
        tvec: (N, 3) translations.
        camera_matrix: (N, 3, 3) intrinsics in pixels.
        image_size: (N, 2) height and width of each image.
        znear: distance of the near plane.

    Returns:
        (N, 13): position (3), rotation (6), focal length, width of the sensor, principal point (2).
    """
    from recon_engine.renderer.camera_conversions import _pulsar_from_opencv_projection

    return _pulsar_from_opencv_projection(R, tvec, camera_matrix, image_size, znear)


def pulsar_from_cameras_projection(cameras: PerspectiveCameras, image_size: Tensor) -> Tensor:
    """Camera vectors of the sphere renderer Pulsar from our cameras; see `pulsar_from_opencv_projection`.

    Args:
        cameras: N perspective cameras.
        image_size: (N, 2) height and width of each image.

    Returns:
        (N, 13): position (3), rotation (6), focal length, width of the sensor, principal point (2).
    """
    from recon_engine.renderer.camera_conversions import _pulsar_from_cameras_projection

    return _pulsar_from_cameras_projection(cameras, image_size)
