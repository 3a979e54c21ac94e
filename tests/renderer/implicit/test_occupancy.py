from __future__ import annotations

import pytest
import torch

from recon_engine.renderer import (
    EmissionAbsorptionRaymarcher,
    FoVPerspectiveCameras,
    ImplicitRenderer,
    MonteCarloRaysampler,
    NDCMultinomialRaysampler,
    OccupancyGrid,
    look_at_view_transform,
    ray_bundle_to_ray_points,
)


class Ball(torch.nn.Module):
    """A ball of radius 0.5 whose colour depends on place and direction; counts how often it is asked."""

    def __init__(self):
        super().__init__()
        self.color = torch.nn.Parameter(torch.tensor([0.2, 0.5, 0.9]))
        self.asked = 0

    def densities(self, points):
        return ((0.5 - points.norm(dim=-1, keepdim=True)) * 4).clamp(0, 1)

    def forward(self, ray_bundle, **kwargs):
        points = ray_bundle_to_ray_points(ray_bundle)
        self.asked += points[..., 0].numel()
        facing = (points * ray_bundle.directions[..., None, :]).sum(-1, keepdim=True)
        return self.densities(points), self.color * facing.sigmoid() + points


def _cameras(device="cpu"):
    R, T = look_at_view_transform(2.7, torch.tensor([0.0, 30.0]), torch.tensor([20.0, 200.0]), device=device)
    return FoVPerspectiveCameras(R=R, T=T, device=device)


def _renderer(sampler=None):
    sampler = sampler or NDCMultinomialRaysampler(
        image_width=12, image_height=9, n_pts_per_ray=40, min_depth=1.5, max_depth=4.0
    )
    return ImplicitRenderer(sampler, EmissionAbsorptionRaymarcher())


def _render(renderer, cameras, ball, function):
    torch.manual_seed(2)
    images, rays = renderer(cameras, function)
    return images, torch.autograd.grad(images.square().sum(), ball.color)[0], rays


def test_what_is_empty_is_not_asked_for(device):
    ball, cameras = Ball().to(device), _cameras(device)
    grid = OccupancyGrid(resolution=32).to(device)
    for sampler in (None, MonteCarloRaysampler(-0.5, 0.5, -0.5, 0.5, 50, 40, 1.5, 4.0, stratified_sampling=True)):
        renderer = _renderer(sampler)
        expected = _render(renderer, cameras, ball, ball)
        every, ball.asked = ball.asked, 0
        for _ in range(8):  # cells that the ball touches are found after some time
            grid.update(ball.densities)
        # Sides of the cells are 1 / 16: those which the ball touches are less than a tenth of all.
        assert 0.05 < grid.occupied.float().mean() < 0.1
        image, grad, rays = _render(renderer, cameras, ball, grid.skipping(ball))
        # What lies outside of the box is asked for.
        inside = (ray_bundle_to_ray_points(rays).abs() <= 1).all(-1).float().mean()
        assert inside > 0.2
        assert ball.asked < (1 - 0.7 * inside) * every
        torch.testing.assert_close(image, expected[0], rtol=1e-3, atol=5e-3)
        torch.testing.assert_close(grad, expected[1], rtol=2e-3, atol=1e-3)
        ball.asked = 0


def test_exact_when_off_and_before_the_first_update():
    ball, cameras = Ball(), _cameras()
    expected = _render(_renderer(), cameras, ball, ball)[:2]
    grid = OccupancyGrid(resolution=(8, 9, 10))
    assert all(map(torch.equal, _render(_renderer(), cameras, ball, grid.skipping(ball))[:2], expected))
    grid.update(lambda points: torch.zeros(len(points)))
    assert not grid.occupied.any()
    grid.enabled = False
    assert all(map(torch.equal, _render(_renderer(), cameras, ball, grid.skipping(ball))[:2], expected))
    grid.enabled = True
    assert not torch.equal(_renderer()(cameras, grid.skipping(ball))[0], expected[0])


def test_nothing_is_left():
    """Where all is empty, the function is asked about no point, and images are black."""
    ball = Ball()
    grid = OccupancyGrid((-9, -9, -9), (9, 9, 9), 4)
    grid.update(lambda points: torch.zeros(len(points)))
    images, _ = _renderer()(_cameras(), grid.skipping(ball))
    assert ball.asked == 0
    assert images.shape == (2, 9, 12, 4)
    assert (images == 0).all()


def test_cells_are_where_they_say():
    grid = OccupancyGrid((-1, 0, 2), (1, 3, 4), (4, 6, 8))
    seen = []
    grid.update(lambda points: seen.append(points) or torch.zeros(len(points)))
    points = seen[0].view(4, 6, 8, 3)
    x, y, z = points.unbind(-1)
    for values, axis, low, step in ((x, 0, -1, 0.5), (y, 1, 0, 0.5), (z, 2, 2, 0.25)):
        cell = ((values - low) / step).floor().long()
        shape = [1, 1, 1]
        shape[axis] = -1
        assert (cell == torch.arange(values.shape[axis]).view(shape)).all()
    grid.occupied[1, 2, 3] = True
    assert grid.is_occupied(points).nonzero().tolist() == [[1, 2, 3]]
    outside = torch.tensor([[-1.01, 1, 3], [0, 3.01, 3], [0, 1, 1.9], [torch.nan, 1, 3], [torch.inf, 1, 3]])
    assert grid.is_occupied(outside).all()


def test_memory_fades():
    grid = OccupancyGrid(resolution=2, threshold=0.1, decay=0.5)
    grid.update(lambda points: torch.ones(len(points), 1))
    assert grid.occupied.all()
    for _ in range(3):
        grid.update(lambda points: (points[:, 0] > 0).float())
        assert grid.occupied.all()
    grid.update(lambda points: (points[:, 0] > 0).float())
    assert grid.densities[:, 0, 0].tolist() == [0.0625, 1.0]
    assert grid.occupied[1].all()
    assert not grid.occupied[0].any()


def test_thin_media_are_kept():
    """Below the threshold the mean decides."""
    grid = OccupancyGrid(resolution=4, threshold=0.5)
    grid.update(lambda points: torch.where(points[:, 2] > 0, 1e-3, 1e-6))
    assert grid.occupied[..., 2:].all()
    assert not grid.occupied[..., :2].any()


def test_many_cells(monkeypatch):
    monkeypatch.setattr("recon_engine.renderer.implicit.occupancy._AT_ONCE", 100)
    grid = OccupancyGrid(resolution=7)
    grid.update(lambda points: points.norm(dim=-1))
    assert grid.densities[0, 0, 0] > 1
    assert grid.densities[3, 3, 3] < 0.3


def test_state_is_saved():
    grid, other = OccupancyGrid(resolution=4), OccupancyGrid(resolution=4)
    grid.update(lambda points: (points[:, 0] > 0).float())
    other.load_state_dict(grid.state_dict())
    assert torch.equal(other.occupied, grid.occupied)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 0}, "resolution must be one or three"),
        ({"resolution": (3, 4)}, "resolution must be one or three"),
        ({"min_corner": (0, 0, 2)}, "min_corner must hold three numbers, each below"),
        ({"max_corner": (1, 1)}, "min_corner must hold three numbers, each below"),
        ({"decay": 1.5}, "decay must lie between 0 and 1, got 1.5"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        OccupancyGrid(**options)


def test_wrong_densities():
    with pytest.raises(ValueError, match="one number for each of 8 points, got shape"):
        OccupancyGrid(resolution=2).update(lambda points: points)
