"""Fit a neural radiance field to pictures of an object."""

from __future__ import annotations

from .field import RadianceField
from .fit import NerfFit, NerfResult, from_capture, from_mesh, render
from .results import load_field, save_results
from .settings import NerfSettings, nerf_settings

__all__ = [
    "NerfFit",
    "NerfResult",
    "NerfSettings",
    "RadianceField",
    "from_capture",
    "from_mesh",
    "load_field",
    "nerf_settings",
    "render",
    "save_results",
]
