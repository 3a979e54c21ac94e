"""Reconstruct an object from silhouettes, rendered from a mesh or cut out of photographs."""

from __future__ import annotations

from .cameras import CameraOffsets, CapturedViews, Views
from .closed import enclosed_volume, is_watertight, reclosed
from .fit import BuildFit, BuildResult, from_capture, from_images, from_mesh, from_meshes
from .images import Angles, Cutouts, load_angles, load_cutouts, match_angles
from .outlines import Outlines, normalize, silhouette_iou, silhouettes
from .results import save_results
from .settings import BuildSettings, image_settings, mesh_settings

__all__ = [
    "Angles",
    "BuildFit",
    "BuildResult",
    "BuildSettings",
    "CameraOffsets",
    "CapturedViews",
    "Cutouts",
    "Outlines",
    "Views",
    "enclosed_volume",
    "from_capture",
    "from_images",
    "from_mesh",
    "from_meshes",
    "image_settings",
    "is_watertight",
    "load_angles",
    "load_cutouts",
    "match_angles",
    "mesh_settings",
    "normalize",
    "reclosed",
    "save_results",
    "silhouette_iou",
    "silhouettes",
]
