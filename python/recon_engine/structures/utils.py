"""Conversions between lists of tensors, packed tensors (rows one after the other) and padded tensors (a batch)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def list_to_padded(
    x: Sequence[Tensor],
    pad_size: Sequence[int] | None = None,
    pad_value: float = 0.0,
    equisized: bool = False,
) -> Tensor:
    """A batch that holds every tensor of a list, filled up with `pad_value`.

    Args:
        x: N tensors with the same number of dimensions, of shapes (S_n0, S_n1, ...). An empty 1D tensor stands for an
            empty tensor of any number of dimensions.
        pad_size: the sizes (P_0, P_1, ...) of one padded tensor; the largest of each dimension when None.
        pad_value: what fills the rest.
        equisized: promises that all shapes are equal; the tensors are then stacked and the other arguments unused.

    Returns:
        (N, P_0, P_1, ...) tensor in new memory, with the dtype and device of the first tensor.

    Raises:
        ValueError: when an item is not a tensor, or the numbers of dimensions differ.

    Differentiable in `x`.
    """
    if equisized:
        return torch.stack(list(x), 0)
    if not x:
        raise ValueError("list_to_padded: x must hold at least one tensor, got an empty list")
    if not all(torch.is_tensor(item) for item in x):
        raise ValueError("All items have to be instances of a torch.Tensor.")
    ndim = max(item.ndim for item in x)
    # An empty 1D tensor is how callers write "nothing here", whatever the rank of its neighbours.
    items = [item.new_zeros([0] * ndim) if item.ndim == 1 and item.numel() == 0 else item for item in x]
    if any(item.ndim != ndim for item in items):
        raise ValueError("All items have to have the same number of dimensions!")
    filled = [item for item in items if len(item) > 0]
    if pad_size is None:
        pad_size = [max((item.shape[d] for item in filled), default=0) for d in range(ndim)]
    elif len(pad_size) != ndim:
        raise ValueError(
            f"Pad size must contain target size for all dimensions: got {len(pad_size)} sizes for {ndim} dimensions."
        )
    if len(filled) == len(items) and all(item.shape == tuple(pad_size) for item in items):
        return torch.stack(items, 0)
    pad_size = tuple(pad_size)
    items = [item if len(item) > 0 else item.new_zeros((0, *pad_size[1:])) for item in items]
    missing = [[whole - size for whole, size in zip(pad_size, item.shape, strict=True)] for item in items]
    if any(rows < 0 for item in missing for rows in item):
        shapes = sorted({tuple(item.shape) for item in items})
        raise ValueError(f"pad_size must be at least the size of every item: got {pad_size} for shapes {shapes}")
    # Not by assignments to parts of one tensor: torch.compile would not see that it has a gradient.
    if any(any(item[1:]) for item in missing) or min(item[0] for item in missing) > 0:
        return torch.stack([F.pad(x, _behind(item), value=pad_value) for x, item in zip(items, missing, strict=True)])
    return pad_sequence(items, batch_first=True, padding_value=pad_value)


def _behind(missing: Sequence[int]) -> list[int]:
    """What `F.pad` takes to add that many entries at the end of each dimension."""
    return [width for count in reversed(missing) for width in (0, count)]


def padded_to_list(
    x: Tensor,
    split_size: Sequence[int] | Sequence[Sequence[int]] | None = None,
) -> list[Tensor]:
    """The tensors of a padded batch, as views without their padding.

    Args:
        x: (N, P_0, P_1, ...) tensor.
        split_size: for each item either the number of rows to keep or one size for each dimension; None keeps all.

    Returns:
        List of N tensors that share memory with `x`.

    Raises:
        ValueError: when `split_size` has not N entries.

    Differentiable in `x`.
    """
    items = list(x.unbind(0))
    if split_size is None:
        return items
    if len(split_size) != len(items):
        raise ValueError(
            "Split size must be of same length as inputs first dimension: "
            f"got {len(split_size)} sizes for {len(items)} items."
        )
    sizes = [(size,) if isinstance(size, int) else tuple(size) for size in split_size]
    return [item[tuple(slice(0, s) for s in size)] for item, size in zip(items, sizes, strict=True)]


def list_to_packed(x: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rows of all tensors of a list, one after the other, and the indices that undo it.

    Args:
        x: N tensors of shapes (M_n, K, ...).

    Returns:
        x_packed: (sum(M_n), K, ...) the rows.
        num_items: (N,) int64, the M_n.
        item_packed_first_idx: (N,) int64, the first row of each tensor.
        item_packed_to_list_idx: (sum(M_n),) int64, the tensor that each row came from.

    Raises:
        ValueError: when the list is empty.

    Differentiable in `x`.
    """
    if not x:
        raise ValueError("Input list is empty")
    device = x[0].device
    sizes = [len(item) for item in x]
    num_items = torch.tensor(sizes, dtype=torch.int64, device=device)
    first_idx = num_items.cumsum(0) - num_items
    list_idx = torch.arange(len(sizes), device=device).repeat_interleave(num_items, output_size=sum(sizes))
    return torch.cat(list(x), dim=0), num_items, first_idx, list_idx


def packed_to_list(x: Tensor, split_size: Sequence[int] | int) -> tuple[Tensor, ...]:
    """The tensors that a packed tensor consists of, as views.

    Args:
        x: (sum(M_n), K, ...) tensor.
        split_size: the M_n, or one number for pieces of equal length.

    Returns:
        Tuple of tensors of shapes (M_n, K, ...) that share memory with `x`.

    Differentiable in `x`.
    """
    return x.split(split_size if isinstance(split_size, int) else list(split_size), dim=0)


def padded_to_packed(
    x: Tensor,
    split_size: Sequence[int] | None = None,
    pad_value: float | None = None,
) -> Tensor:
    """The rows of a padded batch without its padding.

    Args:
        x: (N, M, K) tensor.
        split_size: the number of rows of each item; not together with `pad_value`.
        pad_value: rows that hold only this value are padding.

    Returns:
        (sum(split_size), K) tensor; (N * M, K) when neither option is given.

    Raises:
        ValueError: when `x` is not 3D, when both options are given, or when `split_size` is not N integers.

    Differentiable in `x`.
    """
    if x.ndim != 3:
        raise ValueError(f"Supports only 3-dimensional input tensors, got {tuple(x.shape)}.")
    if split_size is not None and pad_value is not None:
        raise ValueError("Only one of split_size or pad_value should be provided.")
    N, M, K = x.shape
    rows = x.reshape(N * M, K)
    if pad_value is not None:
        return rows[(rows != pad_value).any(-1)]
    if split_size is None:
        return rows
    if len(split_size) != N:
        raise ValueError(
            f"Split size must be of same length as inputs first dimension: got {len(split_size)} sizes for {N} items."
        )
    if not all(isinstance(size, int) for size in split_size):
        raise ValueError("Support only 1-dimensional unbinded tensor: split_size must hold one int for each item.")
    sizes = torch.tensor(split_size, dtype=torch.int64, device=x.device)
    is_row = torch.arange(M, device=x.device) < sizes[:, None]
    return rows[is_row.reshape(-1)]
