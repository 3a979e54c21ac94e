"""Exact nearest neighbours: the op under `knn_points` and `chamfer_distance`."""

from __future__ import annotations

import torch
from torch import Tensor

from recon_engine._op import Op, empty_output


def nearest(
    x: Tensor,
    y: Tensor,
    lengths_x: Tensor | None = None,
    lengths_y: Tensor | None = None,
    *,
    norm: int = 2,
    K: int = 1,
    index: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """For every point of `x`, the K nearest points of `y`, nearest first.

    Exact: every distance is the sum that the formula says, rounded as a plain loop would round it, and of points at
    equal distances those with lower indices come first.

    Args:
        x: (B, N, D) points to search from.
        y: (B, M, D) points to search.
        lengths_x: (B,) int64, how many points of each cloud of `x` there are; None: all N.
        lengths_y: (B,) int64, the same for `y`.
        norm: 2 for squared Euclidean distances, 1 for sums of absolute differences.
        K: how many to find; at least 1.
        index: what `NeighborIndex` has built over `y` and `lengths_y`, or None.

    Returns:
        dist: (B, N, K) distances.
        idx: (B, N, K) int64, indices in `y`. Not differentiable.
        Both are 0 in the rows beyond `lengths_x` and in the columns beyond `lengths_y`. A point with NaN is nobody's
        neighbour and has none: slots that no point can fill hold index 0 and distance NaN.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or a norm other than 1 and 2.

    Differentiable in `x` and `y`; where an absolute difference is 0 its gradient is 0. CPU and CUDA, float32 and
    float64. Repeatable bit by bit.

    Cost: on the CPU N log M time in up to 3 dimensions, N M otherwise and on CUDA.
    """
    l1 = _is_l1("nearest", norm)
    return _nearest(x, y, lengths_x, lengths_y, index, l1, K)


def nearest_both(
    x: Tensor,
    y: Tensor,
    lengths_x: Tensor | None = None,
    lengths_y: Tensor | None = None,
    *,
    norm: int = 2,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For every point of `x` the nearest point of `y`, and for every point of `y` the nearest point of `x`.

    The same as two calls of `nearest` with K = 1, but each cloud is put in order only once.

    Args:
        x: (B, N, D) points.
        y: (B, M, D) points.
        lengths_x: (B,) int64, how many points of each cloud of `x` there are; None: all N.
        lengths_y: (B,) int64, the same for `y`.
        norm: 2 for squared Euclidean distances, 1 for sums of absolute differences.

    Returns:
        dist_x: (B, N) distances from the points of `x`.
        idx_x: (B, N) int64, indices in `y`. Not differentiable.
        dist_y: (B, M) distances from the points of `y`.
        idx_y: (B, M) int64, indices in `x`. Not differentiable.

    Differentiable in `x` and `y`. CPU and CUDA, float32 and float64.
    """
    l1 = _is_l1("nearest_both", norm)
    return _nearest_both(x, y, lengths_x, lengths_y, l1)


def _is_l1(name: str, norm: int) -> bool:
    if norm not in (1, 2):
        raise ValueError(f"{name}: norm must be 1 or 2, got {norm!r}. Support for 1 or 2 norm.")
    return norm == 1


def _slots(size: int, lengths: Tensor | None, device: torch.device) -> Tensor:
    """(B or 1, size) bool, which slots of a row of `size` lie within the lengths."""
    slots = torch.arange(size, device=device)[None]
    return torch.ones_like(slots, dtype=torch.bool) if lengths is None else slots < lengths[:, None]


def _distances(
    x: Tensor, y: Tensor, idx: Tensor, lengths_x: Tensor | None, lengths_y: Tensor | None, l1: bool
) -> Tensor:
    """The distances of `nearest`, from its indices."""
    if y.shape[1] == 0:
        return x.new_zeros(idx.shape)
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    difference = x[:, :, None] - y[batch, idx]
    dist = difference.abs().sum(-1) if l1 else difference.square().sum(-1)
    rows = _slots(x.shape[1], lengths_x, x.device)[:, :, None]
    columns = _slots(idx.shape[2], _at_most(lengths_y, y.shape[1], y), y.device)[:, None, :]
    return torch.where(rows & columns, dist, 0)


def _at_most(lengths: Tensor | None, size: int, like: Tensor) -> Tensor:
    return torch.full((len(like),), size, device=like.device) if lengths is None else lengths.clamp(max=size)


def _reference(
    x: Tensor, y: Tensor, lengths_x: Tensor | None, lengths_y: Tensor | None, index: Tensor | None, l1: bool, K: int
) -> tuple[Tensor, Tensor]:
    difference = x[:, :, None] - y[:, None]
    dist = difference.abs().sum(-1) if l1 else difference.square().sum(-1)
    valid = _slots(y.shape[1], lengths_y, y.device)[:, None]
    comparable = torch.where(valid & ~dist.isnan(), dist, torch.inf)
    order = comparable.sort(dim=2, stable=True).indices[..., :K]
    order = torch.nn.functional.pad(order, (0, K - order.shape[2]))
    rows = _slots(x.shape[1], lengths_x, x.device)[:, :, None]
    columns = _slots(K, _at_most(lengths_y, y.shape[1], y), y.device)[:, None, :]
    idx = torch.where(rows & columns, order, 0)
    return _distances(x, y, idx, lengths_x, lengths_y, l1), idx


def _outputs(
    x: Tensor, y: Tensor, lengths_x: Tensor | None, lengths_y: Tensor | None, index: Tensor | None, l1: bool, K: int
) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], x.shape[1], K)
    return empty_output(x, shape), empty_output(x, shape, torch.int64)


def _both_reference(
    x: Tensor, y: Tensor, lengths_x: Tensor | None, lengths_y: Tensor | None, l1: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dist_x, idx_x = _reference(x, y, lengths_x, lengths_y, None, l1, 1)
    dist_y, idx_y = _reference(y, x, lengths_y, lengths_x, None, l1, 1)
    return dist_x[..., 0], idx_x[..., 0], dist_y[..., 0], idx_y[..., 0]


def _both_outputs(
    x: Tensor, y: Tensor, lengths_x: Tensor | None, lengths_y: Tensor | None, l1: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, columns = x.shape[:2], y.shape[:2]
    return (
        x.new_empty(rows),
        x.new_empty(rows, dtype=torch.int64),
        y.new_empty(columns),
        y.new_empty(columns, dtype=torch.int64),
    )


_nearest = Op("nearest", _outputs, _reference, reads=[1], optional_grads=True)
_nearest_both = Op("nearest_both", _both_outputs, _both_reference, optional_grads=True)
