"""SynSin's splatter: the weights of its equations, in pixels."""

from __future__ import annotations

import math

import pytest
import torch

from recon_engine.renderer import FoVOrthographicCameras, FoVPerspectiveCameras, PointSplatter, fused
from recon_engine.structures import Pointclouds

ACCUMULATIONS = ["alphacomposite", "wsum", "wsumnorm"]


def in_pixels(places, depths, size, dtype=torch.float64):
    """Points seen by an orthographic camera at (row, column) of an image, where 0 is the centre of the first pixel."""
    height, width = size
    rows, columns = torch.tensor(places, dtype=dtype).unbind(1)
    step = 2 / min(height, width)
    x, y = (width / 2 - columns - 0.5) * step, (height / 2 - rows - 0.5) * step
    return torch.stack([x, y, torch.tensor(depths, dtype=dtype)], 1)


def splat(points, features, size, device="cpu", **options):
    camera = FoVOrthographicCameras(znear=0.1, device=device)
    clouds = Pointclouds([points.to(device)], features=[features.to(device)])
    return PointSplatter(camera, size, **options)(clouds)


@pytest.mark.parametrize("size", [(16, 16), (12, 20), (20, 12)])
@pytest.mark.parametrize(("power", "tau"), [(2.0, 1.0), (2.0, 3.0), (1.9, 0.5)])
def test_a_disc_is_the_equation(size, power, tau, device):
    """One point: its opacity at every pixel by the distance in pixels."""
    radius, place = 4.0, (5.3, 6.8)
    image = splat(
        in_pixels([place], [1.0], size), torch.ones(1, 1).double(), size, device, radius=radius, power=power, tau=tau
    )
    step = 2 / min(size)
    for row in range(size[0]):
        for column in range(size[1]):
            d = math.dist(place, (row, column))
            q = (d * step) ** 2 / (radius * step) ** power
            expected = (1 - math.sqrt(min(max(q, 1e-3), 1.0))) ** tau if d < radius else 0.0
            assert image[0, row, column, 0].item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("accumulation", ACCUMULATIONS)
def test_accumulations(accumulation, device):
    """Three points, of which the nearest is given last, at a pixel in closed form."""
    size = (8, 8)
    places = [(3.0, 4.0), (3.0, 2.0), (4.5, 3.0)]
    points, features = in_pixels(places, [3.0, 2.0, 1.0], size), torch.tensor([[1.0], [10.0], [100.0]]).double()
    image = splat(points, features, size, device, radius=3.0, accumulation=accumulation)
    a, b, c = (1 - math.dist(place, (3, 3)) / 3 for place in reversed(places))
    expected = {
        "alphacomposite": 100 * a + (1 - a) * 10 * b + (1 - a) * (1 - b) * c,
        "wsum": 100 * a + 10 * b + c,
        "wsumnorm": (100 * a + 10 * b + c) / (a + b + c),
    }[accumulation]
    assert image[0, 3, 3, 0].item() == pytest.approx(expected)
    nearest = splat(points, features, size, device, radius=3.0, accumulation=accumulation, points_per_pixel=1)
    assert nearest[0, 3, 3, 0].item() == pytest.approx(100.0 if accumulation == "wsumnorm" else 100 * a)


def test_the_published_defaults():
    options = PointSplatter()
    assert (options.image_size, options.radius, options.points_per_pixel) == ((256, 256), 4.0, 128)
    assert (options.power, options.tau, options.accumulation) == (2.0, 1.0, "alphacomposite")


@pytest.mark.parametrize("accumulation", ACCUMULATIONS)
def test_gradcheck(accumulation, device):
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(15, 3, generator=generator, dtype=torch.float64) - 0.5 + torch.tensor([0.0, 0.0, 2.0])
    features = torch.rand(15, 3, generator=generator, dtype=torch.float64)
    radius = 1.5 + torch.rand(1, 15, generator=generator, dtype=torch.float64)
    focal = torch.tensor([60.0], dtype=torch.float64)

    def run(points, features, radius, focal):
        camera = FoVPerspectiveCameras(fov=focal, device=device)
        cloud = Pointclouds([points], features=[features])
        return PointSplatter(camera, (6, 9), radius, accumulation=accumulation)(cloud)

    inputs = [a.to(device).requires_grad_() for a in (points, features, radius, focal)]
    assert (run(*inputs)[0] != 0).any(-1).double().mean() > 0.2
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("accumulation", ACCUMULATIONS)
@pytest.mark.parametrize("C", [3, 64])
def test_fused_and_by_fragments(accumulation, C, device):
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(2, 400, 3, generator=generator) + torch.tensor([-0.5, -0.5, 1.0])
    features = torch.rand(2, 400, C, generator=generator)
    every = []
    for enabled in (True, False):
        leaves = [a.double().to(device).requires_grad_() for a in (points, features)]
        render = PointSplatter(FoVPerspectiveCameras(device=device), 32, accumulation=accumulation)
        with fused(enabled):
            image = render(Pointclouds(*leaves[:1], features=leaves[1]), background_color=0.25)
        weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        every.append((image.detach(), torch.autograd.grad((image * weights.to(device)).sum(), leaves)))
    assert 0.05 < (every[0][0] == 0.25).double().mean() < 0.95
    torch.testing.assert_close(*every)


def test_bad_input():
    with pytest.raises(ValueError, match=r"accumulation must be one of \['alphacomposite', 'wsum', 'wsumnorm'\]"):
        PointSplatter(accumulation="sum")
    with pytest.raises(ValueError, match="tau must be positive, got 0"):
        PointSplatter(tau=0)
    with pytest.raises(ValueError, match="Image sizes must be greater than 0"):
        PointSplatter(image_size=0)
    cloud = Pointclouds([torch.rand(3, 3)])
    with pytest.raises(ValueError, match="must have features to splat, got None"):
        PointSplatter(FoVPerspectiveCameras())(cloud)
    with pytest.raises(ValueError, match="Cameras must be specified"):
        PointSplatter()(Pointclouds([torch.rand(3, 3)], features=[torch.rand(3, 3)]))
    with pytest.raises(ValueError, match="radius must be >= 0"):
        PointSplatter(FoVPerspectiveCameras(), radius=-1.0)(
            Pointclouds([torch.rand(3, 3)], features=[torch.rand(3, 2)])
        )


def test_moves_its_cameras():
    assert PointSplatter(FoVPerspectiveCameras()).to("cpu").cameras.device.type == "cpu"
