"""Settings of the sphere that is fitted to points: the three documented weightings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .._settings import above, at_least, at_most, with_changes

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
        at_least(self, 1, "iterations", "samples")
        at_least(self, 0, "level", "momentum", "seed")
        at_least(self, 0, "weight_chamfer", "weight_edge", "weight_normal", "weight_laplacian")
        above(self, 0, "learning_rate")
        at_most(self, "level", 7)
        if self.momentum >= 1:
            raise ValueError(f"momentum must be below 1, got {self.momentum}")


_PRESETS: dict[str, dict[str, Any]] = {
    "deform1": {},
    "deform2": {"weight_edge": 0.0, "weight_normal": 0.0, "weight_laplacian": 0.0},
    "deform3": {"weight_normal": 0.0, "weight_laplacian": 0.0},
}
_FAST: dict[str, Any] = {"level": 3, "iterations": 300, "samples": 1000}


def fit_settings(preset: Preset = "deform1", *, fast: bool = False, **changes: Any) -> FitPointsSettings:
    """Settings for `fit_points`.

    Args:
        preset: `deform1` uses all four losses, `deform2` the chamfer distance alone, `deform3` chamfer and edges.
        fast: a coarse sphere, few points and few iterations: a second or two instead of half a minute.
        **changes: fields of `FitPointsSettings`; None keeps what preset and `fast` say.

    Raises:
        ValueError: a field is out of its range, or the preset is unknown.
        TypeError: there is no such field.
    """
    return with_changes(FitPointsSettings, _PRESETS, preset, _FAST if fast else {}, changes)
