"""Conversions between NDC (+X left, +Y up, short side in [-1, 1]) and screen space (pixels)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recon_engine.transforms import Transform3d

ImageSize = Sequence[Any] | Tensor


def get_ndc_to_screen_transform(
    cameras: Any, with_xyflip: bool = False, image_size: ImageSize | None = None
) -> Transform3d:
    """Transform from NDC to pixels.

    x_screen = s x_ndc - W/2 and y_screen = s y_ndc - H/2 with s = min(H, W)/2, both negated when `with_xyflip`: then
    +X points right and +Y down from the top left corner. Depth is unchanged.

    Args:
        cameras: gives batch size, device and dtype.
        with_xyflip: whether to flip x and y.
        image_size: (height, width), shape (2,), (1, 2) or (N, 2).

    Raises:
        ValueError: no or a malformed image_size.
    """
    scale, half_w, half_h = _half_sizes(cameras, image_size, "NDC to screen")
    sign = -1.0 if with_xyflip else 1.0
    return scale_and_shift(sign * scale, -sign * half_w, -sign * half_h)


def get_screen_to_ndc_transform(
    cameras: Any, with_xyflip: bool = False, image_size: ImageSize | None = None
) -> Transform3d:
    """Transform from pixels to NDC: the inverse of `get_ndc_to_screen_transform`, with the same arguments."""
    scale, half_w, half_h = _half_sizes(cameras, image_size, "screen to NDC")
    sign = -1.0 if with_xyflip else 1.0
    return scale_and_shift(sign / scale, half_w / scale, half_h / scale)


def scale_and_shift(scale: Tensor, shift_x: Tensor, shift_y: Tensor) -> Transform3d:
    """Transform (x, y, z) -> (scale x + shift_x, scale y + shift_y, z); all arguments have shape (N,)."""
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    rows = (scale, zero, zero, zero, zero, scale, zero, zero, zero, zero, one, zero, shift_x, shift_y, zero, one)
    return Transform3d(matrix=torch.stack(rows, dim=-1).view(-1, 4, 4))


def _half_sizes(cameras: Any, image_size: ImageSize | None, what: str) -> tuple[Tensor, Tensor, Tensor]:
    """Half of the short side, of the width and of the height, each (N,)."""
    if image_size is None:
        raise ValueError(f"For {what} conversion, image_size=(height, width) needs to be specified.")
    R = getattr(cameras, "R", None)
    dtype = R.dtype if isinstance(R, Tensor) and R.is_floating_point() else torch.float32
    size = torch.as_tensor(image_size, device=cameras.device).to(dtype)
    if size.numel() == 0 or size.shape[-1] != 2 or size.dim() > 2:
        raise ValueError(f"image_size must be (height, width) of shape (2,), (1, 2) or (N, 2); got {tuple(size.shape)}")
    size = size.view(-1, 2)
    if size.shape[0] not in (1, cameras._N):
        raise ValueError(f"image_size has {size.shape[0]} rows for {cameras._N} cameras; give one or one for each")
    half_h, half_w = (0.5 * size.expand(cameras._N, 2)).unbind(1)
    return torch.minimum(half_h, half_w), half_w, half_h
