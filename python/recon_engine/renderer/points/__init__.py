"""The point renderers: rasterisation, compositing, spheres."""

from __future__ import annotations

from .compositor import AlphaCompositor, NormWeightedCompositor
from .pulsar.unified import PulsarPointsRenderer
from .rasterize_points import rasterize_points
from .rasterizer import PointsRasterizationSettings, PointsRasterizer
from .renderer import PointsRenderer
from .splatter import PointSplatter

__all__ = [
    "AlphaCompositor",
    "NormWeightedCompositor",
    "PointSplatter",
    "PointsRasterizationSettings",
    "PointsRasterizer",
    "PointsRenderer",
    "PulsarPointsRenderer",
    "rasterize_points",
]
