"""Settings of alignments: the documented displacement, and rigid ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .._settings import above, at_least, at_most, with_changes


@dataclass(frozen=True)
class AlignSettings:
    """Everything that decides an alignment. The defaults are the documented ones, of displacements."""

    rigid: bool = False
    """Find a rotation and a displacement for each pair, by iterative closest points."""
    shared: bool = True
    """One displacement for all pairs, as of one camera that saw them all; without it each pair has its own."""
    iterations: int = 200
    """Optimiser steps, or closest-point iterations at most."""
    samples: int = 5000
    """Points drawn from each surface: anew in each step, or once."""
    learning_rate: float = 0.1
    """Step of stochastic gradient descent."""
    momentum: float = 0.9
    """Momentum of stochastic gradient descent."""
    starts: int = 48
    """Rotations that a rigid alignment starts from: as the shape lies, and the others at random."""
    scale: bool = False
    """A rigid alignment also finds a scale for each pair."""
    tolerance: float = 1e-6
    """A rigid alignment ends when no error falls by more than this part."""
    motion: tuple[float, float, float] = (3.0, 4.0, 5.0)
    """Displacement of targets that are made from the sources."""
    noise: float = math.sqrt(0.1)
    """Standard deviation of what is added to every coordinate of the vertices of such targets."""
    seed: int = 0
    """Decides everything random; the same seed gives the same result."""

    def __post_init__(self) -> None:
        at_least(self, 1, "iterations", "samples", "starts")
        at_least(self, 0, "momentum", "seed", "tolerance", "noise")
        above(self, 0, "learning_rate")
        if self.momentum >= 1:
            raise ValueError(f"momentum must be below 1, got {self.momentum}")
        at_most(self, "starts", 10_000)
        if len(self.motion) != 3 or not all(math.isfinite(x) for x in self.motion):
            raise ValueError(f"motion must be three finite numbers, got {self.motion}")
        if self.scale and not self.rigid:
            raise ValueError("scale goes with rigid: a displacement has none")


# Noise of a third of the shapes' size leaves nothing of a rotation.
_RIGID: dict[str, Any] = {"rigid": True, "iterations": 100, "noise": 0.01}
_FAST: dict[str, Any] = {"samples": 800, "iterations": 120}


def align_settings(*, rigid: bool = False, fast: bool = False, **changes: Any) -> AlignSettings:
    """Settings for `align` and `from_shapes`.

    Args:
        rigid: find rotations as well.
        fast: fewer points and steps.
        **changes: fields of `AlignSettings`; None keeps what `rigid` and `fast` say.

    Raises:
        ValueError: a field is out of its range.
        TypeError: there is no such field.
    """
    presets = {"displacement": {}, "rigid": _RIGID}
    preset = "rigid" if rigid else "displacement"
    return with_changes(AlignSettings, presets, preset, _FAST if fast else {}, changes)
