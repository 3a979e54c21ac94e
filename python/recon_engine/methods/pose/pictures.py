"""What a pose is estimated from: pictures of files, cut out by their alpha channel or a mask, or rendered ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._run import extra

_ENDINGS = (".png", ".webp", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")


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
        masks: a picture, or a folder of pictures whose names without their endings are those of the pictures: bright
            where the object is. Sizes are those of the pictures.

    Raises:
        FileNotFoundError: no such file or folder, no picture in it, or no mask for one.
        ValueError: a picture is unreadable, has neither alpha nor mask, shows nothing, or differs in size from its
            mask; its file is named.
    """
    paths = _files(Path(source), "pictures")
    found = {} if masks is None else {path.stem: path for path in _files(Path(masks), "masks")}
    if masks is not None and Path(masks).is_file():
        if len(paths) != 1:
            raise ValueError(f"{masks} is one mask for {len(paths)} pictures: give a folder of masks")
        found = {paths[0].stem: Path(masks)}
    loaded = []
    for path in paths:
        if masks is not None and path.stem not in found:
            raise FileNotFoundError(f"the folder of masks {masks} has none for {path.name}")
        loaded.append(_load(path, found.get(path.stem), image_size))
    return Observed([path.name for path in paths], torch.stack(loaded))


def _files(source: Path, what: str) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"the {what} {source} do not exist: expected a file or a folder")
    paths = sorted(path for path in source.iterdir() if path.suffix.lower() in _ENDINGS)
    if not paths:
        raise FileNotFoundError(f"the folder {source} holds no {', '.join(_ENDINGS)} files")
    stems = [path.stem for path in paths]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise ValueError(f"the folder {source} has several files named {twice}: expected one")
    return paths


def _load(path: Path, mask: Path | None, image_size: int) -> Tensor:
    """(S, S, 4): one picture on a square, colours on white."""
    opened = _open(path)
    if mask is not None:
        bright = _open(mask).convert("L")
        if bright.size != opened.size:
            raise ValueError(f"the mask {mask} has {bright.size} pixels, but {path.name} {opened.size}")
        opened = opened.convert("RGB")
        opened.putalpha(bright)
    if "A" not in opened.getbands() and "transparency" not in opened.info:
        raise ValueError(f"the picture {path} has no alpha channel: cut the object out, or give its mask")
    rgba = np.asarray(opened.convert("RGBA"), dtype=np.float32) / 255
    if not rgba[..., 3].max() > 0.5:
        raise ValueError(f"the picture {path} shows no object: {'its mask' if mask else 'its alpha channel'} is empty")
    height, width = rgba.shape[:2]
    side = max(height, width)
    square = np.zeros((side, side, 4), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    # Colours are weighted by alpha before they are averaged, so that what lies behind the object does not bleed in.
    square[top : top + height, left : left + width] = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], 2)
    small = _resized(square, image_size)
    return torch.cat([small[..., :3] + 1 - small[..., 3:], small[..., 3:]], -1)


def _open(path: Path) -> Any:
    image_module = extra("PIL.Image", "io")
    try:
        with image_module.open(path) as opened:
            opened.load()
            return opened.copy()
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
        raise ValueError(f"the picture {path} cannot be read: {error}") from error


def _resized(square: np.ndarray, size: int) -> Tensor:
    """(size, size, C): averages of boxes."""
    image_module = extra("PIL.Image", "io")
    channels: Sequence[Any] = [
        image_module.fromarray(channel).resize((size, size), image_module.Resampling.BOX)
        for channel in np.moveaxis(square, 2, 0)
    ]
    return torch.from_numpy(np.stack([np.asarray(channel) for channel in channels], 2))
