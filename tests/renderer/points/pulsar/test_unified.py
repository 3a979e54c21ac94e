from __future__ import annotations

import pytest
import torch

import recon_engine.renderer as ours
from recon_engine.renderer import (
    FoVOrthographicCameras,
    FoVPerspectiveCameras,
    OrthographicCameras,
    PerspectiveCameras,
    PointsRasterizationSettings,
    PointsRasterizer,
    PulsarPointsRenderer,
    look_at_view_transform,
)
from recon_engine.renderer.fisheyecameras import FishEyeCameras
from recon_engine.structures import Pointclouds

CAMERAS = [FoVPerspectiveCameras, FoVOrthographicCameras, PerspectiveCameras, OrthographicCameras]
DEPTHS = {"znear": (1.0,), "zfar": (6.0,)}


def renderer_of(cameras, image_size=(20, 20), radius=0.2, **kwargs):
    settings = PointsRasterizationSettings(image_size=image_size, radius=radius)
    return PulsarPointsRenderer(PointsRasterizer(cameras, settings), **kwargs)


def cloud(points, dtype=torch.float32, C=3):
    points = torch.as_tensor(points, dtype=dtype)
    return Pointclouds([points], features=[torch.rand(len(points), C, dtype=dtype)])


def compare(actual, expected):
    assert actual.keys() == expected.keys()
    for name, image in expected.items():
        assert (image > 0.1).any(-1).float().mean() > 0.1
        # Exponentials are approximated there.
        torch.testing.assert_close(actual[name], image, rtol=0, atol=0.02)


def test_recorded(pulsar, recorded):
    expected = {name.removeprefix("clouds/"): image for name, image in recorded.items() if name.startswith("clouds/")}
    compare(pulsar.cloud_images("recon_engine"), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_live(pulsar):
    pytest.importorskip("pytorch3d.renderer", exc_type=ImportError)
    compare(pulsar.cloud_images("recon_engine"), pulsar.cloud_images("pytorch3d"))


@pytest.mark.parametrize("size", [(40, 40), (40, 64), (64, 40)])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (FoVPerspectiveCameras, {"fov": 50.0}),
        (FoVOrthographicCameras, {}),
        (PerspectiveCameras, {"focal_length": 2.0, "principal_point": ((0.2, -0.1),)}),
        (OrthographicCameras, {"focal_length": 0.8, "principal_point": ((0.2, -0.1),)}),
        (PerspectiveCameras, {"focal_length": 45.0, "principal_point": ((30.0, 24.0),), "in_ndc": False}),
        (OrthographicCameras, {"focal_length": 20.0, "principal_point": ((30.0, 24.0),), "in_ndc": False}),
    ],
)
def test_a_sphere_is_where_the_camera_sees_it(kind, options, size):
    """PyTorch3D turns the y of a principal point around and takes the width of an image for its shorter side.

    Offsets are whole pixels, and parallel rays leave pixels half a pixel beside their centres, as in PyTorch3D.
    """
    H, W = size
    if not options.get("in_ndc", True):
        options = options | {"image_size": (size,)}
    R, T = look_at_view_transform(3.0, 20.0, 30.0)
    cameras = kind(R=R, T=T, **options)
    point = torch.tensor([[0.15, 0.1, 0.05]])
    image = renderer_of(cameras, size, torch.tensor([0.25]))(
        Pointclouds([point], features=[torch.ones(1, 3)]), gamma=(0.5,), radius_world=True, **DEPTHS
    )[0, ..., 0]
    column, row = torch.arange(W) + 0.5, torch.arange(H)[:, None] + 0.5
    found = torch.stack([(image * column).sum(), (image * row).sum()]) / image.sum()
    expected = cameras.transform_points_screen(point[None], image_size=(size,))[0, 0, :2]
    if kind in (FoVOrthographicCameras, OrthographicCameras):
        expected = expected + torch.tensor([0.5, -0.5])
    truncated = 1.0 if "principal_point" in options else 0.0
    torch.testing.assert_close(found, expected, rtol=0, atol=0.1 + truncated)
    # It is as large as the projection of points around it.
    rim = point + 0.25 * torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    spread = cameras.transform_points_screen(rim[None], image_size=(size,))[0, :, :2]
    seen = (image > 0).nonzero()
    assert (seen.amax(0) - seen.amin(0)).max() + 1 == pytest.approx(
        2 * (spread - spread.mean(0)).norm(dim=1).max(), abs=2.5
    )


