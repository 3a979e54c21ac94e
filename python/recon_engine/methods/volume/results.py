"""The results folder of the fit of a volume."""

from __future__ import annotations

from pathlib import Path

import torch

from recon_engine.report import Number
from recon_engine.structures import Volumes

from .._fields import SURFACE, SURFACE_FILE, save_field, save_surface
from .._run import save_tensors
from .fit import VolumeResult

_FILES = {"volume.pt": "densities and colours of the voxels; load_volume reads it"}


def save_results(result: VolumeResult, folder: Path, source: str) -> None:
    """Write everything that a fit leaves behind.

    Args:
        result: of `from_mesh`.
        folder: exists, and is best the work folder of an atomic results folder.
        source: what was fitted, for the report's title.

    Raises:
        ImportError: pillow or matplotlib is missing; names the pip line.
    """
    settings, colors = result.settings, result.volumes.features()
    assert colors is not None
    save_tensors(
        {
            "densities": result.volumes.densities()[0].half().cpu(),
            "colors": colors[0].half().cpu(),
            "voxel_size": settings.voxel_size * result.scale,
            "center": (result.rotation @ result.center).tolist(),
            "rotation": result.rotation.tolist(),
        },
        folder / "volume.pt",
    )
    found = save_surface(result, result.volumes, settings.step, folder / SURFACE)
    save_field(
        result,
        folder,
        f"Volume of {source}",
        f"A volume of {settings.resolution} x {settings.resolution} x {settings.resolution} voxels, changed in "
        f"{result.history.length} iterations until it looked like the object in {settings.views} views.",
        source,
        {**_FILES, **(SURFACE_FILE if found else {})},
        [Number("Volume", f"{settings.resolution}³", "voxels, each with a density and a colour")],
    )


def load_volume(path: Path | str, device: torch.device | str = "cpu") -> Volumes:
    """The volume of a results folder, at the place and scale of the object.

    Of pictures with cameras from files the volume stands upright, which their world need not: a point x of it is at
    x @ rotation there, with the `rotation` that the file holds too.

    Args:
        path: the file `volume.pt`.
        device: where it is put.

    Returns:
        One volume, float32.
    """
    kept = torch.load(path, map_location=device, weights_only=True)
    return Volumes(
        densities=kept["densities"].float()[None],
        features=kept["colors"].float()[None],
        voxel_size=kept["voxel_size"],
        volume_translation=tuple(-x for x in kept["center"]),  # Volumes places x at x - translation
    )
