"""Photographs as input: cut-outs with an alpha channel, and a CSV of camera angles."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._run import extra

_ENDINGS = (".png", ".webp", ".tif", ".tiff")


class Cutouts(NamedTuple):
    """Silhouettes read from pictures.

    Fields:
        names: N file names, sorted.
        alpha: (N, S, S) float32 from 0 (background) to 1 (object).
    """

    names: list[str]
    alpha: Tensor


class Angles(NamedTuple):
    """Camera angles in degrees.

    Fields:
        names: N file names as the CSV gives them; empty where it gives none, and the rows follow the sorted pictures.
        elevation: (N,) float32, upwards from the horizon.
        azimuth: (N,) float32, around the vertical axis; 0 looks from +z.
    """

    names: list[str]
    elevation: Tensor
    azimuth: Tensor


def load_cutouts(folder: Path | str, image_size: int = 128) -> Cutouts:
    """The alpha channels of all pictures in a folder, padded to squares and resized.

    Args:
        folder: holds PNG, WebP or TIFF files of any size, each the object cut out (transparent background).
        image_size: S, the side of the result in pixels.

    Returns:
        The pictures sorted by name.

    Raises:
        FileNotFoundError: no such folder, or no picture in it.
        ValueError: a picture is unreadable, has no alpha channel, or is fully transparent; its file is named.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder of pictures {folder} does not exist")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS)
    if not paths:
        raise FileNotFoundError(f"the folder {folder} holds no {', '.join(_ENDINGS)} files")
    return Cutouts([path.name for path in paths], torch.stack([_load_alpha(path, image_size) for path in paths]))


def _load_alpha(path: Path, image_size: int) -> Tensor:
    """(S, S) alpha of one picture in 0..1, centred on a transparent square."""
    image_module = extra("PIL.Image", "io")
    try:
        with image_module.open(path) as opened:
            has_alpha = "A" in opened.getbands() or "transparency" in opened.info
            alpha = opened.convert("RGBA").getchannel("A") if has_alpha else None
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
        raise ValueError(f"the picture {path} cannot be read: {error}") from error
    if alpha is None:
        raise ValueError(f"the picture {path} has no alpha channel: cut the object out and save it as an RGBA PNG")
    if alpha.getextrema()[1] == 0:
        raise ValueError(f"the picture {path} is fully transparent: there is no object in it")
    side = max(alpha.size)
    square = image_module.new("L", (side, side), 0)
    square.paste(alpha, ((side - alpha.width) // 2, (side - alpha.height) // 2))
    resized = square.resize((image_size, image_size), image_module.Resampling.BOX)
    return torch.from_numpy(np.asarray(resized, dtype=np.float32) / 255)


def load_angles(path: Path | str) -> Angles:
    """Camera angles from a CSV with the columns `azimuth` and `elevation` (degrees), and `file` if they are named.

    Args:
        path: the CSV, UTF-8, with a header line. Columns come in any order; others are ignored, and so are empty lines.

    Returns:
        One row for each line.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing or a line is malformed; its number is named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the file of angles {path} does not exist")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the file of angles {path} is not UTF-8 text: {error}") from error
    rows = csv.reader(text.splitlines())
    header = [name.strip().lower() for name in next(rows, [])]
    for column in ("azimuth", "elevation"):
        if column not in header:
            raise ValueError(f"{path}, line 1: expected columns file,azimuth,elevation, got {','.join(header)!r}")
    names, elevation, azimuth = [], [], []
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise ValueError(f"{where}: expected {len(header)} values, got {len(row)}")
        cells = dict(zip(header, (cell.strip() for cell in row), strict=True))
        elevation.append(_angle(cells["elevation"], f"{where}: elevation"))
        azimuth.append(_angle(cells["azimuth"], f"{where}: azimuth"))
        if "file" in cells:
            if not cells["file"] or cells["file"] in names:
                raise ValueError(f"{where}: expected the name of another file, got {cells['file']!r}")
            names.append(cells["file"])
    if not azimuth:
        raise ValueError(f"{path}: expected at least one line of angles after the header")
    return Angles(names, torch.tensor(elevation), torch.tensor(azimuth))


def _angle(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= 360:
        raise ValueError(f"{where} must be a number of degrees from -360 to 360, got {text!r}")
    return value


def match_angles(pictures: list[str], angles: Angles, where: str = "the angles") -> tuple[Tensor, Tensor]:
    """The angles in the pictures' order.

    Args:
        pictures: N file names.
        angles: as many rows; named ones are looked up, others are taken in order.
        where: what the error messages call the angles.

    Returns:
        elevation (N,), azimuth (N,), degrees.

    Raises:
        ValueError: a picture has no angles, or the angles name a picture that is not there; it is named.
    """
    if not angles.names:
        if len(pictures) != len(angles.azimuth):
            raise ValueError(
                f"{where} have {len(angles.azimuth)} lines for {len(pictures)} pictures: expected one each"
            )
        return angles.elevation, angles.azimuth
    missing = sorted(set(angles.names) - set(pictures))
    if missing:
        raise ValueError(f"{where} name {missing[0]}, which is not among the {len(pictures)} pictures")
    unlisted = sorted(set(pictures) - set(angles.names))
    if unlisted:
        raise ValueError(f"{where} have no line for the picture {unlisted[0]}")
    order = [angles.names.index(name) for name in pictures]
    return angles.elevation[order], angles.azimuth[order]
