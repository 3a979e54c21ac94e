"""The CUDA kernels of the point renderer, run on a CPU, give the answers of the CPU kernels."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "ops")]
from emulated_cuda import kernels_of
from point_scenes import clouds
from test_composite import MODES, scene
from test_cuda_emulated import ORDERS, cuda, deterministic  # noqa: F401 - fixtures
from test_rasterize_points import SCENES, SETTINGS
from test_render_points import KINDS, features_of, results

from recon_engine import _samples
from recon_engine.ops._composite import composite
from recon_engine.ops._rasterize_points import rasterize_points
from recon_engine.ops._render_points import render_points
from recon_engine.testing import values_and_grads

OPS = _samples.all_ops()


def check_points(cuda, points, image_size, K, orders):  # noqa: F811
    """Fragments equal those of the CPU bit for bit, gradients up to rounding."""

    def run(positions):
        return rasterize_points(positions, *points[1:], image_size, K)

    expected, expected_grads = values_and_grads(run, points.points)
    for order in orders:
        with kernels_of(cuda, OPS["rasterize_points"], order):
            actual, grads = values_and_grads(run, points.points)
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
        largest = max([1.0, *(g.abs().max().item() for g in expected_grads if g.numel())])
        torch.testing.assert_close(grads, expected_grads, rtol=0, atol=1e-4 * largest)


@pytest.mark.parametrize("name", SCENES)
def test_points(cuda, name):  # noqa: F811
    for i, (image_size, K) in enumerate(SETTINGS):
        check_points(cuda, SCENES[name], image_size, K, [ORDERS[i % 4]])


@pytest.mark.parametrize("sizes", [(700, 0, 600), (1, 2500, 3)])
def test_many_points_are_looked_up_in_bins(cuda, sizes):  # noqa: F811
    check_points(cuda, clouds(sizes, radius=0.05), (40, 70), 6, ORDERS[::3])


def test_bins_of_several_tiles(cuda):  # noqa: F811
    check_points(cuda, clouds((1500,), radius=0.02), (17, 1200), 3, ORDERS[2:3])


@pytest.mark.parametrize("name", ["three", "shared", "large"])
def test_deterministic_points(cuda, name, deterministic):  # noqa: F811
    results = []
    for order in ORDERS:
        with kernels_of(cuda, OPS["rasterize_points"], order):
            run = lambda p: rasterize_points(p, *SCENES[name][1:], (20, 35), 4)  # noqa: E731
            results.append(values_and_grads(run, SCENES[name].points))
        torch.testing.assert_close(results[-1], results[0], rtol=0, atol=0)
    check_points(cuda, SCENES[name], (20, 35), 4, ORDERS[:1])


def test_points_that_are_not_finite_are_left_out(cuda):  # noqa: F811
    points = clouds((40,))
    spoiled = points._replace(points=points.points.clone(), radius=points.radius.clone())
    spoiled.points[3, 0], spoiled.points[5, 2] = torch.nan, torch.inf
    spoiled.radius[8], spoiled.radius[9] = torch.nan, -1.0
    kept = points._replace(radius=points.radius.clone())
    kept.radius[[3, 5, 8, 9]] = 0.0
    expected = rasterize_points(*kept, (12, 12), 5)
    with kernels_of(cuda, OPS["rasterize_points"], ORDERS[2]):
        actual = rasterize_points(*spoiled, (12, 12), 5)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_composite(cuda, mode):  # noqa: F811
    for i, sizes in enumerate(({"C": 1}, {"C": 3, "K": 1}, {"C": 33, "K": 9, "P": 2}, {"N": 0}, {"C": 0})):
        idx, alphas, features = scene(**sizes)
        for permuted in (False, True):

            def run(alphas, features, idx=idx, permuted=permuted):
                if permuted:
                    idx, alphas = (a.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for a in (idx, alphas))
                return composite(idx, alphas, features, mode)

            expected = values_and_grads(run, alphas, features)
            with kernels_of(cuda, OPS["composite"], ORDERS[i % 4]):
                actual = values_and_grads(run, alphas, features)
            torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("mode", MODES)
def test_deterministic_composite(cuda, mode, deterministic):  # noqa: F811
    idx, alphas, features = scene(K=9, C=7, P=5)
    results = []
    for order in ORDERS:
        with kernels_of(cuda, OPS["composite"], order):
            results.append(values_and_grads(lambda a, f: composite(idx, a, f, mode), alphas, features))
        torch.testing.assert_close(results[-1], results[0], rtol=0, atol=0)
    torch.testing.assert_close(results[0], values_and_grads(lambda a, f: composite(idx, a, f, mode), alphas, features))


def check_images(cuda, points, C, image_size, K, kind, orders):  # noqa: F811
    """Images and gradients are those of the CPU up to rounding."""
    points = points.to("cpu", torch.float64)
    features = features_of(points, C)
    expected, expected_grads = results(render_points, points, features, image_size, K, *kind)
    for order in orders:
        with kernels_of(cuda, OPS["render_points"], order):
            actual, grads = results(render_points, points, features, image_size, K, *kind)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-11)
        largest = max([1.0, *(g.abs().max().item() for g in expected_grads if g.numel())])
        torch.testing.assert_close(grads, expected_grads, rtol=0, atol=1e-11 * largest)


@pytest.mark.parametrize("kind", KINDS)
def test_images(cuda, kind):  # noqa: F811
    for i, name in enumerate(SCENES):
        image_size, K = SETTINGS[i % 6]
        check_images(cuda, SCENES[name], (3, 1, 11)[i % 3], image_size, K, kind, [ORDERS[i % 4]])


@pytest.mark.parametrize(
    "kind", [("alpha", "parabola", 1.0), ("weighted", "cone", 1.0), ("norm_weighted", "cone", 2.0)]
)
@pytest.mark.parametrize("K", [64, 65, 150, 1000])
def test_images_in_rounds(cuda, K, kind):  # noqa: F811
    """More points than a thread holds at a time; many of the same depth."""
    points = clouds((400,), radius=0.8, spread=0.8)
    points.points[::2, 2] = (points.points[::2, 2] * 4).round() / 4
    check_images(cuda, points, 2, (7, 18), K, kind, ORDERS[::2])


def test_images_of_many_points(cuda):  # noqa: F811
    check_images(cuda, clouds((700, 0, 900), radius=0.05), 3, (40, 33), 6, KINDS[6], ORDERS[::3])


@pytest.mark.parametrize("name", ["three", "shared", "equal"])
@pytest.mark.parametrize("kind", KINDS[::3])
def test_deterministic_images(cuda, name, kind, deterministic):  # noqa: F811
    points = SCENES[name]
    every = []
    for order in ORDERS:
        with kernels_of(cuda, OPS["render_points"], order):
            every.append(results(render_points, points, features_of(points, 10), (20, 35), 4, *kind))
        torch.testing.assert_close(every[-1], every[0], rtol=0, atol=0)
    check_images(cuda, points, 10, (20, 35), 4, kind, ORDERS[:1])
