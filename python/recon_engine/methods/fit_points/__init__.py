"""Fit a sphere to a point cloud or a mesh."""

from __future__ import annotations

from .fit import FitPointsResult, Measures, PointsFit, fit_points, measure
from .results import save_results
from .settings import FitPointsSettings, fit_settings

__all__ = [
    "FitPointsResult",
    "FitPointsSettings",
    "Measures",
    "PointsFit",
    "fit_points",
    "fit_settings",
    "measure",
    "save_results",
]
