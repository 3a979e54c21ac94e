"""Folders of pictures with cameras: COLMAP, transforms.json of NeRF data sets, and CSV files of angles.

Cameras come in PyTorch3D's convention, +X left, +Y up, +Z into the picture and x_view = x_world R + T.
"""

from __future__ import annotations

from ._shot import CameraFile, Distortion, FieldOfView, Lens, Shot
from .angles import Angles, load_angles, match_angles, read_angles
from .colmap import read_colmap
from .folder import Capture, find_cameras, load_capture, read_cameras
from .placing import object_sphere, upright
from .transforms import read_transforms

__all__ = [
    "Angles",
    "CameraFile",
    "Capture",
    "Distortion",
    "FieldOfView",
    "Lens",
    "Shot",
    "find_cameras",
    "load_angles",
    "load_capture",
    "match_angles",
    "object_sphere",
    "read_angles",
    "read_cameras",
    "read_colmap",
    "read_transforms",
    "upright",
]
