"""Settings of the sphere that is fitted to points: the three documented weightings."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

Preset = Literal["deform1", "deform2", "deform3"]


@dataclass(frozen=True)
class FitPointsSettings:
    """Everything that decides a fit. The defaults are the documented ones, with the weights of `deform1`."""

    level: int = 4
    """How often the icosahedron's triangles are split into four."""
    iterations: int = 2000
    """Optimiser steps."""
    samples: int = 5000
    """Points drawn from the surface in each step, and from a target that is a mesh. The book draws as many as the cloud
    has (239 for its pedestrian): less even triangles, and farther from the cloud."""
    learning_rate: float = 1.0
    """Step of stochastic gradient descent."""
    momentum: float = 0.9
    """Momentum of stochastic gradient descent."""
    weight_chamfer: float = 1.0
    """Weight of the chamfer distance."""
    weight_edge: float = 1.0
    """Weight of the mean squared edge length."""
    weight_normal: float = 0.01
    """Weight of the normal consistency of neighbouring faces."""
    weight_laplacian: float = 0.1
    """Weight of the uniform Laplacian."""
    seed: int = 0
    """Decides the drawn points; the same seed gives the same mesh."""

    def __post_init__(self) -> None:
        for name, low in (("level", 0), ("iterations", 1), ("seed", 0), ("samples", 1), ("momentum", 0)):
            value = getattr(self, name)
            if not low <= value < math.inf:
                raise ValueError(f"{name} must be {low} or more, got {value}")
        for name in ("weight_chamfer", "weight_edge", "weight_normal", "weight_laplacian"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.level > 7:
            raise ValueError(f"level must be 7 or less, got {self.level}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if self.momentum >= 1:
            raise ValueError(f"momentum must be below 1, got {self.momentum}")


_PRESETS: dict[str, dict[str, float]] = {
    "deform1": {},
    "deform2": {"weight_edge": 0.0, "weight_normal": 0.0, "weight_laplacian": 0.0},
    "deform3": {"weight_normal": 0.0, "weight_laplacian": 0.0},
}


def fit_settings(preset: Preset = "deform1", **changes: Any) -> FitPointsSettings:
    """Settings for `fit_points`.

    Args:
        preset: `deform1` uses all four losses, `deform2` the chamfer distance alone, `deform3` chamfer and edges.
        **changes: fields of `FitPointsSettings`; None keeps the preset's value.

    Raises:
        ValueError: a field is out of its range, or the preset is unknown.
    """
    if preset not in _PRESETS:
        raise ValueError(f"preset must be one of {', '.join(_PRESETS)}, got {preset!r}")
    unknown = sorted(set(changes) - {field.name for field in fields(FitPointsSettings)})
    if unknown:
        raise TypeError(f"FitPointsSettings has no field {unknown[0]!r}")
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(FitPointsSettings(), **{**_PRESETS[preset], **given})
