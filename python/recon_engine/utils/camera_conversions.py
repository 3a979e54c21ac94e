"""Conversions between the camera conventions of OpenCV, pulsar and this package, at PyTorch3D's module path.

The functions live in `recon_engine.renderer.camera_conversions`; they are imported when one is first used, so that
`recon_engine.utils` does not load the renderer.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = [
    "cameras_from_opencv_projection",
    "opencv_from_cameras_projection",
    "pulsar_from_cameras_projection",
    "pulsar_from_opencv_projection",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("recon_engine.renderer.camera_conversions"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
