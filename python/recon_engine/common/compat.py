"""Functions whose behaviour depends on the version of torch or Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def meshgrid_ij(*A: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """`torch.meshgrid` with matrix indexing: output i varies along dimension i.

    Args:
        *A: 1D tensors, or one sequence of them.

    Returns:
        One tensor for each input, all of the shape (len(A_0), len(A_1), ...).
    """
    tensors: Any = A[0] if len(A) == 1 and not isinstance(A[0], Tensor) else A
    return tuple(torch.meshgrid(*tensors, indexing="ij"))


def prod(iterable: Iterable[Any], *, start: Any = 1) -> Any:
    """The product of all items, times `start`.

    Args:
        iterable: numbers, tensors, or anything else that can be multiplied.
        start: the first factor.

    Returns:
        The product; `start` when there are no items.
    """
    for item in iterable:
        start = start * item
    return start
