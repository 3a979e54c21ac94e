"""Cameras of COLMAP: cameras and images, as text and as binary files.

COLMAP has x_view = R x_world + t with +X right, +Y down, +Z forward, and quaternions with the real part first.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ._shot import CameraFile, Distortion, Lens, Shot, check_rotation

# The model's name and its parameters, in the order of COLMAP's numbers for models.
_MODELS: tuple[tuple[str, str], ...] = (
    ("SIMPLE_PINHOLE", "f cx cy"),
    ("PINHOLE", "fx fy cx cy"),
    ("SIMPLE_RADIAL", "f cx cy k1"),
    ("RADIAL", "f cx cy k1 k2"),
    ("OPENCV", "fx fy cx cy k1 k2 p1 p2"),
    ("OPENCV_FISHEYE", "fx fy cx cy k1 k2 k3 k4"),
    ("FULL_OPENCV", "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6"),
    ("FOV", ""),
    ("SIMPLE_RADIAL_FISHEYE", "f cx cy k1"),
    ("RADIAL_FISHEYE", "f cx cy k1 k2"),
    ("THIN_PRISM_FISHEYE", ""),
)
_PARAMETERS = {name: parameters.split() for name, parameters in _MODELS if parameters}
_POINT_BYTES = 24  # of a point of an image: x, y, number of the 3D point


def has_colmap(folder: Path) -> bool:
    """Whether a folder holds cameras and images of COLMAP."""
    return any((folder / f"cameras.{end}").is_file() and (folder / f"images.{end}").is_file() for end in ("bin", "txt"))


def read_colmap(folder: Path | str) -> CameraFile:
    """The cameras of `images.txt` and `cameras.txt`, or of `images.bin` and `cameras.bin`, which are taken first.

    Args:
        folder: that holds them, often `sparse/0`.

    Returns:
        A shot for each image, sorted by name. COLMAP does not know which way is up, and names no picture that it could
        not place.

    Raises:
        FileNotFoundError: the folder has neither pair of files.
        ValueError: a file is malformed; says where, what was expected and what came.
    """
    folder = Path(folder)
    for end, cameras_of, images_of in (
        ("bin", _binary_cameras, _binary_images),
        ("txt", _text_cameras, _text_images),
    ):
        cameras, images = folder / f"cameras.{end}", folder / f"images.{end}"
        if cameras.is_file() and images.is_file():
            lenses = dict(cameras_of(cameras))
            shots = [_shot(*image, lenses, cameras.name) for image in images_of(images)]
            if not shots:
                raise ValueError(f"{images}: expected at least one image, got none")
            return CameraFile(str(images), sorted(shots, key=lambda shot: shot.name), None, None, False)
    raise FileNotFoundError(
        f"the folder {folder} has no cameras.txt with images.txt, and no cameras.bin with images.bin"
    )


def _shot(
    where: str,
    name: str,
    quaternion: Sequence[float],
    t: Sequence[float],
    number: int,
    lenses: dict[int, Lens],
    file: str,
) -> Shot:
    """One image in our convention: the view's x and y axes are turned round, and points are rows."""
    if number not in lenses:
        raise ValueError(f"{where}: expected a camera that {file} has, got camera {number}")
    length = math.sqrt(sum(q * q for q in quaternion))
    if not abs(length - 1) < 1e-3:
        raise ValueError(f"{where}: expected a quaternion of length 1, got {_listed(quaternion)}")
    w, x, y, z = (q / length for q in quaternion)
    R = torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )
    turn = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
    R, T = R.T * turn, torch.tensor(t, dtype=torch.float64) * turn
    check_rotation(R, T, where)
    return Shot(name, R, T, lenses[number])


def _lens(where: str, model: str, width: int, height: int, values: Sequence[float]) -> Lens:
    names = _PARAMETERS.get(model)
    if names is None:
        raise ValueError(
            f"{where}: expected a camera of a model among {', '.join(_PARAMETERS)}, got {model}: "
            "colmap image_undistorter makes pictures of one of them"
        )
    if len(values) != len(names):
        raise ValueError(f"{where}: expected {len(names)} parameters of {model} ({' '.join(names)}), got {len(values)}")
    of = dict(zip(names, values, strict=True))
    focal = of.get("fx", of.get("f", 0.0)), of.get("fy", of.get("f", 0.0))
    if not (min(width, height) >= 1 and all(map(math.isfinite, values)) and min(focal) > 0):
        raise ValueError(
            f"{where}: expected finite numbers, sizes and focal lengths above 0, got {width} {height} {_listed(values)}"
        )
    k = tuple(of[f"k{i}"] for i in range(1, 7) if f"k{i}" in of)
    bent = Distortion("fisheye" if "FISHEYE" in model else "radial", k, (of.get("p1", 0.0), of.get("p2", 0.0)))
    return Lens(focal, (of["cx"], of["cy"]), (height, width), None if bent.is_none else bent)


