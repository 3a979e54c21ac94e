from __future__ import annotations

import math

import pytest
import torch

from recon_engine.methods._views import ViewSettings, fitted_views, held_out_views, huber, place, take_pictures
from recon_engine.methods.shapes import building, create_cube
from recon_engine.renderer import TexturesVertex
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere

SMALL = {"views": 5, "held_out": 4, "image_size": 32}


def ball(color: tuple[float, float, float] = (0.2, 0.6, 0.9)) -> Meshes:
    mesh = ico_sphere(3)
    colors = torch.tensor(color).expand(len(mesh.verts_packed()), 3)
    return Meshes([mesh.verts_packed() * 7 + 3], [mesh.faces_packed()], TexturesVertex([colors]))


def test_documented_defaults():
    settings = ViewSettings()
    assert (settings.views, settings.image_size, settings.distance, settings.angle) == (40, 128, 2.7, 60.0)
    assert (settings.depths, settings.light, settings.huber) == ((0.1, 3.0), (0.0, 0.0, -3.0), 0.1)
    assert settings.learning_rate == 0.1
    assert [settings.rate_factor_at(i) for i in (0, 224, 225, 299)] == [1.0, 1.0, 0.1, 0.1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": 1}, "views must be 2 or more, got 1"),
        ({"held_out": 0}, "held_out must be 1 or more, got 0"),
        ({"points_per_ray": 1}, "points_per_ray must be 2 or more, got 1"),
        ({"image_size": 5000}, "image_size must be 4096 or less, got 5000"),
        ({"distance": 1.0}, "distance must be above 1, got 1.0"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0, got nan"),
        ({"fov": 180.0}, "fov must be between 0 and 180 degrees, got 180.0"),
        ({"lowest": 10.0}, "lowest and highest must be elevations between -90 and 90 degrees in this order, got 10.0"),
        ({"light": (0.0, math.inf, 0.0)}, "light must be three finite numbers"),
        ({"min_depth": 3.0}, r"min_depth must be above 0 and below max_depth, got \(3.0, 3.0\)"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        ViewSettings(**changes)


def test_framed_cameras_and_rays_hold_the_unit_sphere():
    settings = ViewSettings(fov=None, min_depth=None, max_depth=None, distance=3.0)
    near, far = settings.depths
    assert 0 < near < 2 < 4 < far < 4.1
    assert math.sin(math.radians(settings.angle / 2)) == pytest.approx(1 / 3, rel=0.05)
    assert math.sin(math.radians(settings.angle / 2)) > 1 / 3


def test_documented_views_are_a_ring_and_held_out_ones_lie_between():
    placed = place(ball())
    settings = ViewSettings(**SMALL)
    views, held_out = fitted_views(placed, settings), held_out_views(placed, settings)
    assert views.azimuth.tolist() == [0, 90, 180, 270, 360]
    assert held_out.azimuth.tolist() == [45, 135, 225, 315]
    assert views.elevation.tolist() == [0.0] * 5
    assert held_out.elevation.tolist() == [0.0] * 4
    torch.testing.assert_close(views.cameras.get_camera_center().norm(dim=1), torch.full((5,), 2.7))


@pytest.mark.parametrize("held_out", [1, 3, 9])
def test_held_out_views_are_never_fitted_ones(held_out):
    placed = place(create_cube(0))
    settings = ViewSettings(views=4, held_out=held_out, image_size=8, lowest=-10.0, highest=50.0)
    elevation = held_out_views(placed, settings).elevation
    assert ((elevation >= -10) & (elevation <= 50)).all()
    azimuth = held_out_views(placed, settings).azimuth
    assert ((azimuth % 120) == 60).all()
    assert len(azimuth) == held_out


def test_pictures_show_the_object_on_black_where_the_camera_sees_it():
    settings = ViewSettings(**SMALL, fov=None)
    views = fitted_views(place(ball()), settings)
    assert views.rgba.shape == (5, 32, 32, 4)
    rgb, alpha = views.rgba[..., :3], views.rgba[..., 3]
    assert (views.rgba[:, 0, 0] == 0).all()
    assert (alpha[:, 16, 16] == 1).all()
    # A sphere that fills all but the margin: pi/4 of a square, a margin of 5 % less on either side.
    assert alpha.mean(dim=(1, 2)).tolist() == pytest.approx([math.pi / 4 / 1.05**2] * 5, rel=0.02)
    inside = rgb[alpha > 0.99]
    assert (inside[:, 2] > inside[:, 0]).all()
    assert (rgb <= alpha[..., None] + 1e-6).all()


def test_the_light_stays_where_it_is():
    placed = place(ball((0.5, 0.5, 0.5)))
    settings = ViewSettings(**SMALL, light=(0.0, 0.0, -3.0))
    front, back = take_pictures(placed, torch.zeros(2), torch.tensor([180.0, 0.0]), settings).rgba[:, 16, 16, 0]
    assert float(front) > 1.3 * float(back)
    assert float(back) == pytest.approx(0.25, abs=0.01)  # half of the light is ambient


def test_a_mesh_that_is_inside_out_looks_the_same():
    mesh = ball()
    flipped = Meshes([mesh.verts_packed()], [mesh.faces_packed().flip(1)], mesh.textures.clone())
    settings = ViewSettings(**SMALL)
    first, second = (fitted_views(place(m), settings).rgba for m in (mesh, flipped))
    torch.testing.assert_close(first, second, rtol=0, atol=0.02)


def test_pictures_are_read_at_points_of_the_image():
    settings = ViewSettings(**SMALL)
    views = fitted_views(place(building(colors=True)), settings)
    y, x = torch.tensor([3, 16, 20]), torch.tensor([30, 16, 9])
    xys = torch.stack([1 - (2 * x + 1) / 32, 1 - (2 * y + 1) / 32], -1).float()
    picked = torch.tensor([4, 1])
    read = views.at(picked, xys.expand(2, 3, 2))
    torch.testing.assert_close(read, views.rgba[picked][:, y, x], rtol=0, atol=1e-5)
    assert views.at(picked, xys.expand(2, 3, 2)[:, None]).shape == (2, 1, 3, 4)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (create_cube(0).extend(2), "target: mesh must be one mesh with faces, got 2"),
        (Meshes([torch.rand(4, 3)], [torch.zeros(0, 3, dtype=torch.int64)]), "target: mesh must be one mesh with face"),
        (Meshes([torch.full((3, 3), torch.nan)], [torch.tensor([[0, 1, 2]])]), "vertices that are NaN or infinite"),
        (Meshes([torch.ones(3, 3)], [torch.tensor([[0, 1, 2]])]), "target has no extent"),
    ],
)
def test_unusable_targets(mesh, message):
    with pytest.raises(ValueError, match=message):
        place(mesh)


def test_huber_is_squared_for_small_and_linear_for_large_differences():
    small, large = torch.tensor([1e-3], dtype=torch.float64), torch.tensor([5.0], dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    assert float(huber(small, zero, 0.1)) == pytest.approx(1e-6 / 2 / 0.1, rel=1e-4)
    assert float(huber(large, zero, 0.1)) == pytest.approx(4.9, rel=1e-3)
    assert float(huber(torch.cat([small, large]), torch.zeros(2), 0.1)) == pytest.approx(2.4505, rel=1e-3)
