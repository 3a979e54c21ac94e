"""The results folder of the fit of a radiance field."""

from __future__ import annotations

from pathlib import Path

import torch

from recon_engine.report import Number

from .._fields import SURFACE, SURFACE_FILE, save_field, save_surface
from .._run import save_tensors
from .field import RadianceField
from .fit import NerfResult

_FILES = {"field.pt": "the network; load_field reads it"}
_GRID = 96  # points along a side of the grid that the surface is found in


def save_results(result: NerfResult, folder: Path, source: str) -> None:
    """Write everything that a fit leaves behind.

    Args:
        result: of `from_mesh`.
        folder: exists, and is best the work folder of an atomic results folder.
        source: what was fitted, for the report's title.

    Raises:
        ImportError: pillow or matplotlib is missing; names the pip line.
    """
    settings = result.settings
    sizes = {"harmonics": settings.harmonics, "omega": settings.omega, "hidden": settings.hidden}
    save_tensors({"sizes": sizes, "network": result.field.state_dict()}, folder / "field.pt")
    found = save_surface(result, result.field.on_grid(_GRID), settings.step, folder / SURFACE)
    count = sum(parameter.numel() for parameter in result.field.parameters())
    save_field(
        result,
        folder,
        f"Radiance field of {source}",
        f"A network of {count:,} numbers, trained in {result.history.length} iterations until its space looked like "
        f"the object in {settings.views} views.",
        source,
        {**_FILES, **(SURFACE_FILE if found else {})},
        [Number("Network", f"{count:,}", "numbers")],
    )


def load_field(path: Path | str, device: torch.device | str = "cpu") -> RadianceField:
    """The network of a results folder, in the units of the fit.

    Args:
        path: the file `field.pt`.
        device: where it is put.
    """
    kept = torch.load(path, map_location=device, weights_only=True)
    field = RadianceField(**kept["sizes"]).to(device)
    field.load_state_dict(kept["network"])
    return field
