"""Textures of meshes: features on vertices, images with uv coordinates, and a small square for each face."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor

from recon_engine.structures.utils import list_to_padded

from ._textures_atlas import TexturesAtlas
from ._textures_base import TexturesBase
from ._textures_uv import TexturesUV
from ._textures_vertex import TexturesVertex

__all__ = ["Textures", "TexturesAtlas", "TexturesBase", "TexturesUV", "TexturesVertex"]


def Textures(
    maps: Sequence[Tensor] | Tensor | None = None,
    faces_uvs: Tensor | None = None,
    verts_uvs: Tensor | None = None,
    verts_rgb: Tensor | None = None,
) -> TexturesBase:
    """Former constructor of textures: `TexturesUV` from the first three arguments, else `TexturesVertex`."""
    warnings.warn(
        "Textures is deprecated, use TexturesUV, TexturesAtlas or TexturesVertex instead.",
        PendingDeprecationWarning,
        stacklevel=2,
    )
    if maps is not None and faces_uvs is not None and verts_uvs is not None:
        return TexturesUV(maps=maps, faces_uvs=faces_uvs, verts_uvs=verts_uvs)
    if verts_rgb is not None:
        return TexturesVertex(verts_features=verts_rgb)
    raise ValueError("Textures either requires all three of (faces uvs, verts uvs, maps) or verts rgb")


def _list_to_padded_wrapper(
    x: Sequence[Tensor], pad_size: Sequence[int] | None = None, pad_value: float = 0.0
) -> Tensor:
    """`list_to_padded` of tensors that differ in their first size only, under the name that PyTorch3D's tests call."""
    sizes = None if pad_size is None else (pad_size[0], *x[0].shape[1:])
    return list_to_padded(x, pad_size=sizes, pad_value=pad_value)
