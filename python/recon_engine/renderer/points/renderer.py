"""From point clouds to images: a rasteriser and a compositor."""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from ..mesh.renderer import is_fused
from . import _fused
from .compositor import AlphaCompositor, NormWeightedCompositor
from .rasterize_points import _format_radius
from .rasterizer import PointFragments


class PointsRenderer(nn.Module):
    """Renders a batch of point clouds of any sizes to images.

    A point is a disc whose weight falls from 1 in its centre to 0 on its border, `1 - dists / radius ** 2`, so that
    images are differentiable in the positions, the features and the radius.

    With `PointsRasterizer` and a compositor of this library themselves (not classes derived from them) one fused kernel
    renders the image and no fragments are written; see `recon_engine.renderer.fused`.

    References:
        Wiles et al., SynSin: End-to-end View Synthesis from a Single Image, CVPR 2020, section 3.2.
    """

    def __init__(self, rasterizer: Any, compositor: Any) -> None:
        """Store the parts.

        Args:
            rasterizer: makes `PointFragments` of clouds, such as `PointsRasterizer`; its settings have the radius.
            compositor: makes images of indices and weights (N, K, H, W) and features (C, P), such as `AlphaCompositor`.
        """
        super().__init__()
        self.rasterizer = rasterizer
        self.compositor = compositor

    def to(self, device: Any) -> PointsRenderer:  # type: ignore[override]
        """Move rasterizer and compositor to `device` in place and return self."""
        self.rasterizer = self.rasterizer.to(device)
        self.compositor = self.compositor.to(device)
        return self

    def forward(self, point_clouds: Any, **kwargs: Any) -> Tensor:
        """Render.

        Args:
            point_clouds: N clouds in world coordinates with features of C channels.
            kwargs: passed to the rasterizer and the compositor: `cameras`, `raster_settings`, `background_color`,
                camera parameters.

        Returns:
            (N, H, W, C) images. Differentiable in points, features, cameras, and in the radius where it is a tensor.

        Raises:
            ValueError: for clouds without features.
        """
        features = point_clouds.features_packed()
        if features is None:
            raise ValueError(
                "point_clouds must have features to render, got None: Pointclouds(points, features=...), for example "
                "(P, 3) colours"
            )
        if is_fused() and _fused.can_fuse(self.rasterizer, self.compositor):
            image = _fused.render(self.rasterizer, self.compositor, point_clouds, kwargs)
            if image is not None:
                return image
        fragments = self.rasterizer(point_clouds, **kwargs)
        settings = kwargs.get("raster_settings", self.rasterizer.raster_settings)
        # PyTorch3D's kernels need int64, and so may compositors of others; ours read what the rasteriser wrote.
        ours = type(self.compositor) in (AlphaCompositor, NormWeightedCompositor)
        idx = fragments.idx if ours else fragments.idx.long()
        images: Tensor = self.compositor(
            idx.permute(0, 3, 1, 2),
            _weights(fragments, settings.radius, point_clouds).permute(0, 3, 1, 2),
            features.permute(1, 0),
            **kwargs,
        )
        return images.permute(0, 2, 3, 1)


def _weights(fragments: PointFragments, radius: Any, point_clouds: Any) -> Tensor:
    """`1 - dists / radius ** 2` of each slot (N, H, W, K); anything where it is empty."""
    if isinstance(radius, Real) or (isinstance(radius, Tensor) and radius.ndim == 0):
        scale: Any = radius * radius
        return 1 - fragments.dists / scale
    # Empty slots read the number 1 behind the radii: a radius of 0 of some point must not give them NaN.
    radii = torch.nn.functional.pad(_format_radius(radius, point_clouds).to(fragments.dists), (0, 1), value=1.0)
    slots = torch.where(fragments.idx < 0, len(radii) - 1, fragments.idx)
    chosen = radii.index_select(0, slots.reshape(-1)).view_as(fragments.dists)
    return 1 - fragments.dists / chosen.square()
