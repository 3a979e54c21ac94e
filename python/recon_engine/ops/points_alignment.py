"""The similarity that brings one set of points closest to another."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from recon_engine._precision import full_precision
from recon_engine.ops._nearest import nearest
from recon_engine.ops.utils import check_finite, convert_pointclouds_to_tensor, eyes, wmean

if TYPE_CHECKING:
    from recon_engine.structures import Pointclouds

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


class ICPSolution(NamedTuple):
    """What `iterative_closest_point` found."""

    converged: bool
    """Whether the error of every cloud stopped falling before the iterations ended."""

    rmse: Tensor | None
    """(N,) root of the mean squared distance of the moved points to those they were aligned with; None without any
    iteration."""

    Xt: Any
    """The moved points, in the form in which they were given."""

    RTs: SimilarityTransform
    """The map from X to Xt."""

    t_history: list[SimilarityTransform]
    """The map after each iteration."""


@full_precision
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
    R, s, singular_values = rotation_and_scale((w * x).mT @ y, allow_reflection)
    _warn_if_ambiguous(singular_values, num_points, dim)
    s = s / (w * x.square()).sum(dim=(1, 2)).clamp(min=eps) if estimate_scale else torch.ones_like(s)
    T = (y_mean - s[:, None, None] * (x_mean @ R))[:, 0]
    return SimilarityTransform(R, T, s)


def rotation_and_scale(covariance: Tensor, allow_reflection: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """The R that maximises tr(R^T C), and that maximum.

    Args:
        covariance: C (..., d, d), of points and those that they are moved to.
        allow_reflection: whether R may have determinant -1.

    Returns:
        R: (..., d, d).
        trace: (...) the maximum; over the variance of the points it is their scale.
        singular_values: (..., d) of C.
    """
    U, S, Vh = torch.linalg.svd(covariance)
    signs = torch.ones_like(S)
    if not allow_reflection:
        signs = torch.cat((signs[..., :-1], torch.linalg.det(U @ Vh).sign()[..., None]), dim=-1)
    return (U * signs[..., None, :]) @ Vh, (signs * S).sum(dim=-1), S


@full_precision
def iterative_closest_point(
    X: Tensor | Pointclouds,
    Y: Tensor | Pointclouds,
    init_transform: SimilarityTransform | None = None,
    max_iterations: int = 100,
    relative_rmse_thr: float = 1e-6,
    estimate_scale: bool = False,
    allow_reflection: bool = False,
    verbose: bool = False,
) -> ICPSolution:
    """A similarity that lays point sets X over point sets Y whose points do not correspond.

    In turn, each moved point of X is paired with its nearest point of Y, and the best similarity for those pairs is
    computed. The error never rises, and the result is a local optimum that depends on where X starts.

    Args:
        X: (N, P, d) points, or `Pointclouds` of N clouds.
        Y: (N, Q, d) points, or `Pointclouds` of N clouds.
        init_transform: R (N, d, d), T (N, d) and s (N,) to start from; None for the identity.
        max_iterations: the most iterations.
        relative_rmse_thr: stop when the error of every cloud fell by no more than this fraction in one iteration.
        estimate_scale: whether s is estimated; 1 otherwise.
        allow_reflection: whether R may have determinant -1.
        verbose: print the error in each iteration.

    Returns:
        `ICPSolution(converged, rmse, Xt, RTs, t_history)`. With `Pointclouds`, Xt is one.

    Raises:
        ValueError: point sets that do not match or are not finite, an empty cloud of Y, or an initial transformation of
            another shape.

    Warns:
        UserWarning: a rotation is not unique.

    Differentiable in X and Y with the pairs of the last iteration held fixed. Each iteration waits for the device.

    References:
        Besl, McKay: A method for registration of 3-D shapes, PAMI 1992.
    """
    x, num_x = convert_pointclouds_to_tensor(X)
    y, num_y = convert_pointclouds_to_tensor(Y)
    if len(x) != len(y) or x.shape[2] != y.shape[2]:
        raise ValueError(
            "Point sets X and Y have to have the same number of batches and data dimensions: "
            f"got {tuple(x.shape)} and {tuple(y.shape)}."
        )
    for name, values in (("X", x), ("Y", y)):
        check_finite("iterative_closest_point", name, values)
    if bool(((num_y == 0) & (num_x > 0)).any()):
        raise ValueError("iterative_closest_point: a cloud of Y is empty, so that points of X have no nearest point.")
    is_point = (torch.arange(x.shape[1], device=x.device) < num_x[:, None]).to(x.dtype)
    transform = _initial_transform(init_transform, x)
    moved = _transformed(x, transform) if init_transform is not None else x
    closest = _closest_points(x, num_x, y, num_y)
    history: list[SimilarityTransform] = []
    rmse: Tensor | None = None
    converged = False
    for iteration in range(max_iterations):
        pairs = closest(moved)
        transform = corresponding_points_alignment(
            x, pairs, weights=is_point, estimate_scale=estimate_scale, allow_reflection=allow_reflection
        )
        history.append(transform)
        moved = _transformed(x, transform)
        previous, rmse = rmse, wmean((moved - pairs).square().sum(2, keepdim=True), is_point).sqrt()[:, 0, 0]
        fall = torch.ones_like(rmse)
        if previous is not None:
            # Sets that fitted exactly before cannot come closer.
            fall = (previous - rmse) / previous.clamp(min=torch.finfo(rmse.dtype).tiny)
        if verbose:
            errors = f"rmse mean {rmse.mean():.3e}, max {rmse.max():.3e}; fell by {fall.mean():.3e}"
            print(f"ICP iteration {iteration}: {errors}")
        if bool((fall <= relative_rmse_thr).all()):
            converged = True
            break
    if verbose:
        print(f"ICP has {'' if converged else 'not '}converged in {len(history)} iterations.")
    Xt = moved if isinstance(X, Tensor) else X.update_padded(moved * is_point[..., None])
    return ICPSolution(converged, rmse, Xt, transform, history)


def _closest_points(x: Tensor, num_x: Tensor, y: Tensor, num_y: Tensor) -> Callable[[Tensor], Tensor]:
    """A function from the moved points of x to the nearest points of y, differentiable in y."""
    rows = y.reshape(-1, y.shape[2])
    first = torch.arange(len(y), device=y.device)[:, None] * y.shape[1]

    def closest(moved: Tensor) -> Tensor:
        idx = nearest(moved.detach(), y.detach(), num_x, num_y)[1]
        return rows[(idx[..., 0] + first).reshape(-1)].reshape(moved.shape)

    return closest


def _initial_transform(init_transform: SimilarityTransform | None, x: Tensor) -> SimilarityTransform:
    N, _, dim = x.shape
    if init_transform is None:
        return SimilarityTransform(eyes(dim, N, device=x.device, dtype=x.dtype), x.new_zeros(N, dim), x.new_ones(N))
    shapes = ((N, dim, dim), (N, dim), (N,))
    is_transform = isinstance(init_transform, tuple) and len(init_transform) == 3
    got = [tuple(getattr(part, "shape", ())) for part in init_transform] if is_transform else type(init_transform)
    if got != list(shapes):
        raise ValueError(
            "The initial transformation init_transform has to be a named tuple SimilarityTransform with elements "
            f"(R, T, s) of shapes {shapes}, got {got}."
        )
    return SimilarityTransform(*init_transform)


def _transformed(x: Tensor, transform: SimilarityTransform) -> Tensor:
    R, T, s = transform
    return s[:, None, None] * (x @ R) + T[:, None]


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
