"""Batches of voxel grids with densities and features, and where their voxels lie in the world."""

from __future__ import annotations

import copy as copying
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from .._compile import integers
from ..common.datatypes import Device, make_device
from ..transforms import Scale, Transform3d
from ._rows import chosen_items
from .utils import list_to_padded, padded_to_list

Sizes = list[tuple[int, int, int]]


class Volumes:
    """A batch of N grids of voxels, each with densities and, where there are any, features.

    Grids of a batch may differ in size: they are then stored with zeros behind them, as large as the largest. Where a
    voxel lies is kept by `locator`; see `VolumeLocator` for the conventions. Tensors may share memory with those that
    were given and with volumes that methods derive: treat them as read-only.

    Args:
        densities: (N, density channels, D, H, W), or a list of N tensors (density channels, D_n, H_n, W_n).
        features: (N, C, D, H, W), or a list of N tensors (C, D_n, H_n, W_n), or None.
        voxel_size: edges of a voxel in the world: a number or tensor (1,) for cubes; three numbers or a tensor (3,) for
            x, y, z; a tensor (N, 3) or (N, 1) for those of each volume.
        volume_translation: minus the place of the centre of the volumes in the world: three numbers, or a tensor (3,),
            (1,), (1, 3) or (N, 3).
        align_corners: whether the local coordinates -1 and 1 are the centres of the outermost voxels, or the faces of
            the volume; as in `torch.nn.functional.grid_sample`.

    Raises:
        ValueError: for tensors of wrong shapes, or features that do not match the densities.

    Example:
        >>> volumes = Volumes(torch.rand(2, 1, 5, 6, 7), torch.rand(2, 3, 5, 6, 7), voxel_size=0.1)
        >>> len(volumes), volumes.get_grid_sizes()[0], volumes.get_coord_grid().shape
        (2, tensor([5, 6, 7]), torch.Size([2, 5, 6, 7, 3]))
    """

    def __init__(
        self,
        densities: Tensor | list[Tensor] | tuple[Tensor, ...],
        features: Tensor | list[Tensor] | tuple[Tensor, ...] | None = None,
        voxel_size: float | Tensor | Sequence[float] = 1.0,
        volume_translation: Tensor | Sequence[float] = (0.0, 0.0, 0.0),
        align_corners: bool = True,
    ) -> None:
        self._densities, sizes = _padded("densities", densities)
        self._features: Tensor | None = None
        self.device = self._densities.device
        self.locator = VolumeLocator(
            len(self._densities),
            sizes,
            self.device,
            voxel_size,
            volume_translation,
            align_corners,
            self._densities.dtype if self._densities.dtype == torch.float64 else torch.float32,
        )
        # Of an empty batch only the padded tensor knows the size.
        self.locator._resolution = tuple(self._densities.shape[2:])
        if features is not None:
            self._set_features(features)

    def __len__(self) -> int:
        return len(self._densities)

    def __getitem__(self, index: Any) -> Volumes:
        """The chosen volumes, of the same padded size. The tensors are not copied where a slice will do.

        Args:
            index: an integer, a slice, a list or tuple of integers, or a 1D tensor: integers or a (N,) bool mask.

        Raises:
            IndexError: for an index out of range or of another kind.
        """
        rows = _rows(chosen_items(list(index) if isinstance(index, tuple) else index, len(self), "Volumes"))
        new = copying.copy(self)
        new._densities = self._densities[rows]
        new._features = None if self._features is None else self._features[rows]
        new.locator = self.locator._chosen(rows)
        return new

    def __iter__(self) -> Iterator[Volumes]:
        """The volumes one by one, each a batch of one."""
        return (self[n] for n in range(len(self)))

    def features(self) -> Tensor | None:
        """(N, C, D, H, W) features, padded with zeros, or None."""
        return self._features

    def densities(self) -> Tensor:
        """(N, density channels, D, H, W) densities, padded with zeros."""
        return self._densities

    def densities_list(self) -> list[Tensor]:
        """N densities (density channels, D_n, H_n, W_n), without padding."""
        return self._as_list(self._densities)

    def features_list(self) -> list[Tensor] | None:
        """N features (C, D_n, H_n, W_n), without padding, or None."""
        return None if self._features is None else self._as_list(self._features)

    def _as_list(self, padded: Tensor) -> list[Tensor]:
        return padded_to_list(padded, [(padded.shape[1], *size) for size in self.locator._sizes])

    def get_align_corners(self) -> bool:
        """Whether local coordinates of -1 and 1 are centres of voxels."""
        return self.locator._align_corners

    def update_padded(self, new_densities: Tensor, new_features: Tensor | None = None) -> Volumes:
        """Volumes at the same places with other densities and features.

        Args:
            new_densities: (N, density channels, D, H, W), D, H, W as padded. What lies in the padding is not looked at.
            new_features: (N, C, D, H, W), or None for volumes without features.

        Raises:
            ValueError: for tensors of another size or device.
        """
        new = copying.copy(self)
        new._features = None
        new._set_densities(new_densities)
        if new_features is not None:
            new._set_features(new_features)
        return new

    def _set_features(self, features: Tensor | list[Tensor] | tuple[Tensor, ...]) -> None:
        self._features = self._matching("features", features)

    def _set_densities(self, densities: Tensor | list[Tensor] | tuple[Tensor, ...]) -> None:
        self._densities = self._matching("densities", densities)

    def _matching(self, name: str, values: Tensor | list[Tensor] | tuple[Tensor, ...]) -> Tensor:
        """Values padded as these volumes are, of which each grid has the size it has here."""
        padded, sizes = _padded(name, values)
        if padded.device != self.device:
            raise ValueError(
                f"`{name}` have to be on the same device as `self.densities`: got {padded.device} and {self.device}."
            )
        whole = isinstance(values, Tensor) and tuple(values.shape[2:]) == self.locator._resolution
        if len(padded) != len(self) or not (whole or sizes == self.locator._sizes):
            raise ValueError(
                f"The size of every grid in `{name}` has to match the size of the corresponding `densities` grid: "
                f"got {sizes}, expected {self.locator._sizes}."
            )
        return padded

    def clone(self) -> Volumes:
        """A copy with tensors of its own. Differentiable."""
        return self._mapped(self.locator.clone(), torch.clone)

    def _mapped(self, locator: VolumeLocator, function: Any) -> Volumes:
        new = copying.copy(self)
        new.locator, new.device = locator, locator.device
        new._densities = function(self._densities)
        new._features = None if self._features is None else function(self._features)
        return new

    def to(self, device: Device, copy: bool = False) -> Volumes:
        """These volumes on another device.

        Args:
            device: the target.
            copy: return a copy even when they are there.

        Returns:
            Self when nothing is to be done, else new volumes. Differentiable.
        """
        target = make_device(device)
        if target == self.device:
            return self.clone() if copy else self
        return self._mapped(self.locator.to(target), lambda tensor: tensor.to(target))

    def cpu(self) -> Volumes:
        """These volumes on the CPU."""
        return self.to("cpu")

    def cuda(self) -> Volumes:
        """These volumes on the current CUDA device."""
        return self.to("cuda")

    def get_grid_sizes(self) -> Tensor:
        """(N, 3) int64, the sizes (D_n, H_n, W_n)."""
        return self.locator.get_grid_sizes()

    def get_local_to_world_coords_transform(self) -> Transform3d:
        """The transform of local coordinates into those of the world."""
        return self.locator.get_local_to_world_coords_transform()

    def get_world_to_local_coords_transform(self) -> Transform3d:
        """The transform of world coordinates into local ones."""
        return self.locator.get_world_to_local_coords_transform()

    def world_to_local_coords(self, points_3d_world: Tensor) -> Tensor:
        """Local coordinates of points (N, ..., 3) of the world. Differentiable."""
        return self.locator.world_to_local_coords(points_3d_world)

    def local_to_world_coords(self, points_3d_local: Tensor) -> Tensor:
        """World coordinates of points (N, ..., 3) in local ones. Differentiable."""
        return self.locator.local_to_world_coords(points_3d_local)

    def get_coord_grid(self, world_coordinates: bool = True) -> Tensor:
        """Where the centres of all voxels lie, (N, D, H, W, 3); see `VolumeLocator.get_coord_grid`."""
        return self.locator.get_coord_grid(world_coordinates)


