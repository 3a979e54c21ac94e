"""Small sample inputs for every op: `recon doctor` and the tests that run over all ops take them from here."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recon_engine import _op

Maker = Callable[[Callable[..., Tensor]], tuple[Any, ...]]
_makers: dict[str, Maker] = {}


def all_ops() -> dict[str, _op.Op]:
    """Every op by name: all modules of `recon_engine.ops` are imported, since an op registers where it is defined."""
    package = importlib.import_module("recon_engine.ops")
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
    return _op.ops()


def sample_inputs(name: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    """The arguments of one small call of the op `name`, the same in every run.

    Args:
        name: the op's name.
        device: where the tensors lie.
        dtype: of the floating-point tensors.

    Raises:
        KeyError: if the op has no sample here.
    """
    if name not in _makers:
        raise KeyError(f"the op {name} has no sample inputs: add a function @_sample for it to {__file__}")
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    return tuple(_move(a, device, dtype) for a in _makers[name](random))


def _move(a: Any, device: torch.device | str, dtype: torch.dtype) -> Any:
    if not isinstance(a, Tensor):
        return a
    return a.to(device, dtype) if a.is_floating_point() else a.to(device)


def _sample(maker: Maker) -> Maker:
    _makers[maker.__name__] = maker
    return maker


@_sample
def sigmoid_alpha_blend(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return random(2, 5, 7, 6) * 2 - 1, (random(2, 5, 7, 6) * 10).long() - 1, 0.5


def _two_meshes(random: Callable[..., Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Vertices in front of the camera, faces, and the first face and number of faces of each mesh."""
    verts = torch.cat([random(12, 2) * 2 - 1, random(12, 1) + 1], 1)
    faces = torch.stack([torch.arange(12).roll(shift) for shift in (0, 1, 5)], 1)
    return verts, faces, torch.tensor([0, 7]), torch.tensor([7, 5])


@_sample
def rasterize_faces(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return *_two_meshes(random), None, 9, 7, 0.02, 3, True, True, False


@_sample
def soft_silhouette(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return *_two_meshes(random), 9, 7, 0.02, 4, 0.01, False, False, False


@_sample
def nearest(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return random(2, 9, 3), random(2, 11, 3), torch.tensor([9, 6]), torch.tensor([7, 11]), False, 2


@_sample
def nearest_both(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return random(2, 9, 3), random(2, 11, 3), torch.tensor([9, 6]), torch.tensor([7, 11]), False
