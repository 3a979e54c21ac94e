"""Reconstruct an object from silhouettes, rendered from a mesh or cut out of photographs."""

from __future__ import annotations

from .cameras import CameraOffsets, CapturedViews, Views
from .fit import (
    BuildResult,
    Frame,
    from_capture,
    from_images,
    from_mesh,
    normalize,
    silhouette_iou,
    silhouettes,
)
from .images import Angles, Cutouts, load_angles, load_cutouts, match_angles
from .results import save_results
from .settings import BuildSettings, image_settings, mesh_settings

__all__ = [
    "Angles",
    "BuildResult",
    "BuildSettings",
    "CameraOffsets",
    "CapturedViews",
    "Cutouts",
    "Frame",
    "Views",
    "from_capture",
    "from_images",
    "from_mesh",
    "image_settings",
    "load_angles",
    "load_cutouts",
    "match_angles",
    "mesh_settings",
    "normalize",
    "save_results",
    "silhouette_iou",
    "silhouettes",
]
