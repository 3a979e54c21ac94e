"""Scalar functions with gradients that stay finite where the textbook ones do not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

DEFAULT_ACOS_BOUND: float = 1.0 - 1e-4


def acos_linear_extrapolation(
    x: Tensor,
    bounds: tuple[float, float] = (-DEFAULT_ACOS_BOUND, DEFAULT_ACOS_BOUND),
) -> Tensor:
    """`acos(x)` between the bounds and its tangent lines outside of them.

    Args:
        x: cosines of any shape; values beyond [-1, 1] are allowed.
        bounds: lower and upper bound, -1 < lower <= upper < 1.

    Returns:
        Angles in radians, of the shape of `x`.

    Raises:
        ValueError: when the bounds are out of order or not inside (-1, 1).

    Differentiable in `x` everywhere, with gradients no larger than at the bounds.
    """
    lower, upper = bounds
    if lower > upper:
        raise ValueError(f"lower bound has to be smaller or equal to upper bound, got {bounds}.")
    if lower <= -1.0 or upper >= 1.0:
        raise ValueError(f"Both lower bound and upper bound have to be within (-1, 1), got {bounds}.")
    # Not `clamp`: its gradient at the bounds is 1 or 0, depending on the version of torch.
    below, above = x < lower, x > upper
    inside = torch.where(below, lower, torch.where(above, upper, x))
    # d acos(c) / dc = -1 / sqrt(1 - c^2)
    tangent_below = torch.where(below, (x - lower) * _acos_slope(lower), 0.0)
    return torch.acos(inside) + torch.where(above, (x - upper) * _acos_slope(upper), tangent_below)


def _acos_slope(cosine: float) -> float:
    return -1.0 / math.sqrt(1.0 - cosine * cosine)
