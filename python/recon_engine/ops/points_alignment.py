"""The similarity that brings one set of points closest to another."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recon_engine.ops.utils import convert_pointclouds_to_tensor, wmean

AMBIGUOUS_ROT_SINGULAR_THR = 1e-15
"""Singular values of the cross-covariance up to this leave the rotation open."""


class SimilarityTransform(NamedTuple):
    """The map x -> s x R + T of row vectors."""

    R: Tensor
    """(N, d, d) orthonormal matrices."""

    T: Tensor
    """(N, d) translations."""

    s: Tensor
    """(N,) scales."""


def corresponding_points_alignment(
    X: Any,
    Y: Any,
    weights: Tensor | list[Tensor] | None = None,
    estimate_scale: bool = False,
    allow_reflection: bool = False,
    eps: float = 1e-9,
) -> SimilarityTransform:
    """The R, T and s that minimise sum_i w_i |s x_i R + T - y_i|^2 for each pair of point sets.

    With the weighted centroids removed and the cross-covariance sum_i w_i x_i^T y_i = U S V^T, R = U E V^T, where
    E = diag(1, ..., 1, det(U V^T)) excludes reflections, and s = tr(E S) / sum_i w_i |x_i|^2.

    Args:
        X: (N, P, d) points, or a `Pointclouds` of N clouds.
        Y: the points that correspond to those of X, of the same kind and numbers.
        weights: (N, P) non-negative, or N tensors of the sizes of the clouds; None for equal weights.
        estimate_scale: whether s is estimated; 1 otherwise.
        allow_reflection: whether R may have determinant -1.
        eps: least sum of weights and least variance of X that is divided by.

    Returns:
        `SimilarityTransform` of R (N, d, d), T (N, d) and s (N,). Differentiable where the singular values differ.

    Raises:
        ValueError: point sets or weights that do not match.

    Warns:
        UserWarning: the rotation is not unique.

    References:
        Umeyama, Least-squares estimation of transformation parameters between two point patterns, PAMI 1991.
    """
    x, num_points = convert_pointclouds_to_tensor(X)
    y, num_points_y = convert_pointclouds_to_tensor(Y)
    if x.shape != y.shape or bool((num_points != num_points_y).any()):
        raise ValueError(
            "Point sets X and Y have to have the same number of batches, points and dimensions: "
            f"got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    _, P, dim = x.shape
    w = (torch.arange(P, device=x.device) < num_points[:, None]).to(x.dtype)
    if weights is not None:
        w = w * _padded_weights(weights, num_points, x)
    x_mean, y_mean = wmean(x, w, eps=eps), wmean(y, w, eps=eps)
    # The mean weight does not matter for R and s, but keeps the numbers in the range of those of the points.
    w = (w / w.sum(dim=1, keepdim=True).clamp(min=eps))[..., None]
    x, y = x - x_mean, y - y_mean
    U, S, Vh = torch.linalg.svd((w * x).mT @ y)
    _warn_if_ambiguous(S, num_points, dim)
    signs = torch.ones_like(S)
    if not allow_reflection:
        signs = torch.cat((signs[:, :-1], torch.linalg.det(U @ Vh).sign()[:, None]), dim=1)
    R = (U * signs[:, None]) @ Vh
    s = torch.ones_like(S[:, 0])
    if estimate_scale:
        s = (signs * S).sum(dim=1) / (w * x.square()).sum(dim=(1, 2)).clamp(min=eps)
    T = (y_mean - s[:, None, None] * (x_mean @ R))[:, 0]
    return SimilarityTransform(R, T, s)


def _padded_weights(weights: Tensor | Sequence[Tensor], num_points: Tensor, points: Tensor) -> Tensor:
    """Weights (N, P) of the dtype of the points."""
    if not isinstance(weights, Tensor):
        counts = [len(w) for w in weights]
        if counts != num_points.tolist():
            raise ValueError(
                f"The number of weights should equal the number of points: got {counts} and {num_points.tolist()}"
            )
        padded = points.new_zeros(points.shape[:2])
        for row, w in zip(padded, weights, strict=True):
            row[: len(w)] = w
        return padded
    if weights.shape != points.shape[:2]:
        raise ValueError(
            "weights should have the same first two dimensions as X: "
            f"got {tuple(weights.shape)} and {tuple(points.shape)}"
        )
    return weights.to(points.dtype)


def _warn_if_ambiguous(singular_values: Tensor, num_points: Tensor, dim: int) -> None:
    if bool((num_points < dim + 1).any()):
        warnings.warn(
            f"The size of one of the point clouds is less than dim + 1 = {dim + 1}. "
            "corresponding_points_alignment cannot return a unique rotation.",
            stacklevel=3,
        )
    elif bool((singular_values <= AMBIGUOUS_ROT_SINGULAR_THR).any()):
        warnings.warn(
            "Excessively low rank of cross-correlation between aligned point clouds. "
            "corresponding_points_alignment cannot return a unique rotation.",
            stacklevel=3,
        )
