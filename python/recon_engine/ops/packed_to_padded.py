"""Conversions between rows one after the other (packed) and a batch that is filled up with zeros (padded)."""

from __future__ import annotations

import torch
from torch import Tensor

from recon_engine._op import Op


def packed_to_padded(inputs: Tensor, first_idxs: Tensor, max_size: int) -> Tensor:
    """The rows of each element of a batch, filled up with zeros.

    Args:
        inputs: (F,) or (F, ...) packed rows.
        first_idxs: (N,) int64, the first row of each element, ascending; the rows of an element end where the next one
            begins, those of the last at F.
        max_size: the number of rows of each element of the result; what an element has beyond them is left out.

    Returns:
        (N, max_size) or (N, max_size, ...) tensor of the dtype of `inputs`.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Differentiable in `inputs`. CPU and CUDA, any dtype.
    """
    _check("packed_to_padded", inputs, first_idxs, 1, max_size, "max_size")
    rows = inputs.reshape(inputs.shape[0], _channels(inputs.shape[1:]))
    convert = _packed_to_padded if _has_kernel(inputs) else _to_padded_reference
    padded: Tensor = convert(rows, first_idxs, max_size)
    return padded.reshape(len(first_idxs), max_size, *inputs.shape[1:])


def padded_to_packed(inputs: Tensor, first_idxs: Tensor, num_inputs: int, max_size_dim: int = 1) -> Tensor:
    """The rows of a batch one after the other, without the padding.

    Args:
        inputs: (N, ..., max_size, ...) batch, with the rows along dimension `max_size_dim`.
        first_idxs: (N,) int64, where the rows of each element begin in the result, ascending.
        num_inputs: F, the number of rows of the result.
        max_size_dim: the dimension that holds the rows.

    Returns:
        (F,) or (F, ...) tensor; rows that no element of the batch reaches are 0.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Differentiable in `inputs`. CPU and CUDA, any dtype.
    """
    _check("padded_to_packed", inputs, first_idxs, 2, num_inputs, "num_inputs")
    batch = inputs.movedim(max_size_dim, 1)
    if len(batch) != len(first_idxs):
        raise ValueError(
            "padded_to_packed: first_idxs must have one entry for each of the "
            f"{len(batch)} elements of the batch, got {len(first_idxs)}"
        )
    rows = batch.reshape(*batch.shape[:2], _channels(batch.shape[2:]))
    convert = _padded_to_packed if _has_kernel(inputs) else _to_packed_reference
    packed: Tensor = convert(rows, first_idxs, num_inputs)
    return packed.reshape(num_inputs, *batch.shape[2:])


def _channels(shape: torch.Size) -> int:
    # reshape(-1) cannot tell how many there are when there are no rows.
    return shape.numel()


def _has_kernel(inputs: Tensor) -> bool:
    return inputs.dtype in (torch.float32, torch.float64)


def _check(name: str, inputs: Tensor, first_idxs: Tensor, least_dims: int, size: int, size_name: str) -> None:
    if inputs.ndim < least_dims:
        raise ValueError(f"{name}: inputs must have at least {least_dims} dimensions, got {tuple(inputs.shape)}")
    if first_idxs.ndim != 1:
        raise ValueError(f"first_idxs can only be 1-dimensional: {name} got {tuple(first_idxs.shape)}")
    if first_idxs.dtype != torch.int64:
        raise ValueError(f"first_idxs has to be of type torch.int64: {name} got {first_idxs.dtype}")
    if not isinstance(size, int):
        raise ValueError(f"{size_name} has to be int: {name} got {type(size).__name__}")


def _places(first: Tensor, size: int, num_rows: int) -> tuple[Tensor, Tensor]:
    """(N, size): the packed row of each padded one, and whether there is one."""
    last = torch.cat([first[1:], first.new_full((min(len(first), 1),), num_rows)])
    rows = first[:, None] + torch.arange(size, device=first.device)
    return rows, rows < last[:, None]


def _to_padded_reference(packed: Tensor, first: Tensor, max_size: int) -> Tensor:
    rows, exists = _places(first, max_size, packed.shape[0])
    padded = packed.new_zeros(*rows.shape, packed.shape[1])
    return padded.masked_scatter(exists[..., None], packed[rows[exists]])


def _to_packed_reference(padded: Tensor, first: Tensor, num_inputs: int) -> Tensor:
    rows, exists = _places(first, padded.shape[1], num_inputs)
    return padded.new_zeros(num_inputs, padded.shape[2]).index_put((rows[exists],), padded[exists])


def _to_padded_outputs(packed: Tensor, first: Tensor, max_size: int) -> Tensor:
    return packed.new_empty(first.shape[0], max_size, packed.shape[1])


def _to_packed_outputs(padded: Tensor, first: Tensor, num_inputs: int) -> Tensor:
    return padded.new_empty(num_inputs, padded.shape[2])


_packed_to_padded = Op("packed_to_padded", _to_padded_outputs, _to_padded_reference)
_padded_to_packed = Op("padded_to_packed", _to_packed_outputs, _to_packed_reference)
