"""The Chamfer distance between point clouds."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recon_engine._compile import can_look
from recon_engine._precision import widened
from recon_engine.ops._nearest import nearest, nearest_both
from recon_engine.ops.knn import knn_gather
from recon_engine.ops.utils import is_pointclouds

Loss = Tensor | tuple[Tensor, Tensor]


def chamfer_distance(
    x: Any,
    y: Any,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_normals: Tensor | None = None,
    y_normals: Tensor | None = None,
    weights: Tensor | None = None,
    batch_reduction: str | None = "mean",
    point_reduction: str | None = "mean",
    norm: int = 2,
    single_directional: bool = False,
    abs_cosine: bool = True,
) -> tuple[Loss, Loss | None]:
    """How far the points of each of two clouds are from the other cloud.

    Args:
        x: (N, P1, D) points, or `Pointclouds`, which bring their own lengths and normals.
        y: (N, P2, D) points, or `Pointclouds`.
        x_lengths: (N,) int64, how many points of each cloud of `x` there are; None: all P1.
        y_lengths: (N,) int64, the same for `y`.
        x_normals: (N, P1, 3) normals of the points of `x`, or None.
        y_normals: (N, P2, 3) normals of the points of `y`, or None.
        weights: (N,) non-negative weights of the clouds.
        batch_reduction: "mean" or "sum" over the batch, or None.
        point_reduction: "mean", "sum" or "max" over the points (the maximum gives the Hausdorff distance), or None.
        norm: 2 for squared Euclidean distances, 1 for sums of absolute differences.
        single_directional: only from `x` to `y`.
        abs_cosine: do not tell a normal from its opposite.

    Returns:
        loss: a number; (N,) without batch reduction; without point reduction the distances (N, P1) from `x`, or the
            pair of them and (N, P2) from `y`.
        loss_normals: 1 - cosine of the angle between the normals of each point and of its nearest one, reduced in the
            same way; None without normals.

    Raises:
        ValueError: shapes, lengths, weights or reductions that do not fit together.

    Differentiable in the points and normals. CPU and CUDA, float32 and float64. On the CPU each cloud is put in order
    once for both directions. Synchronises on CUDA where lengths or weights are given, to check them.
    """
    _check_reductions(batch_reduction, point_reduction)
    if norm not in (1, 2):
        raise ValueError(f"Support for 1 or 2 norm: chamfer_distance got norm={norm!r}.")
    if point_reduction == "max" and (x_normals is not None or y_normals is not None):
        raise ValueError('Normals must be None if point_reduction is "max"')
    x, x_lengths, x_normals = _handle_pointcloud_input(x, x_lengths, x_normals)
    y, y_lengths, y_normals = _handle_pointcloud_input(y, y_lengths, y_normals)
    if y.shape[0] != x.shape[0] or y.shape[2] != x.shape[2]:
        raise ValueError(
            f"y does not have the correct shape: expected ({x.shape[0]}, P2, {x.shape[2]}), got {tuple(y.shape)}"
        )
    _check_weights(weights, x)

    if single_directional:
        dist, idx = nearest(x, y, x_lengths, y_lengths, norm=norm)
        directions = [(dist[..., 0], idx, x_lengths, x_normals, y_normals, y_lengths)]
    else:
        dist_x, idx_x, dist_y, idx_y = nearest_both(x, y, x_lengths, y_lengths, norm=norm)
        directions = [
            (dist_x, idx_x[..., None], x_lengths, x_normals, y_normals, y_lengths),
            (dist_y, idx_y[..., None], y_lengths, y_normals, x_normals, x_lengths),
        ]
    distances = [(dist, lengths) for dist, _, lengths, *_ in directions]
    angles = [
        (_angles(normals, knn_gather(other_normals, idx, other_lengths)[..., 0, :], lengths, abs_cosine), lengths)
        for _, idx, lengths, normals, other_normals, other_lengths in directions
        if normals is not None and other_normals is not None and point_reduction != "max"
    ]
    loss = _reduce(distances, weights, point_reduction, batch_reduction)
    return loss, _reduce(angles, weights, point_reduction, batch_reduction) if angles else None


def _check_reductions(batch_reduction: str | None, point_reduction: str | None) -> None:
    if batch_reduction not in ("mean", "sum", None):
        raise ValueError(f'batch_reduction must be one of ["mean", "sum"] or None, got {batch_reduction!r}')
    if point_reduction not in ("mean", "sum", "max", None):
        raise ValueError(f'point_reduction must be one of ["mean", "sum", "max"] or None, got {point_reduction!r}')
    if point_reduction is None and batch_reduction is not None:
        raise ValueError("Batch reduction must be None if point_reduction is None")


def _check_weights(weights: Tensor | None, x: Tensor) -> None:
    if weights is None:
        return
    if weights.shape != x.shape[:1]:
        raise ValueError(f"weights must be of shape (N,): expected ({x.shape[0]},), got {tuple(weights.shape)}")
    if can_look(weights) and not (weights >= 0).all():
        raise ValueError("weights cannot be negative.")


def _handle_pointcloud_input(
    points: Any, lengths: Tensor | None, normals: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Padded points, their lengths (None: all) and their normals, from a tensor or `Pointclouds`."""
    if is_pointclouds(points):
        padded, normals = points.points_padded(), points.normals_padded()
        return widened(padded), points.num_points_per_cloud(), None if normals is None else widened(normals)
    if not torch.is_tensor(points):
        raise ValueError(
            "The input pointclouds should be either Pointclouds objects or torch.Tensor of shape "
            f"(minibatch, num_points, 3), got {type(points).__name__}."
        )
    if points.ndim != 3:
        raise ValueError(f"Expected points to be of shape (N, P, D), got {tuple(points.shape)}")
    if lengths is not None:
        if lengths.shape != points.shape[:1]:
            raise ValueError(f"Expected lengths to be of shape (N,) = ({len(points)},), got {tuple(lengths.shape)}")
        if can_look(lengths) and len(lengths) and lengths.max() > points.shape[1]:
            raise ValueError(f"A length value was too long: at most {points.shape[1]} points, got {int(lengths.max())}")
    if normals is not None and (normals.ndim != 3 or normals.shape[:2] != points.shape[:2]):
        raise ValueError(
            f"Expected normals to be of shape (N, P, 3) = (*{tuple(points.shape[:2])}, 3), got {tuple(normals.shape)}"
        )
    return widened(points), lengths, None if normals is None else widened(normals)


