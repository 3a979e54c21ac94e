"""What a pose is estimated from: pictures of files, cut out by their alpha channel or a mask, or rendered ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recon_engine._extra import extra
from recon_engine.captures._cutouts import find_mask, open_cutout, picture_files


class Observed(NamedTuple):
    """Pictures of one object.

    Fields:
        names: N names.
        rgba: (N, S, S, 4) float32 from 0 to 1: colours on white, and how much of a pixel the object covers.
    """

    names: list[str]
    rgba: Tensor


def load_pictures(source: Path | str, image_size: int = 256, masks: Path | str | None = None) -> Observed:
    """A picture, or all pictures of a folder sorted by name, padded to squares and resized.

    Args:
        source: a picture file or a folder. Without `masks` every picture needs an alpha channel.
        image_size: S, the side of the result in pixels.
        masks: a picture, or a folder of pictures that have the names of the pictures, or these and .png, or other
            endings: bright where the object is. Sizes are those of the pictures.

    Raises:
        FileNotFoundError: no such file or folder, or no picture in it.
        ValueError: a picture is unreadable, has neither alpha nor mask, shows nothing, or differs in size from its
            mask; its file is named.
    """
    source, masks = Path(source), None if masks is None else Path(masks)
    for what, path in (("pictures", source), ("masks", masks)):
        if path is not None and not path.exists():
            raise FileNotFoundError(f"the {what} {path} do not exist: expected a file or a folder")
    paths = [source] if source.is_file() else picture_files(source)
    if masks is not None and masks.is_file() and len(paths) != 1:
        raise ValueError(f"{masks} is one mask for {len(paths)} pictures: give a folder of masks")
    loaded = []
    for path in paths:
        mask = masks if masks is not None and masks.is_file() else find_mask(masks, path.name)
        loaded.append(_load(open_cutout(path, mask, "a folder" if masks is None else str(masks)), image_size))
    return Observed([path.name for path in paths], torch.stack(loaded))


def _load(cutout: Any, image_size: int) -> Tensor:
    """(S, S, 4): one picture of pillow's on a square, colours on white."""
    rgba = np.asarray(cutout, dtype=np.float32) / 255
    height, width = rgba.shape[:2]
    side = max(height, width)
    square = np.zeros((side, side, 4), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    # Colours are weighted by alpha before they are averaged, so that what lies behind the object does not bleed in.
    square[top : top + height, left : left + width] = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], 2)
    small = _resized(square, image_size)
    return torch.cat([small[..., :3] + 1 - small[..., 3:], small[..., 3:]], -1)


def _resized(square: np.ndarray, size: int) -> Tensor:
    """(size, size, C): averages of boxes."""
    image_module = extra("PIL.Image", "io")
    channels: Sequence[Any] = [
        image_module.fromarray(channel).resize((size, size), image_module.Resampling.BOX)
        for channel in np.moveaxis(square, 2, 0)
    ]
    return torch.from_numpy(np.stack([np.asarray(channel) for channel in channels], 2))
