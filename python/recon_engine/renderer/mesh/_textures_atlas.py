"""A small square texture for each face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._textures_base import (
    ListOf,
    TexturesBase,
    check_finite,
    check_floating,
    check_repeats,
    check_same,
    pad,
    repeat_list,
    rows_of,
)
from .clip import look_is_free


class TexturesAtlas(TexturesBase):
    """An R x R texture for each face; `io.load_obj(..., create_texture_atlas=True)` makes one.

    References:
        Liu et al., Soft Rasterizer: A Differentiable Renderer for Image-based 3D Reasoning, ICCV 2019.
    """

    _atlas_list = ListOf("_atlas_padded", "_num_faces_per_mesh")
    _atlas_padded: Tensor | None

    def __init__(self, atlas: Tensor | Sequence[Tensor]) -> None:
        """Store the atlas.

        Args:
            atlas: (N, F, R, R, C), or a list of N tensors (F_i, R, R, C) with one R.

        Raises:
            ValueError: wrong shapes and, on the CPU, a NaN or an infinity.
        """
        self._fill(atlas)
        check_finite("atlas", atlas)

    def _fill(self, atlas: Tensor | Sequence[Tensor]) -> None:
        if isinstance(atlas, (list, tuple)):
            if not all(
                isinstance(item, Tensor) and item.ndim == 4 and item.shape[1:3] == (atlas[0].shape[1],) * 2
                for item in atlas
            ):
                raise ValueError(
                    "Expected atlas to be a list of tensors of shape (F, R, R, C) with the same value of R."
                )
            self._atlas_list = list(atlas)
            self._atlas_padded = None
            self.device = atlas[0].device if atlas else torch.device("cpu")
            self._num_faces_per_mesh = [len(item) for item in atlas]
        elif isinstance(atlas, Tensor):
            if atlas.ndim != 5 or atlas.shape[2] != atlas.shape[3]:
                raise ValueError(f"Expected atlas to be of shape (N, F, R, R, C); got {tuple(atlas.shape)}")
            self._atlas_list = None
            self._atlas_padded = atlas
            self.device = atlas.device
            self._num_faces_per_mesh = [atlas.shape[1]] * atlas.shape[0]
        else:
            raise ValueError(f"Expected atlas to be a tensor or list; got {type(atlas)!r}")
        self._N = len(atlas)
        self.valid = torch.ones((self._N,), dtype=torch.bool, device=self.device)

    def _derived(self, atlas: Tensor | Sequence[Tensor]) -> TexturesAtlas:
        """A texture of this class whose values come from checked ones."""
        new = object.__new__(type(self))
        new._fill(atlas)
        return new

    def atlas_padded(self) -> Tensor:
        """The atlas as (N, max F_i, R, R, C), padded with zeros."""
        if self._atlas_padded is None:
            if not self._atlas_list:
                return torch.zeros((self._N, 0, 0, 0, 3), device=self.device)
            self._atlas_padded = pad(self._atlas_list)
        return self._atlas_padded

    def atlas_list(self) -> list[Tensor]:
        """The atlas as N tensors (F_i, R, R, C)."""
        return self._atlas_list or []

    def atlas_packed(self) -> Tensor:
        """The atlas as (sum of F_i, R, R, C)."""
        atlas = self.atlas_list()
        if not atlas:
            return torch.zeros((0, 0, 0, 3), device=self.device)
        return atlas[0] if len(atlas) == 1 else torch.cat(atlas)

    def __getitem__(self, index: Any) -> TexturesAtlas:
        """The textures of the meshes at `index`."""
        atlas = self.atlas_list()
        chosen = [atlas[row] for row in rows_of(index, self._N)]
        return self._derived(chosen if chosen else self.atlas_padded()[:0, :0])

    def extend(self, N: int) -> TexturesAtlas:
        """Each texture N times, in order."""
        check_repeats(N)
        texture = self._derived(self.atlas_padded().repeat_interleave(N, dim=0))
        texture._num_faces_per_mesh = repeat_list(self._num_faces_per_mesh, N)
        return texture

    def sample_textures(self, fragments: Any, **kwargs: Any) -> Tensor:
        """The nearest texel of the face's texture at each pixel, (N, H, W, K, C), zero where there is no face.

        The square is cut along its diagonal: with barycentric coordinates (w0, w1), the texel is row w1 R and column
        w0 R below the diagonal, and the texel mirrored in the centre above it. Differentiable in the atlas only.
        """
        atlas = self.atlas_packed()
        check_floating("TexturesAtlas", atlas)
        faces, w01 = fragments.pix_to_face, fragments.bary_coords.detach()[..., :2]
        shown = faces >= 0
        if look_is_free(shown):
            texels = atlas.new_zeros((*shown.shape, atlas.shape[-1]))
            return texels.masked_scatter(shown[..., None], _nearest_texels(atlas, faces[shown], w01[shown]))
        if atlas.shape[0] == 0:
            return atlas.new_zeros((*shown.shape, atlas.shape[-1]))
        every = _nearest_texels(atlas, faces.clamp(min=0).reshape(-1), w01.reshape(-1, 2))
        return every.view(*shown.shape, -1).masked_fill(~shown[..., None], 0.0)

    def faces_verts_textures_packed(self, faces_packed: Tensor | None = None) -> Tensor:
        """The texels at the three vertices of each face, (F, 3, C); `faces_packed` is not used."""
        atlas = self.atlas_packed()
        return torch.stack((atlas[:, 0, -1], atlas[:, -1, 0], atlas[:, 0, 0]), dim=1)

    def submeshes(self, vertex_ids_list: Any, faces_ids_list: Any) -> TexturesAtlas:
        """The textures of the faces that each submesh keeps; `vertex_ids_list` is not used."""
        atlas = self.atlas_list()
        if len(faces_ids_list) != len(atlas):
            raise IndexError(
                f"faces_ids_list must be of the same length as atlas_list: {len(faces_ids_list)} and {len(atlas)}"
            )
        return self._derived([values[ids] for values, kept in zip(atlas, faces_ids_list, strict=True) for ids in kept])

    def join_batch(self, textures: list[TexturesAtlas]) -> TexturesAtlas:
        """One batch of the textures of self and of those in the list."""
        check_same(textures, TexturesAtlas)
        return self._derived([item for texture in (self, *textures) for item in texture.atlas_list()])

    def join_scene(self) -> TexturesAtlas:
        """The textures of the whole batch as that of one mesh."""
        return self._derived([self.atlas_packed()])

    def check_shapes(self, batch_size: int, max_num_verts: int, max_num_faces: int) -> bool:
        """Whether there is a texture for each face."""
        return tuple(self.atlas_padded().shape[:2]) == (batch_size, max_num_faces)


def _nearest_texels(atlas: Tensor, faces: Tensor, w01: Tensor) -> Tensor:
    """The texels (P, C) of the atlas (F, R, R, C) on `faces` (P,) at the first two barycentric coordinates (P, 2)."""
    R = atlas.shape[1]
    # Coordinates outside of a face, which blurred rasterisation gives, take the texel at its border.
    cell = (w01 * R).long().clamp(0, R - 1)
    corner = cell.sum(dim=-1, keepdim=True)
    # The cells at the border w0 + w1 = 1 have a lower half only, whatever rounding makes of the sum.
    is_lower = (w01.sum(dim=-1, keepdim=True) * R - corner <= 1.0) | (corner == R - 1)
    column, row = torch.where(is_lower, cell, R - 1 - cell).unbind(-1)
    return atlas.flatten(0, 2).index_select(0, (faces * R + row) * R + column)
