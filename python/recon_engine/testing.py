"""Helpers for testing ops: every op is compared with its plain-torch reference and gradchecked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from recon_engine._op import is_float, reference


def values_and_grads(op: Callable[..., Any], *inputs: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs of `op` and the gradients of a fixed random functional of its float outputs in its float inputs.

    The `constants` of an `Op` are left out: its kernel has no gradient in them.
    """
    leaves = [a.detach().clone() if isinstance(a, Tensor) else a for a in inputs]
    differentiable = [a.requires_grad_() for i, a in enumerate(leaves) if is_float(a) and i not in constants_of(op)]
    out = op(*leaves)
    outs = list(out) if isinstance(out, tuple) else [out]
    generator = torch.Generator().manual_seed(0)
    loss = sum(
        (o * torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o)).sum()
        for o in outs
        if o.requires_grad
    )
    grads: Sequence[Tensor | None] = [None] * len(differentiable)
    if isinstance(loss, Tensor):
        grads = torch.autograd.grad(loss, differentiable, allow_unused=True)
    zeros = [torch.zeros_like(a) if g is None else g for a, g in zip(differentiable, grads)]
    return [o.detach() for o in outs], zeros


def constants_of(op: Callable[..., Any]) -> list[int]:
    """The positions of the inputs of an `Op` in which its kernel has no gradient; none for other functions."""
    return list(getattr(op, "constants", []))


def assert_matches_reference(
    op: Callable[..., Any], *inputs: Any, rtol: float | None = None, atol: float | None = None
) -> None:
    """Values and gradients of `op` equal those of its reference, on the inputs' device and dtype."""
    actual = values_and_grads(op, *inputs)
    with reference():
        expected = values_and_grads(op, *inputs)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def assert_as_accurate(op: Callable[..., Any], *inputs: Any, factor: float = 2.0) -> None:
    """The error of `op` against float64 is at most `factor` times that of its reference in the inputs' precision."""
    actual = values_and_grads(op, *inputs)
    with reference():
        same = values_and_grads(op, *inputs)
        exact = values_and_grads(op, *[a.double() if is_float(a) else a for a in inputs])
    for group in range(2):
        for a, s, e in zip(actual[group], same[group], exact[group]):
            if not a.is_floating_point():
                continue
            allowed = factor * (s.double() - e).abs().max() + 4 * torch.finfo(a.dtype).eps * e.abs().max()
            error = (a.double() - e).abs().max()
            assert error <= allowed, f"error {error:.3g} against float64, allowed {allowed:.3g}"
