"""Half precision. Geometry that is rounded to it moves by pixels, so torch.autocast is kept out of it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_DEVICES = ("cpu", "cuda")


def without_autocast(device_type: str) -> contextlib.AbstractContextManager[Any]:
    """A block in which torch.autocast is off for a type of devices."""
    if torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()


def widened(tensor: Tensor) -> Tensor:
    """The tensor in float32 if it is of half precision and torch.autocast is on for its device; else itself."""
    is_half = tensor.dtype in (torch.float16, torch.bfloat16)
    if is_half and tensor.device.type in _DEVICES and torch.is_autocast_enabled(tensor.device.type):
        return tensor.float()
    return tensor


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Under torch.autocast the function computes in float32, with its half-precision arguments converted."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        enabled = [device for device in _DEVICES if torch.is_autocast_enabled(device)]
        if not enabled:
            return function(*args, **kwargs)
        wide: Any = [widened(a) if isinstance(a, Tensor) else a for a in args]
        named: Any = {name: widened(a) if isinstance(a, Tensor) else a for name, a in kwargs.items()}
        with contextlib.ExitStack() as stack:
            for device in enabled:
                stack.enter_context(torch.autocast(device, enabled=False))
            return function(*wide, **named)

    return wrapper
