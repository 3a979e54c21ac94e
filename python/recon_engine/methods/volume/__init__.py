"""Fit a volume of densities and colours to pictures of an object."""

from __future__ import annotations

from .fit import VolumeFit, VolumeModel, VolumeResult, from_capture, from_mesh, render
from .results import load_volume, save_results
from .settings import VolumeSettings, volume_settings

__all__ = [
    "VolumeFit",
    "VolumeModel",
    "VolumeResult",
    "VolumeSettings",
    "from_capture",
    "from_mesh",
    "load_volume",
    "render",
    "save_results",
    "volume_settings",
]
