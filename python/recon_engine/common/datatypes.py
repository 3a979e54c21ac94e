"""Devices: the type alias of every `device=` argument and the two functions that resolve it."""

from __future__ import annotations

from typing import Any, Union

import torch

# `Union` and not `str | torch.device`: the alias is used at run time by scripts that inspect or subscript it.
Device = Union[str, torch.device]  # noqa: UP007


def make_device(device: Device) -> torch.device:
    """The `torch.device` that a name or a device stands for, with an explicit index for CUDA.

    Args:
        device: a name such as `"cpu"`, `"cuda"` or `"cuda:1"`, or a `torch.device`.

    Returns:
        The device. `cuda` without an index becomes the current CUDA device, so that two results can be compared.

    Raises:
        TypeError: when `device` is neither a string nor a device.
    """
    if isinstance(device, str):
        device = torch.device(device)
    elif not isinstance(device, torch.device):
        raise TypeError(f"make_device: device must be a str or torch.device, got {type(device).__name__}")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def get_device(x: Any, device: Device | None = None) -> torch.device:
    """The device to work on: `device` when it is given, else that of the tensor `x`, else the CPU.

    Args:
        x: a tensor, or anything else.
        device: overrides the device of `x`.

    Returns:
        The resolved device.
    """
    if device is not None:
        return make_device(device)
    if torch.is_tensor(x):
        return x.device
    return torch.device("cpu")
