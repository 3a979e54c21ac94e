"""Meshes and pictures that commands are given."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any


def check_pictures(
    mesh: Path | None,
    flag: str,
    images: Path | None,
    cameras: Path | None,
    masks: Path | None,
    views: int | None,
) -> None:
    """Refuse options that do not go together."""
    if mesh is not None and images is not None:
        raise ValueError(f"give either {flag} FILE or --images FOLDER")
    if images is None and (cameras is not None or masks is not None):
        raise ValueError("--cameras and --masks go with --images")
    if images is not None and views is not None:
        raise ValueError("--views goes with a mesh: pictures are as many as they are")


def load_pictures(
    images: Path,
    cameras: Path | None,
    masks: Path | None,
    image_size: int,
    held_out: int | None = None,
    distance: float | None = None,
    fov: float | None = None,
) -> Any:
    """The pictures of a folder and their cameras."""
    from recon_engine.captures import load_capture

    given = {name: value for name, value in (("distance", distance), ("fov", fov)) if value is not None}
    return load_capture(images, cameras, masks, image_size=image_size, held_out=held_out, **given)


def load_object(obj: Path | None, device: str) -> tuple[Any, str]:
    """The mesh of a file, or the built-in building; and what to call it."""
    if obj is not None:
        return load(obj, device), obj.name
    from recon_engine.methods.shapes import building

    return building(colors=True, device=device), "the built-in building"


def load(file: Path, device: str) -> Any:
    """The mesh of a file; what its reader warns of goes to stderr in our words."""
    from recon_engine import quick

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        mesh = quick.load(file, device)
    for warning in heard:
        print(f"recon: warning: {warning.message}", file=sys.stderr)
    return mesh
