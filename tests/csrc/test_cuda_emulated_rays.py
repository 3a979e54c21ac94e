"""The CUDA kernels of `march_rays`, `march_volume` and `sample_pdf`, run on a CPU, give the answers of the CPU's."""

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
from recon_engine.renderer import march_density_delta
from recon_engine.testing import values_and_grads

MARCH, SAMPLE, VOLUME = (_samples.all_ops()[name] for name in ("march_rays", "sample_pdf", "march_volume"))


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


def test_a_medium(cuda):  # noqa: F811
    densities, deltas, features = (torch.rand(shape, dtype=torch.float64) for shape in ((60, 9), (60, 9), (60, 9, 3)))
    _compare(cuda, MARCH, march_density_delta, densities - 0.3, deltas, features)


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


def _volume_inputs(V, C, size, S=9):
    rays = torch.rand(2, 40, 3, dtype=torch.float64) * 2.6 - 1.3
    values = torch.rand(V, *size, dtype=torch.float64), torch.rand(V, C, *size, dtype=torch.float64)
    return *values, rays, rays.flip(0) - rays, torch.rand(80, S, dtype=torch.float64).sort(1).values * 2


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("options", [(0, "bilinear", "zeros", True), (1, "nearest", "border", False)])
@pytest.mark.parametrize(("V", "C", "size"), [(2, 3, (4, 5, 6)), (1, 0, (3, 1, 2)), (1, 2, (1, 3, 1))])
def test_volumes(cuda, V, C, size, options, deterministic):  # noqa: F811
    inputs = _volume_inputs(V, C, size)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        _compare(cuda, VOLUME, lambda *a: VOLUME(*a, 1e-3, 0.0, *options), *inputs)
        _compare(cuda, VOLUME, lambda *a: VOLUME(*a, *inputs[1:], 1e-3, 0.0, *options), inputs[0])
        _compare(cuda, VOLUME, lambda *a: VOLUME(*inputs[:4], *a, 1e-3, 0.0, *options), inputs[4])
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = True
        torch.use_deterministic_algorithms(False)


def test_rays_end_in_opaque_volumes(cuda):  # noqa: F811
    densities, *rest = _volume_inputs(2, 3, (4, 5, 6), S=20)
    densities = torch.where(densities > 0.4, 1.0, densities)
    _compare(cuda, VOLUME, lambda *a: VOLUME(*a, 1e-10, 1e-18, 1, "bilinear", "zeros", True), densities, *rest)


def test_nothing_is_marched(cuda):  # noqa: F811
    densities, features, origins, directions, lengths = _volume_inputs(1, 3, (4, 5, 6))
    for rays, samples in ((0, 9), (40, 0)):
        inputs = densities, features, origins[:, :rays], directions[:, :rays], lengths[: 2 * rays, :samples]
        _compare(cuda, VOLUME, lambda *a: VOLUME(*a, 1e-10, 0.0, 1, "bilinear", "zeros", True), *inputs)
