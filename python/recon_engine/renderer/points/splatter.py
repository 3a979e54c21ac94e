"""SynSin's splatter: soft discs whose radius is given in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..mesh.renderer import is_fused
from ..utils import parse_image_size
from ._fused import with_background
from .compositor import Background
from .rasterize_points import _format_radius
from .rasterizer import PointsRasterizer

_MODES = {"alphacomposite": "alpha", "wsum": "weighted", "wsumnorm": "norm_weighted"}


class PointSplatter(nn.Module):
    """Splats point clouds with features into images, differentiably, as SynSin does.

    A point at the squared NDC distance d2 of a pixel centre within its radius r has the opacity

        alpha = (1 - sqrt(clamp(d2 / r ** power, 1e-3, 1))) ** tau

    there, a cone for `power=2, tau=1`, and the K nearest points of a pixel are accumulated front to back:

        "alphacomposite"  sum_k alpha_k prod_{j<k} (1 - alpha_j) f_k
        "wsum"            sum_k alpha_k f_k
        "wsumnorm"        sum_k alpha_k f_k / max(sum_k alpha_k, 1e-4)

    The defaults are the published ones: 256 x 256 pixels, a radius of 4 pixels, the 128 nearest points. Memory does not
    grow with the number of points per pixel.

    Example:
        >>> splat = PointSplatter(cameras, radius=1.5)  # doctest: +SKIP
        >>> image = splat(Pointclouds([points], features=[colors]))  # doctest: +SKIP

    References:
        Wiles et al., SynSin: End-to-end View Synthesis from a Single Image, CVPR 2020, section 3.2.
    """

    def __init__(
        self,
        cameras: Any = None,
        image_size: int | tuple[int, int] = 256,
        radius: float | Sequence[Any] | Tensor = 4.0,
        points_per_pixel: int = 128,
        power: float = 2.0,
        tau: float = 1.0,
        accumulation: str = "alphacomposite",
        background_color: Background | None = None,
    ) -> None:
        """Store the options.

        Args:
            cameras: one camera for all clouds, or one for each; `forward` takes them as a keyword as well.
            image_size: side of square images, or (height, width), in pixels.
            radius: of the discs in pixels: a number, (N, P) one for each point or (N,) one for each cloud.
            points_per_pixel: K, any number; of the points that hit a pixel the K nearest to the camera count.
            power: what the radius is raised to before squared distances are divided by it.
            tau: exponent of the opacity: above 1 discs fade sooner, below 1 later.
            accumulation: "alphacomposite", "wsum" or "wsumnorm".
            background_color: colour of pixels without points: a number, (C,) values, or (C - 1,) to which an alpha of 1
                is added; None leaves them 0.

        Raises:
            ValueError: for an option out of range.
        """
        super().__init__()
        if accumulation not in _MODES:
            raise ValueError(f"accumulation must be one of {list(_MODES)}, got {accumulation!r}")
        for name, value in (("power", power), ("tau", tau), ("points_per_pixel", points_per_pixel)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self.cameras = cameras
        self.image_size = parse_image_size(image_size)
        self.radius, self.points_per_pixel = radius, points_per_pixel
        self.power, self.tau, self.accumulation = power, tau, accumulation
        self.background_color = background_color

    def to(self, device: Any) -> PointSplatter:  # type: ignore[override]
        """Move the cameras to `device` in place and return self."""
        if self.cameras is not None:
            self.cameras = self.cameras.to(device)
        return self

    def forward(self, point_clouds: Any, **kwargs: Any) -> Tensor:
        """Splat.

        Args:
            point_clouds: N clouds in world coordinates with features of C channels, any C.
            kwargs: `cameras` and `background_color` instead of the stored ones, and camera parameters.

        Returns:
            (N, H, W, C) images. Differentiable in points, features, cameras, and in the radius where it is a tensor.

        Raises:
            ValueError: without features or cameras, and for radii that are negative or of another shape.
        """
        features = point_clouds.features_packed()
        if features is None:
            raise ValueError("point_clouds must have features to splat, got None: Pointclouds(points, features=...)")
        projected = PointsRasterizer(self.cameras).transform(point_clouds, **kwargs)
        radius = _format_radius(self.radius, projected) * (2 / min(self.image_size))
        discs = (projected.points_packed(), projected.cloud_to_packed_first_idx(), projected.num_points_per_cloud())
        splat = _splat_fused if is_fused() else _splat_fragments
        image, covered = splat(discs, radius, features, self)
        return with_background(image, covered, kwargs.get("background_color", self.background_color))


Discs = tuple[Tensor, Tensor, Tensor]
"""Packed points in NDC, the first point and the number of points of each cloud."""


def _splat_fused(discs: Discs, radius: Tensor, features: Tensor, options: PointSplatter) -> tuple[Tensor, Tensor]:
    from recon_engine import ops

    return ops.render_points(
        *discs,
        radius,
        features,
        options.image_size,
        options.points_per_pixel,
        _MODES[options.accumulation],
        scale=radius**options.power,
        falloff="cone",
        tau=options.tau,
    )


def _splat_fragments(discs: Discs, radius: Tensor, features: Tensor, options: PointSplatter) -> tuple[Tensor, Tensor]:
    """The same by fragments, for comparisons."""
    from recon_engine import ops
    from recon_engine.ops._render_points import opacity

    idx, _, dists = ops.rasterize_points(*discs, radius, options.image_size, options.points_per_pixel)
    # Empty slots read the number 1 behind the radii.
    scale = torch.nn.functional.pad(radius**options.power, (0, 1), value=1.0)[idx.long()]
    alphas = opacity(dists / scale, "cone", options.tau)
    weights, indices = alphas.permute(0, 3, 1, 2), idx.permute(0, 3, 1, 2)
    image = ops.composite(indices, weights, features.t(), _MODES[options.accumulation])
    return image.permute(0, 2, 3, 1), idx[..., 0] >= 0
