"""Settings of the camera's pose: the documented single start, and a preset that looks all around."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from .._settings import above, at_least, at_most, with_changes

Preset = Literal["search", "documented"]

_COARSE_EDGE = 0.4  # width of edges in pixels at the low resolution


class Stage(NamedTuple):
    """One descent of a few cameras at one resolution.

    Fields:
        size: side of the pictures in pixels.
        iterations: optimiser steps.
        cameras: how many are moved at most.
        sigma: softness of edges at the beginning, in squared NDC.
        last_sigma: softness of edges at the end.
        faces_per_pixel: of silhouettes.
        texture_faces_per_pixel: of colours.
        sharp: colours from the object's own textures, not from one colour for each vertex.
    """

    size: int
    iterations: int
    cameras: int
    sigma: float
    last_sigma: float
    faces_per_pixel: int
    texture_faces_per_pixel: int
    sharp: bool

    def sigma_at(self, part: float) -> float:
        """The softness where `part` (0 to 1) of the descent is done."""
        return self.sigma * (self.last_sigma / self.sigma) ** part


@dataclass(frozen=True)
class PoseSettings:
    """Everything that decides an estimate. The defaults are the documented ones.

    Angles are in degrees. Lengths are in the object's units, unless the object is framed: it is then centred and scaled
    into the unit sphere for the fit, and cameras look at its middle instead of the origin.
    """

    start: tuple[float, float, float] | None = (3.0, 6.9, 2.5)
    """Where the camera starts; None: everywhere on the sphere around the object."""
    framed: bool = False
    """Centre the object and scale it into the unit sphere; the camera looks at its middle."""
    centered: bool = True
    """The camera looks at the middle of the object; without it, the object may be anywhere in the picture."""
    image_size: int = 256
    """Side of the pictures in pixels; others are resized to it."""
    fov: float = 60.0
    """Field of view of the camera that took the pictures, along their longer side."""
    light: tuple[float, float, float] = (2.0, 2.0, -2.0)
    """Where the light is."""
    iterations: int = 200
    """Optimiser steps for each picture, at the resolution of the pictures."""
    learning_rate: float = 0.05
    """Step of Adam."""
    last_rate: float = 1.0
    """What the learning rate falls to in a descent, along half a cosine, as a part of its first value."""
    stop_silhouette: float = 500.0
    """A descent ends below this sum over the pixels, where silhouettes alone are compared; 0: never."""
    stop_texture: float = 800.0
    """The same, where colours are compared as well."""
    weight_silhouette: float = 1.0
    """Weight of the squared differences of silhouettes."""
    weight_texture: float = 0.0
    """Weight of the squared differences of colours, 0.1 where they are documented; 0: silhouettes alone."""
    sigma: float = 1e-4
    """Softness of edges (SoftRas)."""
    last_edge: float | None = None
    """How wide edges are at the end of a descent, in pixels; they sharpen on the way. None: as at the beginning."""
    faces_per_pixel: int = 100
    """How many faces blend into a pixel of a silhouette at most."""
    texture_faces_per_pixel: int = 50
    """How many faces blend into the colour of a pixel at most."""
    spacing: float = 12.0
    """Angle between neighbouring cameras of the search."""
    candidates: int = 6
    """How many cameras of the search are moved, at a low resolution."""
    finalists: int = 3
    """How many of those are moved at the resolution of the pictures."""
    coarse_size: int = 64
    """Side of the pictures at the low resolution."""
    coarse_iterations: int = 0
    """Optimiser steps for each picture at the low resolution."""
    lost: float = 0.85
    """A picture of a sequence is searched for anew where the intersection over union of the silhouettes is below."""
    seed: int = 0
    """Decides the cameras of the search."""

    def __post_init__(self) -> None:
        at_least(self, 1, "image_size", "iterations", "faces_per_pixel", "texture_faces_per_pixel", "candidates")
        at_least(self, 1, "finalists", "coarse_size")
        at_least(self, 0, "weight_silhouette", "weight_texture", "coarse_iterations", "seed", "lost")
        at_least(self, 0, "stop_silhouette", "stop_texture")
        above(self, 0, "learning_rate", "last_rate", "sigma")
        if self.last_edge is not None:
            above(self, 0, "last_edge")
        at_least(self, 3, "spacing")
        at_most(self, "image_size", 2048)
        at_most(self, "spacing", 60)
        at_most(self, "last_rate", 1)
        if not 0 < self.fov < 180:
            raise ValueError(f"fov must be between 0 and 180 degrees, got {self.fov}")
        for name in ("light", "start"):
            value = getattr(self, name)
            if value is not None and (len(value) != 3 or not all(math.isfinite(x) for x in value)):
                raise ValueError(f"{name} must be three finite numbers, got {value}")
        if self.start is not None and not any(self.start):
            raise ValueError("start must not be the point that the camera looks at, got (0, 0, 0)")
        if self.start is None and not self.framed:
            raise ValueError("start must be given where the object is not framed: the search keeps to its size")
        if self.weight_silhouette == self.weight_texture == 0:
            raise ValueError("weight_silhouette and weight_texture must not both be 0")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The descents for each picture, in order."""
        fine = Stage(
            self.image_size,
            self.iterations,
            self.finalists,
            self.sigma,
            self._last_sigma(self.image_size, self.sigma),
            self.faces_per_pixel,
            self.texture_faces_per_pixel,
            sharp=True,
        )
        if self.coarse_iterations == 0:
            return (fine,)
        size = min(self.coarse_size, self.image_size)
        sigma = max(_squared_edge(_COARSE_EDGE, size), self.sigma)
        coarse = fine._replace(
            size=size,
            iterations=self.coarse_iterations,
            cameras=self.candidates,
            sigma=sigma,
            last_sigma=self._last_sigma(size, sigma),
            sharp=False,
        )
        return coarse, fine

    def _last_sigma(self, size: int, sigma: float) -> float:
        return sigma if self.last_edge is None else min(_squared_edge(self.last_edge, size), sigma)

    @property
    def iterations_per_picture(self) -> int:
        """Optimiser steps for each picture, where no descent ends early."""
        return self.iterations + self.coarse_iterations

    @property
    def stop(self) -> float:
        """What a descent ends below: mean over the pixels of the weighted squared differences."""
        stop = self.stop_texture if self.weight_texture > 0 else self.stop_silhouette
        return stop / self.image_size**2

    def learning_rate_at(self, part: float) -> float:
        """The step where `part` (0 to 1) of a descent is done."""
        low = self.last_rate
        return self.learning_rate * (low + (1 - low) * (1 + math.cos(math.pi * part)) / 2)


