"""From point clouds in the world to fragments: projection by cameras, then rasterisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recon_engine._precision import without_autocast

from ..mesh.rasterizer import _project
from .rasterize_points import rasterize_points


class PointFragments(NamedTuple):
    """What the rasteriser finds: for each pixel the K nearest points by increasing depth.

    Attributes:
        idx: (N, H, W, K) int32 packed point indices, -1 where there are fewer than K points.
        zbuf: (N, H, W, K) depths in view space, -1 where empty.
        dists: (N, H, W, K) squared NDC distances of the pixel centres to the points, -1 where empty.
    """

    idx: Tensor
    zbuf: Tensor
    dists: Tensor


@dataclass
class PointsRasterizationSettings:
    """How to rasterise.

    Attributes:
        image_size: side of square images, or (height, width), in pixels.
        radius: of the discs, in NDC: a number, (N, P) one for each point or (N,) one for each cloud.
        points_per_pixel: how many of the nearest points to keep for each pixel.
        bin_size: accepted and checked; not needed.
        max_points_per_bin: accepted; not needed.
    """

    image_size: int | tuple[int, int] = 256
    radius: float | Sequence[Any] | Tensor = 0.01
    points_per_pixel: int = 8
    bin_size: int | None = None
    max_points_per_bin: int | None = None


class PointsRasterizer(nn.Module):
    """Projects a batch of point clouds with cameras and rasterises them."""

    def __init__(self, cameras: Any = None, raster_settings: PointsRasterizationSettings | None = None) -> None:
        """Store the defaults; `forward` takes `cameras` and `raster_settings` as keywords as well.

        Args:
            cameras: one camera for all clouds, or one for each.
            raster_settings: image size, radius and number of points per pixel.
        """
        super().__init__()
        self.cameras = cameras
        self.raster_settings = PointsRasterizationSettings() if raster_settings is None else raster_settings

    def to(self, device: Any) -> PointsRasterizer:  # type: ignore[override]
        """Move the cameras to `device` in place and return self."""
        if self.cameras is not None:
            self.cameras = self.cameras.to(device)
        return self

    def transform(self, point_clouds: Any, **kwargs: Any) -> Any:
        """Project the points.

        Args:
            point_clouds: N clouds in world coordinates.
            kwargs: `cameras`, `eps` (lower bound of the divisor of the projection) and camera parameters.

        Returns:
            Clouds with x, y in NDC and z in view space. Differentiable in the points and the cameras. Computed at least
            in float32, also under autocast.

        Raises:
            ValueError: without cameras, or when there is neither one camera nor one for each cloud.
        """
        cameras = kwargs.get("cameras", self.cameras)
        if cameras is None:
            raise ValueError(
                f"Cameras must be specified either at initialization or in the forward pass of {type(self).__name__}"
            )
        if not hasattr(cameras, "transform_points"):
            raise ValueError(f"cameras must be cameras such as FoVPerspectiveCameras, got {type(cameras).__name__}")
        if len(cameras) not in (1, len(point_clouds)):
            raise ValueError(
                f"Wrong number ({len(cameras)}) of cameras for {len(point_clouds)} clouds: give one, or one for each; "
                "point_clouds.extend(N) repeats every cloud for N cameras"
            )
        points = point_clouds.points_padded()
        R = kwargs["R"] if "R" in kwargs else getattr(cameras, "R", None)
        if isinstance(R, Tensor) and R.device != points.device:
            raise ValueError(
                f"cameras must be on the device of the points, {points.device}, got {R.device}: "
                "use cameras.to(point_clouds.device)"
            )
        with without_autocast(points.device.type):
            if points.dtype in (torch.float16, torch.bfloat16):
                points = points.float()
            projected = _project(cameras, points, kwargs)
        return point_clouds.update_padded(projected)

    def forward(self, point_clouds: Any, **kwargs: Any) -> PointFragments:
        """Rasterise.

        Args:
            point_clouds: N clouds in world coordinates.
            kwargs: `cameras` and `raster_settings` instead of the stored ones, and what `transform` takes.
        """
        settings = _settings(kwargs.get("raster_settings", self.raster_settings))
        idx, zbuf, dists = rasterize_points(
            self.transform(point_clouds, **kwargs),
            image_size=settings.image_size,
            radius=settings.radius,
            points_per_pixel=settings.points_per_pixel,
            bin_size=settings.bin_size,
            max_points_per_bin=settings.max_points_per_bin,
        )
        return PointFragments(idx=idx, zbuf=zbuf, dists=dists)


_FIELDS = tuple(field.name for field in fields(PointsRasterizationSettings))


def _settings(settings: Any) -> Any:
    """The settings themselves, or ValueError for what has not the fields of `PointsRasterizationSettings`."""
    if type(settings) is PointsRasterizationSettings:
        return settings
    missing = [name for name in _FIELDS if not hasattr(settings, name)]
    if missing:
        raise ValueError(
            f"raster_settings must be PointsRasterizationSettings, got {type(settings).__name__} without {missing[0]}: "
            "use PointsRasterizationSettings(image_size=..., ...)"
        )
    return settings
