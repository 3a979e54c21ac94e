"""Blending of the K nearest faces of each pixel into an image with an alpha channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class BlendParams(NamedTuple):
    """How soft the blending is, and the background."""

    sigma: float = 1e-4
    """Width of the sigmoid of the squared distance to a face's edge, in squared NDC units; larger blurs edges more."""

    gamma: float = 1e-4
    """Temperature of the softmax over depths; larger makes faces more transparent."""

    background_color: Tensor | Sequence[float] = (1.0, 1.0, 1.0)
    """Colour of pixels that no face covers, (C,)."""


def _background(blend_params: BlendParams, colors: Tensor) -> Tensor:
    given = blend_params.background_color
    if isinstance(given, (list, tuple)) and given and all(isinstance(value, (int, float)) for value in given):
        background = torch.stack([colors.new_full((), value) for value in given])  # a list would wait for the device
    else:
        background = torch.as_tensor(given, dtype=colors.dtype, device=colors.device)
    if background.shape[-1:] != colors.shape[-1:]:
        raise ValueError(
            f"BlendParams.background_color must have {colors.shape[-1]} channels like the colors; "
            f"got shape {tuple(background.shape)}"
        )
    return background


def _check_positive(blend_params: BlendParams, *names: str) -> None:
    for name in names:
        value = float(getattr(blend_params, name))
        if not value > 0.0:
            raise ValueError(f"BlendParams.{name} must be positive, got {value}")


def hard_rgb_blend(colors: Tensor, fragments: Any, blend_params: BlendParams) -> Tensor:
    """The colour of the nearest face, or the background.

    Args:
        colors: (N, H, W, K, C) colours of the K nearest faces.
        fragments: the output of the rasteriser; `pix_to_face` (N, H, W, K) tells which pixels are background.
        blend_params: gives the background colour.

    Returns:
        (N, H, W, C + 1), the colour and alpha 1 or 0. Differentiable in `colors`.
    """
    is_background = fragments.pix_to_face[..., :1] < 0
    rgb = torch.where(is_background, _background(blend_params, colors), colors[..., 0, :])
    return torch.cat([rgb, (~is_background).to(rgb.dtype)], dim=-1)


def sigmoid_alpha_blend(colors: Tensor, fragments: Any, blend_params: BlendParams) -> Tensor:
    """Soft silhouette: alpha = 1 - prod_k (1 - sigmoid(-dist_k / sigma)) over the faces of a pixel.

    Args:
        colors: (N, H, W, K, C) colours of the K nearest faces; the first is kept.
        fragments: the output of the rasteriser: `dists` and `pix_to_face`, (N, H, W, K).
        blend_params: gives sigma.

    Returns:
        (N, H, W, C + 1) the colour and alpha. Differentiable in `colors` and `fragments.dists`.

    References:
        Liu et al., Soft Rasterizer: A Differentiable Renderer for Image-based 3D Reasoning, ICCV 2019.
    """
    from recon_engine import ops

    _check_positive(blend_params, "sigma")
    alpha = ops.sigmoid_alpha_blend(fragments.dists, fragments.pix_to_face, float(blend_params.sigma))
    return torch.cat([colors[..., 0, :], alpha[..., None].to(colors.dtype)], dim=-1)


def softmax_rgb_blend(
    colors: Tensor, fragments: Any, blend_params: BlendParams, znear: float | Tensor = 1.0, zfar: float | Tensor = 100
) -> Tensor:
    """Blend colours by closeness to the pixel and to the camera.

    With p_k = sigmoid(-dist_k / sigma), normalised depth z_k = (zfar - zbuf_k) / (zfar - znear) and eps = 1e-10, the
    weights are w_k = p_k exp(z_k / gamma) for faces and exp(eps / gamma) for the background, normalised to sum 1;
    alpha is 1 - prod_k (1 - p_k).

    Args:
        colors: (N, H, W, K, C) colours of the K nearest faces.
        fragments: the output of the rasteriser: `pix_to_face`, `dists` and `zbuf`, (N, H, W, K).
        blend_params: gives sigma, gamma and the background colour.
        znear: near plane, number or (N,).
        zfar: far plane, number or (N,).

    Returns:
        (N, H, W, C + 1) blended colour and alpha. Differentiable in colors, dists and zbuf; gradients are finite.

    References:
        Liu et al., Soft Rasterizer: A Differentiable Renderer for Image-based 3D Reasoning, ICCV 2019.
    """
    _check_positive(blend_params, "sigma", "gamma")
    from recon_engine import ops

    dtype = torch.promote_types(colors.dtype, fragments.dists.dtype)
    colors, zbuf, dists = colors.to(dtype), fragments.zbuf.to(dtype), fragments.dists.to(dtype)
    near, far = (
        plane.to(colors).reshape(-1).expand(len(colors))
        if isinstance(plane, Tensor)
        else colors.new_full((len(colors),), float(plane))
        for plane in (znear, zfar)
    )
    return ops.softmax_blend(
        colors,
        fragments.pix_to_face,
        zbuf,
        dists,
        torch.stack([near, far], 1),
        _background(blend_params, colors),
        float(blend_params.sigma),
        float(blend_params.gamma),
    )
