"""Ready-made meshes and camera conversions."""

from __future__ import annotations

from . import camera_conversions
from .camera_conversions import (
    cameras_from_opencv_projection,
    opencv_from_cameras_projection,
    pulsar_from_cameras_projection,
    pulsar_from_opencv_projection,
)
from .checkerboard import checkerboard
from .ico_sphere import ico_sphere
from .torus import torus

__all__ = [
    "camera_conversions",
    "cameras_from_opencv_projection",
    "checkerboard",
    "ico_sphere",
    "opencv_from_cameras_projection",
    "pulsar_from_cameras_projection",
    "pulsar_from_opencv_projection",
    "torus",
]
