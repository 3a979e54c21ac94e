"""Ready-made meshes and camera conversions."""

from __future__ import annotations

from typing import Any

from . import camera_conversions
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


def __getattr__(name: str) -> Any:
    if name in camera_conversions.__all__:
        return getattr(camera_conversions, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
