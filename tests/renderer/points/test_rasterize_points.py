from __future__ import annotations

import pytest
import torch
from point_scenes import clouds

from recon_engine.renderer.points import rasterize_points
from recon_engine.renderer.points.rasterize_points import _format_radius, rasterize_points_python
from recon_engine.structures import Pointclouds

SIZES = (30, 0, 22)


@pytest.fixture
def batch(device):
    scene = clouds(SIZES).to(device, torch.float32)
    return Pointclouds(list(scene.points.split(SIZES))), scene


def equal(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_the_reference_agrees(batch):
    pointclouds, _ = batch
    equal(rasterize_points(pointclouds, (11, 8), 0.2, 3), rasterize_points_python(pointclouds, (11, 8), 0.2, 3))


def test_a_number_is_the_side_of_a_square_image(batch):
    pointclouds, _ = batch
    found = rasterize_points(pointclouds, 9, 0.2, 4)
    assert [tuple(a.shape) for a in found] == [(3, 9, 9, 4)] * 3
    assert [a.dtype for a in found] == [torch.int32, torch.float32, torch.float32]
    equal(found, rasterize_points(pointclouds, [9, 9], 0.2, 4))


def test_forms_of_the_radius(batch):
    pointclouds, scene = batch
    padded = torch.full((3, 30), 9.0, device=scene.radius.device)
    for n, part in enumerate(scene.radius.split(SIZES)):
        padded[n, : len(part)] = part
    equal(_format_radius(padded, pointclouds), scene.radius)
    equal(_format_radius(padded.tolist(), pointclouds), scene.radius)
    equal(_format_radius(tuple(padded), pointclouds), scene.radius)
    equal(_format_radius(padded.double(), pointclouds), scene.radius)
    each = torch.tensor([0.1] * 30 + [0.3] * 22, device=scene.radius.device)
    for radius in ([0.1, 0.2, 0.3], torch.tensor([0.1, 0.2, 0.3], device=each.device)):
        equal(_format_radius(radius, pointclouds), each)
    for radius in (2, 2.0, torch.tensor(2.0)):
        equal(_format_radius(radius, pointclouds), torch.full_like(each, 2.0))
    single = pointclouds[0]
    equal(_format_radius(padded[0], single), scene.radius[:30])
    equal(_format_radius([0.5], single), torch.full_like(scene.radius[:30], 0.5))


@pytest.mark.parametrize(
    ("radius", "message"),
    [
        ([0.1, 0.2], r"radius must be of shape \(N, P\): got \(2,\) instead of \(3, 30\)"),
        (torch.ones(3, 29), r"radius must be of shape \(N, P\): got \(3, 29\)"),
        ([[0.1, 0.2], [0.3]], r"radius must be of shape \(N, P\): got rows of shapes"),
        (-0.1, "radius must be >= 0"),
        (float("nan"), "radius must be >= 0"),
        ("0.1", "radius must be a float, list, tuple or tensor"),
        (True, "radius must be a float, list, tuple or tensor"),
    ],
)
def test_bad_radius(radius, message):
    scene = clouds(SIZES)
    with pytest.raises(ValueError, match=message):
        rasterize_points(Pointclouds(list(scene.points.split(SIZES))), 8, radius)


def test_bin_size_and_max_points_do_not_matter(batch):
    pointclouds, _ = batch
    expected = rasterize_points(pointclouds, 24, 0.2, 4)
    for bin_size, most in ((0, None), (2, 1), (24, 10_000), (None, 3)):
        equal(rasterize_points(pointclouds, 24, 0.2, 4, bin_size, most), expected)
    with pytest.raises(ValueError, match="bin_size too small, number of points per bin must be less than 22; got 24"):
        rasterize_points(pointclouds, 24, 0.2, 4, bin_size=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": (0, 4)}, "Image sizes must be greater than 0"),
        ({"image_size": (1.5, 4)}, "Image sizes must be integers"),
        ({"points_per_pixel": 0}, "points_per_pixel must be an integer >= 1, got 0"),
        ({"bin_size": -1}, "bin_size must be None or an integer >= 0, got -1"),
        ({"max_points_per_bin": 0.5}, "max_points_per_bin must be None or an integer >= 0"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        rasterize_points(Pointclouds([torch.rand(5, 3)]), **arguments)


def test_the_radius_changes_no_value(batch):
    """Its gradient comes from the weights of the renderer; here it would be zero everywhere."""
    pointclouds, scene = batch
    radius = torch.tensor(0.3, device=scene.radius.device, requires_grad=True)
    idx, zbuf, dists = rasterize_points(pointclouds, 8, radius, 40)
    assert not zbuf.requires_grad
    larger = rasterize_points(pointclouds, 8, 0.31, 40)
    for n, y, x, k in (idx >= 0).nonzero().tolist()[::50]:
        at = (larger[0][n, y, x] == idx[n, y, x, k]).nonzero().item()
        assert larger[2][n, y, x, at] == dists[n, y, x, k]
