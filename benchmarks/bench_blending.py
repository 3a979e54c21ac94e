"""Blending by itself: fragments in, images out, and the gradients back."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from rivals import DEVICE, OURS, Case, Functions, rival, speed_test
from torch import Tensor

SIZE, K = 256, 50


def _fragments() -> tuple[Tensor, SimpleNamespace]:
    """Colours and fragments with up to 20 faces in a pixel, packed to the front as a rasteriser leaves them."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, SIZE, SIZE, K)
    count = torch.randint(0, 20, (*shape[:3], 1), generator=generator)
    is_face = torch.arange(K) < count
    pix_to_face = torch.where(is_face, torch.randint(0, 5120, shape, generator=generator), -1)
    dists = torch.where(is_face, torch.randn(shape, generator=generator) * 1e-4, -1.0)
    zbuf = torch.where(is_face, torch.rand(shape, generator=generator) + 2, -1.0)
    colors = torch.rand(*shape, 3, generator=generator)
    fields = {"pix_to_face": pix_to_face, "zbuf": zbuf, "dists": dists}
    tensors = {name: t.to(DEVICE) for name, t in fields.items()}
    return colors.to(DEVICE).requires_grad_(), SimpleNamespace(
        **{name: t.requires_grad_() if t.is_floating_point() else t for name, t in tensors.items()}
    )


def _blend(name: str) -> Functions:
    colors, fragments = _fragments()

    def make(package: str) -> Callable[[], tuple[Tensor, ...]]:
        blending = importlib.import_module(f"{package}.renderer.blending")
        parameters = blending.BlendParams(sigma=1e-4, gamma=1e-2)
        blend = getattr(blending, name)
        leaves = [colors, fragments.dists] + ([fragments.zbuf] if name == "softmax_rgb_blend" else [])

        def call() -> tuple[Tensor, ...]:
            image = blend(colors, fragments, parameters)
            return (image.detach(), *torch.autograd.grad(image.square().mean(), leaves))

        return call

    return {package: make(package) for package in (OURS, "pytorch3d") if rival(package)}


def _close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


_SLOTS = SIZE * SIZE * K
CASES = [
    Case(
        "sigmoid_alpha_blend forward + backward alone, 256x256, K=50",
        lambda: _blend("sigmoid_alpha_blend"),
        bytes_moved=2 * _SLOTS * (8 + 4) + _SLOTS * 4,
        same=_close,
    ),
    Case(
        "softmax_rgb_blend forward + backward alone, 256x256, K=50",
        lambda: _blend("softmax_rgb_blend"),
        target=12,
        bytes_moved=2 * _SLOTS * (8 + 4 + 4) + _SLOTS * (4 + 4 + 12),
        same=_close,
    ),
]

test_speed = speed_test(CASES)
