"""Features of an image at the projections of vertices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def vert_align(
    feats: Tensor | Sequence[Tensor],
    verts: Any,
    return_packed: bool = False,
    interp_mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = True,
) -> Tensor:
    """Samples feature maps where vertices are seen.

    Args:
        feats: a feature map (N, C, H, W), or several with any C, H, W each.
        verts: (N, V, 3) vertices, or an object with `verts_padded` or `points_padded` (`Meshes`, `Pointclouds`). x and
            y count: (-1, -1) is the top left corner of the maps, (1, 1) the bottom right one. z is not looked at.
        return_packed: one row for each vertex of the batch, without the padding of meshes of different sizes.
        interp_mode: "bilinear", "nearest" or "bicubic".
        padding_mode: what lies outside of the maps: "zeros", "border" or "reflection".
        align_corners: whether -1 and 1 are the centres of the outermost pixels, or their outer edges.

    Returns:
        (N, V, C), or (N, V, C_1 + C_2 + ...) of several maps; with `return_packed` (sum of the V_n, C), for a tensor of
        vertices (N * V, C).

    Raises:
        ValueError: shapes, dtypes or batch sizes that do not fit, or an unknown mode.

    Differentiable in `feats` and in `verts`. CPU and CUDA, float32 and float64.

    References:
        Wang et al., Pixel2Mesh: Generating 3D mesh models from single RGB images, ECCV 2018.
        Gkioxari et al., Mesh R-CNN, ICCV 2019.
    """
    points = _points(verts)
    maps = [feats] if isinstance(feats, Tensor) else list(feats)
    _check(maps, points)
    grid = points[:, None, :, :2]  # a map of one row
    sampled = [_sample(feat, grid, interp_mode, padding_mode, align_corners) for feat in maps]
    features = sampled[0] if len(sampled) == 1 else torch.cat(sampled, dim=2)
    if not return_packed:
        return features
    rows = features.reshape(-1, features.shape[2])
    if hasattr(verts, "verts_padded_to_packed_idx"):
        return rows[verts.verts_padded_to_packed_idx()]
    if hasattr(verts, "padded_to_packed_idx"):
        return rows[verts.padded_to_packed_idx()]
    return rows


def _points(verts: Any) -> Tensor:
    if isinstance(verts, Tensor):
        if verts.ndim != 3:
            raise ValueError(f"verts tensor should be 3 dimensional: vert_align got {tuple(verts.shape)}")
        points = verts
    elif hasattr(verts, "verts_padded"):
        points = verts.verts_padded()
    elif hasattr(verts, "points_padded"):
        points = verts.points_padded()
    else:
        raise ValueError(
            "verts must be a tensor or have a `points_padded` or `verts_padded` attribute: vert_align got "
            f"{type(verts).__name__}"
        )
    return points


def _check(maps: list[Tensor], points: Tensor) -> None:
    if not maps:
        raise ValueError("vert_align: feats must hold at least one feature map")
    for feat in maps:
        if feat.ndim != 4:
            raise ValueError(f"feats must have shape (N, C, H, W): vert_align got {tuple(feat.shape)}")
        if len(feat) != len(points):
            raise ValueError(
                f"inconsistent batch dimension: vert_align got {len(feat)} feature maps for {len(points)} sets of "
                "vertices"
            )
        if feat.dtype != points.dtype:
            raise ValueError(f"vert_align: feats are {feat.dtype} but verts are {points.dtype}: convert one of them")


def _sample(feat: Tensor, grid: Tensor, mode: str, padding: str, align_corners: bool) -> Tensor:
    """(N, V, C) of a map (N, C, H, W) at (N, 1, V, 2)."""
    if feat.numel() == 0 or grid.numel() == 0:
        return feat.new_zeros(len(feat), grid.shape[2], feat.shape[1]) + 0 * (feat.sum() + grid.sum())
    sampled = F.grid_sample(feat, grid, mode=mode, padding_mode=padding, align_corners=align_corners)
    return sampled[:, :, 0].transpose(1, 2)
