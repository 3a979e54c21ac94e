"""Blending by splatting: every pixel spreads its colour over its neighbours, so that edges have gradients."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon_engine._precision import full_precision
from recon_engine.common.datatypes import Device

from .blending import BlendParams, _background

_EXCESS = 0.05
"""How much the nine weights exceed 1, so that inside surfaces their normalisation carries gradients (section 3.3.1)."""


class SplatterBlender(nn.Module):
    """Splats each of K layers of fragments on 3 x 3 pixels and composes what lies behind, on and before the surface.

    References:
        Cole et al., Differentiable Surface Rendering via Non-Differentiable Sampling, ICCV 2021.
    """

    def __init__(self, input_shape: tuple[int, int, int, int], device: Device) -> None:
        """Nothing is prepared: inputs of any shape on any device can be blended.

        Args:
            input_shape: (N, H, W, K), kept as an attribute.
            device: accepted for compatibility.
        """
        super().__init__()
        self.input_shape = tuple(input_shape)

    @full_precision
    def forward(
        self,
        colors: Tensor,
        pixel_coords_cameras: Tensor,
        cameras: Any,
        background_mask: Tensor,
        blend_params: BlendParams,
    ) -> Tensor:
        """Blend.

        With d the vector from a pixel to a neighbour, in pixels, and e how far the neighbour's surface point lies from
        the neighbour's centre (0 except for derivatives), the weight is proportional to exp(-|d - e|^2 / (2 sigma^2)).

        Args:
            colors: (N, H, W, K, C) colours of the K nearest faces.
            pixel_coords_cameras: (N, H, W, K, 3) positions of the fragments in the world, interpolated from vertices
                with constant barycentric coordinates: they carry the gradient.
            cameras: batch of N or 1.
            background_mask: (N, H, W, K), True where there is no face.
            blend_params: sigma in pixels, usually 0.5, and the background colour.

        Returns:
            (N, H, W, C + 1) colours and alpha. Differentiable in colors, pixel_coords_cameras and the cameras.
        """
        _check(colors, pixel_coords_cameras, background_mask, blend_params)
        N, H, W, K, C = colors.shape
        screen, rgba = _prepare_pixels_and_colors(pixel_coords_cameras, colors, cameras, background_mask)
        shift = screen[..., :2] - screen[..., :2].detach().floor() - 0.5
        depth = screen[..., 2].detach()

        layers = torch.arange(K, device=colors.device)
        scale = _get_splat_kernel_normalization(_DIRECTIONS, blend_params.sigma)
        sums = [rgba.new_zeros(N, H, W, C + 1) for _ in range(3)]
        neighbors = zip(_DIRECTIONS, _neighbors(rgba), _neighbors(shift), _neighbors(depth[..., None]), strict=True)
        for direction, rgba_p, shift_p, depth_p in neighbors:
            to_point = shift_p.new_tensor(direction) - shift_p
            splats = scale * _kernel(to_point, blend_params.sigma)[..., None] * rgba_p
            surface = _surface_layer(depth, depth_p[..., 0])
            for i, chosen in enumerate((layers > surface, layers == surface, layers < surface)):
                sums[i] = sums[i] + (splats * chosen[..., None]).sum(dim=-2)
        background = _background(blend_params, colors)
        image = torch.cat((background, background.new_zeros(1))).expand(N, H, W, C + 1)
        for total in sums:  # from the back to the front
            # The sum of the weights is the sum of the alphas, as alpha is 1 or 0 before.
            total = total / total[..., -1:].clamp(min=1.0)
            image = total + (1 - total[..., -1:]) * image
        return image


_DIRECTIONS = tuple(itertools.product((-1.0, 0.0, 1.0), repeat=2))
"""(x, y) from a pixel to the neighbours that splat on it, in columns and rows."""


def _check(colors: Tensor, points: Tensor, mask: Tensor, blend_params: BlendParams) -> None:
    if colors.ndim != 5:
        raise ValueError(f"colors must have shape (N, H, W, K, C); got {tuple(colors.shape)}")
    if points.shape != (*colors.shape[:4], 3):
        raise ValueError(
            f"pixel_coords_cameras must have shape {(*colors.shape[:4], 3)} like the colors; got {tuple(points.shape)}"
        )
    if mask.shape != colors.shape[:4] or mask.dtype != torch.bool:
        raise ValueError(
            f"background_mask must be boolean of shape {tuple(colors.shape[:4])} like the colors; "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )


def _prepare_pixels_and_colors(
    pixel_coords_cameras: Tensor, colors: Tensor, cameras: Any, background_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Positions in pixels and depth (N, H, W, K, 3), 1 in the background, and RGBA (N, H, W, K, C + 1)."""
    N, H, W, K, _ = colors.shape
    points = pixel_coords_cameras.reshape(N, -1, 3)
    # Without the flip of x and y, in which the point moves against the order of the pixels.
    screen = cameras.transform_points_screen(points, image_size=(H, W), with_xyflip=False)
    rgba = torch.cat((colors, torch.ones_like(colors[..., :1])), dim=-1)
    hidden = background_mask[..., None]
    return screen.reshape(N, H, W, K, 3).masked_fill(hidden, 1.0), rgba.masked_fill(hidden, 0.0)


def _get_splat_kernel_normalization(offsets: Any, sigma: float = 0.5) -> float:
    """What the weights of the nine directions (9, 2) are multiplied by, for their sum to exceed 1 by `_EXCESS`."""
    if not float(sigma) > 0.0:
        raise ValueError(f"Only positive standard deviations make sense: BlendParams.sigma is {sigma}")
    return (1 + _EXCESS) / sum(float(_kernel(offset, sigma)) for offset in offsets)


