"""Small helpers on point clouds and batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recon_engine._precision import full_precision


def masked_gather(points: Tensor, idx: Tensor) -> Tensor:
    """The points that indices name, and 0 where an index is -1.

    Args:
        points: (N, P, D) points.
        idx: (N, K) or (N, P', K) int64 indices, -1 for padding.

    Returns:
        (N, K, D) or (N, P', K, D) tensor.

    Raises:
        ValueError: batch sizes that differ, or `idx` of another number of dimensions.

    Differentiable in `points`.
    """
    if len(idx) != len(points):
        raise ValueError(
            "points and idx must have the same batch dimension: "
            f"masked_gather got points {tuple(points.shape)}, idx {tuple(idx.shape)}"
        )
    if idx.ndim not in (2, 3):
        raise ValueError(
            f"idx format is not supported: masked_gather wants (N, K) or (N, P, K), got {tuple(idx.shape)}"
        )
    N, P, D = points.shape
    is_padding = idx == -1
    first = torch.arange(N, device=points.device).reshape(N, *[1] * (idx.ndim - 1)) * P
    rows = torch.where(is_padding, 0, idx + first)
    if P == 0:
        return points.new_zeros(*idx.shape, D)
    gathered = points.reshape(N * P, D).index_select(0, rows.reshape(-1)).reshape(*idx.shape, D)
    return gathered.masked_fill(is_padding[..., None], 0)


def wmean(
    x: Tensor,
    weight: Tensor | None = None,
    dim: int | tuple[int, ...] = -2,
    keepdim: bool = True,
    eps: float = 1e-9,
) -> Tensor:
    """The mean, or the weighted mean `sum(w x) / max(sum(w), eps)`, over some dimensions.

    Args:
        x: (..., D) tensor.
        weight: non-negative, broadcastable to `x.shape[:-1]`, or None.
        dim: what to average over.
        keepdim: keep the averaged dimensions with size 1.
        eps: least sum of weights.

    Returns:
        The mean.

    Raises:
        ValueError: weights that cannot be broadcast.

    Differentiable in `x` and `weight`.
    """
    if weight is None:
        return x.mean(dim=dim, keepdim=keepdim)
    pairs = zip(reversed(x.shape[:-1]), reversed(weight.shape))
    if any(a != b and a != 1 and b != 1 for a, b in pairs):
        raise ValueError(
            "wmean: weights are not compatible with the tensor: "
            f"weight {tuple(weight.shape)} cannot be broadcast to {tuple(x.shape[:-1])}"
        )
    w = weight[..., None]
    return (x * w).sum(dim=dim, keepdim=keepdim) / w.sum(dim=dim, keepdim=keepdim).clamp(min=eps)


def eyes(dim: int, N: int, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """N identity matrices.

    Args:
        dim: their size.
        N: how many.
        device: where they lie.
        dtype: their dtype.

    Returns:
        (N, dim, dim) tensor.
    """
    return torch.eye(dim, device=device, dtype=dtype).repeat(N, 1, 1)


def convert_pointclouds_to_tensor(pcl: Any) -> tuple[Tensor, Tensor]:
    """Padded points and the number of points of each cloud.

    Args:
        pcl: a `Pointclouds` of N clouds, or an (N, P, D) tensor, all of whose points count.

    Returns:
        points: (N, P, D) tensor.
        num_points: (N,) int64.

    Raises:
        ValueError: `pcl` is neither.
    """
    if is_pointclouds(pcl):
        return pcl.points_padded(), pcl.num_points_per_cloud()
    if torch.is_tensor(pcl):
        return pcl, torch.full((pcl.shape[0],), pcl.shape[1], dtype=torch.int64, device=pcl.device)
    raise ValueError(f"The inputs X, Y should be either Pointclouds objects or tensors, got {type(pcl).__name__}.")


def is_pointclouds(pcl: Any) -> bool:
    """Whether `pcl` can be used as a `Pointclouds`: it has `points_padded` and `num_points_per_cloud`."""
    return hasattr(pcl, "points_padded") and hasattr(pcl, "num_points_per_cloud")


@full_precision
def get_point_covariances(
    points_padded: Tensor, num_points_per_cloud: Tensor, neighborhood_size: int
) -> tuple[Tensor, Tensor]:
    """The covariance of the nearest neighbours of each point, itself included.

    Args:
        points_padded: (N, P, D) points.
        num_points_per_cloud: (N,) int64.
        neighborhood_size: K, how many neighbours count.

    Returns:
        covariances: (N, P, D, D).
        k_nearest_neighbors: (N, P, K, D).

    Differentiable in `points_padded`.
    """
    from recon_engine.ops.knn import knn_points

    neighbors = knn_points(
        points_padded,
        points_padded,
        lengths1=num_points_per_cloud,
        lengths2=num_points_per_cloud,
        K=neighborhood_size,
        return_nn=True,
    ).knn
    assert neighbors is not None
    centred = neighbors - neighbors.mean(2, keepdim=True)
    return centred.mT @ centred / neighborhood_size, neighbors


def check_finite(function: str, argument: str, values: Tensor) -> None:
    """Raise a ValueError that names the function, the argument and the first of its entries that is NaN or infinite."""
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        place = (~finite).nonzero()[0].tolist()
        raise ValueError(
            f"{function}: {argument} must be finite, got {values[tuple(place)].item()} at {place}: "
            "leave out such points before the call"
        )
