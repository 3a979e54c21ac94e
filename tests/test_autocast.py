"""Half precision under `torch.autocast`: accepted by every entry point, computed in float32 and returned in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from entry_points import ENTRIES, FUSED

from recon_engine.renderer import fused
from recon_engine.testing import values_and_grads


def _autocast(function: Callable[..., Any], dtype: torch.dtype) -> Callable[..., Any]:
    """The forward pass under autocast; the backward pass outside of it, as torch has it."""

    def call(*inputs: Any) -> Any:
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=dtype):
            return function(*inputs)

    return call


def _check(name: str, dtype: torch.dtype) -> None:
    function, inputs = ENTRIES[name]()
    half = [a.to(dtype) for a in inputs]
    torch.manual_seed(0)
    expected, expected_grads = values_and_grads(function, *[a.float() for a in half])
    values, grads = values_and_grads(_autocast(function, dtype), *half)
    torch.testing.assert_close(values, expected)  # dtypes too
    assert {grad.dtype for grad in grads} == {dtype}
    rounded = [grad.to(dtype) for grad in expected_grads]
    for grad, wanted in zip(grads, rounded, strict=True):
        # What is used twice adds up gradients that were rounded before.
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(grad, wanted, rtol=4 * eps, atol=4 * eps * wanted.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ENTRIES)
def test_equals_float32(name, dtype):
    _check(name, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FUSED)
def test_equals_float32_where_fragments_are_written(name, dtype):
    with fused(False):
        _check(name, dtype)


@pytest.mark.parametrize("name", ENTRIES)
def test_float32_stays_float32(name):
    """Nothing of what float32 is computed from is rounded on the way."""
    function, inputs = ENTRIES[name]()
    torch.manual_seed(0)
    expected = values_and_grads(function, *inputs)
    torch.testing.assert_close(values_and_grads(_autocast(function, torch.bfloat16), *inputs), expected)
