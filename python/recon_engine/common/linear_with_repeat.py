"""A linear layer on features that vary along a ray beside features that do not."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class LinearWithRepeat(torch.nn.Linear):
    """A linear layer on the concatenation of two inputs, one of which is the same for all points of a ray.

    `layer((x, y))` equals `Linear(cat([x, y repeated K times], -1))`, but the product with `y` is computed once for
    each ray and not for each point, and the concatenation is never built.

    Args:
        in_features: n1 + n2, the features of both inputs.
        out_features: the features of the output.
        bias: whether to add a learned bias.
        device: of the parameters.
        dtype: of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)

    def forward(self, input: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        """Applies the layer.

        Args:
            input: x (..., K, n1), the features of each point, and y (..., n2), the features of each ray.

        Returns:
            (..., K, out_features).
        """
        points, rays = input
        n1 = points.shape[-1]
        if n1 + rays.shape[-1] != self.in_features:
            raise ValueError(
                f"LinearWithRepeat: the inputs must have {self.in_features} features together, "
                f"got {n1} and {rays.shape[-1]}"
            )
        per_ray = F.linear(rays, self.weight[:, n1:], self.bias)
        return F.linear(points, self.weight[:, :n1]) + per_ray[..., None, :]
