"""K nearest neighbours with PyTorch3D's interface."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recon_engine._precision import full_precision
from recon_engine.ops._nearest import nearest


class _KNN(NamedTuple):
    dists: Tensor
    idx: Tensor
    knn: Tensor | None


@full_precision
def knn_points(
    p1: Tensor,
    p2: Tensor,
    lengths1: Tensor | None = None,
    lengths2: Tensor | None = None,
    norm: int = 2,
    K: int = 1,
    version: int = -1,
    return_nn: bool = False,
    return_sorted: bool = True,
) -> _KNN:
    """For every point of `p1`, the K nearest points of `p2`.

    Args:
        p1: (N, P1, D) points to search from.
        p2: (N, P2, D) points to search.
        lengths1: (N,) int64, how many points of each cloud of `p1` there are; None: all P1.
        lengths2: (N,) int64, the same for `p2`.
        norm: 2 for squared Euclidean distances, 1 for sums of absolute differences.
        K: how many to find.
        version: accepted for PyTorch3D's sake; the fastest method is chosen by size.
        return_nn: also return the neighbours themselves.
        return_sorted: neighbours always come sorted, the nearest first, the lower index first at equal distances.

    Returns:
        A named tuple of
        dists: (N, P1, K), squared distances with norm 2.
        idx: (N, P1, K) int64 indices in `p2`. Not differentiable.
        knn: (N, P1, K, D) the neighbours, or None unless `return_nn`.
        All are 0 in rows beyond `lengths1` and in columns beyond `lengths2` (rows of `knn` hold the first point).

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or a norm other than 1 and 2.

    Differentiable in `p1` and `p2`. CPU and CUDA, float32 and float64.

    Example:
        >>> corners = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [2.0, 1.0]]])
        >>> knn_points(torch.ones(1, 1, 2), corners, K=2)
        _KNN(dists=tensor([[[1., 2.]]]), idx=tensor([[[2, 0]]]), knn=None)
    """
    if p1.shape[0] != p2.shape[0]:
        raise ValueError(
            "pts1 and pts2 must have the same batch dimension: "
            f"knn_points got p1 {tuple(p1.shape)} and p2 {tuple(p2.shape)}"
        )
    if p1.shape[2] != p2.shape[2]:
        raise ValueError(
            "pts1 and pts2 must have the same point dimension: "
            f"knn_points got p1 {tuple(p1.shape)} and p2 {tuple(p2.shape)}"
        )
    dists, idx = nearest(p1, p2, lengths1, lengths2, norm=norm, K=K)
    return _KNN(dists, idx, knn_gather(p2, idx, lengths2) if return_nn else None)


def knn_gather(x: Tensor, idx: Tensor, lengths: Tensor | None = None) -> Tensor:
    """The rows of `x` that the indices of `knn_points` name.

    Args:
        x: (N, M, U) features of the points that were searched.
        idx: (N, L, K) int64 indices.
        lengths: (N,) int64, how many points of each cloud there are; None: all M.

    Returns:
        (N, L, K, U) tensor, `x[n, idx[n, l, k]]`, and 0 where `k >= lengths[n]`.

    Raises:
        ValueError: when the batch sizes differ.

    Differentiable in `x`. Any device and dtype.
    """
    N, M, U = x.shape
    if idx.shape[0] != N:
        raise ValueError(
            f"x and idx must have same batch dimension: knn_gather got x {tuple(x.shape)}, idx {tuple(idx.shape)}"
        )
    _, L, K = idx.shape
    if M == 0:
        return x.new_zeros(N, L, K, U)
    # Rows of the flattened clouds: one index_select instead of a gather over an expanded index of L K U entries.
    first = torch.arange(N, device=x.device)[:, None, None] * M
    rows = x.reshape(N * M, U).index_select(0, (idx + first).reshape(-1)).reshape(N, L, K, U)
    if lengths is None:
        # Without lengths only the columns beyond M are padding, which needs no look at the data.
        return rows if K <= M else torch.cat([rows[:, :, :M], rows.new_zeros(N, L, K - M, U)], dim=2)
    is_padding = torch.arange(K, device=x.device) >= lengths[:, None]
    return rows.masked_fill(is_padding[:, None, :, None], 0)
