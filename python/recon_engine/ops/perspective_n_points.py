"""The pose of a camera from points in space and where it sees them (EPnP).

The points are written as weighted means of four control points. That a point is seen at (u, v) is then linear in the
coordinates of the control points in the camera's frame, which therefore lie in the null space of a 12 x 12 matrix.
Which vector of that null space they are follows from their distances from each other, which are known.
"""

from __future__ import annotations

import itertools
import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recon_engine._precision import full_precision
from recon_engine.ops.points_alignment import rotation_and_scale
from recon_engine.ops.utils import check_finite, wmean

_EPS = 1e-9
_PAIRS = tuple(itertools.combinations(range(4), 2))
# The products beta_i beta_k that are assumed to be the only ones: three guesses how many null vectors matter.
_PRODUCTS = (
    ((0, 0), (0, 1), (0, 2), (0, 3)),
    ((0, 0), (0, 1), (1, 1)),
    ((0, 0), (0, 1), (1, 1), (0, 2), (1, 2)),
)
_NEWTON_STEPS = 5


class EpnpSolution(NamedTuple):
    """What `efficient_pnp` found."""

    x_cam: Tensor
    """(N, P, 3) the points in the camera's frame as the linear system gives them, scaled as R and T are."""

    R: Tensor
    """(N, 3, 3) rotations."""

    T: Tensor
    """(N, 3) translations: points in the camera's frame are x R + T."""

    err_2d: Tensor
    """(N,) weighted mean distance between the given and the projected points."""

    err_3d: Tensor
    """(N,) weighted mean squared distance between x_cam and x R + T."""


@full_precision
def efficient_pnp(
    x: Tensor,
    y: Tensor,
    weights: Tensor | None = None,
    skip_quadratic_eq: bool = False,
) -> EpnpSolution:
    """The R and T for which the points x R + T are seen at y.

    Args:
        x: (N, P, 3) points in space, at least four; six or more that are not in one plane, or four or more that are,
            make the solution unique.
        y: (N, P, 2) where they are seen: x / z and y / z in the camera's frame.
        weights: (N, P) non-negative; None for equal weights.
        skip_quadratic_eq: take the null vector with the least eigenvalue, and do not look for better combinations. That
            is easier to differentiate, and good with many points and strong perspective.

    Returns:
        `EpnpSolution(x_cam, R, T, err_2d, err_3d)`: of all candidates the one with the least `err_2d`.

    Raises:
        ValueError: shapes that do not fit together, fewer than four points, or numbers that are not finite.

    Warns:
        UserWarning: points of the solution lie behind the camera.

    Differentiable in x, y and the weights where the null vectors are unique, with the control points held fixed: exact
    in y, and in x where the points are seen exactly. Computed in float64, and returned in the dtype of x.

    References:
        Lepetit, Moreno-Noguer, Fua: EPnP: An Accurate O(n) Solution to the PnP Problem, IJCV 2009.
    """
    _check(x, y, weights)
    dtype = x.dtype
    # Points in one plane are known from float32 coordinates to sqrt(eps).
    flatness = torch.finfo(dtype).eps ** 0.5
    x, y = x.double(), y.double()
    w = torch.ones_like(x[..., 0]) if weights is None else weights.double().expand(x.shape[:2])
    control, alphas, is_flat = _control_points(x, w, flatness)
    kernel = _null_vectors(y, alphas, w, is_flat)
    candidates = [kernel[..., 0]]
    if not skip_quadratic_eq:
        candidates += [(kernel @ beta[:, None, :, None])[..., 0] for beta in _combinations(kernel, control, is_flat)]
    coordinates, R, T = _poses(torch.stack(candidates), alphas, x, w)
    err_2d = _distance_seen(x @ R + T, y, w)
    best, batch = err_2d.detach().nan_to_num(nan=torch.inf).argmin(0), torch.arange(len(x), device=x.device)
    x_cam, R, T = alphas @ coordinates[best, batch], R[best, batch], T[best, batch]
    err_3d = wmean((x @ R + T - x_cam).square().sum(-1, keepdim=True), w)[:, 0, 0]
    _warn_if_behind(x_cam, w)
    solution = (x_cam, R, T[:, 0], err_2d[best, batch], err_3d)
    return EpnpSolution(*(part.to(dtype) for part in solution))


