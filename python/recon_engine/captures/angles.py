"""A CSV of camera angles: azimuth and elevation, with or without distances and fields of view."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from recon_engine.renderer.cameras import look_at_view_transform

from ._shot import LARGEST, CameraFile, FieldOfView, Shot

_LONGEST_LINE = 100_000
_OPTIONAL = {
    "distance": (0.0, LARGEST, f"a distance above 0 and below {LARGEST:g}"),
    "fov": (0.0, 180.0, "degrees between 0 and 180"),
}


class Angles(NamedTuple):
    """Camera angles in degrees.

    Fields:
        names: N file names as the CSV gives them; empty where it gives none, and the rows follow the sorted pictures.
        elevation: (N,) float32, upwards from the horizon.
        azimuth: (N,) float32, around the vertical axis; 0 looks from +z.
        distance: (N,) float32, from the origin; None where the CSV has none.
        fov: (N,) float32, the field of view along a picture's longer side; None where the CSV has none.
    """

    names: list[str]
    elevation: Tensor
    azimuth: Tensor
    distance: Tensor | None = None
    fov: Tensor | None = None


def load_angles(path: Path | str) -> Angles:
    """Camera angles from a CSV with the columns `azimuth` and `elevation` (degrees), and `file` if they are named.

    Args:
        path: the CSV, UTF-8, with a header line. Columns come in any order; `distance` and `fov` may be among them,
            others are ignored, and so are empty lines.

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
    if "\0" in text or len(max(text.splitlines(), key=len, default="")) > _LONGEST_LINE:
        raise ValueError(f"the file of angles {path} is no table of text: it has zero bytes or lines without end")
    rows = csv.reader(text.splitlines())
    header = [name.strip().lower() for name in next(rows, [])]
    for column in ("azimuth", "elevation"):
        if column not in header:
            raise ValueError(f"{path}, line 1: expected columns file,azimuth,elevation, got {','.join(header)!r}")
    names: list[str] = []
    columns: dict[str, list[float]] = {name: [] for name in ("elevation", "azimuth", *_OPTIONAL) if name in header}
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise ValueError(f"{where}: expected {len(header)} values, got {len(row)}")
        cells = dict(zip(header, (cell.strip() for cell in row), strict=True))
        for name, values in columns.items():
            values.append(_value(name, cells[name], where))
        if "file" in cells:
            if not cells["file"] or cells["file"] in names:
                raise ValueError(f"{where}: expected the name of another file, got {cells['file']!r}")
            names.append(cells["file"])
    if not columns["azimuth"]:
        raise ValueError(f"{path}: expected at least one line of angles after the header")
    return Angles(names, **{name: torch.tensor(values) for name, values in columns.items()})


def _value(name: str, text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if name in _OPTIONAL:
        low, high, expected = _OPTIONAL[name]
        if not low < value < high:
            raise ValueError(f"{where}: {name} must be {expected}, got {text!r}")
    elif not abs(value) <= 360:
        raise ValueError(f"{where}: {name} must be a number of degrees from -360 to 360, got {text!r}")
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
    order = rows_of(pictures, angles.names, len(angles.azimuth), where)
    return angles.elevation[order], angles.azimuth[order]


def rows_of(pictures: list[str], names: list[str], rows: int, where: str) -> list[int]:
    """The number of the row of each picture.

    Args:
        pictures: N file names.
        names: of the rows; empty where rows follow the pictures.
        rows: how many.
        where: what the error messages call them.

    Raises:
        ValueError: pictures and rows are not one to one; one that has no other is named.
    """
    if not names:
        if len(pictures) != rows:
            raise ValueError(f"{where} have {rows} lines for {len(pictures)} pictures: expected one each")
        return list(range(rows))
    missing = sorted(set(names) - set(pictures))
    if missing:
        raise ValueError(f"{where} name {missing[0]}, which is not among the {len(pictures)} pictures")
    unlisted = sorted(set(pictures) - set(names))
    if unlisted:
        raise ValueError(f"{where} have no line for the picture {unlisted[0]}")
    return [names.index(name) for name in pictures]


def read_angles(path: Path | str, distance: float = 2.7, fov: float = 60.0) -> CameraFile:
    """The cameras of a CSV of angles, which look at the origin with +y upwards.

    Args:
        path: the CSV, see `load_angles`.
        distance: from the origin, where the CSV has none.
        fov: in degrees along a picture's longer side, where the CSV has none.

    Returns:
        A shot for each line.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `load_angles`.
    """
    angles = load_angles(path)
    elevation, azimuth = angles.elevation.double(), angles.azimuth.double()
    distances = torch.full_like(elevation, distance) if angles.distance is None else angles.distance.double()
    fovs = torch.full_like(elevation, fov) if angles.fov is None else angles.fov
    R, T = look_at_view_transform(distances, elevation, azimuth)
    lenses = [FieldOfView(degrees, "longer side") for degrees in fovs.tolist()]
    names = angles.names or [""] * len(lenses)
    shots = [Shot(name, r.double(), t.double(), lens) for name, r, t, lens in zip(names, R, T, lenses, strict=True)]
    return CameraFile(str(path), shots, (0.0, 1.0, 0.0), None, True)
