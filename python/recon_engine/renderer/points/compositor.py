"""From the points of every pixel to images, with a background."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from ..compositing import alpha_composite, norm_weighted_sum

Background = float | Sequence[float] | Tensor


class _Compositor(nn.Module):
    def __init__(self, background_color: Background | None = None) -> None:
        """Store the background.

        Args:
            background_color: colour of pixels without points: a number, (C,) values, or (C - 1,) to which an alpha of 1
                is added; None leaves them 0.
        """
        super().__init__()
        self.background_color = background_color

    def _with_background(self, pix_idxs: Tensor, images: Tensor, kwargs: dict[str, Any]) -> Tensor:
        color = kwargs.get("background_color", self.background_color)
        return images if color is None else _add_background_color_to_images(pix_idxs, images, color)


class AlphaCompositor(_Compositor):
    """Blends the points of a pixel front to back, see `alpha_composite`."""

    def forward(self, fragments: Tensor, alphas: Tensor, ptclds: Tensor, **kwargs: Any) -> Tensor:
        """Composite.

        Args:
            fragments: (N, K, H, W) integers, packed indices of points, the nearest first; negative where there is none.
            alphas: (N, K, H, W) opacities.
            ptclds: (C, P) features of all points.
            kwargs: `background_color` instead of the stored one.

        Returns:
            (N, C, H, W). Differentiable in `alphas`, `ptclds` and the background.
        """
        return self._with_background(fragments, alpha_composite(fragments, alphas, ptclds), kwargs)


class NormWeightedCompositor(_Compositor):
    """Takes the weighted mean of the points of a pixel, see `norm_weighted_sum`."""

    def forward(self, fragments: Tensor, alphas: Tensor, ptclds: Tensor, **kwargs: Any) -> Tensor:
        """Composite.

        Args:
            fragments: (N, K, H, W) integers, packed indices of points; negative where there is none.
            alphas: (N, K, H, W) weights.
            ptclds: (C, P) features of all points.
            kwargs: `background_color` instead of the stored one.

        Returns:
            (N, C, H, W). Differentiable in `alphas`, `ptclds` and the background.
        """
        return self._with_background(fragments, norm_weighted_sum(fragments, alphas, ptclds), kwargs)


def _add_background_color_to_images(pix_idxs: Tensor, images: Tensor, background_color: Background) -> Tensor:
    """Give pixels without points a colour.

    Args:
        pix_idxs: (N, K, H, W), negative where there is no point; a pixel without a first point has none.
        images: (N, C, H, W).
        background_color: a number, (C,) values or (C - 1,) and an alpha of 1.

    Raises:
        ValueError: for a colour of another shape.
    """
    channels = images.shape[1]
    if isinstance(background_color, (list, tuple)) and all(isinstance(v, Real) for v in background_color):
        # Numbers are made on the device: to copy them there would wait for it.
        numbers = [images.new_full((1,), float(v)) for v in background_color]
        color = torch.cat(numbers) if numbers else images.new_zeros(0)
    elif isinstance(background_color, Real):
        color = images.new_full((), float(background_color))
    else:
        color = torch.as_tensor(background_color, dtype=images.dtype, device=images.device)
    if color.ndim == 0:
        color = color.expand(channels)
    if color.ndim > 1:
        raise ValueError(f"Wrong shape of background_color: expected a number or (C,), got {tuple(color.shape)}")
    if color.shape[0] + 1 == channels:
        color = torch.cat((color, color.new_ones(1)))
    if color.shape[0] != channels:
        raise ValueError(f"Background color has {color.shape[0]} channels, the features have {channels}")
    return torch.where(pix_idxs[:, :1] < 0, color[:, None, None], images)