def _kernel(offset: Tensor | Sequence[float], sigma: float) -> Tensor:
    """exp(-|offset|^2 / (2 sigma^2)) for offsets (..., 2)."""
    offset = torch.as_tensor(offset, dtype=None if isinstance(offset, Tensor) else torch.float64)
    return (offset.square().sum(-1) / (-2 * float(sigma) ** 2)).exp()


def _neighbors(values: Tensor) -> Iterator[Tensor]:
    """The values (N, H, W, K, D) of the neighbour of each pixel in each direction; 0 beyond the border."""
    H, W = values.shape[1:3]
    padded = F.pad(values, (0, 0, 0, 0, 1, 1, 1, 1))
    for x, y in _DIRECTIONS:
        yield padded[:, 1 + int(y) : 1 + int(y) + H, 1 + int(x) : 1 + int(x) + W]


def _surface_layer(depth_q: Tensor, depth_p: Tensor) -> Tensor:
    """Which layer of the neighbour p continues the front layer of q, (N, H, W, 1).

    The front of one pixel is matched with the layer of the other one of the closest depth, whichever pair is closer. If
    the front of p continues a hidden layer j of q, the number is -j: all of p lies behind the front of q.
    """
    q_to_p, layer_of_p = (depth_p - depth_q[..., :1]).abs().min(dim=-1, keepdim=True)
    p_to_q, layer_of_q = (depth_p[..., :1] - depth_q).abs().min(dim=-1, keepdim=True)
    return torch.where(p_to_q < q_to_p, -layer_of_q, layer_of_p)


# The other steps under the names that PyTorch3D gives them, for programs that call them one by one. They hold all nine
# directions at once, for RGB; the blender itself takes one after the other. A direction is an offset (x, y) between
# pixels, in the order of `_DIRECTIONS`.


def _precompute(input_shape: tuple[int, int, int, int], device: Device) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (N, H, W + 2, K, 9, 5) and columns (N, H, W, K, 9, 5) of a padded image, and directions (9, 2), as indices.

    In direction d a pixel is given what these rows and columns hold: one row and column further on for d = (0, 0).
    """
    N, H, W, K = input_shape
    directions = torch.tensor(_DIRECTIONS, dtype=torch.int64, device=device)
    x, y = (1 + directions).unbind(-1)
    rows = torch.arange(H, device=device)[:, None, None, None, None] + y[:, None]
    columns = torch.arange(W, device=device)[:, None, None, None] + x[:, None]
    return rows.expand(N, H, W + 2, K, 9, 5), columns.expand(N, H, W, K, 9, 5), directions


def _compute_occlusion_layers(q_depth: Tensor) -> Tensor:
    """Which layer of each neighbour continues the front of a pixel, (N, H, W, 9), of depths (N, H, W, K).

    As in PyTorch3D the directions are (y, x) here, which is its fault where they are not: see docs/parity.md.
    """
    layers = [_surface_layer(q_depth, depth[..., 0]) for depth in _neighbors(q_depth[..., None])]
    return torch.cat(layers, dim=-1).unflatten(-1, (3, 3)).mT.flatten(-2)


def _compute_splatting_colors_and_weights(
    pixel_coords_screen: Tensor, colors: Tensor, sigma: float, offsets: Tensor
) -> Tensor:
    """What each layer of a pixel splats in each direction, (N, H, W, K, 9, 5): weighted RGBA, and the weight.

    Args:
        pixel_coords_screen: (N, H, W, K, 2 or 3) in pixels.
        colors: (N, H, W, K, 4).
        sigma: of the kernel, in pixels.
        offsets: (9, 2) directions.
    """
    xy = pixel_coords_screen[..., None, :2]
    alpha = colors[..., 3:] * _get_splat_kernel_normalization(offsets, sigma)
    weights = (alpha * _kernel(xy.floor() - xy + 0.5 + offsets, sigma))[..., None]
    return torch.cat((weights * colors[..., None, :], weights), dim=-1)


def _offset_splats(splat_colors_and_weights: Tensor, crop_ids_h: Tensor, crop_ids_w: Tensor) -> Tensor:
    """The splats (N, H, W, K, 9, 5) at the pixels that they land on; 0 where they come from beyond the border."""
    padded = F.pad(splat_colors_and_weights, (0, 0) * 3 + (1, 1) * 2)
    return padded.gather(1, crop_ids_h).gather(2, crop_ids_w)


def _compute_splatted_colors_and_weights(
    occlusion_layers: Tensor, splat_colors_and_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """RGBA (N, H, W, 4, 3) and weights (N, H, W, 1, 3) that land before, on and behind the surface of each pixel."""
    splats, surface = splat_colors_and_weights, occlusion_layers[..., None, :]
    layers = torch.arange(splats.shape[-3], device=splats.device)[:, None]
    where = torch.stack((surface > layers, surface == layers, surface < layers), dim=-1)
    sums = torch.einsum("...kdc,...kds->...cs", splats, where.to(splats))
    return sums[..., :4, :], sums[..., 4:, :]


def _normalize_and_compose_all_layers(
    background_color: Tensor,
    splatted_colors_per_occlusion_layer: Tensor,
    splatted_weights_per_occlusion_layer: Tensor,
) -> Tensor:
    """The image (N, H, W, 4) of what lies before, on and behind the surface, over the background (3,)."""
    totals = splatted_colors_per_occlusion_layer / splatted_weights_per_occlusion_layer.clamp(min=1.0)
    image = torch.cat((background_color, background_color.new_zeros(1))).expand_as(totals[..., 0])
    for total in totals.unbind(-1)[::-1]:
        image = total + (1 - total[..., 3:]) * image
    return image
