"""What a camera file says of one picture, in PyTorch3D's convention."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

LARGEST = 1e15  # of lengths in camera files: squares of larger ones leave single precision


@dataclass(frozen=True)
class Distortion:
    """How a lens bends what a pinhole would show, in coordinates one unit in front of the camera.

    Fields:
        kind: `radial`, the model of OpenCV, with r the distance from the axis:
            `x (1 + k1 r^2 + k2 r^4 + k3 r^6) / (1 + k4 r^2 + k5 r^4 + k6 r^6) + 2 p1 x y + p2 (r^2 + 2 x^2)`, and for y
            the same with p1 and p2 exchanged; or `fisheye`, with t the angle from the axis:
            `x t (1 + k1 t^2 + k2 t^4 + k3 t^6 + k4 t^8) / r`.
        k: k1, k2, ...; those that are missing are 0.
        p: p1 and p2.
    """

    kind: Literal["radial", "fisheye"]
    k: tuple[float, ...] = ()
    p: tuple[float, float] = (0.0, 0.0)

    @property
    def is_none(self) -> bool:
        """Whether it leaves everything as it is."""
        return self.kind == "radial" and not any((*self.k, *self.p))

    def __call__(self, xy: Tensor) -> Tensor:
        """Where points (..., 2) of a pinhole picture are in the bent one; x to the right, y down."""
        r2 = xy.square().sum(-1, keepdim=True)
        if self.kind == "fisheye":
            r = r2.sqrt().clamp(min=1e-12)
            angle = r.atan()
            return xy * (angle / r) * _polynomial(angle.square(), self.k)
        k = (*self.k, *(0.0,) * (6 - len(self.k)))
        x, y = xy.split(1, -1)
        p1, p2 = self.p
        tangential = torch.cat([2 * p1 * x * y + p2 * (r2 + 2 * x * x), p1 * (r2 + 2 * y * y) + 2 * p2 * x * y], -1)
        return xy * _polynomial(r2, k[:3]) / _polynomial(r2, k[3:]) + tangential


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """1 + c1 x + c2 x^2 + ..."""
    value = torch.zeros_like(x)
    for c in reversed(coefficients):
        value = (value + c) * x
    return value + 1


@dataclass(frozen=True)
class Lens:
    """What a camera shows, in pixels: `(fx x / z + cx, fy y / z + cy)`, with (0.5, 0.5) the middle of the first pixel.

    Fields:
        focal: (fx, fy).
        center: (cx, cy).
        size: (height, width) of the pictures that it is given for.
        distortion: or None.
    """

    focal: tuple[float, float]
    center: tuple[float, float]
    size: tuple[int, int]
    distortion: Distortion | None = None

    def of_size(self, height: int, width: int) -> Lens:
        """The lens for a larger or smaller copy of its pictures.

        Raises:
            ValueError: the sides are in another ratio.
        """
        own_height, own_width = self.size
        if abs(height * own_width / width - own_height) > max(1.0, own_width / width):
            raise ValueError(
                f"expected a picture of {own_width} x {own_height} pixels, or smaller or larger in the same ratio, "
                f"got {width} x {height}"
            )
        across, down = width / own_width, height / own_height
        focal = self.focal[0] * across, self.focal[1] * down
        return replace(self, focal=focal, center=(self.center[0] * across, self.center[1] * down), size=(height, width))


@dataclass(frozen=True)
class FieldOfView:
    """A lens of which only the angle is known; its axis meets the middle of the picture.

    Fields:
        degrees: the whole angle.
        along: the side of the picture that it spans.
    """

    degrees: float
    along: Literal["width", "longer side"]

    def of_size(self, height: int, width: int) -> Lens:
        """The lens for pictures of a size."""
        side = width if self.along == "width" else max(height, width)
        focal = side / 2 / math.tan(math.radians(self.degrees / 2))
        return Lens((focal, focal), (width / 2, height / 2), (height, width))


class Shot(NamedTuple):
    """One picture's camera.

    Fields:
        name: of the picture's file, as the camera file has it; empty where that names none.
        R: (3, 3) float64, with T the place: x_view = x_world R + T; +X left, +Y up, +Z into the picture.
        T: (3,) float64.
        lens: what it shows.
        mask: name of the file of its mask, or None.
    """

    name: str
    R: Tensor
    T: Tensor
    lens: Lens | FieldOfView
    mask: str | None = None


class CameraFile(NamedTuple):
    """All cameras of a file.

    Fields:
        where: the file, for messages.
        shots: one for each picture, in the file's order.
        up: (3,) which way is up in its world; None where the format does not say.
        root: that names of pictures are relative to, or None where the format does not say.
        is_whole: whether pictures that it does not name are an error.
    """

    where: str
    shots: list[Shot]
    up: tuple[float, float, float] | None
    root: str | None
    is_whole: bool


def check_rotation(R: Tensor, T: Tensor, where: str) -> None:
    """Raises ValueError unless R is a rotation and both are finite; the message begins with `where`."""
    if not bool(torch.isfinite(R).all() and torch.isfinite(T).all()):
        raise ValueError(f"{where}: expected finite numbers, got NaN or infinity")
    if float(T.abs().max()) > LARGEST:
        raise ValueError(f"{where}: expected places within {LARGEST:g} of the origin, got {float(T.abs().max()):g}")
    off = float((R @ R.T - torch.eye(3, dtype=R.dtype)).abs().max())
    if off > 1e-3 or float(torch.linalg.det(R)) < 0:
        what = "a mirror image" if off <= 1e-3 else f"axes that are off by {off:.3g}"
        raise ValueError(f"{where}: expected a rotation (three axes of length 1 at right angles), got {what}")