def _squared_edge(pixels: float, size: int) -> float:
    """The sigma of edges of some width in pictures of a side in pixels, which are 2 / size wide."""
    return (pixels * 2 / size) ** 2


# The documented start is one point, from which the descent finds the documented camera and few others. The search
# looks from all around at a low resolution, moves the best few cameras, and the best of those at the full one. A step
# of 0.05 that never falls is 1 degree at the documented distance: here it falls to a fiftieth, and nothing stops early.
_PRESETS: dict[str, dict[str, Any]] = {
    "documented": {},
    "search": {
        "framed": True,
        "iterations": 40,
        "learning_rate": 0.02,
        "last_rate": 0.02,
        "sigma": 2.5e-5,
        "last_edge": 0.1,
        "stop_silhouette": 0.0,
        "stop_texture": 0.0,
        "coarse_iterations": 25,
        "faces_per_pixel": 30,
        "texture_faces_per_pixel": 30,
    },
}
_FAST: dict[str, Any] = {
    "image_size": 96,
    "iterations": 30,
    "coarse_size": 32,
    "spacing": 15.0,
    "faces_per_pixel": 15,
    "texture_faces_per_pixel": 15,
}
_FAST_SEARCH: dict[str, Any] = {"coarse_iterations": 20, "finalists": 2}


def pose_settings(
    preset: Preset = "search", *, fast: bool = False, texture: bool = False, **changes: Any
) -> PoseSettings:
    """Settings for `from_pictures`.

    Args:
        preset: `documented`: one start and 200 steps; `search`: from all around.
        fast: small pictures and few steps: a second or two instead of ten.
        texture: compare colours as well, with the documented weight of 0.1.
        **changes: fields of `PoseSettings`; None keeps what preset and `fast` say. A `start` replaces the search.

    Raises:
        ValueError: a field is out of its range, or the preset is unknown.
        TypeError: there is no such field.
    """
    quick = {**_FAST, **(_FAST_SEARCH if preset == "search" else {})} if fast else {}
    start = changes.pop("start", None)
    settings = with_changes(PoseSettings, _PRESETS, preset, quick, {"weight_texture": 0.1} if texture else {}, changes)
    if start is not None or preset != "search":
        return settings if start is None else replace(settings, start=tuple(start))
    return replace(settings, start=None)
