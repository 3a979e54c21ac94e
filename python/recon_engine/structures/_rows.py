"""Rows of a batch whose items have different numbers of them, as a list, packed or padded.

`Layout` knows the numbers of rows and every index that follows from them; all fields of a batch (points, normals,
features) and all batches made from it without adding or dropping rows share one. `Rows` holds one field.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .._compile import computed, integers, keep, read


class Layout:
    """The numbers of rows of N items and the indices that follow from them, computed when first read. Read-only.

    All tensors are int64 unless stated. Sizes are Python integers: reading them never waits for a device.

    Args:
        counts: N numbers of rows.
        device: where the indices lie.
    """

    def __init__(self, counts: Sequence[int], device: torch.device) -> None:
        self.counts = list(counts)
        self.device = device
        self.total = sum(self.counts)
        self.largest = max(self.counts, default=0)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not isinstance(value, Tensor)}

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def equisized(self) -> bool:
        """Whether all items have the same number of rows; False for an empty batch."""
        return len(set(self.counts)) == 1

    @property
    def has_padding(self) -> bool:
        """Whether the padded form has more rows than the packed one."""
        return len(self.counts) * self.largest != self.total

    @computed
    def valid(self) -> Tensor:
        """(N,) bool, items that have rows."""
        return integers([int(count > 0) for count in self.counts], self.device).bool()

    @computed
    def num_rows(self) -> Tensor:
        """(N,) the numbers of rows."""
        return integers(self.counts, self.device)

    @computed
    def first_row(self) -> Tensor:
        """(N,) the first packed row of each item."""
        return integers([0, *accumulate(self.counts)][: len(self.counts)], self.device)

    @computed
    def item_of_row(self) -> Tensor:
        """(total,) the item of each packed row."""
        items = torch.arange(len(self.counts), device=self.device)
        return items.repeat_interleave(self.num_rows, output_size=self.total)

    @computed
    def padded_row(self) -> Tensor:
        """(total,) where each packed row lies in the padded form with its first two dimensions merged."""
        rows = torch.arange(self.total, device=self.device)
        if not self.has_padding:
            return rows
        shift = torch.arange(len(self.counts), device=self.device) * self.largest - self.first_row
        return rows + shift[self.item_of_row]

    def to(self, device: torch.device) -> Layout:
        """The same layout on another device, self when it is there."""
        return self if device == self.device else Layout(self.counts, device)


class Rows:
    """One field of a batch: N tensors of shapes (counts[n], C), of which one form at least was given.

    The other forms are computed from it when they are first asked for, differentiably. They may share memory.

    Args:
        layout: the numbers of rows.
        channels: C.
        as_list: N tensors (counts[n], C).
        packed: (sum(counts), C), one item after the other.
        padded: (N, max(counts), C); what lies beyond the rows of an item is never read.
    """

    def __init__(
        self,
        layout: Layout,
        channels: int,
        *,
        as_list: list[Tensor] | None = None,
        packed: Tensor | None = None,
        padded: Tensor | None = None,
    ) -> None:
        self.layout = layout
        self.channels = channels
        self.list_form = as_list
        self.packed_form = packed
        self.padded_form = padded

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | stored_form(
            packed_form=self.packed_form, padded_form=self.padded_form, list_form=self.list_form
        )

    def as_list(self) -> list[Tensor]:
        """The rows as N tensors (counts[n], C)."""
        if self.list_form is None:
            if self.packed_form is not None:
                items = list(self.packed_form.split(self.layout.counts)) if len(self.layout) else []
            else:
                padded = self._given_padded().unbind(0)
                items = [rows[:count] for rows, count in zip(padded, self.layout.counts, strict=True)]
            return keep(self, "list_form", items)
        return self.list_form

    def packed(self) -> Tensor:
        """The rows of all items, (sum(counts), C)."""
        if self.packed_form is None:
            if self.list_form is None:
                rows = self._given_padded().reshape(-1, self.channels)
                rows = rows[read(self.layout, "padded_row")] if self.layout.has_padding else rows
            elif len(self.list_form) == 1:
                rows = self.list_form[0]
            elif self.list_form:
                rows = torch.cat(self.list_form)
            else:
                rows = torch.zeros((0, self.channels), device=self.layout.device)
            return keep(self, "packed_form", rows)
        return self.packed_form

    def padded(self) -> Tensor:
        """The rows as a batch, (N, max(counts), C), filled up with 0."""
        if self.padded_form is None:
            if self.layout.has_padding:
                rows = pad_sequence(self.as_list(), batch_first=True)
            else:
                rows = self.packed().reshape(len(self.layout), self.layout.largest, self.channels)
            return keep(self, "padded_form", rows)
        return self.padded_form

    def _given_padded(self) -> Tensor:
        if self.padded_form is None:
            raise RuntimeError("All forms of the rows of a batch were removed; keep at least one of them.")
        return self.padded_form

    def views(self, function: Callable[[Tensor], Tensor]) -> Rows:
        """The rows after a function that copies and changes no values; forms that were computed already are kept."""
        return Rows(
            self.layout,
            self.channels,
            as_list=None if self.list_form is None else [function(rows) for rows in self.list_form],
            packed=None if self.packed_form is None else function(self.packed_form),
            padded=None if self.padded_form is None else function(self.padded_form),
        )

    def copy(self, function: Callable[[Tensor], Tensor], layout: Layout) -> Rows:
        """The rows after a function that copies them, which is called for as few tensors as possible."""
        if self.packed_form is not None:
            return Rows(layout, self.channels, packed=function(self.packed_form))
        if self.padded_form is not None:
            return Rows(layout, self.channels, padded=function(self.padded_form))
        return Rows(layout, self.channels, as_list=[function(rows) for rows in self.as_list()])

    def repeat(self, copies: int, layout: Layout) -> Rows:
        """A copy of the rows in which each item comes `copies` times in a row; `layout` is that of the result."""
        if self.layout.has_padding:
            rows = torch.cat([rows for rows in self.as_list() for _ in range(copies)])
            return Rows(layout, self.channels, packed=rows)
        return Rows(layout, self.channels, padded=self.padded().repeat_interleave(copies, dim=0))


def stored_form(**forms: Tensor | list[Tensor] | None) -> dict[str, Tensor | list[Tensor] | None]:
    """Forms of the same rows of which one is left, and None takes the place of the others.

    Pickles and copies need one only. Each further one would bring the memory of all rows once more, in a list as often
    as it has entries, and one that was computed from others with gradients cannot be copied by `copy.deepcopy`.

    Args:
        **forms: the forms by name, None where there is none; of several that will do the first is left.
    """
    present = {name: form for name, form in forms.items() if form is not None}
    given = (n for n, form in present.items() if all(t.is_leaf for t in (form if isinstance(form, list) else [form])))
    left = next(given, next(iter(present), None))
    return {name: form if name == left else None for name, form in forms.items()}


def attributes_of(owner: type, state: dict[str, Any]) -> dict[str, Any]:
    """Those entries of a pickled `__dict__` that are no properties in the class that takes them."""
    return {
        name: value
        for name, value in state.items()
        if not hasattr(type(inspect.getattr_static(owner, name, None)), "__set__")
    }


def chosen_items(index: Any, count: int, name: str) -> list[int]:
    """Numbers of the items that an index selects from `count` of them.

    Args:
        index: an integer, a slice, a list of integers, or a 1D tensor: integer indices or a (count,) bool mask.
        count: the size of the batch.
        name: the class of the batch, for errors.

    Raises:
        IndexError: for an index out of range or of another kind.
    """
    if isinstance(index, slice):
        return list(range(count)[index])
    if isinstance(index, Tensor):
        if index.dim() != 1 or index.dtype.is_floating_point or index.dtype.is_complex:
            raise IndexError(f"{name}: a tensor index must be 1D, integer or bool, got {index.dtype} {index.shape}")
        if index.dtype == torch.bool:
            if len(index) != count:
                raise IndexError(f"{name}: a mask must have N={count} entries, got {len(index)}")
            index = index.nonzero().squeeze(1)
        index = index.tolist()
    if hasattr(index, "__index__"):
        index = [index]
    if not isinstance(index, list) or not all(hasattr(i, "__index__") for i in index):
        raise IndexError(f"{name}: index must be an int, slice, list of ints or tensor, got {index!r}")
    try:
        return [range(count)[i] for i in index]
    except IndexError:
        raise IndexError(f"{name}: index {index} is out of range for a batch of {count}") from None
