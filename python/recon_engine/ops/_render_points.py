from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recon_engine._op import Op, empty_output
from recon_engine.ops._composite import _reference as composite_reference
from recon_engine.ops._rasterize_points import _reference as rasterize_reference


def render_points(
    points: Tensor,
    cloud_to_packed_first_idx: Tensor,
    num_points_per_cloud: Tensor,
    radius: Tensor,
    features: Tensor,
    image_size: tuple[int, int] = (256, 256),
    points_per_pixel: int = 8,
    mode: str = "alpha",
    *,
    scale: Tensor | None = None,
    falloff: str = "parabola",
    tau: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Images of discs: `rasterize_points`, opacities that fall off with the distance, and `composite`, in one pass.

    The K points of a pixel are never written: memory does not grow with K, and the backward pass finds them again.

    Args:
        points: (P, 3) x and y in NDC (+x left, +y up, the shorter image side spans [-1, 1]), z in view space. Points
            with z < 0 are skipped.
        cloud_to_packed_first_idx: (N,) int64, the first point of each cloud.
        num_points_per_cloud: (N,) int64, how many points follow it.
        radius: (P,) radii of the discs in NDC, >= 0. They decide which pixels a point hits.
        features: (P, C) what is mixed; any C.
        image_size: (H, W) in pixels.
        points_per_pixel: K, any number; of the points that hit a pixel the K nearest to the camera count.
        mode: how a pixel's points, the nearest first, are mixed, as in `composite`: "weighted", "norm_weighted" or
            "alpha".
        scale: (P,) what squared NDC distances are divided by, positive where the radius is; the squared radius by
            default.
        falloff: the opacity at the quotient q: "parabola" `1 - q`, or "cone" `(1 - sqrt(clamp(q, 1e-3, 1))) ** tau`.
        tau: exponent of the cone; positive.

    Returns:
        image: (N, H, W, C), 0 where no point is.
        covered: (N, H, W) bool, where a point is. Not differentiable.

    Differentiable in `points` (x and y, through the distances), `features`, `scale`, and in `radius` where `scale` is
    not given. CPU and CUDA, float32 and float64. On the CPU gradients are the same bits for any number of threads; on
    CUDA they are added in any order, unless `torch.use_deterministic_algorithms(True)` asks for a fixed one, which
    takes memory for K entries per pixel.

    Raises:
        ValueError: as `rasterize_points`, and (on the CPU) for a scale that is not positive.

    References:
        Wiles et al., SynSin: End-to-end View Synthesis from a Single Image, CVPR 2020, section 3.2.
    """
    height, width = image_size
    if min(height, width, points_per_pixel) <= 0:
        raise ValueError(
            f"image_size and points_per_pixel must be positive, got {tuple(image_size)} and {points_per_pixel}"
        )
    image, covered = _render_points(
        points,
        cloud_to_packed_first_idx,
        num_points_per_cloud,
        radius.detach(),
        radius.square() if scale is None else scale,
        features,
        height,
        width,
        points_per_pixel,
        mode,
        falloff,
        float(tau),
    )
    return image, covered


def opacity(q: Tensor, falloff: str, tau: float) -> Tensor:
    """The opacity at squared distances that were divided by the scale."""
    if falloff == "parabola":
        return 1 - q
    return (1 - q.clamp(1e-3, 1).sqrt()) ** tau


def _reference(
    points: Tensor,
    first: Tensor,
    count: Tensor,
    radius: Tensor,
    scale: Tensor,
    features: Tensor,
    height: int,
    width: int,
    points_per_pixel: int,
    mode: str,
    falloff: str,
    tau: float,
) -> tuple[Tensor, Tensor]:
    idx, _, dists = rasterize_reference(points, first, count, radius, height, width, points_per_pixel)
    # Empty slots read the number 1 behind the scales.
    alphas = opacity(dists / F.pad(scale, (0, 1), value=1.0)[idx.long()], falloff, tau)
    image = composite_reference(idx.flatten(1, 2), alphas.flatten(1, 2), features, mode, False)
    return image.mT.unflatten(1, (height, width)), idx[..., 0] >= 0


def _outputs(
    points: Tensor,
    cloud_to_packed_first_idx: Tensor,
    num_points_per_cloud: Tensor,
    radius: Tensor,
    scale: Tensor,
    features: Tensor,
    height: int,
    width: int,
    points_per_pixel: int,
    mode: str,
    falloff: str,
    tau: float,
) -> tuple[Tensor, Tensor]:
    shape = (cloud_to_packed_first_idx.shape[0], height, width)
    return empty_output(points, (*shape, features.shape[1])), empty_output(points, shape, torch.bool)


_render_points = Op("render_points", _outputs, _reference, optional_grads=True, reads=(), constants=["radius"])
