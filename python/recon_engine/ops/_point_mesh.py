"""Exact distances between points and edges or triangles: the op under the point-mesh losses."""

from __future__ import annotations

import torch
from torch import Tensor

from recon_engine._op import Op


def point_mesh(
    points: Tensor,
    points_first: Tensor,
    simplices: Tensor,
    simplices_first: Tensor,
    *,
    from_points: bool = True,
    min_area: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The closest edge or triangle of every point, or the closest point of every edge or triangle.

    Exact: every pair is judged by its own rounded distance, whichever way the search takes, and of equal distances the
    lower index wins. Needles and triangles without area need no threshold: a distance is never that of a point off the
    triangle.

    Args:
        points: (P, 3) the clouds of a batch, one after the other.
        points_first: (N,) int64, the first point of each; 0 first, ascending.
        simplices: (S, 2, 3) edges or (S, 3, 3) triangles, the meshes of the batch one after the other.
        simplices_first: (N,) int64, the first of each.
        from_points: whether points look for simplices or simplices for points.
        min_area: of triangles with an area below it only the edges count.

    Returns:
        dist: (P,) or (S,) squared distances; infinity where an element of the batch has nothing to find.
        idx: (P,) or (S,) int64, rows of the other side; -1 where there is none. Not differentiable.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together; on the CPU also numbers that are not finite and
            first indices that do not ascend from 0.

    Differentiable in `points` and `simplices`; at a distance of 0 the gradient is 0. CPU and CUDA, float32 and float64.
    Repeatable bit by bit, on any number of threads.

    Cost: on the CPU (P + S) log S, usually; on CUDA P S.
    """
    if simplices.ndim != 3 or simplices.shape[1] not in (2, 3) or simplices.shape[2] != 3:
        raise ValueError(
            "point_mesh: simplices must be edges (S, 2, 3) or triangles (S, 3, 3), got " + str(tuple(simplices.shape))
        )
    return _point_mesh(points, points_first, simplices, simplices_first, from_points, float(min_area))


def closest_weights(corners: Tensor, min_area: float = 0.0) -> Tensor:
    """The barycentric coordinates of the points of edges or triangles that are closest to the origin.

    Args:
        corners: (..., 2, 3) or (..., 3, 3).
        min_area: of triangles with an area below it only the edges count.

    Returns:
        (..., 2) or (..., 3) weights, not negative, of sum 1. Differentiable, also where they are on the border.
    """
    if corners.shape[-2] == 2:
        a, b = corners.unbind(-2)
        # The ends of an edge without length share it, whatever their order.
        part = torch.where((b - a).square().sum(-1) > 0, _part_of_edge(a, b), 0.5)
        return torch.stack([1 - part, part], -1)
    a, b, c = corners.unbind(-2)
    zero = torch.zeros_like(a[..., 0])
    ab, ac, bc = _part_of_edge(a, b), _part_of_edge(a, c), _part_of_edge(b, c)
    on_edges = [
        torch.stack([1 - ab, ab, zero], -1),
        torch.stack([1 - ac, zero, ac], -1),
        torch.stack([zero, 1 - bc, bc], -1),
    ]
    n = torch.linalg.cross(b - a, c - a)
    area = (n * n).sum(-1)
    to_b, to_c = (n * torch.linalg.cross(c - a, a)).sum(-1), (n * torch.linalg.cross(a, b - a)).sum(-1)
    inside = (to_b > 0) & (to_c > 0) & (to_b + to_c < area) & (0.5 * area.sqrt() >= min_area)
    safe = torch.where(inside, area, 1)
    to_b, to_c = torch.where(inside, to_b, 0) / safe, torch.where(inside, to_c, 0) / safe
    candidates = torch.stack([*on_edges, torch.stack([1 - to_b - to_c, to_b, to_c], -1)], -2)
    dist = (candidates @ corners).square().sum(-1)
    dist[..., 3] = torch.where(inside, dist[..., 3], torch.inf)
    best = dist.detach().argmin(-1)
    return candidates.gather(-2, best[..., None, None].expand(*best.shape, 1, 3)).squeeze(-2)


def _part_of_edge(a: Tensor, b: Tensor) -> Tensor:
    """How far from a to b, in parts of the edge, the point closest to the origin lies."""
    length = (b - a).square().sum(-1)
    return (-(a * (b - a)).sum(-1) / torch.where(length > 0, length, 1)).clamp(0, 1)


def batch_of(first: Tensor, count: int) -> Tensor:
    """(count,) the element of the batch that each row belongs to."""
    rows = torch.arange(count, device=first.device)
    return torch.searchsorted(first.contiguous(), rows, right=True) - 1


def _reference(
    points: Tensor,
    points_first: Tensor,
    simplices: Tensor,
    simplices_first: Tensor,
    from_points: bool,
    min_area: float,
) -> tuple[Tensor, Tensor]:
    corners = simplices[None] - points[:, None, None]  # (P, S, H, 3)
    weights = closest_weights(corners, min_area)
    dist = (weights[..., None, :] @ corners).square().sum((-2, -1))
    others = batch_of(points_first, len(points))[:, None] != batch_of(simplices_first, len(simplices))
    dist = dist.masked_fill(others, torch.inf)
    if not from_points:
        dist = dist.T
    if dist.shape[1] == 0:
        return dist.new_full(dist.shape[:1], torch.inf), points_first.new_full(dist.shape[:1], -1)
    best, idx = dist.min(1)
    return best, idx.masked_fill(best == torch.inf, -1)


def _outputs(
    points: Tensor,
    points_first: Tensor,
    simplices: Tensor,
    simplices_first: Tensor,
    from_points: bool,
    min_area: float,
) -> tuple[Tensor, Tensor]:
    queries = points.shape[0] if from_points else simplices.shape[0]
    return points.new_empty(queries), points.new_empty(queries, dtype=torch.int64)


_point_mesh = Op("point_mesh", _outputs, _reference, reads=[1], optional_grads=True)
