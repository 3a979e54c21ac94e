"""Rasterisation of point clouds in NDC."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..mesh.rasterize_meshes import check_number
from ..utils import parse_image_size

kMaxPointsPerBin = 22
"""Bins per side from which PyTorch3D refuses a `bin_size`."""


def rasterize_points(
    pointclouds: Any,
    image_size: int | Sequence[int] = 256,
    radius: float | Sequence[Any] | Tensor = 0.01,
    points_per_pixel: int = 8,
    bin_size: int | None = None,
    max_points_per_bin: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the K nearest points of every pixel.

    Args:
        pointclouds: N clouds with x, y in NDC (+X left, +Y up, short side of the image in [-1, 1]) and z in view space.
            Points with z < 0 are skipped.
        image_size: side of square images, or (height, width), in pixels. Pixels are square.
        radius: of the discs, in NDC: a number; (N, P) one for each point, padded like `points_padded()`; (P,) for a
            single cloud; (N,) one for each of several clouds. A tensor or nested lists.
        points_per_pixel: K, without limit.
        bin_size: accepted and checked; the engine needs no tuning.
        max_points_per_bin: accepted; the engine's bins cannot overflow.

    Returns:
        idx: (N, H, W, K) int32 packed point indices by increasing depth, then by index; -1 where there are fewer.
        zbuf: (N, H, W, K) depths, -1 where empty.
        dists2: (N, H, W, K) squared NDC distances of the pixel centres to the points, -1 where empty.

    Differentiable in the points. The radius decides which points a pixel has and changes no value: its gradient comes
    from the weights `1 - dists2 / radius ** 2` of `PointsRenderer`. CPU and CUDA, float32 and float64. Never waits for
    the device.

    Raises:
        ValueError: an argument out of range, or a `bin_size` that gives 22 or more bins per side.
    """
    from recon_engine.ops._rasterize_points import rasterize_points as rasterize

    size = _check_arguments(image_size, points_per_pixel, bin_size, max_points_per_bin)
    points = pointclouds.points_packed()
    return rasterize(
        points,
        pointclouds.cloud_to_packed_first_idx(),
        pointclouds.num_points_per_cloud(),
        _format_radius(radius, pointclouds),
        size,
        int(points_per_pixel),
    )


def rasterize_points_python(
    pointclouds: Any,
    image_size: int | Sequence[int] = 256,
    radius: float | Sequence[Any] | Tensor = 0.01,
    points_per_pixel: int = 8,
) -> tuple[Tensor, Tensor, Tensor]:
    """`rasterize_points` by the plain torch reference and not by the kernels: slow, for comparisons.

    Args:
        pointclouds: as in `rasterize_points`, like all arguments.
        image_size: side or (height, width).
        radius: in NDC.
        points_per_pixel: K.
    """
    from recon_engine._op import reference

    with reference():
        return rasterize_points(pointclouds, image_size, radius, points_per_pixel)


def _check_arguments(
    image_size: int | Sequence[int], points_per_pixel: int, bin_size: int | None, max_points_per_bin: int | None
) -> tuple[int, int]:
    height, width = parse_image_size(image_size)
    if not _is_integer("points_per_pixel", points_per_pixel) or points_per_pixel < 1:
        raise ValueError(f"points_per_pixel must be an integer >= 1, got {points_per_pixel}")
    for name, value in (("bin_size", bin_size), ("max_points_per_bin", max_points_per_bin)):
        if value is not None and (not _is_integer(name, value) or value < 0):
            raise ValueError(f"{name} must be None or an integer >= 0, got {value}")
    if bin_size:
        bins = 1 + (max(height, width) - 1) // bin_size
        if bins >= kMaxPointsPerBin:
            raise ValueError(
                f"bin_size too small, number of points per bin must be less than {kMaxPointsPerBin}; got {bins}"
            )
    return height, width


def _is_integer(name: str, value: Any) -> bool:
    return not isinstance(value, bool) and check_number(name, value).is_integer()


def _format_radius(radius: float | Sequence[Any] | Tensor, pointclouds: Any) -> Tensor:
    """The radius of each packed point, (sum(P_n),), in the dtype and on the device of the points. Differentiable."""
    points = pointclouds.points_packed()
    N, P = len(pointclouds), pointclouds._P
    if isinstance(radius, (list, tuple)):
        radius = _as_tensor(radius)
    if isinstance(radius, Real) and not isinstance(radius, bool):
        number = float(radius)
        if not number >= 0:
            raise ValueError(f"radius must be >= 0 (an NDC distance), got {number}")
        return points.new_full((points.shape[0],), number)
    if not isinstance(radius, Tensor):
        raise ValueError(f"radius must be a float, list, tuple or tensor; got {type(radius)}")
    if radius.device != points.device and radius.ndim > 0:
        raise ValueError(
            f"radius must be on the device of the points, {points.device}, got {radius.device}: use radius.to(...)"
        )
    radius = radius.to(points)
    if radius.ndim == 0:
        return radius.expand(points.shape[0])
    if N == 1 and radius.ndim == 1 and radius.shape[0] == P:
        radius = radius[None]
    elif radius.shape == (N,):
        radius = radius[:, None].expand(N, P)
    if radius.shape != (N, P):
        raise ValueError(
            f"radius must be of shape (N, P): got {tuple(radius.shape)} instead of {(N, P)}; a number is the radius of "
            "all points and (N,) holds one for each cloud"
        )
    return radius.reshape(-1)[pointclouds.padded_to_packed_idx()]


def _as_tensor(values: Sequence[Any]) -> Tensor:
    """Nested sequences of numbers and tensors as one tensor, with the gradients of the tensors."""
    if any(isinstance(value, (Tensor, list, tuple)) for value in values):
        rows = [_as_tensor(v) if isinstance(v, (list, tuple)) else torch.as_tensor(v) for v in values]
        if any(row.shape != rows[0].shape for row in rows):
            raise ValueError(
                f"radius must be of shape (N, P): got rows of shapes {[tuple(row.shape) for row in rows]}; fill the "
                "rows of shorter clouds up, or give one number for each cloud"
            )
        return torch.stack(rows)
    return torch.as_tensor(values)