def test_rendering_changes_no_camera():
    """PyTorch3D multiplies the field of view by pi / 180 in place, so that the second image is another."""
    cameras = FoVPerspectiveCameras(T=torch.tensor([[0.0, 0, 3]]), fov=50.0)
    render, clouds = renderer_of(cameras), cloud(torch.rand(5, 3) - 0.5)
    first = render(clouds, gamma=(0.1,))
    assert cameras.fov.item() == 50.0
    assert torch.equal(render(clouds, gamma=(0.1,)), first)
    radians = FoVPerspectiveCameras(T=torch.tensor([[0.0, 0, 3]]), fov=torch.pi * 50 / 180, degrees=False)
    torch.testing.assert_close(renderer_of(radians)(clouds, gamma=(0.1,)), first)


@pytest.mark.parametrize("kind", CAMERAS)
def test_one_camera_for_several_clouds(kind):
    """As documented; an index error in PyTorch3D."""
    points = [torch.rand(n, 3) - 0.5 for n in (4, 0, 7)]
    features = [torch.rand(len(p), 3) for p in points]
    T = torch.tensor([[0.0, 0, 3]])
    options = {"gamma": (0.1,), "bg_col": torch.tensor([0.1, 0.2, 0.3]), **DEPTHS}
    images = renderer_of(kind(T=T))(Pointclouds(points, features=features), **options)
    assert images.shape == (3, 20, 20, 3)
    same = renderer_of(kind(T=T.expand(3, 3)))(Pointclouds(points, features=features), **options)
    assert torch.equal(images, same)
    for i, (p, f) in enumerate(zip(points, features)):
        alone = renderer_of(kind(T=T))(Pointclouds([p], features=[f]), **options)
        torch.testing.assert_close(images[i : i + 1], alone, rtol=0, atol=0)
    assert (images[1] == options["bg_col"]).all()


@pytest.mark.parametrize("kind", CAMERAS)
def test_parameters_in_the_call(kind):
    R, T = look_at_view_transform(3.0, 20.0, 30.0)
    clouds, options = cloud(torch.rand(6, 3) - 0.5), {"gamma": (0.1,), **DEPTHS}
    images = renderer_of(kind(R=R, T=T))(clouds, **options)
    assert (images > 0).any()
    assert torch.equal(renderer_of(kind())(clouds, R=R, T=T, **options), images)
    wider = {
        FoVPerspectiveCameras: {"fov": (80.0,)},
        FoVOrthographicCameras: {f"{end}_{axis}": (v,) for axis in "xy" for end, v in (("min", -2.0), ("max", 2.0))},
    }.get(kind, {"focal_length": torch.tensor([0.5])})
    other = renderer_of(kind(R=R, T=T))(clouds, radius_world=True, **wider, **options)
    assert (other > 0).sum() < (renderer_of(kind(R=R, T=T))(clouds, radius_world=True, **options) > 0).sum()


@pytest.mark.parametrize("kind", CAMERAS)
def test_gradients(kind):
    """In positions, features, radius and camera."""
    R, T = (a.double() for a in look_at_view_transform(3.0, 20.0, 30.0))
    points = (torch.rand(4, 3, dtype=torch.float64) - 0.5).requires_grad_()
    features = torch.rand(4, 2, dtype=torch.float64).requires_grad_()
    radius = torch.full((4,), 0.25, dtype=torch.float64).requires_grad_()

    def run(points, features, radius, T):
        render = renderer_of(kind(R=R, T=T), (9, 9), radius, n_channels=2, n_track=4, average_gradients=False)
        return render(Pointclouds([points], features=[features]), gamma=(0.5,), **DEPTHS)

    assert torch.autograd.gradcheck(run, (points, features, radius, T.requires_grad_()), eps=1e-7, atol=1e-4)


