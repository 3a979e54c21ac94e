"""What all textures share: batches as lists or padded tensors, copies, indexing and repetition."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from recon_engine.common.datatypes import make_device


class TexturesBase:
    """Colours or features of a batch of meshes.

    A `Meshes` object that takes a texture sets `_N`, `valid`, `_num_faces_per_mesh` and `_num_verts_per_mesh` on it.
    """

    _N: int
    valid: Tensor
    device: torch.device
    _num_faces_per_mesh: list[int]
    _num_verts_per_mesh: list[int]

    def isempty(self) -> bool:
        """Whether no mesh of the batch has faces or vertices."""
        return self._N == 0 or not bool(self.valid.any())

    def _map_tensors(self, function: Callable[[Tensor], Tensor]) -> Any:
        """A shallow copy of self with `function` applied to every tensor it holds, also inside lists."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(other, name, function(value))
            elif isinstance(value, (list, tuple)):
                setattr(other, name, [function(item) if isinstance(item, Tensor) else item for item in value])
        return other

    def to(self, device: Any) -> TexturesBase:
        """Move all tensors to `device` in place and return self."""
        target = make_device(device)
        vars(self).update(vars(self._map_tensors(lambda tensor: tensor.to(target))))
        self.device = target
        return self

    def clone(self) -> Any:
        """A copy with tensors of its own, through which gradients flow."""
        return self._map_tensors(torch.clone)

    def detach(self) -> Any:
        """A copy whose tensors share memory with those of self and carry no gradient."""
        return self._map_tensors(torch.detach)

    def sample_textures(self, fragments: Any, **kwargs: Any) -> Tensor:
        """The texture at each pixel.

        Args:
            fragments: the output of the rasteriser: `pix_to_face` (N, H, W, K) and `bary_coords` (N, H, W, K, 3).
            kwargs: `faces_packed` (F, 3), which only textures on vertices need.

        Returns:
            (N, H, W, K, C), zero or the colour at the map's corner where there is no face.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be sampled")

    def submeshes(self, vertex_ids_list: Any, faces_ids_list: Any) -> TexturesBase:
        """The textures of `Meshes.submeshes`: for each mesh a list of vertex ids and a list of face ids to keep."""
        raise NotImplementedError(f"{type(self).__name__} does not support submeshes")

    def faces_verts_textures_packed(self, faces_packed: Tensor | None = None) -> Tensor:
        """The texture at the three vertices of each face, (sum of F_i, 3, C)."""
        raise NotImplementedError(f"{type(self).__name__} has no values at vertices")

    def check_shapes(self, batch_size: int, max_num_verts: int, max_num_faces: int) -> bool:
        """Whether the texture fits a batch of meshes of that size."""
        raise NotImplementedError(f"{type(self).__name__} does not check shapes")

    def __getitem__(self, index: Any) -> TexturesBase:
        """The textures of the meshes at `index`: an int, slice, list of ints, or int64 or boolean tensor."""
        raise NotImplementedError(f"{type(self).__name__} cannot be indexed")


class ListOf:
    """An attribute that is a list of tensors: as it was stored, or else the rows of a padded tensor, as views.

    PyTorch3D keeps the list that it made of a padded tensor under such a name. Here it is made anew when it is asked
    for, so that no copy of the texture has values of its own in it.
    """

    def __init__(self, padded: str, lengths: str | None = None) -> None:
        """Name the attributes that hold the padded tensor and the lengths of its rows; all of them where it is None."""
        self._padded, self._lengths = padded, lengths

    def __set_name__(self, owner: type, name: str) -> None:
        """Called with the name of the attribute."""
        self._name = name

    def __get__(self, textures: Any, owner: type) -> Any:
        """The list, or None where the texture has none of it."""
        if textures is None:
            return self
        stored, padded = textures.__dict__.get(self._name), textures.__dict__.get(self._padded)
        if stored is not None or padded is None:
            return stored
        return list(padded.unbind(0)) if self._lengths is None else unpad(padded, getattr(textures, self._lengths))

    def __set__(self, textures: Any, value: list[Tensor] | None) -> None:
        """Store a list, or None for the rows of the padded tensor."""
        textures.__dict__[self._name] = value


def check_finite(name: str, values: Tensor | Sequence[Tensor]) -> None:
    """Raise ValueError for a NaN or an infinity, which would spread over images and gradients.

    A look at values is free only on the CPU: those on other devices, and those that `torch.compile` traces, are not
    checked. The sum tells in one pass over memory that all is well.
    """
    if torch.compiler.is_compiling():
        return
    for index, value in enumerate([values] if isinstance(values, Tensor) else values):
        if value.device.type != "cpu" or not value.is_floating_point():
            continue
        value = value.detach()
        if value.sum().isfinite():
            continue
        bad = (~value.isfinite()).nonzero()
        if len(bad):  # else only the sum is too large
            place = bad[0].tolist() if isinstance(values, Tensor) else [index, *bad[0].tolist()]
            raise ValueError(
                f"{name} must be finite, got {value[tuple(bad[0])].item()} at {place} ({len(bad)} in all): replace "
                f"them, for example by {name}.nan_to_num()"
            )


def check_indices(name: str, indices: Tensor | Sequence[Tensor], sizes: Sequence[int], into: str) -> None:
    """Raise ValueError for indices that are no integers or, on the CPU, lie outside of `sizes[n]` for mesh n.

    -1 stands for padding, and for the faces of a file that have no uv coordinates.
    """
    for index, (value, size) in enumerate(zip(indices, sizes, strict=True)):
        if value.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"{name} must be int64, got {value.dtype}: use {name}.long()")
        if value.device.type != "cpu" or value.numel() == 0 or torch.compiler.is_compiling():
            continue
        low, high = (int(bound) for bound in value.aminmax())
        if low < -1 or high >= size:
            raise ValueError(f"{name} must index the {size} {into} of mesh {index}, got {low} to {high}")


def check_floating(kind: str, values: Tensor) -> None:
    """Raise ValueError for colours that are not floating-point, such as the bytes of a picture."""
    if not values.is_floating_point():
        raise ValueError(
            f"{kind} must be floating point to be sampled, got {values.dtype}: use .float() / 255 for the bytes of a "
            "picture"
        )


def rows_of(index: Any, N: int) -> list[int]:
    """The batch positions that an int, slice, list of ints, or int64 or boolean tensor selects out of N."""
    if isinstance(index, int) and not isinstance(index, bool):
        return [range(N)[index]]
    if isinstance(index, slice):
        return list(range(N)[index])
    if isinstance(index, Tensor) and index.dtype == torch.bool:
        return index.nonzero()[:, 0].tolist()
    if isinstance(index, Tensor) and not index.is_floating_point():
        return [range(N)[i] for i in index.reshape(-1).tolist()]
    if isinstance(index, list):
        return [range(N)[i] for i in index]
    raise IndexError(f"Textures can be indexed by int, slice, list, or int64 or boolean tensor; got {type(index)!r}")


def check_repeats(N: Any) -> int:
    """Return N, or raise ValueError unless it is a positive int."""
    if not isinstance(N, int) or isinstance(N, bool):
        raise ValueError(f"N must be an integer; got {N!r}")
    if N <= 0:
        raise ValueError(f"N must be > 0; got {N}")
    return N


def repeat_list(values: Sequence[Any], N: int) -> list[Any]:
    """Each value N times, in order."""
    return [value for value in values for _ in range(N)]


def pad(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors (M_i, ...) to (N, max M_i, ...), filled with zeros."""
    if len(tensors) == 1:
        return tensors[0][None]
    return pad_sequence(list(tensors), batch_first=True)


def unpad(padded: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """Split (N, M, ...) into tensors (lengths[i], ...), views."""
    return [row[:length] for row, length in zip(padded.unbind(0), lengths, strict=True)]


def check_same(textures: Sequence[Any], kind: type, *options: str) -> None:
    """Raise ValueError unless all textures are of `kind` and agree in the named attributes."""
    if not all(isinstance(texture, kind) for texture in textures):
        raise ValueError(f"All textures must be of type {kind.__name__}.")
    for option in options:
        values = {getattr(texture, option) for texture in textures}
        if len(values) > 1:
            raise ValueError(f"All textures must have the same {option}; got {sorted(map(str, values))}")
