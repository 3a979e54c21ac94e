"""Settings of the fit of a volume: the documented defaults, and one preset that frames the object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .._settings import above, at_least, at_most, with_changes
from .._views import ViewSettings

Preset = Literal["framed", "documented"]

_WHOLE_OBJECT = 2.1  # a volume that holds the unit sphere, with a margin


@dataclass(frozen=True)
class VolumeSettings(ViewSettings):
    """Everything that decides a fit. The defaults are the documented ones."""

    resolution: int = 128
    """Voxels along each side of the volume."""
    extent: float | None = 3.0
    """Side of the volume; None: just larger than the object."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 2, "resolution")
        at_most(self, "resolution", 512)
        if self.extent is not None:
            above(self, 0, "extent")

    @property
    def voxel_size(self) -> float:
        """Distance of neighbouring voxels."""
        return (_WHOLE_OBJECT if self.extent is None else self.extent) / self.resolution


# The documented cameras all look from the same height, the volume and the rays are longer than the object, and every
# pixel is computed in every step. Framing shows the object from above and below too, keeps volume and rays around the
# object, and draws one pixel in eight: finer voxels and samples, for a tenth of the work.
_PRESETS: dict[str, dict[str, Any]] = {
    "documented": {},
    "framed": {
        "lowest": -10.0,
        "highest": 50.0,
        "fov": None,
        "light": (2.0, 3.0, 3.0),
        "min_depth": None,
        "max_depth": None,
        "points_per_ray": 128,
        "rays_per_view": 2048,
        "stratified": True,
        "extent": None,
    },
}
_FAST: dict[str, Any] = {
    "views": 16,
    "held_out": 4,
    "image_size": 48,
    "points_per_ray": 48,
    "rays_per_view": 512,
    "views_per_iteration": 6,
    "iterations": 80,
    "resolution": 40,
}


def volume_settings(preset: Preset = "framed", *, fast: bool = False, **changes: Any) -> VolumeSettings:
    """Settings for `from_mesh`.

    Args:
        preset: `documented`, or `framed`: cameras all around, and a volume and rays that keep to the object.
        fast: small pictures, a coarse volume and few iterations: seconds instead of minutes.
        **changes: fields of `VolumeSettings`; None keeps what preset and `fast` say.

    Raises:
        ValueError: a field is out of its range, or the preset is unknown.
        TypeError: there is no such field.
    """
    return with_changes(VolumeSettings, _PRESETS, preset, _FAST if fast else {}, changes)
