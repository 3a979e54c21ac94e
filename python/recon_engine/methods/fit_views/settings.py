"""Settings of the sphere that is fitted to views: the documented defaults, and one preset that frames the object."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .._settings import above, at_least, at_most, choice, with_changes
from .._views import CameraSettings

Preset = Literal["framed", "documented", "silhouette"]
Texture = Literal["vertex", "uv"]
Path = Literal["loop", "around"]


@dataclass(frozen=True)
class FitViewsSettings(CameraSettings):
    """Everything that decides a fit. The defaults are the documented ones."""

    views: int = 20
    """Cameras around a mesh."""
    held_out: int = 10
    """Cameras between those, for the measures."""
    path: Path = "loop"
    """Where these are: `loop` has elevations from 0 to 360 and azimuths from -180 to 180 in equal steps; `around` has
    azimuths from 0 to 360 and elevations between `lowest` and `highest`."""
    views_per_iteration: int = 2
    """Views drawn at random for each step."""
    iterations: int = 2000
    """Optimiser steps."""
    level: int = 4
    """How often the triangles of the icosahedron that becomes the sphere are split into four."""
    texture: Texture = "vertex"
    """Colours of vertices, or an image on the surface."""
    texture_size: int = 64
    """Texels along each side of the image's six parts; half of `image_size` is about as fine as the pictures."""
    sigma: float = 1e-4
    """Softness of edges (SoftRas)."""
    gamma: float = 1e-4
    """Softness of which face is in front (SoftRas)."""
    faces_per_pixel: int = 50
    """How many faces blend into a pixel at most."""
    learning_rate: float = 1.0
    """Step of stochastic gradient descent."""
    momentum: float = 0.9
    """Momentum of stochastic gradient descent."""
    shape_rate: float | None = None
    """Step of Adam for the shape, which then is a sum of layers from coarse to fine; divided by 10 after three quarters
    of the iterations. None: vertices move by gradient descent."""
    color_rate: float | None = None
    """Step of Adam for the colours, divided likewise; None: they move by gradient descent."""
    weight_rgb: float = 1.0
    """Weight of the mean squared difference of colours."""
    weight_silhouette: float = 1.0
    """Weight of the mean squared difference of silhouettes."""
    weight_edge: float = 1.0
    """Weight of the mean squared edge length."""
    weight_normal: float = 0.01
    """Weight of the normal consistency of neighbouring faces."""
    weight_laplacian: float = 1.0
    """Weight of the uniform Laplacian."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choice(self, "path", ("loop", "around"))
        choice(self, "texture", ("vertex", "uv"))
        at_least(self, 0, "level", "momentum")
        at_least(self, 0, "weight_rgb", "weight_silhouette", "weight_edge", "weight_normal", "weight_laplacian")
        at_least(self, 1, "faces_per_pixel")
        at_least(self, 4, "texture_size")
        above(self, 0, "sigma", "gamma", "learning_rate")
        at_most(self, "level", 7)
        at_most(self, "texture_size", 2048)
        if self.momentum >= 1:
            raise ValueError(f"momentum must be below 1, got {self.momentum}")
        above(self, 0, *(name for name in ("shape_rate", "color_rate") if getattr(self, name) is not None))

    @property
    def blur_radius(self) -> float:
        """Squared distance from a face, in NDC, beyond which it does not count: its alpha would be below 1e-4."""
        return math.log(1.0 / 1e-4 - 1.0) * self.sigma

    def fitted_angles(self) -> tuple[Tensor, Tensor]:
        """Elevations and azimuths of the cameras that a fit sees, (views,) each."""
        if self.path == "around":
            return super().fitted_angles()
        return torch.linspace(0, 360, self.views), torch.linspace(-180, 180, self.views)

    def held_out_angles(self) -> tuple[Tensor, Tensor]:
        """Angles half-way between those of the fit, (held_out,) each."""
        if self.path == "around":
            return super().held_out_angles()
        turn = 360 * self.gaps() / (self.views - 1)
        return turn, turn - 180


# The documented colours move by gradient descent at the vertices' rate, and in 2000 steps come two thirds of their way.
# Framing has cameras all around whose pictures the object fills, and an image, which is finer than the triangles. Edges
# are less soft: soft ones reach outwards, and the shape shrinks until they do not. Shape and image move from coarse to
# fine, so that weaker priors keep the surface smooth, and a quarter of the steps is enough.
_PRESETS: dict[str, dict[str, Any]] = {
    "documented": {},
    "silhouette": {"weight_rgb": 0.0},
    "framed": {
        "path": "around",
        "lowest": -30.0,
        "highest": 60.0,
        "fov": None,
        "light": (2.0, 3.0, 3.0),
        "texture": "uv",
        "iterations": 500,
        "sigma": 1e-5,
        "weight_edge": 0.1,
        "weight_normal": 0.05,
        "weight_laplacian": 0.05,
        "shape_rate": 0.003,
        "color_rate": 0.02,
    },
}
_FAST: dict[str, Any] = {
    "views": 12,
    "held_out": 4,
    "image_size": 64,
    "level": 3,
    "iterations": 150,
    "sigma": 4e-5,
    "shape_rate": 0.01,
    "color_rate": 0.04,
    "texture_size": 32,
    "faces_per_pixel": 20,
}


def view_settings(preset: Preset = "framed", *, fast: bool = False, **changes: Any) -> FitViewsSettings:
    """Settings for `from_mesh` and `from_capture`.

    Args:
        preset: `documented`; `silhouette`, the same without colours; or `framed`: cameras all around that the object
            fills, and colours that move at a rate of their own.
        fast: small pictures, a coarse sphere and few iterations: seconds instead of a minute.
        **changes: fields of `FitViewsSettings`; None keeps what preset and `fast` say.

    Raises:
        ValueError: a field is out of its range, or the preset is unknown.
        TypeError: there is no such field.
    """
    return with_changes(FitViewsSettings, _PRESETS, preset, _FAST if fast else {}, changes)