def _check(x: Tensor, y: Tensor, weights: Tensor | None) -> None:
    if x.ndim != 3 or x.shape[2] != 3 or x.shape[1] < 4:
        raise ValueError(f"efficient_pnp: x must have shape (N, P, 3) with P >= 4, got {tuple(x.shape)}")
    if y.shape != (*x.shape[:2], 2):
        raise ValueError(f"efficient_pnp: y must have shape {(*x.shape[:2], 2)}, got {tuple(y.shape)}")
    if weights is not None and weights.shape not in (x.shape[:2], (1, x.shape[1])):
        raise ValueError(f"efficient_pnp: weights must have shape {tuple(x.shape[:2])}, got {tuple(weights.shape)}")
    for name, values in (("x", x), ("y", y), ("weights", weights)):
        if values is not None:
            check_finite("efficient_pnp", name, values)


def _control_points(x: Tensor, w: Tensor, flatness: float) -> tuple[Tensor, Tensor, Tensor]:
    """The mean and points along the principal axes (N, 4, 3), weights of all points (N, P, 4), what is flat (N,)."""
    with torch.no_grad():
        mean = wmean(x, w)
        share = (w / w.sum(1, keepdim=True).clamp(min=_EPS))[..., None]
        variances, axes = torch.linalg.eigh((share * (x - mean)).mT @ (x - mean))
        lengths = variances.clamp(min=0).sqrt().flip(-1)
        is_flat = lengths[:, 2] <= flatness * lengths[:, 0]
        # Axes along which there is nothing need some length, which then has no effect.
        longest = torch.where(lengths[:, :1] > 0, lengths[:, :1], 1.0)
        lengths = torch.maximum(lengths, flatness * longest)
        offsets = axes.flip(-1).mT * lengths[..., None]
    along = (x - mean) @ (offsets / lengths.square()[..., None]).mT
    along = along * F.pad((~is_flat)[:, None, None], (2, 0), value=True)
    return torch.cat((mean, mean + offsets), 1), torch.cat((1 - along.sum(-1, keepdim=True), along), -1), is_flat


def _null_vectors(y: Tensor, alphas: Tensor, w: Tensor, is_flat: Tensor) -> Tensor:
    """(N, 4, 3, 4): in the last dimension four candidates for the control points in the camera's frame, best first.

    A point is seen at (u, v) when sum_j alpha_j (x_j - u z_j) = 0 and sum_j alpha_j (y_j - v z_j) = 0.
    """
    N, P, _ = y.shape
    u, v = y.unbind(-1)
    # sum_i w_i alpha_ij alpha_ik (1, u, v, u^2 + v^2) is all that the normal equations need of the points.
    pairs = (alphas[..., :, None] * alphas[..., None, :]).reshape(N, P, 16)
    sums = pairs.mT @ torch.stack((w, w * u, w * v, w * (u * u + v * v)), -1)
    one, su, sv, square = sums.reshape(N, 4, 4, 4).unbind(-1)
    zero = torch.zeros_like(one)
    blocks = torch.stack((one, zero, -su, zero, one, -sv, -su, -sv, square), -1).reshape(N, 4, 4, 3, 3)
    gram = blocks.transpose(2, 3).reshape(N, 12, 12)
    # The control point off the plane of flat points is free: it is kept out of the null space.
    size = gram.detach().diagonal(dim1=1, dim2=2).sum(-1)
    penalty = F.pad(torch.arange(1.0, 4.0, dtype=y.dtype, device=y.device), (9, 0))
    gram = gram + torch.diag_embed(penalty * (size * is_flat)[:, None])
    return torch.linalg.eigh(gram)[1][..., :4].reshape(N, 4, 3, 4)


def _combinations(kernel: Tensor, control: Tensor, is_flat: Tensor) -> list[Tensor]:
    """Coefficients (N, 4) of null vectors for which the control points have their distances, three candidates."""
    a, b = zip(*_PAIRS)
    edges = kernel[:, a, :, :] - kernel[:, b, :, :]
    squares = (control[:, a, :] - control[:, b, :]).square().sum(-1)
    # Distances from the control point off a plane say nothing; the others are brought to the range of 1.
    is_used = ~(is_flat[:, None] & torch.tensor([3 in pair for pair in _PAIRS], device=kernel.device))
    scale = is_used / (squares * is_used).amax(1, keepdim=True).clamp(min=torch.finfo(squares.dtype).tiny)
    products = edges.mT @ edges * scale[..., None, None]
    squares = squares * scale
    starts = torch.stack([_linear_guess(products, squares, chosen) for chosen in _PRODUCTS])
    return list(_refined(starts, products, squares))


