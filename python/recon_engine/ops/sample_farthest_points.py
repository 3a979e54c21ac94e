"""Farthest point sampling with PyTorch3D's interface."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recon_engine._op import Op, reference
from recon_engine.ops.utils import masked_gather


def sample_farthest_points(
    points: Tensor,
    lengths: Tensor | None = None,
    K: int | Sequence[int] | Tensor = 50,
    random_start_point: bool = False,
) -> tuple[Tensor, Tensor]:
    """K points of each cloud, each of them the farthest from those before it.

    The first is point 0, or a random one; each further one has the largest distance to the nearest sample so far, and
    of several the lowest index (Eldar, Lindenbaum, Porat, Zeevi, The farthest point strategy for progressive image
    sampling, 1997). Exact for any number of points.

    Args:
        points: (N, P, D) points.
        lengths: (N,) integers, how many points of each cloud there are; None: all P.
        K: how many samples to take; one number for each cloud as a list or a tensor (N,).
        random_start_point: start from a random point of each cloud, drawn by torch's generator of the points' device.

    Returns:
        selected_points: (N, max(K), D) the samples, 0 where a cloud has fewer than max(K).
        selected_indices: (N, max(K)) int64, their indices, -1 where a cloud has fewer. Not differentiable.
        A cloud has min(K, lengths) samples.

    Raises:
        ValueError: shapes that do not fit together, a length beyond P, a negative K, or, on the CPU, points that are
            not finite.

    Differentiable in `points`. CPU and CUDA, float32 and float64. On CUDA points that are not finite are never sampled,
    unless the first one is. Synchronises on CUDA where K is a tensor or lengths are given, to read them.

    Cost: on the CPU about P log K for large clouds in up to 3 dimensions; P K otherwise and on CUDA.

    Example:
        >>> sample_farthest_points(torch.tensor([[[0.0], [3.0], [4.0], [1.0]]]), K=3)[1]
        tensor([[0, 2, 3]])
    """
    name = "sample_farthest_points"
    if points.ndim != 3:
        raise ValueError(f"{name}: points must have shape (N, P, D), got {tuple(points.shape)}")
    N, P, _ = points.shape
    if lengths is not None:
        if lengths.shape != (N,):
            raise ValueError(
                "points and lengths must have same batch dimension: "
                f"{name} expected lengths of shape ({N},), got {tuple(lengths.shape)}"
            )
        lengths = lengths.to(points.device, torch.int64)
        if N and lengths.max() > P:
            raise ValueError(f"A value in lengths was too large: at most {P} points, {name} got {int(lengths.max())}")
    wanted, size = _samples_wanted(K, points)
    start = _first_samples(points, lengths, random_start_point)
    idx = _sample(points.detach(), lengths, wanted, start, size)
    return masked_gather(points, idx) if P else points.new_zeros(N, size, points.shape[2]), idx


def sample_farthest_points_naive(
    points: Tensor,
    lengths: Tensor | None = None,
    K: int | Sequence[int] | Tensor = 50,
    random_start_point: bool = False,
) -> tuple[Tensor, Tensor]:
    """The same as `sample_farthest_points`, computed by a plain loop in torch: slow, and easy to read and to check."""
    with reference():
        return sample_farthest_points(points, lengths, K, random_start_point)


def _samples_wanted(K: int | Sequence[int] | Tensor, points: Tensor) -> tuple[Tensor, int]:
    """The numbers of samples (N,), and the largest of them."""
    N = len(points)
    if isinstance(K, int):
        wanted, size = torch.full((N,), K, dtype=torch.int64, device=points.device), K
    else:
        numbers = torch.as_tensor(K)
        if numbers.shape != (N,):
            raise ValueError(
                "K and points must have the same batch dimension: "
                f"sample_farthest_points expected {N} numbers, got shape {tuple(numbers.shape)}"
            )
        size = int(numbers.max()) if N else 0
        wanted = numbers.to(points.device, torch.int64)
        if N and int(numbers.min()) < 0:
            size = int(numbers.min())
    if size < 0:
        raise ValueError(f"sample_farthest_points: K must not be negative, got {size}")
    return wanted, size


def _first_samples(points: Tensor, lengths: Tensor | None, random: bool) -> Tensor:
    N, P, _ = points.shape
    if not random or P == 0:
        return torch.zeros(N, dtype=torch.int64, device=points.device)
    if lengths is None:
        return torch.randint(P, (N,), device=points.device)
    return (lengths * torch.rand(N, device=points.device)).long()


def _reference(points: Tensor, lengths: Tensor | None, K: Tensor, start: Tensor, size: int) -> Tensor:
    N, P, _ = points.shape
    idx = torch.full((N, size), -1, dtype=torch.int64, device=points.device)
    counts = torch.full_like(K, P) if lengths is None else lengths.clamp(0, P)
    for n, (count, wanted) in enumerate(zip(counts.tolist(), K.tolist())):
        cloud = points[n, :count]
        nearest = torch.full((count,), torch.inf, dtype=points.dtype, device=points.device)
        for k in range(min(count, wanted)):
            farthest = nearest.argmax() if k else start[n].clamp(max=count - 1)
            idx[n, k] = farthest
            nearest = torch.minimum(nearest, (cloud - cloud[farthest]).square().sum(-1))
    return idx


def _outputs(points: Tensor, lengths: Tensor | None, K: Tensor, start: Tensor, size: int) -> Tensor:
    return points.new_empty((points.shape[0], size), dtype=torch.int64)


_sample = Op("sample_farthest_points", _outputs, _reference)
