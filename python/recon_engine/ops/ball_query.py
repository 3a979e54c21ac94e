"""Neighbours within a radius, with PyTorch3D's interface."""

from __future__ import annotations

import torch
from torch import Tensor

from recon_engine._op import Op, empty_output
from recon_engine.ops._nearest import _slots
from recon_engine.ops.knn import _KNN
from recon_engine.ops.utils import masked_gather


def ball_query(
    p1: Tensor,
    p2: Tensor,
    lengths1: Tensor | None = None,
    lengths2: Tensor | None = None,
    K: int = 500,
    radius: float = 0.2,
    return_nn: bool = True,
    skip_points_outside_cube: bool = False,
) -> _KNN:
    """For every point of `p1`, the first K points of `p2` that are nearer than a radius.

    First by their indices in `p2`: the neighbours are in general neither the nearest ones nor sorted by distance (Qi,
    Yi, Su, Guibas, PointNet++: Deep hierarchical feature learning on point sets in a metric space, 2017).

    Args:
        p1: (N, P1, D) centres of the balls.
        p2: (N, P2, D) points to search.
        lengths1: (N,) int64, how many points of each cloud of `p1` there are; None: all P1.
        lengths2: (N,) int64, the same for `p2`.
        K: how many to find at most.
        radius: of the balls; points at exactly this distance lie outside.
        return_nn: also return the neighbours themselves.
        skip_points_outside_cube: accepted for PyTorch3D's sake; it never changes the result.

    Returns:
        A named tuple of
        dists: (N, P1, K) squared distances, 0 in slots that no point fills.
        idx: (N, P1, K) int64 indices in `p2`, ascending, -1 in slots that no point fills. Not differentiable.
        knn: (N, P1, K, D) the neighbours, 0 in slots that no point fills, or None unless `return_nn`.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, K < 1, a negative radius or NaN.

    Differentiable in `p1` and `p2`. CPU and CUDA, float32 and float64. A point with NaN lies in no ball.

    Cost: on the CPU about P1 (log P2 + hits) in up to 3 dimensions, at most P1 P2; less where balls are full early.

    Example:
        >>> line = torch.tensor([[[0.0], [3.0], [1.0]]])
        >>> ball_query(torch.zeros(1, 1, 1), line, K=2, radius=2.0, return_nn=False)
        _KNN(dists=tensor([[[0., 1.]]]), idx=tensor([[[0, 2]]]), knn=None)
    """
    if p1.shape[0] != p2.shape[0]:
        raise ValueError(
            "pts1 and pts2 must have the same batch dimension: "
            f"ball_query got p1 {tuple(p1.shape)} and p2 {tuple(p2.shape)}"
        )
    if p1.shape[2:] != p2.shape[2:]:
        raise ValueError(
            "pts1 and pts2 must have the same point dimension: "
            f"ball_query got p1 {tuple(p1.shape)} and p2 {tuple(p2.shape)}"
        )
    if not radius >= 0:
        raise ValueError(f"ball_query: radius must be >= 0, got {radius}")
    dists, idx = _ball_query(p1, p2, lengths1, lengths2, K, float(radius))
    return _KNN(dists, idx, masked_gather(p2, idx) if return_nn else None)


def _reference(
    x: Tensor, y: Tensor, lengths_x: Tensor | None, lengths_y: Tensor | None, K: int, radius: float
) -> tuple[Tensor, Tensor]:
    (B, N, _), M = x.shape, y.shape[1]
    if M == 0:
        return x.new_zeros(B, N, K) + 0 * x.sum(), torch.full((B, N, K), -1, device=x.device)
    inside = (x[:, :, None] - y[:, None]).square().sum(-1) < torch.tensor(radius, dtype=x.dtype, device=x.device) ** 2
    inside = inside & _slots(N, lengths_x, x.device)[:, :, None] & _slots(M, lengths_y, y.device)[:, None]
    candidates = torch.where(inside, torch.arange(M, device=x.device), M)
    idx = torch.nn.functional.pad(candidates.sort(-1).values[..., :K], (0, max(K - M, 0)), value=M)
    found = idx < M
    batch = torch.arange(B, device=x.device)[:, None, None]
    dist = (x[:, :, None] - y[batch, torch.where(found, idx, 0)]).square().sum(-1)
    return torch.where(found, dist, 0), torch.where(found, idx, -1)


def _outputs(
    x: Tensor, y: Tensor, lengths_x: Tensor | None, lengths_y: Tensor | None, K: int, radius: float
) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], x.shape[1], K)
    return empty_output(x, shape), empty_output(x, shape, torch.int64)


_ball_query = Op("ball_query", _outputs, _reference, reads=[1], optional_grads=True)
