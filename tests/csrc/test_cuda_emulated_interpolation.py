"""The CUDA kernel of `interpolate_face_attributes`, run on a CPU, gives the answers of the CPU kernel."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))
from emulated_cuda import kernels_of
from test_cuda_emulated import ORDERS, cuda, deterministic  # noqa: F401 - fixtures

from recon_engine import _samples
from recon_engine.testing import values_and_grads

OP = _samples.all_ops()["interpolate_face_attributes"]


def inputs(shape, F, D, filled):
    g = torch.Generator().manual_seed(D)
    face = torch.randint(F, shape, generator=g)
    face = torch.where(torch.rand(shape, generator=g) < filled, face, -1)
    bary = torch.rand(*shape, 3, generator=g, dtype=torch.float64)
    return face, bary, torch.rand(F, 3, D, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("D", [1, 3, 9, 17, 64])
@pytest.mark.parametrize(("shape", "F"), [((1, 9, 20, 3), 2), ((2, 17, 5, 1), 40), ((2, 1, 33, 8), 1000)])
def test_values_and_gradients(cuda, shape, F, D):  # noqa: F811
    for order, filled in zip(ORDERS, (0.0, 0.3, 0.9, 1.0), strict=True):
        arguments = inputs(shape, F, D, filled)
        expected = values_and_grads(OP, *arguments)
        with kernels_of(cuda, OP, order):
            torch.testing.assert_close(values_and_grads(OP, *arguments), expected)


def test_same_bits_in_deterministic_mode(cuda, deterministic):  # noqa: F811
    arguments = inputs((2, 17, 20, 4), 30, 5, 0.6)
    results = []
    for order in ORDERS:
        with kernels_of(cuda, OP, order):
            results.append(values_and_grads(OP, *arguments))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)
    torch.testing.assert_close(results[0], values_and_grads(OP, *arguments))
