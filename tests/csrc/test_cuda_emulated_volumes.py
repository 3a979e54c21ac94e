"""The CUDA kernels of `points_to_volumes`, run on a CPU, give the answers of the CPU kernels."""

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

OP = _samples.all_ops()["points_to_volumes"]


def inputs(N=2, P=40, C=3, size=(4, 3, 5)):
    g = torch.Generator().manual_seed(C)

    def random(*shape):
        return torch.rand(shape, generator=g, dtype=torch.float64)

    return 2.6 * random(N, P, 3) - 1.3, random(N, P, C), random(N, 1, *size), random(N, C, *size)


@pytest.mark.parametrize("trilinear", [True, False])
@pytest.mark.parametrize("shape", [{}, {"C": 0}, {"P": 0}, {"size": (2, 0, 3)}, {"size": (1, 1, 9), "C": 20}])
def test_values_and_gradients(cuda, shape, trilinear):  # noqa: F811
    tensors = inputs(**shape)
    for order, (align, rescale) in zip(ORDERS, [(0, 0), (0, 1), (1, 0), (1, 1)], strict=True):
        arguments = (*tensors, None, None, trilinear, bool(align), bool(rescale), 0.5, 1.5)
        expected = values_and_grads(OP, *arguments)
        with kernels_of(cuda, OP, order):
            torch.testing.assert_close(values_and_grads(OP, *arguments), expected)


def test_points_that_are_not_finite_and_grids_that_are_too_large(cuda):  # noqa: F811
    """The first are left out, the others cut off: nothing is read or written outside."""
    points, *others = inputs()
    points[0, 3, 1], points[1, 5, 0], points[1, 6, 2] = float("nan"), float("inf"), -1e300
    kept = points.isfinite().all(-1)
    arguments = (*others, torch.tensor([[9, 9, 9], [4, 3, 5]]), None, True, False, True, 0.5, 1.5)
    full = (*others, None, kept, True, False, True, 0.5, 1.5)
    expected = OP(points, *full)
    for order in ORDERS:
        with kernels_of(cuda, OP, order):
            torch.testing.assert_close(OP(points, *arguments), expected)


def test_same_bits_in_deterministic_mode(cuda, deterministic):  # noqa: F811
    arguments = (*inputs(P=200), None, None, True, True, True, 0.5, 1.0)
    results = []
    for order in ORDERS:
        with kernels_of(cuda, OP, order):
            results.append(values_and_grads(OP, *arguments))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)
