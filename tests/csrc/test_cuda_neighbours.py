"""The CUDA kernels of neighbours and samples, run on a CPU, at sizes beyond those of `_samples`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path += [str(Path(__file__).parent)]
from emulated_cuda import kernels_of
from test_cuda_emulated import OPS, ORDERS, _equal, cuda, deterministic  # noqa: F401 - fixtures

from recon_engine.testing import values_and_grads


def _compare(cuda, name, *inputs, exact_grads=False, orders=ORDERS[-1:]):  # noqa: F811
    expected, expected_grads = values_and_grads(OPS[name], *inputs)
    for order in orders:
        with kernels_of(cuda, OPS[name], order):
            actual, grads = values_and_grads(OPS[name], *inputs)
        _equal(actual, expected)
        tolerance = {"rtol": 0, "atol": 0} if exact_grads else {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(grads, expected_grads, **tolerance)


@pytest.mark.parametrize("N", [2, 40])  # gradients gathered, and scattered by atomics
def test_a_thousand_neighbours(cuda, N):  # noqa: F811
    x, y = (torch.randn(1, N, 3).mul(4).round(), torch.randn(1, 1350, 3).mul(4).round())
    _compare(cuda, "nearest", x, y, None, None, None, False, 1300)


def test_scattered_gradients_are_gathered_in_deterministic_mode(cuda, deterministic):  # noqa: F811
    x, y = torch.randn(1, 40, 3), torch.randn(1, 1350, 3)
    _compare(cuda, "nearest", x, y, None, None, None, False, 1300, exact_grads=True)


@pytest.mark.parametrize("D", [2, 3, 5])
@pytest.mark.parametrize("l1", [False, True])
def test_nearest_of_several_tiles(cuda, D, l1):  # noqa: F811
    x, y = torch.randn(2, 150, D).mul(2).round(), torch.randn(2, 300, D).mul(2).round()
    lengths = torch.tensor([150, 130]), torch.tensor([129, 300])
    _compare(cuda, "nearest", x, y, *lengths, None, l1, 1)
    _compare(cuda, "nearest_both", x, y, *lengths, l1)


@pytest.mark.parametrize("lattice", [False, True])
def test_samples_over_several_blocks(cuda, lattice):  # noqa: F811
    points = torch.randn(2, 5000, 3)
    points = points.round() if lattice else points
    lengths, K, start = torch.tensor([5000, 2100]), torch.tensor([5, 12]), torch.tensor([4999, 7])
    _compare(cuda, "sample_farthest_points", points, lengths, K, start, 12, orders=ORDERS)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_points_that_are_not_finite_are_not_sampled(cuda, bad):  # noqa: F811
    points = torch.randn(1, 300, 3)
    points[0, 5:9, 1] = bad
    with kernels_of(cuda, OPS["sample_farthest_points"], ORDERS[-1]):
        idx = OPS["sample_farthest_points"](points, None, torch.tensor([200]), torch.tensor([0]), 200)
    assert len(idx.unique()) == 200
    assert not ((idx >= 5) & (idx < 9)).any()
