"""Fit a textured sphere to views of an object, rendered from a mesh or photographed with known cameras."""

from __future__ import annotations

from .fit import FitViewsResult, ViewFit, from_capture, from_mesh, render
from .model import SphereModel
from .results import save_results
from .settings import FitViewsSettings, view_settings

__all__ = [
    "FitViewsResult",
    "FitViewsSettings",
    "SphereModel",
    "ViewFit",
    "from_capture",
    "from_mesh",
    "render",
    "save_results",
    "view_settings",
]