def test_radius_in_the_world(device):
    """Without it, the radius grows with the distance as in PyTorch3D."""
    clouds = cloud([[0.0, 0, 0]]).to(device)
    for kind, factor in ((FoVPerspectiveCameras, 0.5), (PerspectiveCameras, 1.0)):
        cameras = kind(T=torch.tensor([[0.0, 0, 3]]), device=device)
        grown = renderer_of(cameras, radius=0.2)(clouds, gamma=(0.1,), **DEPTHS)
        radius = 0.2 / (1.0 - 1e-6) * 3 * factor
        fixed = renderer_of(cameras, radius=radius)(clouds, gamma=(0.1,), radius_world=True, **DEPTHS)
        torch.testing.assert_close(grown, fixed)


def test_bad_input():
    clouds = cloud(torch.rand(5, 3) - 0.5)
    with pytest.raises(ValueError, match="cameras of spheres must be one of"):
        renderer_of(FishEyeCameras())
    with pytest.warns(UserWarning, match="compositor"):
        renderer_of(FoVPerspectiveCameras(), compositor=1)
    render = renderer_of(FoVPerspectiveCameras())
    with pytest.raises(ValueError, match="needs gamma="):
        render(clouds)
    for options in ({"gamma": 0.1}, {"gamma": (0.1,), "znear": 1.0}, {"gamma": (0.1,), "zfar": 2.0}):
        with pytest.raises(TypeError):
            render(clouds, **options)
    with pytest.raises(ValueError, match="first_R_then_T has no meaning"):
        render(clouds, gamma=(0.1,), first_R_then_T=True)
    with pytest.raises(ValueError, match="one camera, or one for each of the 3 clouds; got 2"):
        renderer_of(FoVPerspectiveCameras(T=torch.zeros(2, 3)))(clouds.extend(3), gamma=(0.1,))
    with pytest.raises(ValueError, match="must have features"):
        render(Pointclouds([torch.rand(3, 3)]), gamma=(0.1,))
    for kind in (PerspectiveCameras, OrthographicCameras):
        with pytest.raises(ValueError, match=f"{kind.__name__} have no znear"):
            renderer_of(kind())(clouds, gamma=(0.1,))
        with pytest.raises(ValueError, match="single focal length"):
            renderer_of(kind(focal_length=((1.0, 2.0),)))(clouds, gamma=(0.1,), **DEPTHS)
    with pytest.raises(ValueError, match="aspect ratio 1, or that of the image"):
        renderer_of(FoVPerspectiveCameras(aspect_ratio=2.0))(clouds, gamma=(0.1,))
    for change, message in (
        ({"max_x": 2.0}, "must be centred"),
        ({"max_x": 2.0, "min_x": -2.0}, "aspect ratio 1, or that of the image"),
        ({"scale_xyz": ((2.0, 1.0, 1.0),)}, "scale_xyz of an orthographic camera must be 1"),
    ):
        with pytest.raises(ValueError, match=message):
            renderer_of(FoVOrthographicCameras(**change))(clouds, gamma=(0.1,))
    render.rasterizer.raster_settings.image_size = 0
    with pytest.raises(ValueError, match="image size cannot change"):
        render(clouds, gamma=(0.1,))
    render.rasterizer.cameras = FoVOrthographicCameras()
    with pytest.raises(ValueError, match="cannot change between perspective and orthographic"):
        render(clouds, gamma=(0.1,))


def test_exported_where_pytorch3d_has_it():
    assert ours.PulsarPointsRenderer is ours.points.PulsarPointsRenderer is PulsarPointsRenderer
