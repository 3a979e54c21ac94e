"""Batches of point clouds of different sizes, as lists, packed tensors or padded tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._compile import read
from ..common.datatypes import Device, make_device
from ._pointclouds_input import auxiliary_rows, pickled_rows, points_rows
from ._rows import Layout, Rows, attributes_of, chosen_items


class _Form:
    """A private name of PyTorch3D that scripts read or assign: one form of one field, None until it was computed."""

    def __init__(self, field: str, form: str) -> None:
        self.field = field
        self.form = form

    def __get__(self, clouds: Any, owner: type) -> Any:
        rows = getattr(clouds, self.field)
        return None if rows is None else getattr(rows, self.form)

    def __set__(self, clouds: Any, value: Any) -> None:
        rows = getattr(clouds, self.field)
        if rows is None:
            if value is None:
                return
            channels = (value[0] if isinstance(value, list) else value).shape[-1]
            rows = Rows(clouds._layout, channels)
        # The rows may be shared with other clouds, which keep what they have.
        rows = rows.views(lambda tensor: tensor)
        setattr(rows, self.form, value)
        setattr(clouds, self.field, rows)


class Pointclouds:
    """A batch of N point clouds that gives its points, normals and features as lists, packed or padded.

    - *list*: N tensors, (P_n, 3) points and normals, (P_n, C) features.
    - *packed*: (sum(P_n), 3) and (sum(P_n), C), one cloud after the other.
    - *padded*: (N, max(P_n), 3) and (N, max(P_n), C), filled up with 0.

    Each form is computed from the one that was given when it is first asked for, and is differentiable. Tensors may
    share memory between the forms and with clouds that methods derive (`offset`, `scale`, `update_padded`, indexing):
    treat them as read-only. No method changes a tensor that it was given.

    Args:
        points: list of N tensors (P_n, 3), or a padded tensor (N, P, 3), in which every row is a point.
        normals: of the points, list or padded, or None.
        features: (P_n, C) or (N, P, C) values at the points, for example colours; list or padded, or None. In a list,
            clouds without points may have None.

    Raises:
        ValueError: wrong shapes, tensors on several devices, normals or features that do not match the points.

    Example:
        >>> clouds = Pointclouds(points=[torch.zeros(2, 3), torch.ones(3, 3)])
        >>> clouds.points_padded().shape, clouds.packed_to_cloud_idx()
        (torch.Size([2, 3, 3]), tensor([0, 0, 1, 1, 1]))
    """

    # The tensors of this object. Scripts loop over the names to copy clouds.
    _INTERNAL_TENSORS = (
        "_points_packed",
        "_points_padded",
        "_normals_packed",
        "_normals_padded",
        "_features_packed",
        "_features_padded",
    )

    _layout: Layout
    _points: Rows
    _normals: Rows | None
    _features: Rows | None

    _points_list = _Form("_points", "list_form")
    _points_packed = _Form("_points", "packed_form")
    _points_padded = _Form("_points", "padded_form")
    _normals_list = _Form("_normals", "list_form")
    _normals_packed = _Form("_normals", "packed_form")
    _normals_padded = _Form("_normals", "padded_form")
    _features_list = _Form("_features", "list_form")
    _features_packed = _Form("_features", "packed_form")
    _features_padded = _Form("_features", "padded_form")

    def __init__(
        self,
        points: list[Tensor] | Tensor,
        normals: list[Tensor] | Tensor | None = None,
        features: list[Tensor] | Tensor | None = None,
    ) -> None:
        self._points = points_rows(points)
        self._layout = self._points.layout
        self._normals = auxiliary_rows(normals, self._layout)
        if self._normals is not None and self._normals.channels != 3:
            raise ValueError(f"Normals are expected to be 3-dimensional, got {self._normals.channels} channels.")
        self._features = auxiliary_rows(features, self._layout)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes what was pickled by this class, or by PyTorch3D's, in which every form is an attribute."""
        if "_layout" not in state:
            points, normals, features = pickled_rows(state)
            fields = {"_layout": points.layout, "_points": points, "_normals": normals, "_features": features}
            state = attributes_of(type(self), state) | fields
        self.__dict__.update(state)

    def _derive(self, points: Rows, normals: Rows | None, features: Rows | None) -> Pointclouds:
        """A new object of this class for checked parts."""
        new = object.__new__(self.__class__)
        new._layout = points.layout
        new._points, new._normals, new._features = points, normals, features
        return new

    # Sizes

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return self._layout.device

    @property
    def valid(self) -> Tensor:
        """(N,) bool, clouds that have points."""
        return read(self._layout, "valid")

    @property
    def equisized(self) -> bool:
        """Whether all clouds have the same number of points."""
        return self._layout.equisized

    @property
    def _N(self) -> int:
        return len(self._layout)

    @property
    def _P(self) -> int:
        return self._layout.largest

    @property
    def _C(self) -> int | None:
        return None if self._features is None else self._features.channels

    def __len__(self) -> int:
        return len(self._layout)

    def isempty(self) -> bool:
        """Whether no cloud has points."""
        return self._layout.total == 0

    # Points, normals and features

    def points_list(self) -> list[Tensor]:
        """The points as N tensors (P_n, 3)."""
        return self._points.as_list()

    def points_packed(self) -> Tensor:
        """The points of all clouds, (sum(P_n), 3)."""
        return self._points.packed()

    def points_padded(self) -> Tensor:
        """The points as a batch, (N, max(P_n), 3), filled up with 0."""
        return self._points.padded()

    def normals_list(self) -> list[Tensor] | None:
        """The normals as N tensors (P_n, 3), or None."""
        return None if self._normals is None else self._normals.as_list()

    def normals_packed(self) -> Tensor | None:
        """The normals of all clouds, (sum(P_n), 3), or None."""
        return None if self._normals is None else self._normals.packed()

    def normals_padded(self) -> Tensor | None:
        """The normals as a batch, (N, max(P_n), 3), filled up with 0, or None."""
        return None if self._normals is None else self._normals.padded()

    def features_list(self) -> list[Tensor] | None:
        """The features as N tensors (P_n, C), or None."""
        return None if self._features is None else self._features.as_list()

    def features_packed(self) -> Tensor | None:
        """The features of all clouds, (sum(P_n), C), or None."""
        return None if self._features is None else self._features.packed()

    def features_padded(self) -> Tensor | None:
        """The features as a batch, (N, max(P_n), C), filled up with 0, or None."""
        return None if self._features is None else self._features.padded()

    # Indices

    def num_points_per_cloud(self) -> Tensor:
        """(N,) int64, the numbers of points."""
        return read(self._layout, "num_rows")

    def packed_to_cloud_idx(self) -> Tensor:
        """(sum(P_n),) int64, the cloud of each packed point."""
        return read(self._layout, "item_of_row")

    def cloud_to_packed_first_idx(self) -> Tensor:
        """(N,) int64, the first packed point of each cloud."""
        return read(self._layout, "first_row")

    def padded_to_packed_idx(self) -> Tensor:
        """(sum(P_n),) int64 rows of the flattened padded points: `points_padded().reshape(-1, 3)[idx]` is packed."""
        return read(self._layout, "padded_row")

    _num_points_per_cloud = property(num_points_per_cloud)
    _packed_to_cloud_idx = property(packed_to_cloud_idx)
    _cloud_to_packed_first_idx = property(cloud_to_packed_first_idx)
    _padded_to_packed_idx = property(padded_to_packed_idx)

    def _fields(self) -> list[Rows]:
        return [rows for rows in (self._points, self._normals, self._features) if rows is not None]

    def _compute_packed(self, refresh: bool = False) -> None:
        """Computes the packed forms and their indices; with `refresh` again."""
        for rows in self._fields():
            if refresh:
                rows.as_list()
                rows.packed_form = None
            rows.packed()
        self.packed_to_cloud_idx(), self.cloud_to_packed_first_idx()

    def _compute_padded(self, refresh: bool = False) -> None:
        """Computes the padded forms; with `refresh` again."""
        for rows in self._fields():
            if refresh:
                rows.as_list()
                rows.padded_form = None
            rows.padded()

    # Copies

    def clone(self) -> Pointclouds:
        """A deep copy of points, normals and features. Differentiable."""
        return self._derive(
            self._points.copy(torch.clone, self._layout),
            None if self._normals is None else self._normals.copy(torch.clone, self._layout),
            None if self._features is None else self._features.copy(torch.clone, self._layout),
        )

    def detach(self) -> Pointclouds:
        """The same clouds without their gradient history, sharing memory."""
        return self._derive(
            self._points.views(Tensor.detach),
            None if self._normals is None else self._normals.views(Tensor.detach),
            None if self._features is None else self._features.views(Tensor.detach),
        )

    def to(self, device: Device, copy: bool = False) -> Pointclouds:
        """These clouds on another device.

        Args:
            device: the target.
            copy: return a copy even when the clouds are there already.

        Returns:
            Self when nothing is to be done, else new clouds.
        """
        target = make_device(device)
        if self.device == target:
            return self.clone() if copy else self
        layout = self._layout.to(target)
        points, normals, features = (
            None if rows is None else rows.copy(lambda tensor: tensor.to(target), layout)
            for rows in (self._points, self._normals, self._features)
        )
        assert points is not None
        return self._derive(points, normals, features)

    def cpu(self) -> Pointclouds:
        """These clouds on the CPU."""
        return self.to("cpu")

    def cuda(self) -> Pointclouds:
        """These clouds on the current CUDA device."""
        return self.to("cuda")

    # Parts of the batch

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Pointclouds:
        """The selected clouds; nothing is copied.

        Args:
            index: an integer, a slice, a list of integers, or a 1D tensor: integer indices or a (N,) bool mask.

        Raises:
            IndexError: for an index out of range or of another kind.
        """
        chosen = chosen_items(index, len(self), "Pointclouds")
        layout = Layout([self._layout.counts[n] for n in chosen], self.device)

        def select(rows: Rows) -> Rows:
            items = rows.as_list()
            return Rows(layout, rows.channels, as_list=[items[n] for n in chosen])

        return self._derive(
            select(self._points),
            None if self._normals is None else select(self._normals),
            None if self._features is None else select(self._features),
        )

    def __iter__(self) -> Iterator[Pointclouds]:
        """The clouds one by one."""
        return (self[n] for n in range(len(self)))

    def get_cloud(self, index: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The points (P, 3), normals (P, 3) or None, and features (P, C) or None of one cloud.

        Args:
            index: its number, 0 <= index < N.

        Raises:
            ValueError: when `index` is not an integer in that range.
        """
        if not isinstance(index, int):
            raise ValueError(f"Cloud index must be an integer, got {type(index).__name__}.")
        if not 0 <= index < len(self):
            raise ValueError(f"Cloud index must be in the range [0, N) with N={len(self)} clouds, got {index}.")
        normals, features = self.normals_list(), self.features_list()
        return (
            self.points_list()[index],
            None if normals is None else normals[index],
            None if features is None else features[index],
        )

    def split(self, split_sizes: list[int]) -> list[Pointclouds]:
        """Consecutive parts of the batch.

        Args:
            split_sizes: the number of clouds in each part.

        Raises:
            ValueError: when a size is not an integer.
        """
        if not all(isinstance(size, int) for size in split_sizes):
            raise ValueError(f"Value of split_sizes must be a list of integers, got {split_sizes}.")
        parts, start = [], 0
        for size in split_sizes:
            parts.append(self[start : start + size])
            start += size
        return parts

    def extend(self, N: int) -> Pointclouds:
        """A batch in which each cloud comes N times in a row, as copies. Differentiable.

        Args:
            N: the number of copies.

        Raises:
            ValueError: when N is not a positive integer.
        """
        if not isinstance(N, int):
            raise ValueError(f"N must be an integer, got {type(N).__name__}.")
        if N <= 0:
            raise ValueError(f"N must be > 0, got {N}.")
        layout = Layout([count for count in self._layout.counts for _ in range(N)], self.device)
        return self._derive(
            self._points.repeat(N, layout),
            None if self._normals is None else self._normals.repeat(N, layout),
            None if self._features is None else self._features.repeat(N, layout),
        )

    def subsample(self, max_points: int | Sequence[int]) -> Pointclouds:
        """The clouds with at most `max_points` points each, drawn without repetition.

        Args:
            max_points: one number for all clouds, or N of them.

        Returns:
            New clouds, or self when no cloud has too many points. The order of the points of a cloud that is cut is
            random. Points are drawn with numpy's global generator, as PyTorch3D does: `numpy.random.seed` repeats them.

        Raises:
            ValueError: when there are not N numbers.
        """
        if isinstance(max_points, int):
            max_points = [max_points] * len(self)
        elif len(max_points) != len(self):
            raise ValueError(f"wrong number of max_points supplied: expected {len(self)}, got {len(max_points)}.")
        counts = [min(count, int(most)) for count, most in zip(self._layout.counts, max_points, strict=True)]
        if counts == self._layout.counts:
            return self
        kept, first = [], 0
        for count, most in zip(self._layout.counts, counts, strict=True):
            chosen = np.arange(count) if count == most else np.random.choice(count, most, replace=False)  # noqa: NPY002
            kept.append(chosen + first)
            first += count
        index = torch.from_numpy(np.concatenate(kept)).to(self.device)
        layout = Layout(counts, self.device)

        def select(rows: Rows) -> Rows:
            return Rows(layout, rows.channels, packed=rows.packed()[index])

        return self._derive(
            select(self._points),
            None if self._normals is None else select(self._normals),
            None if self._features is None else select(self._features),
        )

    # Other values for the same points

    def _moved(self, offsets: Tensor) -> Rows:
        points = self.points_packed()
        if not isinstance(offsets, Tensor):
            raise TypeError(f"offset: offsets_packed must be a tensor, got {type(offsets).__name__}")
        if offsets.shape != (3,) and offsets.shape != points.shape:
            raise ValueError(
                "Offsets must have dimension (all_p, 3): "
                f"expected {tuple(points.shape)} or (3,), got {tuple(offsets.shape)}."
            )
        return Rows(self._layout, 3, packed=points + offsets)

    def offset_(self, offsets_packed: Tensor) -> Pointclouds:
        """Moves the points of this object. Normals and features are kept.

        Args:
            offsets_packed: (sum(P_n), 3) an offset for each point, or (3,) one for all.

        Returns:
            Self. Tensors that were given or handed out before are not changed.

        Raises:
            ValueError: offsets of another shape.

        Differentiable in the points and the offsets.
        """
        self._points = self._moved(offsets_packed)
        return self

    def offset(self, offsets_packed: Tensor) -> Pointclouds:
        """New clouds with moved points and the same normals and features.

        Args:
            offsets_packed: (sum(P_n), 3) an offset for each point, or (3,) one for all.

        Raises:
            ValueError: offsets of another shape.

        Differentiable in the points and the offsets. Cost: one addition; nothing is copied.
        """
        return self._derive(self._moved(offsets_packed), self._normals, self._features)

    def _scaled(self, scale: float | Tensor) -> Rows:
        points = self.points_packed()
        if isinstance(scale, Tensor) and scale.ndim > 0:
            if scale.shape not in ((len(self),), (len(self), 1), (len(self), 3)):
                raise ValueError(
                    f"scale: scale must be a number or have shape ({len(self)},) or ({len(self)}, 3), "
                    f"got {tuple(scale.shape)}"
                )
            scale = scale[read(self._layout, "item_of_row")].reshape(self._layout.total, -1) if points.numel() else 1.0
        return Rows(self._layout, 3, packed=points * scale)

    def scale_(self, scale: float | Tensor) -> Pointclouds:
        """Multiplies the points of this object. Normals and features are kept.

        Args:
            scale: a number for all clouds, (N,) one for each, or (N, 3) one for each axis of each cloud.

        Returns:
            Self. Tensors that were given or handed out before are not changed.

        Raises:
            ValueError: scales of another shape.

        Differentiable in the points and the scale.
        """
        self._points = self._scaled(scale)
        return self

    def scale(self, scale: float | Tensor) -> Pointclouds:
        """New clouds with scaled points and the same normals and features.

        Args:
            scale: a number for all clouds, (N,) one for each, or (N, 3) one for each axis of each cloud.

        Raises:
            ValueError: scales of another shape.

        Differentiable in the points and the scale.
        """
        return self._derive(self._scaled(scale), self._normals, self._features)

    def update_padded(
        self,
        new_points_padded: Tensor,
        new_normals_padded: Tensor | None = None,
        new_features_padded: Tensor | None = None,
    ) -> Pointclouds:
        """New clouds of the same sizes with other values.

        Args:
            new_points_padded: (N, max(P_n), 3) points; rows beyond P_n are padding.
            new_normals_padded: (N, max(P_n), 3) normals; None keeps those of this object.
            new_features_padded: (N, max(P_n), C) features; None keeps those of this object.

        Raises:
            ValueError: when a shape or a device is another.

        Differentiable in all values. Nothing is copied.
        """

        def rows(values: Tensor, channels: int | None) -> Rows:
            sizes = (("batch dimension", len(self)), ("number of points", self._P), ("number of channels", channels))
            if values.ndim != 3:
                raise ValueError(f"new values must have shape (N, P, C), got {tuple(values.shape)}.")
            for got, (what, expected) in zip(values.shape, sizes, strict=True):
                if expected is not None and got != expected:
                    raise ValueError(f"new values must have the same {what}: expected {expected}, got {got}.")
            if values.device != self.device:
                raise ValueError(f"new values must be on the same device {self.device}, got {values.device}.")
            return Rows(self._layout, values.shape[2], padded=values)

        return self._derive(
            rows(new_points_padded, 3),
            self._normals if new_normals_padded is None else rows(new_normals_padded, 3),
            self._features if new_features_padded is None else rows(new_features_padded, self._C),
        )

    def estimate_normals(
        self, neighborhood_size: int = 50, disambiguate_directions: bool = True, assign_to_self: bool = False
    ) -> Tensor:
        """Normals of the surfaces that the clouds were taken from: see `ops.estimate_pointcloud_normals`.

        Args:
            neighborhood_size: how many neighbours of a point count, itself included.
            disambiguate_directions: give normals of neighbours consistent signs.
            assign_to_self: replace the normals of this object.

        Returns:
            (N, max(P_n), 3) unit normals.

        Raises:
            ValueError: a cloud has no more points than `neighborhood_size`.

        Differentiable in the points.
        """
        from ..ops.points_normals import estimate_pointcloud_normals

        normals = estimate_pointcloud_normals(
            self, neighborhood_size=neighborhood_size, disambiguate_directions=disambiguate_directions
        )
        if assign_to_self:
            self._normals = Rows(self._layout, 3, padded=normals)
        return normals

    # Boxes

    def get_bounding_boxes(self) -> Tensor:
        """The axis-aligned box of each cloud, (N, 3, 2): `[n, i]` is the interval of coordinate i.

        A cloud without points has the empty interval (inf, -inf). Differentiable in the points.
        """
        if self._P > 0 and not self._layout.has_padding:
            points = self.points_padded()
            return torch.stack([points.amin(1), points.amax(1)], dim=2)
        points = self.points_packed()
        index = read(self._layout, "item_of_row")[:, None].expand(-1, 3)
        infinite = points.new_full((len(self), 3), torch.inf)
        low = infinite.scatter_reduce(0, index, points, "amin")
        high = (-infinite).scatter_reduce(0, index, points, "amax")
        return torch.stack([low, high], dim=2)

    def inside_box(self, box: Tensor) -> Tensor:
        """Which points lie in a box, its faces included.

        Args:
            box: (2, 3), (1, 2, 3) or (N, 2, 3): the least corner and the greatest corner, for all clouds or for each.

        Returns:
            (sum(P_n),) bool, for the packed points.

        Raises:
            ValueError: a box of another shape, or with a least coordinate above the greatest.
        """
        if box.ndim not in (2, 3) or box.shape[-2:] != (2, 3):
            raise ValueError(f"Input box must be of shape (2, 3) or (N, 2, 3), got {tuple(box.shape)}.")
        if box.ndim == 3 and len(box) not in (1, len(self)):
            raise ValueError(
                f"Input box dimension is incompatible with pointcloud size: {len(box)} boxes for {len(self)} clouds."
            )
        low, high = box.reshape(-1, 2, 3).unbind(1)
        if bool((low > high).any()):
            raise ValueError("Input box is invalid: min values larger than max values.")
        if len(low) > 1:
            low, high = low[read(self._layout, "item_of_row")], high[read(self._layout, "item_of_row")]
        points = self.points_packed()
        return ((points >= low) & (points <= high)).all(dim=-1)


def join_pointclouds_as_batch(pointclouds: Sequence[Pointclouds]) -> Pointclouds:
    """One batch of all the clouds of several batches.

    Args:
        pointclouds: list of batches on one device, which all have normals or all have none, and the same for features.

    Returns:
        The joined batch; nothing is copied.

    Raises:
        ValueError: when `pointclouds` is a single `Pointclouds`, or the batches do not fit together.
    """
    if isinstance(pointclouds, Pointclouds) or not isinstance(pointclouds, Sequence):
        raise ValueError(
            "Wrong first argument to join_points_as_batch: "
            f"expected a list of Pointclouds, got {type(pointclouds).__name__}."
        )
    if not pointclouds:
        raise ValueError("join_pointclouds_as_batch: pointclouds must hold at least one Pointclouds, got none.")
    if any(batch.device != pointclouds[0].device for batch in pointclouds):
        raise ValueError("Pointclouds must all be on the same device: move them with .to(device).")
    joined: dict[str, list[Tensor] | None] = {}
    for field in ("points", "normals", "features"):
        lists = [getattr(batch, f"{field}_list")() for batch in pointclouds if len(batch)]
        missing = sum(rows is None for rows in lists)
        if 0 < missing < len(lists):
            raise ValueError(f"Pointclouds in the batch have some fields '{field}' defined and some set to None.")
        joined[field] = None if missing else [rows for batch in lists for rows in batch]
    channels = {batch._C for batch in pointclouds if len(batch)}
    if len(channels) > 1:
        raise ValueError(f"Pointclouds must have the same number of features, got {sorted(map(str, channels))}.")
    points = joined.pop("points")
    return Pointclouds(points or [], **joined)


def join_pointclouds_as_scene(pointclouds: Pointclouds | list[Pointclouds]) -> Pointclouds:
    """One cloud of all the points of a batch, or of several batches.

    Args:
        pointclouds: a batch, or a list of batches on one device, which all have normals or all have none, and the same
            for features.

    Returns:
        A batch of one cloud; `pointclouds` itself when it is a batch of one.

    Raises:
        ValueError: when batches do not fit together.
    """
    batch = join_pointclouds_as_batch(pointclouds) if isinstance(pointclouds, list) else pointclouds
    if len(batch) == 1:
        return batch
    normals, features = batch.normals_packed(), batch.features_packed()
    return Pointclouds(
        points=batch.points_packed()[None],
        normals=None if normals is None else normals[None],
        features=None if features is None else features[None],
    )
