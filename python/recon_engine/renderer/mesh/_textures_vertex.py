"""Features on vertices."""

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


class TexturesVertex(TexturesBase):
    """A feature vector on each vertex, interpolated over the faces."""

    _verts_features_list = ListOf("_verts_features_padded", "_num_verts_per_mesh")
    _verts_features_padded: Tensor | None

    def __init__(self, verts_features: Tensor | Sequence[Tensor]) -> None:
        """Store the features.

        Args:
            verts_features: (N, V, C), or a list of N tensors (V_i, C).

        Raises:
            ValueError: wrong shapes and, on the CPU, a NaN or an infinity.
        """
        self._fill(verts_features)
        check_finite("verts_features", verts_features)

    def _fill(self, verts_features: Tensor | Sequence[Tensor]) -> None:
        if isinstance(verts_features, (tuple, list)):
            if not all(isinstance(item, Tensor) and item.ndim == 2 for item in verts_features):
                raise ValueError("Expected verts_features to be a list of tensors of shape (V, C).")
            self._verts_features_list = list(verts_features)
            self._verts_features_padded = None
            self.device = verts_features[0].device if verts_features else torch.device("cpu")
            self._num_verts_per_mesh = [len(item) for item in verts_features]
        elif isinstance(verts_features, Tensor):
            if verts_features.ndim != 3:
                raise ValueError(f"Expected verts_features to be of shape (N, V, C); got {tuple(verts_features.shape)}")
            self._verts_features_list = None
            self._verts_features_padded = verts_features
            self.device = verts_features.device
            self._num_verts_per_mesh = [verts_features.shape[1]] * verts_features.shape[0]
        else:
            raise ValueError(f"verts_features must be a tensor or list of tensors; got {type(verts_features)!r}")
        self._N = len(verts_features)
        self.valid = torch.ones((self._N,), dtype=torch.bool, device=self.device)

    def _derived(self, verts_features: Tensor | Sequence[Tensor]) -> TexturesVertex:
        """A texture of this class with features that come from checked ones."""
        new = object.__new__(type(self))
        new._fill(verts_features)
        return new

    def num_channels(self) -> int:
        """C, the number of features of a vertex; 3 in an empty batch."""
        features = next(iter(self._verts_features_list or ()), self._verts_features_padded)
        return 3 if features is None else int(features.shape[-1])

    def verts_features_padded(self) -> Tensor:
        """The features as (N, max V_i, C), padded with zeros."""
        if self._verts_features_padded is None:
            if not self._verts_features_list:
                return torch.zeros((self._N, 0, 3), device=self.device)
            self._verts_features_padded = pad(self._verts_features_list)
        return self._verts_features_padded

    def verts_features_list(self) -> list[Tensor]:
        """The features as N tensors (V_i, C)."""
        return self._verts_features_list or []

    def verts_features_packed(self) -> Tensor:
        """The features as (sum of V_i, C)."""
        features = self.verts_features_list()
        if not features:
            return torch.zeros((0, 3), device=self.device)
        return features[0] if len(features) == 1 else torch.cat(features)

    def __getitem__(self, index: Any) -> TexturesVertex:
        """The textures of the meshes at `index`."""
        features = self.verts_features_list()
        chosen = [features[row] for row in rows_of(index, self._N)]
        return self._derived(chosen if chosen else self.verts_features_padded()[:0, :0])

    def extend(self, N: int) -> TexturesVertex:
        """Each texture N times, in order."""
        check_repeats(N)
        texture = self._derived(self.verts_features_padded().repeat_interleave(N, dim=0))
        texture._num_verts_per_mesh = repeat_list(self._num_verts_per_mesh, N)
        return texture

    def sample_textures(self, fragments: Any, faces_packed: Tensor | None = None, **kwargs: Any) -> Tensor:
        """The features at each pixel, (N, H, W, K, C), zero where there is no face.

        Differentiable in the features and the barycentric coordinates.
        """
        from recon_engine.ops.interp_face_attrs import interpolate_face_attributes

        corners = self.faces_verts_textures_packed(faces_packed)
        check_floating("TexturesVertex features", corners)
        return interpolate_face_attributes(fragments.pix_to_face, fragments.bary_coords, corners)

    def faces_verts_textures_packed(self, faces_packed: Tensor | None = None) -> Tensor:
        """The features at the three vertices of each face, (F, 3, C).

        Args:
            faces_packed: (F, 3) int64, the packed faces of the meshes.
        """
        if faces_packed is None:
            raise ValueError("TexturesVertex needs the faces: pass faces_packed=meshes.faces_packed()")
        return self.verts_features_packed()[faces_packed]

    def submeshes(self, vertex_ids_list: Any, faces_ids_list: Any) -> TexturesVertex:
        """The features of the vertices that each submesh keeps; `faces_ids_list` is not used."""
        features = self.verts_features_list()
        if len(vertex_ids_list) != len(features):
            raise IndexError(
                f"vertex_ids_list must be of the same length as verts_features_list: {len(vertex_ids_list)} and "
                f"{len(features)}"
            )
        return self._derived(
            [values[ids] for values, kept in zip(features, vertex_ids_list, strict=True) for ids in kept]
        )

    def join_batch(self, textures: list[TexturesVertex]) -> TexturesVertex:
        """One batch of the textures of self and of those in the list."""
        check_same(textures, TexturesVertex)
        return self._derived([item for texture in (self, *textures) for item in texture.verts_features_list()])

    def join_scene(self) -> TexturesVertex:
        """The textures of the whole batch as that of one mesh."""
        return self._derived([self.verts_features_packed()])

    def check_shapes(self, batch_size: int, max_num_verts: int, max_num_faces: int) -> bool:
        """Whether there is a feature for each vertex."""
        return tuple(self.verts_features_padded().shape[:2]) == (batch_size, max_num_verts)