def _linear_guess(products: Tensor, squares: Tensor, chosen: tuple[tuple[int, int], ...]) -> Tensor:
    """Coefficients (N, 4) from sum_ik beta_i beta_k products_ik = squares, when only the chosen products matter.

    Args:
        products: (N, 6, 4, 4) inner products of the differences of null vectors, for six pairs of control points.
        squares: (N, 6) squared distances.
        chosen: the products beta_i beta_k that are solved for.
    """
    columns = [products[:, :, i, k] * (1 if i == k else 2) for i, k in chosen]
    found = torch.linalg.pinv(torch.stack(columns, -1)) @ squares[..., None]
    found = found[..., 0] * torch.where(found[:, :1, 0] < 0, -1.0, 1.0)
    value = dict(zip(chosen, found.unbind(1), strict=True))
    first = value[0, 0].clamp(min=1e-24).sqrt()
    betas = [first]
    for k in range(1, 4):
        if (k, k) in value:
            length = value[k, k].clamp(min=1e-24).sqrt()
            betas.append(torch.where(value[0, k] < 0, -length, length))
        else:
            betas.append(value[0, k] / first if (0, k) in value else torch.zeros_like(first))
    return torch.stack(betas, 1)


def _refined(start: Tensor, products: Tensor, squares: Tensor) -> Tensor:
    """Coefficients (C, N, 4) after Gauss-Newton steps on the quadratic equations, or the start where it is better."""
    identity = torch.eye(4, dtype=start.dtype, device=start.device)
    beta = start
    for _ in range(_NEWTON_STEPS):
        half_slope, error = _misfit(beta, products, squares)
        normal = half_slope.mT @ half_slope
        damping = 1e-9 * normal.detach().diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=1e-30)
        step = torch.linalg.solve(normal + damping[..., None, None] * identity, half_slope.mT @ error[..., None])
        beta = beta - 0.5 * step[..., 0]
    before, after = (_misfit(betas.detach(), products, squares)[1].square().sum(-1) for betas in (start, beta))
    return torch.where((after < before)[..., None], beta, start)


def _misfit(beta: Tensor, products: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Half the derivative (C, N, 6, 4) of the equations, and how far they are from being met (C, N, 6)."""
    half_slope = (products @ beta[..., None, :, None])[..., 0]
    return half_slope, (half_slope * beta[..., None, :]).sum(-1) - squares


def _poses(coordinates: Tensor, alphas: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The similarities that bring points to the places which control points give them, brought to scale 1.

    Args:
        coordinates: (C, N, 4, 3) candidates for the control points, up to scale and sign.
        alphas: (N, P, 4) weights of the control points.
        x: (N, P, 3) points.
        w: (N, P) weights of the points.

    Returns:
        coordinates: (C, N, 4, 3), scaled and in front of the camera.
        R: (C, N, 3, 3).
        T: (C, N, 1, 3).
    """
    # Points are linear in the control points, and so are their means and covariances: no sum over points for each C.
    mean, mean_alpha = wmean(x, w), wmean(alphas, w)
    share = (w / w.sum(1, keepdim=True).clamp(min=_EPS))[..., None]
    offsets = share * (x - mean)
    variance = (offsets * (x - mean)).sum((1, 2))
    coordinates = coordinates * torch.where((mean_alpha @ coordinates)[..., 2:] < 0, -1.0, 1.0)
    R, trace, _ = rotation_and_scale((offsets.mT @ alphas) @ coordinates)
    scale = (trace / variance.clamp(min=torch.finfo(x.dtype).tiny)).clamp(min=torch.finfo(x.dtype).tiny)
    coordinates = coordinates / scale[..., None, None]
    return coordinates, R, mean_alpha @ coordinates - mean @ R


def _distance_seen(moved: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """The weighted mean distance (C, N) of projected points (C, N, P, 3) from those seen (N, P, 2)."""
    x, y_, z = moved.unbind(-1)
    z = z.clamp(min=_EPS)
    distance = torch.linalg.vector_norm(torch.stack((x / z - y[..., 0], y_ / z - y[..., 1]), -1), dim=-1)
    return (w * distance).sum(-1) / w.sum(-1).clamp(min=_EPS)


def _warn_if_behind(x_cam: Tensor, w: Tensor) -> None:
    behind = ((x_cam[..., 2] < -_EPS) & (w > 0)).float().mean()
    if bool(behind > 0):
        warnings.warn(f"EPnP: {100 * behind:.2f}% points have z<0.", stacklevel=3)
