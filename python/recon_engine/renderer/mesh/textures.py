"""Textures of meshes: features on vertices, images with uv coordinates, and a small square for each face."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor

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
