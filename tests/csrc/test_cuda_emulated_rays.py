"""The CUDA kernels of `march_rays` and `sample_pdf`, run on a CPU, give the answers of the CPU kernels."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))
from emulated_cuda import kernels_of
from test_cuda_emulated import ORDERS, cuda  # noqa: F401 - a fixture

from recon_engine import _samples
from recon_engine.testing import values_and_grads

MARCH, SAMPLE = (_samples.all_ops()[name] for name in ("march_rays", "sample_pdf"))


def _compare(cuda, op, function, *inputs):  # noqa: F811
    expected = values_and_grads(function, *inputs)
    for order in ORDERS[:3]:
        with kernels_of(cuda, op, order):
            torch.testing.assert_close(values_and_grads(function, *inputs), expected)


@pytest.mark.parametrize("shift", [0, 1, 4, 100])
@pytest.mark.parametrize("shape", [(300, 9, 3), (5, 1, 1), (7, 20, 17), (6, 9, 0)])
def test_marching(cuda, shape, shift):  # noqa: F811
    densities, features = torch.rand(shape[:2], dtype=torch.float64), torch.rand(shape, dtype=torch.float64)
    densities[0] = 1
    _compare(cuda, MARCH, lambda a, f: MARCH(a, f, 1e-3, shift), densities, features)
    _compare(cuda, MARCH, lambda f: MARCH(densities, f, 1e-3, shift), features)


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("B", [1, 2, 31, 200])
def test_samples_of_bins(cuda, B, rows):  # noqa: F811
    bins, weights = torch.rand(40, B + 1, dtype=torch.float64).cumsum(1), torch.rand(40, B, dtype=torch.float64)
    weights[3], weights[4, B // 2 :] = 0, 0
    u = torch.rand(rows, 9, dtype=torch.float64)
    _compare(cuda, SAMPLE, functools.partial(_sample, u=u), bins, weights)
    _compare(cuda, SAMPLE, functools.partial(_sample, weights=weights, u=u), bins)


def _sample(bins, weights, u):
    return SAMPLE(bins, weights, u, 1e-5)
