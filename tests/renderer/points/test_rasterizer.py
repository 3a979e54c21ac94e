from __future__ import annotations

import pytest
import torch

from recon_engine.renderer import FoVPerspectiveCameras, PerspectiveCameras, look_at_view_transform
from recon_engine.renderer.fisheyecameras import FishEyeCameras
from recon_engine.renderer.points import PointsRasterizationSettings, PointsRasterizer, rasterize_points
from recon_engine.structures import Pointclouds


def batch(device="cpu", dtype=torch.float32):
    return Pointclouds([(torch.rand(n, 3, dtype=dtype) - 0.5).to(device) for n in (20, 0, 12)])


def camera(device="cpu", number=1):
    R, T = look_at_view_transform(2.0, torch.linspace(0, 40, number), torch.linspace(0, 90, number))
    return FoVPerspectiveCameras(R=R, T=T, device=device)


def test_settings():
    assert vars(PointsRasterizationSettings()) == {
        "image_size": 256,
        "radius": 0.01,
        "points_per_pixel": 8,
        "bin_size": None,
        "max_points_per_bin": None,
    }
    assert PointsRasterizer().raster_settings == PointsRasterizationSettings()


def test_projects_and_rasterises(device):
    cameras, clouds = camera(device, 3), batch(device)
    settings = PointsRasterizationSettings(image_size=(7, 9), radius=0.2, points_per_pixel=4)
    fragments = PointsRasterizer(cameras, settings)(clouds)
    view = cameras.get_world_to_view_transform().transform_points(clouds.points_padded())
    ndc = cameras.transform_points_ndc(clouds.points_padded())
    projected = clouds.update_padded(torch.cat((ndc[..., :2], view[..., 2:]), -1))
    expected = rasterize_points(projected, (7, 9), 0.2, 4)
    assert fragments._fields == ("idx", "zbuf", "dists")
    assert (fragments.idx >= 0).any()
    assert torch.equal(fragments.idx, expected[0])
    torch.testing.assert_close(tuple(fragments[1:]), expected[1:])


@pytest.mark.parametrize(
    "cameras",
    [
        PerspectiveCameras(focal_length=20.0, principal_point=((8.0, 8.0),), image_size=((16, 16),), in_ndc=False),
        FishEyeCameras(
            focal_length=torch.tensor([[1.2]]), use_radial=False, use_tangential=False, use_thin_prism=False
        ),
    ],
    ids=["screen", "fisheye"],
)
def test_other_cameras(cameras):
    clouds = batch().offset(torch.tensor([0.0, 0.0, 2.0]))
    projected = PointsRasterizer(cameras).transform(clouds).points_padded()
    torch.testing.assert_close(projected[0, :, 2], clouds.points_padded()[0, :, 2])
    ndc = cameras.get_ndc_camera_transform().transform_points(cameras.transform_points(clouds.points_padded()))
    torch.testing.assert_close(projected[0, :, :2], ndc[0, :, :2])


def test_keywords_replace_what_is_stored(device):
    clouds = batch(device)
    small = PointsRasterizationSettings(image_size=4, radius=0.3)
    rasterizer = PointsRasterizer(raster_settings=PointsRasterizationSettings(image_size=8))
    fragments = rasterizer(clouds, cameras=camera(device), raster_settings=small)
    assert fragments.idx.shape == (3, 4, 4, 8)
    torch.testing.assert_close(fragments, PointsRasterizer(camera(device), small)(clouds), rtol=0, atol=0)


def test_moves_its_cameras():
    rasterizer = PointsRasterizer(camera())
    assert rasterizer.to("cpu") is rasterizer
    assert PointsRasterizer().to("cpu").cameras is None


def test_a_point_at_the_camera_gives_no_nan(device):
    clouds = Pointclouds([torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.0, 1.0]], device=device)])
    fragments = PointsRasterizer(FoVPerspectiveCameras(device=device))(clouds)
    assert all(a.isfinite().all() for a in fragments[1:])


def test_bad_input():
    clouds = batch()
    with pytest.raises(ValueError, match="Cameras must be specified"):
        PointsRasterizer()(clouds)
    with pytest.raises(ValueError, match="cameras must be cameras such as FoVPerspectiveCameras, got str"):
        PointsRasterizer("front")(clouds)
    with pytest.raises(ValueError, match=r"Wrong number \(2\) of cameras for 3 clouds"):
        PointsRasterizer(camera(number=2))(clouds)
    with pytest.raises(ValueError, match="raster_settings must be PointsRasterizationSettings, got dict without image"):
        PointsRasterizer(camera(), {"image_size": 4})(clouds)
