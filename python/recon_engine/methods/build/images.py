"""Photographs as input: cut-outs with an alpha channel, and a CSV of camera angles."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recon_engine._extra import extra
from recon_engine.captures import Angles, load_angles, match_angles
from recon_engine.captures._cutouts import open_cutout, picture_files

__all__ = ["Angles", "Cutouts", "load_angles", "load_cutouts", "match_angles"]


class Cutouts(NamedTuple):
    """Silhouettes read from pictures.

    Fields:
        names: N file names, sorted.
        alpha: (N, S, S) float32 from 0 (background) to 1 (object).
    """

    names: list[str]
    alpha: Tensor


def load_cutouts(folder: Path | str, image_size: int = 128) -> Cutouts:
    """The alpha channels of all pictures in a folder, padded to squares and resized.

    Args:
        folder: holds pictures of any size, each the object cut out (transparent background).
        image_size: S, the side of the result in pixels.

    Returns:
        The pictures sorted by name.

    Raises:
        FileNotFoundError: no such folder, or no picture in it.
        ValueError: a picture is unreadable, has no alpha channel, or is opaque or transparent everywhere; its file is
            named.
    """
    paths = picture_files(Path(folder))
    return Cutouts([path.name for path in paths], torch.stack([_load_alpha(path, image_size) for path in paths]))


def _load_alpha(path: Path, image_size: int) -> Tensor:
    """(S, S) alpha of one picture in 0..1, centred on a transparent square."""
    image_module = extra("PIL.Image", "io")
    alpha = open_cutout(path, masks=None).getchannel("A")
    side = max(alpha.size)
    square = image_module.new("L", (side, side), 0)
    square.paste(alpha, ((side - alpha.width) // 2, (side - alpha.height) // 2))
    resized = square.resize((image_size, image_size), image_module.Resampling.BOX)
    return torch.from_numpy(np.asarray(resized, dtype=np.float32) / 255)