def _listed(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _lines(path: Path) -> list[tuple[str, str]]:
    """Place and text of all lines but comments."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    return [(f"{path}, line {i}", line) for i, line in enumerate(lines, start=1) if not line.lstrip().startswith("#")]


def _numbers(words: Sequence[str], where: str, expected: str) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        raise ValueError(f"{where}: expected {expected}, got {' '.join(words)!r}") from None


def _text_cameras(path: Path) -> Iterator[tuple[int, Lens]]:
    for where, line in _lines(path):
        if not line.strip():
            continue
        words = line.split()
        if len(words) < 5 or not all(word.isdigit() for word in (words[0], *words[2:4])):
            raise ValueError(f"{where}: expected CAMERA_ID MODEL WIDTH HEIGHT PARAMETERS, got {line.strip()!r}")
        values = _numbers(words[4:], where, "numbers as parameters")
        yield int(words[0]), _lens(where, words[1], int(words[2]), int(words[3]), values)


def _text_images(path: Path) -> Iterator[tuple[str, str, list[float], list[float], int]]:
    """Every image has two lines; the second, of its points, may be empty."""
    lines = _lines(path)
    i = 0
    while i < len(lines):
        where, line = lines[i]
        if not line.strip():
            i += 1
            continue
        words = line.strip().split(maxsplit=9)
        if len(words) != 10 or not words[8].isdigit():
            raise ValueError(f"{where}: expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, got {line.strip()!r}")
        values = _numbers(words[1:8], where, "seven numbers after IMAGE_ID")
        yield where, words[9], values[:4], values[4:], int(words[8])
        i += 2


class _Binary:
    """Reads little-endian numbers one after the other."""

    def __init__(self, path: Path) -> None:
        self.path, self.content, self.at = path, path.read_bytes(), 0

    def __call__(self, form: str, what: str) -> tuple[int | float, ...]:
        size = struct.calcsize("<" + form)
        self.skip(size, what)
        return struct.unpack_from("<" + form, self.content, self.at - size)

    def skip(self, size: int, what: str) -> None:
        if self.at + size > len(self.content):
            raise ValueError(
                f"{self.path}, byte {self.at}: expected {size} bytes of {what}, got {len(self.content) - self.at}"
            )
        self.at += size

    def name(self) -> str:
        end = self.content.find(b"\0", self.at)
        if end < 0:
            raise ValueError(f"{self.path}, byte {self.at}: expected a name that ends with a zero byte, got none")
        name = self.content[self.at : end]
        self.at = end + 1
        try:
            return name.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path}, byte {self.at}: expected a name in UTF-8, got {name!r}") from error

    def finish(self) -> None:
        if self.at != len(self.content):
            raise ValueError(f"{self.path}: expected to end at byte {self.at}, got {len(self.content)} bytes")


def _binary_cameras(path: Path) -> Iterator[tuple[int, Lens]]:
    read = _Binary(path)
    (count,) = read("Q", "the number of cameras")
    for _ in range(int(count)):
        where = f"{path}, byte {read.at}"
        number, model, width, height = map(int, read("iiQQ", "a camera"))
        if not 0 <= model < len(_MODELS):
            raise ValueError(
                f"{where}: expected the number of a camera model from 0 to {len(_MODELS) - 1}, got {model}"
            )
        name, parameters = _MODELS[model]
        values = read(f"{len(parameters.split())}d", f"parameters of {name}")
        yield number, _lens(where, name, width, height, values)
    read.finish()


def _binary_images(path: Path) -> Iterator[tuple[str, str, list[float], list[float], int]]:
    read = _Binary(path)
    (count,) = read("Q", "the number of images")
    for _ in range(int(count)):
        where = f"{path}, byte {read.at}"
        _, *values, number = read("i7di", "an image")
        name = read.name()
        (points,) = read("Q", "the number of points")
        read.skip(_POINT_BYTES * int(points), "points")
        yield where, name, list(values[:4]), list(values[4:]), int(number)
    read.finish()