def _angles(normals: Tensor, nearest_normals: Tensor, lengths: Tensor | None, abs_cosine: bool) -> Tensor:
    """(N, P) 1 - cosine between normals, 0 where there is no point."""
    cosine = F.cosine_similarity(normals, nearest_normals, dim=2, eps=1e-6)
    values = 1 - (cosine.abs() if abs_cosine else cosine)
    if lengths is None:
        return values
    return values.masked_fill(torch.arange(values.shape[1], device=values.device) >= lengths[:, None], 0)


def _reduce(
    parts: list[tuple[Tensor, Tensor | None]],
    weights: Tensor | None,
    point_reduction: str | None,
    batch_reduction: str | None,
) -> Loss:
    """One loss from the values (N, P) of each direction, which are 0 beyond their lengths (N,)."""
    every_point_counts_the_same = weights is None and all(lengths is None for _, lengths in parts)
    if point_reduction == batch_reduction == "mean" and every_point_counts_the_same:
        means = [values.mean() if values.numel() else values.sum() for values, _ in parts]
        return means[0] if len(means) == 1 else means[0] + means[1]
    reduced = [_reduce_points(values, lengths, weights, point_reduction) for values, lengths in parts]
    if point_reduction is None:
        return reduced[0] if len(reduced) == 1 else (reduced[0], reduced[1])
    total = reduced[0]
    if len(reduced) == 2:
        total = torch.maximum(*reduced) if point_reduction == "max" else reduced[0] + reduced[1]
    if batch_reduction is None:
        return total
    N, total = len(total), total.sum()
    if batch_reduction == "sum":
        return total
    if weights is None:
        return total / max(N, 1)
    weight = weights.sum()
    return total / torch.where(weight > 0, weight, 1)


def _reduce_points(values: Tensor, lengths: Tensor | None, weights: Tensor | None, reduction: str | None) -> Tensor:
    if weights is not None:
        values = values * weights[:, None]
    if reduction == "max":
        return values.max(1).values
    if reduction is None:
        return values
    total = values.sum(1)
    if reduction == "sum":
        return total
    return total / (max(values.shape[1], 1) if lengths is None else lengths.clamp(min=1))
