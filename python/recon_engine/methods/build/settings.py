"""Settings of the reconstruction from silhouettes: the documented defaults, and one preset that frames the object."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from .._settings import above, at_least, at_most, choice, with_changes

Start = Literal["cube", "sphere", "both"]
STARTS = ("cube", "sphere")
_COARSEST = 2  # the level to begin with, at least: the few large triangles of coarser starts turn inside out
_SPLIT_AT = (0.25, 0.5)  # the parts of the iterations after which triangles are split
Preset = Literal["framed", "documented"]


@dataclass(frozen=True)
class BuildSettings:
    """Everything that decides a reconstruction. The defaults are the documented ones.

    Lengths are in the units of the fit, in which the object's bounding box reaches from -0.5 to 0.5 on its longest
    side; angles are in degrees.
    """

    start: Start = "cube"
    """The shape that is deformed: a cube of side 1 or a sphere; or both, each by itself, and the better one counts."""
    level: int = 4
    """How often the start's triangles are split into four."""
    coarse_to_fine: bool = False
    """Split the start's triangles less often at first, and the deformed mesh's on the way, until `level` is reached."""
    sphere_radius: float = 1.0
    """Radius of the sphere."""
    iterations: int = 2000
    """Optimiser steps."""
    views: int = 20
    """Cameras around an input mesh: elevation 0 to 360, azimuth -180 to 180, in equal steps."""
    views_per_iteration: int = 2
    """Views drawn at random for each step; 0 means all of them."""
    image_size: int = 128
    """Side of the silhouettes in pixels."""
    distance: float = 2.7
    """Distance of the cameras from the origin."""
    fov: float | None = 60.0
    """Field of view; None frames the object, so that it fills the picture."""
    sigma: float = 1e-4
    """Softness of a silhouette's edge (SoftRas)."""
    faces_per_pixel: int = 50
    """How many faces blend into a pixel at most."""
    learning_rate: float = 0.25
    """Step of stochastic gradient descent."""
    momentum: float = 0.9
    """Momentum of stochastic gradient descent."""
    refine_cameras: bool = False
    """Pictures only: after a quarter of the iterations, which give the shape, change the cameras' elevations, azimuths
    and distances too."""
    camera_rate: float = 0.01
    """Step of Adam for the cameras, in radians and in the logarithm of the distance; divided by 10 after three quarters
    of the iterations."""
    weight_silhouette: float = 1.0
    """Weight of the mean squared difference of silhouettes."""
    weight_edge: float = 1.0
    """Weight of the mean squared edge length."""
    weight_normal: float = 0.01
    """Weight of the normal consistency of neighbouring faces."""
    weight_laplacian: float = 1.0
    """Weight of the uniform Laplacian."""
    watertight: bool = False
    """Keep a closed surface without self-intersections besides the mesh; see `reclosed`."""
    seed: int = 0
    """Decides the order of views; the same seed gives the same mesh."""

    def __post_init__(self) -> None:
        choice(self, "start", (*STARTS, "both"))
        at_least(self, 0, "level", "views_per_iteration", "seed", "momentum")
        at_least(self, 1, "iterations", "views", "image_size", "faces_per_pixel")
        at_least(self, 0, "weight_silhouette", "weight_edge", "weight_normal", "weight_laplacian")
        above(self, 0, "sphere_radius", "distance", "sigma", "learning_rate", "camera_rate")
        at_most(self, "level", 7)
        at_most(self, "image_size", 4096)
        if self.momentum >= 1:
            raise ValueError(f"momentum must be below 1, got {self.momentum}")
        if self.distance <= 1:
            raise ValueError(f"distance must be above 1, outside the object, got {self.distance}")
        if self.fov is not None and not 0 < self.fov < 180:
            raise ValueError(f"fov must be between 0 and 180 degrees, got {self.fov}")

    def camera_rate_at(self, iteration: int) -> float:
        """The cameras' step in an iteration, counted from 0; 0 where they do not move."""
        if not self.refine_cameras or iteration < round(0.25 * self.iterations):
            return 0.0
        return self.camera_rate * (0.1 if iteration >= round(0.75 * self.iterations) else 1.0)

    @property
    def starts(self) -> tuple[str, ...]:
        """The shapes that are deformed, each by itself."""
        return STARTS if self.start == "both" else (self.start,)

    @property
    def splits(self) -> int:
        """How many of the splits of triangles are made on the way."""
        return min(len(_SPLIT_AT), max(self.level - _COARSEST, 0)) if self.coarse_to_fine else 0

    def splits_at(self, iteration: int) -> int:
        """How many of these have been made in an iteration, counted from 0."""
        ends = _SPLIT_AT[len(_SPLIT_AT) - self.splits :]
        return sum(iteration >= round(end * self.iterations) for end in ends)

    @property
    def blur_radius(self) -> float:
        """Squared distance from a face, in NDC, beyond which it does not count: its alpha would be below 1e-4."""
        return math.log(1.0 / 1e-4 - 1.0) * self.sigma


# Framing keeps the documented losses, weights, optimiser and iterations. It changes what the cameras see: at the
# documented 60 degrees an object of half extent 0.5 fills 4 to 10 percent of a picture of 128 x 128, so half a pixel is
# already 2 percent of IoU. And it starts the sphere at the object's size (the documented radius of 1 is twice that).
_PRESETS: dict[str, dict[str, Any]] = {"documented": {}, "framed": {"fov": None, "sphere_radius": 0.5}}

_FAST: dict[str, Any] = {"image_size": 64, "level": 3, "sigma": 4e-4, "iterations": 300}

# The documented second step refines the mesh of the first one, with every picture in every step.
_IMAGES: dict[str, Any] = {"iterations": 100, "learning_rate": 0.12, "views_per_iteration": 0}


def mesh_settings(preset: Preset = "framed", *, fast: bool = False, **changes: Any) -> BuildSettings:
    """Settings for `from_mesh`, and for `from_images` without a mesh to start from.

    Args:
        preset: `documented`, or `framed`: the same with cameras that frame the object.
        fast: small silhouettes, a coarse start and few iterations: seconds instead of a minute.
        **changes: fields of `BuildSettings`; None keeps what preset and `fast` say.

    Raises:
        ValueError: a field is out of its range, or the preset is unknown.
    """
    return with_changes(BuildSettings, _PRESETS, preset, _FAST if fast else {}, changes)


def image_settings(preset: Preset = "framed", *, fast: bool = False, **changes: Any) -> BuildSettings:
    """Settings for refining a mesh with `from_images`: 100 iterations, learning rate 0.12, every picture in every step.

    Args:
        preset: `documented`, or `framed`: the same with cameras that frame the object.
        fast: small silhouettes, a coarse start and few iterations: seconds instead of a minute.
        **changes: fields of `BuildSettings`; None keeps what preset and `fast` say.

    Raises:
        ValueError: a field is out of its range, or the preset is unknown.
    """
    return with_changes(BuildSettings, _PRESETS, preset, _FAST if fast else {}, _IMAGES, changes)
