from __future__ import annotations

import torch
from torch import Tensor

from recon_engine._op import Op, empty_output
from recon_engine.ops._raster_reference import pixel_centers


def rasterize_points(
    points: Tensor,
    cloud_to_packed_first_idx: Tensor,
    num_points_per_cloud: Tensor,
    radius: Tensor,
    image_size: tuple[int, int] = (256, 256),
    points_per_pixel: int = 8,
) -> tuple[Tensor, Tensor, Tensor]:
    """The K points nearest to the camera whose discs cover the centre of each pixel.

    Args:
        points: (P, 3) x and y in NDC (+x left, +y up, the shorter image side spans [-1, 1]), z in view space. Points
            with z < 0 are skipped.
        cloud_to_packed_first_idx: (N,) int64, the first point of each cloud.
        num_points_per_cloud: (N,) int64, how many points follow it.
        radius: (P,) radii of the discs in NDC, >= 0. A centre exactly on the border is outside.
        image_size: (H, W) in pixels.
        points_per_pixel: K, any number.

    Returns:
        idx: (N, H, W, K) int32 rows of `points`, sorted by depth and then by index; -1 where there is none. Not
            differentiable.
        zbuf: (N, H, W, K) depth of each point, -1 where there is none.
        dists2: (N, H, W, K) squared NDC distance of the pixel to the point, -1 where there is none.

    Differentiable in `points`: x and y through `dists2`, z through `zbuf`. The radius decides which points count and
    changes none of the values. CPU and CUDA, float32 and float64. On the CPU the float32 results equal PyTorch3D's
    (0.7.9) bit for bit, on any number of threads.

    Raises:
        ValueError: for shapes that disagree, clouds out of range, and (on the CPU) points in front of the camera that
            are not finite and radii that are negative or not finite.
    """
    height, width = image_size
    if min(height, width, points_per_pixel) <= 0:
        raise ValueError(
            f"image_size and points_per_pixel must be positive, got {tuple(image_size)} and {points_per_pixel}"
        )
    return _rasterize_points(
        points,
        cloud_to_packed_first_idx,
        num_points_per_cloud,
        radius.detach(),
        height,
        width,
        points_per_pixel,
    )


def _reference(
    points: Tensor, first: Tensor, count: Tensor, radius: Tensor, height: int, width: int, points_per_pixel: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Memory: pixels times points of a cloud."""
    y, x = (pixel_centers(*sides, points) for sides in ((height, width), (width, height)))
    shape = (len(first), height, width, points_per_pixel)
    idx = torch.full(shape, -1, dtype=torch.int32, device=points.device)
    zbuf, dists2 = (points.new_full(shape, -1) for _ in range(2))
    for n, (start, size) in enumerate(zip(first.tolist(), count.tolist())):
        # A stable sort keeps points of equal depth in ascending order: the first K hits of a pixel are its nearest.
        order = start + points[start : start + size, 2].detach().sort(stable=True).indices
        dist = (points[order, 0] - x[:, None]).square() + (points[order, 1] - y[:, None, None]).square()
        hit = (dist < radius[order].square()) & (points[order, 2] >= 0)
        rank = hit.cumsum(-1) - 1
        row, column, which = torch.nonzero(hit & (rank < points_per_pixel), as_tuple=True)
        at = (torch.full_like(row, n), row, column, rank[row, column, which])
        idx = idx.index_put(at, order[which].int())
        zbuf = zbuf.index_put(at, points[order[which], 2])
        dists2 = dists2.index_put(at, dist[row, column, which])
    return idx, zbuf, dists2


def _outputs(
    points: Tensor,
    cloud_to_packed_first_idx: Tensor,
    num_points_per_cloud: Tensor,
    radius: Tensor,
    height: int,
    width: int,
    points_per_pixel: int,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (cloud_to_packed_first_idx.shape[0], height, width, points_per_pixel)
    return empty_output(points, shape, torch.int32), empty_output(points, shape), empty_output(points, shape)


_rasterize_points = Op("rasterize_points", _outputs, _reference, reads=[0], constants=["radius"])
