"""Batched tensor properties shared by cameras, lights and materials, and sampling in NDC coordinates."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon_engine._precision import widened
from recon_engine.common.datatypes import Device, make_device

BROADCAST_TYPES = (float, int, list, tuple, Tensor, np.ndarray)


class TensorAccessor:
    """Reads and writes one index of every batched tensor of an object: `lights[0].location = (0, 1, 0)`."""

    def __init__(self, class_object: Any, index: int | slice) -> None:
        """Bind `class_object`, whose attributes are tensors with a batch dimension, to a position of that batch."""
        self.__dict__["class_object"] = class_object
        self.__dict__["index"] = index

    def __setattr__(self, name: str, value: Any) -> None:
        target = getattr(self.class_object, name)
        if not isinstance(target, Tensor):
            raise AttributeError(f"Can only set values on attributes which are tensors; got {type(target)!r}: {name}")
        if not isinstance(value, Tensor):
            value = torch.tensor(value, device=target.device, dtype=target.dtype)
        if target.dim() > 1 and value.dim() > 1 and value.shape[1:] != target.shape[1:]:
            raise ValueError(f"Expected value to have shape {tuple(target.shape)}; got {tuple(value.shape)} for {name}")
        # Broadcast properties are expanded views: writing one entry needs memory of its own.
        target = target.clone()
        target[self.index] = value
        setattr(self.class_object, name, target)

    def __getattr__(self, name: str) -> Any:
        if not hasattr(self.class_object, name):
            raise AttributeError(f"Attribute {name} not found on {type(self.class_object).__name__}")
        return getattr(self.class_object, name)[self.index]


class TensorProperties(nn.Module):
    """A module whose tensor attributes share one batch dimension.

    Numbers, lists, tuples, arrays and tensors given as keyword arguments become tensors on `device` and are broadcast
    against each other; strings, booleans and None are stored as they are.
    """

    device: torch.device

    def __init__(self, dtype: torch.dtype = torch.float32, device: Device = "cpu", **kwargs: Any) -> None:
        """Store `kwargs` as attributes.

        Args:
            dtype: type of the tensors made from numbers, lists and tuples; tensors keep theirs.
            device: where all tensors are placed.
            kwargs: the properties by name.

        Raises:
            ValueError: batch sizes that are neither 1 nor equal.
        """
        super().__init__()
        self.device = make_device(device)
        self._N = 0
        batched = {}
        for name, value in kwargs.items():
            if value is None or isinstance(value, (str, bool)):
                setattr(self, name, value)
            elif isinstance(value, BROADCAST_TYPES):
                batched[name] = value
            else:
                warnings.warn(f"Arg {name} with type {type(value)!r} is not broadcastable", stacklevel=3)
        if batched:
            tensors = convert_to_tensors_and_broadcast(*batched.values(), dtype=dtype, device=self.device)
            self._N = tensors[0].shape[0]
            for name, tensor in zip(batched, tensors, strict=True):
                setattr(self, name, widened(tensor))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes what was pickled by this class, or by PyTorch3D's, which may keep the name of a device."""
        super().__setstate__(state)
        self.device = make_device(self.device)

    def __len__(self) -> int:
        return self._N

    def isempty(self) -> bool:
        """Whether the batch has no element."""
        return self._N == 0

    def __getitem__(self, index: int | slice) -> TensorAccessor:
        """Return an accessor that reads and writes the properties at `index` of the batch."""
        if isinstance(index, (int, slice)):
            return TensorAccessor(class_object=self, index=index)
        raise ValueError(f"Expected index of type int or slice; got {type(index)!r}")

    def _properties(self) -> Iterator[tuple[str, Any]]:
        """Names and values of what this class stores, without the bookkeeping of `nn.Module`."""
        own = {name: value for name, value in vars(self).items() if name not in _MODULE_FIELDS}
        yield from list({**own, **self._parameters, **self._buffers}.items())

    def to(self, device: Device = "cpu") -> Any:  # type: ignore[override]
        """Move all tensors to `device` in place and return self."""
        target = make_device(device)
        super().to(target)  # parameters and buffers
        for name, value in vars(self).copy().items():
            if isinstance(value, Tensor) and value.device != target:
                setattr(self, name, value.to(target))
        self.device = target
        return self

    def cpu(self) -> Any:
        """Move to the CPU in place."""
        return self.to("cpu")

    def cuda(self, device: int | None = None) -> Any:  # type: ignore[override]
        """Move to a CUDA device in place."""
        return self.to("cuda" if device is None else f"cuda:{device}")

    def _bare(self) -> Any:
        """An object of the same class without properties: its constructor would copy numbers to the device."""
        bare = type(self).__new__(type(self))
        super(TensorProperties, bare).__init__()
        return bare

    def clone(self, other: TensorProperties) -> TensorProperties:
        """Give `other` copies of all properties of self and return it. Gradients flow through the copies."""
        for name, value in self._properties():
            setattr(other, name, value.clone() if isinstance(value, Tensor) else copy.deepcopy(value))
        return other

    def gather_props(self, batch_idx: Tensor) -> TensorProperties:
        """Replace every property of shape (N, ...) by its rows `batch_idx`, in place; batches of one stay.

        Used to go from one value for each mesh to one for each packed vertex:
        `lights.clone().gather_props(meshes.verts_packed_to_mesh_idx())`.

        Args:
            batch_idx: (B, ...) int64 rows to take; not more dimensions than the properties have.

        Returns:
            self, with properties of shape (B, ...).
        """
        for name, value in self._properties():
            if not isinstance(value, Tensor) or value.dim() == 0 or value.shape[0] <= 1:
                continue
            if batch_idx.dim() > value.dim():
                raise ValueError(
                    f"batch_idx cannot have more dimensions than {name}: "
                    f"got shape {tuple(batch_idx.shape)} and {name} has shape {tuple(value.shape)}"
                )
            if batch_idx.dim() == 1:
                gathered = value.index_select(0, batch_idx)
            else:
                trailing = value.shape[batch_idx.dim() :]
                index = batch_idx.reshape(*batch_idx.shape, *(1 for _ in trailing)).expand(*batch_idx.shape, *trailing)
                gathered = value.gather(0, index)
            setattr(self, name, gathered)
        return self


