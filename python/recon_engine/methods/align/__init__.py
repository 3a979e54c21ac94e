"""Move shapes onto others: displacements by gradient descent, rigid maps by closest points."""

from __future__ import annotations

from .fit import AlignFit, AlignResult, AlignStep, align, displaced, from_shapes
from .results import save_results
from .settings import AlignSettings, align_settings
from .shapes import Shapes, built_in, load_shapes

__all__ = [
    "AlignFit",
    "AlignResult",
    "AlignSettings",
    "AlignStep",
    "Shapes",
    "align",
    "align_settings",
    "built_in",
    "displaced",
    "from_shapes",
    "load_shapes",
    "save_results",
]
