"""The CUDA kernels of points, rays and boxes against meshes, run on a CPU, give the answers of the CPU kernels."""

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

OPS = _samples.all_ops()


def _check(cuda, name, *inputs, order=ORDERS[0], **tolerance):  # noqa: F811
    expected = values_and_grads(OPS[name], *inputs)
    with kernels_of(cuda, OPS[name], order):
        actual = values_and_grads(OPS[name], *inputs)
    torch.testing.assert_close(actual, expected, **tolerance)


def _soup(P, S, H, dtype=torch.float64):
    return torch.randn(P, 3, dtype=dtype), torch.randn(S, 1, 3, dtype=dtype) + 0.4 * torch.randn(S, H, 3, dtype=dtype)


@pytest.mark.parametrize("H", [2, 3])
@pytest.mark.parametrize("from_points", [True, False])
def test_point_mesh(cuda, H, from_points):  # noqa: F811
    """Ragged batches with empty elements, and more rows than a block has threads."""
    for i, (p, s) in enumerate([([0], [0]), ([0, 150, 150, 151], [0, 140, 141, 141]), ([0, 0], [0, 3])]):
        points, simplices = _soup(301, 283, H)
        first = torch.tensor(p), torch.tensor(s)
        _check(cuda, "point_mesh", points, first[0], simplices, first[1], from_points, 0.05, order=ORDERS[i])


@pytest.mark.parametrize("from_points", [True, False])
def test_equal_distances(cuda, from_points):  # noqa: F811
    points, triangles = ((a * 2).round() for a in _soup(140, 150, 3, torch.float32))
    zero = torch.tensor([0])
    _check(cuda, "point_mesh", points, zero, triangles, zero, from_points, 0.0, order=ORDERS[2])


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (129, 257)])
def test_winding_and_rays(cuda, sizes):  # noqa: F811
    points, triangles = _soup(*sizes, 3)
    _check(cuda, "point_mesh_winding", points, triangles, order=ORDERS[1])
    _check(cuda, "ray_mesh", points, torch.randn(sizes[0], 3).double(), triangles, float("inf"), False, order=ORDERS[2])


def test_boxes(cuda):  # noqa: F811
    boxes, others = (_samples.sample_inputs("box3d_overlap", dtype=torch.float32)[i] for i in range(2))
    _check(cuda, "box3d_overlap", torch.cat([boxes, others]).repeat(4, 1, 1), boxes, order=ORDERS[3])
