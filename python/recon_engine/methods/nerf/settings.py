"""Settings of the radiance field: the documented defaults, and one preset that frames the object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .._settings import above, at_least, with_changes
from .._views import ViewSettings

Preset = Literal["framed", "documented"]


@dataclass(frozen=True)
class NerfSettings(ViewSettings):
    """Everything that decides a fit. The defaults are the documented ones."""

    points_per_ray: int = 128
    """Samples of a ray."""
    rays_per_view: int = 750
    """Rays through random points of each picture of a step."""
    stratified: bool = True
    """Move the samples of a step at random along their rays, up to half-way to their neighbours."""
    views_per_iteration: int = 6
    """Views drawn at random for each step."""
    iterations: int = 3000
    """Optimiser steps."""
    learning_rate: float = 1e-3
    """Step of Adam, divided by 10 after three quarters of the iterations."""
    harmonics: int = 60
    """Frequencies of the sines and cosines that the network sees of a position and of a direction."""
    omega: float = 0.1
    """The lowest frequency; each further one is twice the one before."""
    hidden: int = 256
    """Width of the network's layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "rays_per_view", "harmonics", "hidden")
        above(self, 0, "omega")


# The documented cameras all look from the same height and the rays are longer than the object. Of the documented
# frequencies those beyond the tenth or so are finer than any pixel: what the network sees of them is noise.
_PRESETS: dict[str, dict[str, Any]] = {
    "documented": {},
    "framed": {
        "lowest": -10.0,
        "highest": 50.0,
        "fov": None,
        "light": (2.0, 3.0, 3.0),
        "min_depth": None,
        "max_depth": None,
        "harmonics": 10,
        "omega": 0.5,
    },
}
_FAST: dict[str, Any] = {
    "views": 20,
    "held_out": 4,
    "image_size": 64,
    "points_per_ray": 48,
    "rays_per_view": 256,
    "iterations": 300,
    "learning_rate": 3e-3,
    "hidden": 64,
    "harmonics": 6,
    "omega": 0.5,
}


def nerf_settings(preset: Preset = "framed", *, fast: bool = False, **changes: Any) -> NerfSettings:
    """Settings for `from_mesh`.

    Args:
        preset: `documented`, or `framed`: cameras all around, rays that keep to the object, and no frequencies that
            pixels cannot show.
        fast: small pictures, a small network and few iterations: a minute on two cores, where the full fit is for a
            GPU.
        **changes: fields of `NerfSettings`; None keeps what preset and `fast` say.

    Raises:
        ValueError: a field is out of its range, or the preset is unknown.
        TypeError: there is no such field.
    """
    return with_changes(NerfSettings, _PRESETS, preset, _FAST if fast else {}, changes)