class VolumeLocator:
    """Knows where the voxels of N grids lie.

    *Local coordinates* (x, y, z) belong to (width, height, depth), in reverse order of the dimensions of a tensor, as
    in `torch.nn.functional.grid_sample`. With `align_corners` voxel [0, 0, 0] is centred at (-1, -1, -1) and the last
    one at (1, 1, 1); otherwise -1 and 1 are the faces of the volume. In a batch of different sizes each grid has
    coordinates of its own: its padding lies beyond 1.

    *World coordinates* follow from them by

        x_world = x_local * (size - 1) / 2 * voxel_size - volume_translation

    whether or not corners are aligned.

    Args:
        batch_size: N.
        grid_sizes: (D, H, W) of all grids, a list of N such triples, or a tensor (N, 3).
        device: where transforms and coordinates lie.
        voxel_size: as in `Volumes`.
        volume_translation: as in `Volumes`.
        align_corners: as in `Volumes`.
        dtype: of transforms and coordinates.

    Raises:
        ValueError: for sizes, voxels or translations of other forms.
    """

    def __init__(
        self,
        batch_size: int,
        grid_sizes: Tensor | Sequence[Any],
        device: Device,
        voxel_size: float | Tensor | Sequence[float] = 1.0,
        volume_translation: Tensor | Sequence[float] = (0.0, 0.0, 0.0),
        align_corners: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.device = make_device(device)
        self._batch_size = batch_size
        self._sizes = _grid_sizes(grid_sizes, batch_size)
        extents = zip(*self._sizes) if self._sizes else ((), (), ())
        self._grid_sizes = torch.stack([integers(extent, self.device) for extent in extents], 1)
        self._resolution: tuple[int, ...] = tuple(max(size, default=0) for size in zip(*self._sizes, strict=True)) or (
            0,
            0,
            0,
        )
        self._align_corners = align_corners
        self._dtype = dtype
        self._set_local_to_world_transform(voxel_size, volume_translation)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes what was pickled by this class, or by PyTorch3D's, which keeps the sizes as tensors."""
        self.__dict__.update(state)
        if "_sizes" not in state:
            self.device = make_device(self.device)
            self._sizes = _grid_sizes(self._grid_sizes, self._batch_size)
            self._resolution = tuple(int(extent) for extent in self._resolution)
            self._dtype = self._local_to_world_transform.dtype

    def __len__(self) -> int:
        return self._batch_size

    def _set_local_to_world_transform(
        self,
        voxel_size: float | Tensor | Sequence[float] = 1.0,
        volume_translation: Tensor | Sequence[float] = (0.0, 0.0, 0.0),
    ) -> None:
        """Places the grids anew."""
        edges = self._vector("voxel_size", voxel_size)
        translation = self._vector("volume_translation", volume_translation)
        steps = (self._grid_sizes.flip(1) - 1).to(self._dtype)
        scale = Scale(steps * edges * 0.5, device=self.device, dtype=self._dtype)
        self._local_to_world_transform = scale.translate(-translation)

    def _vector(self, name: str, value: Any) -> Tensor:
        """One vector (x, y, z) for each volume, (N, 3). Differentiable."""
        N = self._batch_size
        forms = "three numbers or a tensor of shape (3,), (1,), (1, 3) or (minibatch, 3)"
        if name == "voxel_size":
            forms = f"a number, {forms} or (minibatch, 1)"
            value = [value] * 3 if isinstance(value, Real) else value
        if isinstance(value, (list, tuple)) and len(value) == 3:
            # Numbers are made on the device: to copy them there would wait for it.
            value = torch.stack(
                [
                    torch.full((), float(v), dtype=self._dtype, device=self.device)
                    if isinstance(v, Real)
                    else torch.as_tensor(v, dtype=self._dtype, device=self.device)
                    for v in value
                ]
            )
        shape = tuple(value.shape) if isinstance(value, Tensor) else None
        per_volume = shape == (N, 1) and name == "voxel_size"
        if shape not in ((), (1,), (3,), (1, 1), (1, 3), (N, 3)) and not per_volume:
            got = type(value).__name__ if shape is None else f"a tensor of shape {shape}"
            raise ValueError(f"{name} has to be {forms}; got {got} for a batch of {N}.")
        return value.to(self.device, self._dtype).expand(N, 3)

    def get_grid_sizes(self) -> Tensor:
        """(N, 3) int64, the sizes (D_n, H_n, W_n)."""
        return self._grid_sizes

    def get_coord_grid(self, world_coordinates: bool = True) -> Tensor:
        """Where the centres of voxels lie.

        Args:
            world_coordinates: in the world, or in local coordinates.

        Returns:
            (N, D, H, W, 3), those of the padding included. Along an axis with a single voxel, the local coordinate is
            -1 with aligned corners and 0 without.
        """
        axes = []
        for axis, count in enumerate(self._resolution):
            index = torch.arange(count, dtype=self._dtype, device=self.device)
            size = self._grid_sizes[:, axis : axis + 1].to(self._dtype)
            if self._align_corners:
                axes.append(2 * index / (size - 1).clamp(min=1) - 1)
            else:
                axes.append((2 * index + 1) / size - 1)
        z, y, x = axes
        shape = (self._batch_size, *self._resolution)
        every = (x[:, None, None, :], y[:, None, :, None], z[:, :, None, None])
        local = torch.stack([coordinate.expand(shape) for coordinate in every], -1)
        return self.local_to_world_coords(local) if world_coordinates else local

    def get_local_to_world_coords_transform(self) -> Transform3d:
        """The transform of local coordinates into those of the world."""
        return self._local_to_world_transform

    def get_world_to_local_coords_transform(self) -> Transform3d:
        """The transform of world coordinates into local ones."""
        return self._local_to_world_transform.inverse()

    def world_to_local_coords(self, points_3d_world: Tensor) -> Tensor:
        """Local coordinates of points of the world.

        Args:
            points_3d_world: (N, ..., 3), those of entry n for volume n.

        Returns:
            (N, ..., 3). Differentiable.
        """
        return _transformed(self.get_world_to_local_coords_transform(), points_3d_world)

    def local_to_world_coords(self, points_3d_local: Tensor) -> Tensor:
        """World coordinates of points.

        Args:
            points_3d_local: (N, ..., 3), in the local coordinates of volume n.

        Returns:
            (N, ..., 3). Differentiable.
        """
        return _transformed(self.get_local_to_world_coords_transform(), points_3d_local)

    def _chosen(self, rows: slice | list[int]) -> VolumeLocator:
        """The locator of some of the grids, of the same padded size."""
        new = copying.copy(self)
        new._sizes = self._sizes[rows] if isinstance(rows, slice) else [self._sizes[n] for n in rows]
        new._batch_size = len(new._sizes)
        new._grid_sizes = self._grid_sizes[rows]
        new._local_to_world_transform = self._local_to_world_transform._mapped(lambda matrix: matrix[rows])
        return new

    def to(self, device: Device, copy: bool = False) -> VolumeLocator:
        """This locator on another device.

        Args:
            device: the target.
            copy: return a copy even when it is there.

        Returns:
            Self when nothing is to be done, else a new locator.
        """
        target = make_device(device)
        if target == self.device and not copy:
            return self
        new = copying.copy(self)
        new.device = target
        new._grid_sizes = self._grid_sizes.to(target, copy=copy)
        new._local_to_world_transform = self._local_to_world_transform.to(target, copy=copy)
        return new

    def clone(self) -> VolumeLocator:
        """A copy with tensors of its own. Differentiable."""
        return self.to(self.device, copy=True)

    def cpu(self) -> VolumeLocator:
        """This locator on the CPU."""
        return self.to("cpu")

    def cuda(self) -> VolumeLocator:
        """This locator on the current CUDA device."""
        return self.to("cuda")


def _padded(name: str, values: Any) -> tuple[Tensor, Sizes]:
    """Densities or features as one tensor (N, C, D, H, W), and the size of each grid."""
    if isinstance(values, (list, tuple)):
        if any(not isinstance(grid, Tensor) or grid.ndim != 4 for grid in values):
            raise ValueError(f"`{name}` has to be a list of 4-dim tensors of shape: ({name}_dim, depth, height, width)")
        if any(grid.shape[0] != values[0].shape[0] for grid in values):
            raise ValueError(
                f"Each entry in the list of `{name}` has to have the same number of channels (first dimension): "
                f"got {[grid.shape[0] for grid in values]}."
            )
        return list_to_padded(values), [_size(grid.shape[1:]) for grid in values]
    if not isinstance(values, Tensor):
        raise ValueError(
            f"{name} must be either a list or a tensor with shape (batch_size, {name}_dim, D, H, W); "
            f"got {type(values).__name__}."
        )
    if values.ndim != 5:
        raise ValueError(
            f"`{name}` has to be a 5-dim tensor of shape: (minibatch, {name}_dim, depth, height, width); "
            f"got {tuple(values.shape)}."
        )
    return values, [_size(values.shape[2:])] * len(values)


def _size(size: Sequence[Any]) -> tuple[int, int, int]:
    depth, height, width = (int(extent) for extent in size)
    return depth, height, width


def _grid_sizes(sizes: Any, batch_size: int) -> Sizes:
    """(D, H, W) of each of `batch_size` grids."""
    if isinstance(sizes, Tensor):
        if sizes.ndim != 2 or sizes.shape[1] != 3:
            raise ValueError(
                f"`grid_sizes` has to be a 2-dim tensor of shape: (minibatch, 3); got {tuple(sizes.shape)}."
            )
        sizes = sizes.tolist()
    if not isinstance(sizes, (list, tuple)):
        raise ValueError(
            "grid_sizes must be a tuple (D, H, W), a list of such tuples or a tensor of shape (batch_size, 3); "
            f"got {type(sizes).__name__}."
        )
    if len(sizes) == 3 and all(isinstance(extent, int) for extent in sizes):
        return [_size(sizes)] * batch_size
    if any(not isinstance(size, (list, tuple, Tensor)) or len(size) != 3 for size in sizes):
        raise ValueError(f"`grid_sizes` has to hold three sizes (D, H, W) for each grid; got {sizes}.")
    if len(sizes) != batch_size:
        raise ValueError(f"`grid_sizes` has to hold batch_size={batch_size} entries; got {len(sizes)}.")
    return [_size(size) for size in sizes]


def _rows(chosen: list[int]) -> slice | list[int]:
    """A slice that chooses the same items, where there is one: it takes no copy."""
    if chosen and chosen == list(range(chosen[0], chosen[0] + len(chosen))):
        return slice(chosen[0], chosen[0] + len(chosen))
    return chosen


def _transformed(transform: Transform3d, points: Tensor) -> Tensor:
    """Points (N, ..., 3) after N transforms, or one."""
    flat = points.reshape(len(points), points.shape[1:-1].numel(), points.shape[-1])
    return transform.transform_points(flat).reshape(points.shape)