_MODULE_FIELDS = frozenset(vars(nn.Module()))


def format_tensor(input: Any, dtype: torch.dtype = torch.float32, device: Device = "cpu") -> Tensor:
    """Make a tensor with at least one dimension on `device`.

    Args:
        input: number, list, tuple, array or tensor. Tensors keep their dtype.
        dtype: type of the result when `input` is not a tensor.
        device: where the result lives.
    """
    target = make_device(device)
    if isinstance(input, (int, float)):
        return torch.full((1,), input, dtype=dtype, device=target)  # on a GPU without a copy, which would wait for it
    tensor = input if isinstance(input, Tensor) else torch.as_tensor(input, dtype=dtype, device=target)
    if tensor.dim() == 0:
        tensor = tensor.view(1)
    return tensor if tensor.device == target else tensor.to(target)


def convert_to_tensors_and_broadcast(
    *args: Any, dtype: torch.dtype = torch.float32, device: Device = "cpu"
) -> list[Tensor]:
    """Make tensors of all arguments and expand them to one batch size.

    Args:
        args: numbers, lists, tuples, arrays or tensors of shape (N, ...) or (1, ...).
        dtype: type of tensors made from anything that is not a tensor.
        device: where the results live.

    Returns:
        tensors of shape (N, ...), expanded without a copy.

    Raises:
        ValueError: a batch size that is neither 1 nor N.
    """
    tensors = [format_tensor(value, dtype, device) for value in args]
    sizes = [tensor.shape[0] for tensor in tensors]
    N = 0 if 0 in sizes else max(sizes)
    if any(size not in (1, N) for size in sizes):
        raise ValueError(f"Got non-broadcastable sizes {sizes!r}")
    return [tensor if tensor.shape[0] == N else tensor.expand(N, *tensor.shape[1:]) for tensor in tensors]


def ndc_grid_sample(
    input: Tensor, grid_ndc: Tensor, *, align_corners: bool = False, **grid_sample_kwargs: Any
) -> Tensor:
    """Sample images at points given in NDC (+X left, +Y up, short side of the image in [-1, 1]).

    Args:
        input: (B, C, H, W) images.
        grid_ndc: (B, ..., 2) points.
        align_corners: as in `torch.nn.functional.grid_sample`.
        grid_sample_kwargs: further arguments of `torch.nn.functional.grid_sample`.

    Returns:
        (B, C, ...) the samples.
    """
    batch, *spatial, dim = grid_ndc.shape
    if batch != input.shape[0]:
        raise ValueError(f"'input' and 'grid_ndc' have to have the same batch size; got {input.shape[0]} and {batch}")
    if input.ndim != 4:
        raise ValueError(f"'input' has to be a 4-dimensional Tensor; got shape {tuple(input.shape)}")
    if dim != 2:
        raise ValueError(f"The last dimension of 'grid_ndc' has to be == 2; got shape {tuple(grid_ndc.shape)}")
    height, width = input.shape[2:]
    grid = ndc_to_grid_sample_coords(grid_ndc.reshape(batch, -1, 1, 2), (height, width))
    sampled = F.grid_sample(input, grid, align_corners=align_corners, **grid_sample_kwargs)
    return sampled.reshape(batch, input.shape[1], *spatial)


def ndc_to_grid_sample_coords(xy_ndc: Tensor, image_size_hw: Sequence[int]) -> Tensor:
    """Convert points from NDC to the coordinates of `torch.nn.functional.grid_sample`.

    Both axes flip, and the long side shrinks from [-u, u] to [-1, 1].

    Args:
        xy_ndc: (..., 2) points.
        image_size_hw: (height, width) of the image to sample.

    Returns:
        (..., 2) points, a new tensor.
    """
    if len(image_size_hw) != 2 or any(size <= 0 for size in image_size_hw):
        raise ValueError(f"'image_size_hw' has to be a 2-tuple of positive integers; got {image_size_hw!r}")
    height, width = image_size_hw
    short = min(height, width)
    return xy_ndc * xy_ndc.new_tensor([-short / width, -short / height])


def parse_image_size(image_size: Any) -> tuple[int, int]:
    """Return (height, width) for an int or a pair of ints.

    Raises:
        ValueError: not one or two positive ints.
    """
    size: tuple[Any, Any]
    if not isinstance(image_size, (tuple, list)):
        size = (image_size, image_size)
    elif len(image_size) != 2:
        raise ValueError(f"Image size can only be a tuple/list of (H, W); got {image_size!r}")
    else:
        size = (image_size[0], image_size[1])
    if any(isinstance(side, bool) or not isinstance(side, (int, np.integer)) for side in size):
        raise ValueError(f"Image sizes must be integers; got {image_size!r}")
    if any(side <= 0 for side in size):
        raise ValueError(f"Image sizes must be greater than 0; got {image_size!r}")
    return int(size[0]), int(size[1])
