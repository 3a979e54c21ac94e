"""Points to images in one kernel: `PointsRenderer` chooses it where rasteriser and compositor are known ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .compositor import AlphaCompositor, NormWeightedCompositor, _add_background_color_to_images, _Compositor
from .rasterize_points import _check_arguments, _format_radius
from .rasterizer import PointsRasterizer, _settings

_MODES = {AlphaCompositor: "alpha", NormWeightedCompositor: "norm_weighted"}


def can_fuse(rasterizer: Any, compositor: Any) -> bool:
    """Whether the parts are known ones (not classes derived from them), without hooks that a kernel would pass by."""
    return (
        type(rasterizer) is PointsRasterizer
        and type(compositor) in _MODES
        and not any(part._forward_hooks or part._forward_pre_hooks for part in (rasterizer, compositor))
    )


def render(
    rasterizer: PointsRasterizer, compositor: _Compositor, point_clouds: Any, kwargs: dict[str, Any]
) -> Tensor | None:
    """The image that rasteriser and compositor make of the clouds.

    Args:
        rasterizer: a plain `PointsRasterizer`.
        compositor: one that `can_fuse` knows.
        point_clouds: N clouds with features in the world.
        kwargs: those of `PointsRenderer.forward`.

    Returns:
        (N, H, W, C), or None for features of another dtype or device than the points.
    """
    from recon_engine import ops

    settings = _settings(kwargs.get("raster_settings", rasterizer.raster_settings))
    size = _check_arguments(
        settings.image_size, settings.points_per_pixel, settings.bin_size, settings.max_points_per_bin
    )
    projected = rasterizer.transform(point_clouds, **kwargs)
    points, features = projected.points_packed(), point_clouds.features_packed()
    if (features.dtype, features.device) != (points.dtype, points.device):
        return None
    image, covered = ops.render_points(
        points,
        projected.cloud_to_packed_first_idx(),
        projected.num_points_per_cloud(),
        _format_radius(settings.radius, projected),
        features,
        size,
        int(settings.points_per_pixel),
        _MODES[type(compositor)],
    )
    return with_background(image, covered, kwargs.get("background_color", compositor.background_color))


def with_background(image: Tensor, covered: Tensor, color: Any) -> Tensor:
    """The image (N, H, W, C) with a colour where it is not covered (N, H, W), if there is one."""
    if color is None:
        return image
    first = covered[:, None].int() - 1  # as indices of points: negative where there is none
    return _add_background_color_to_images(first, image.permute(0, 3, 1, 2), color).permute(0, 2, 3, 1)
