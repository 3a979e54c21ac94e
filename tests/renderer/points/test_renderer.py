from __future__ import annotations

import pytest
import torch

from recon_engine.renderer import FoVPerspectiveCameras, look_at_view_transform
from recon_engine.renderer.points import (
    AlphaCompositor,
    NormWeightedCompositor,
    PointsRasterizationSettings,
    PointsRasterizer,
    PointsRenderer,
)
from recon_engine.structures import Pointclouds

COMPOSITORS = [AlphaCompositor, NormWeightedCompositor]
SIZES = (12, 0, 9)


def camera(device, dtype=torch.float64):
    R, T = look_at_view_transform(1.6, 15.0, 25.0)
    return FoVPerspectiveCameras(R=R.to(dtype), T=T.to(dtype), device=device)


def scene(device, dtype=torch.float64):
    points = torch.rand(sum(SIZES), 3, dtype=dtype).to(device) - 0.5
    return points, torch.rand(sum(SIZES), 4, dtype=dtype).to(device)


def clouds_of(points, features):
    return Pointclouds(list(points.split(SIZES)), features=list(features.split(SIZES)))


def renderer_of(compositor, radius, device, dtype=torch.float64, K=4, image_size=(5, 7)):
    settings = PointsRasterizationSettings(image_size=image_size, radius=radius, points_per_pixel=K)
    return PointsRenderer(PointsRasterizer(camera(device, dtype), settings), compositor())


@pytest.mark.parametrize("compositor", COMPOSITORS)
@pytest.mark.parametrize("form", ["number", "cloud", "point"])
def test_gradcheck(compositor, form, device):
    """In positions, features and the radius, whatever its form: PyTorch3D has no gradient in the radius."""
    points, features = scene(device)
    shape = {"number": (), "cloud": (3,), "point": (3, 12)}[form]
    radius = (0.5 + 0.2 * torch.rand(shape, dtype=torch.float64)).to(device)

    def render(points, features, radius):
        return renderer_of(compositor, radius, device)(clouds_of(points, features))

    assert (render(points, features, radius)[0] != 0).any(-1).float().mean() > 0.3
    inputs = [a.requires_grad_() for a in (points, features, radius)]
    assert torch.autograd.gradcheck(render, inputs)


@pytest.mark.parametrize("compositor", COMPOSITORS)
def test_the_radius_of_each_point_counts(compositor, device):
    """PyTorch3D's renderer divides fragments by the padded radii: an error, or wrong where shapes happen to fit."""
    points, features = scene(device)
    radius = torch.full((3, 12), 0.4, dtype=torch.float64, device=device)
    same = renderer_of(compositor, radius, device)(clouds_of(points, features))
    torch.testing.assert_close(same, renderer_of(compositor, 0.4, device)(clouds_of(points, features)))
    radius[0] = torch.linspace(0.0, 0.8, 12)
    image = renderer_of(compositor, radius, device, K=12)(clouds_of(points, features))
    fragments = PointsRasterizer(
        camera(device), PointsRasterizationSettings(image_size=(5, 7), radius=radius, points_per_pixel=12)
    )(clouds_of(points, features))
    idx, dists = fragments.idx[0].long(), fragments.dists[0]
    weights = torch.where(idx >= 0, 1 - dists / radius[0][idx.clamp(min=0)].square(), 0)
    if compositor is AlphaCompositor:
        before = torch.cat((torch.ones_like(weights[..., :1]), (1 - weights).cumprod(-1)[..., :-1]), -1)
        weights = weights * before
    else:
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-4)
    torch.testing.assert_close(image[0], (weights[..., None] * features[idx.clamp(min=0)]).sum(-2))


def test_a_radius_of_zero_hides_a_point_without_nan(device):
    points, features = scene(device)
    radius = torch.full((3, 12), 0.4, dtype=torch.float64, device=device)
    radius[0, :4] = 0.0
    radius.requires_grad_(), points.requires_grad_()
    image = renderer_of(AlphaCompositor, radius, device)(clouds_of(points, features))
    grads = torch.autograd.grad(image.sum(), (radius, points))
    assert all(g.isfinite().all() for g in grads)
    assert not grads[1][:4].any()


def test_settings_of_the_call_give_the_radius(device):
    """PyTorch3D weighs with the radius of the stored settings even when others were rasterised with."""
    points, features = scene(device)
    stored = renderer_of(AlphaCompositor, 0.2, device)
    other = PointsRasterizationSettings(image_size=(5, 7), radius=0.5, points_per_pixel=4)
    image = stored(clouds_of(points, features), raster_settings=other)
    torch.testing.assert_close(image, renderer_of(AlphaCompositor, 0.5, device)(clouds_of(points, features)))


def test_any_number_of_channels_and_empty_clouds(device):
    points, _ = scene(device, torch.float32)
    for C in (1, 3, 33):
        features = torch.rand(sum(SIZES), C).to(device)
        image = renderer_of(AlphaCompositor, 0.3, device, torch.float32)(clouds_of(points, features))
        assert image.shape == (3, 5, 7, C)
        assert not image[1].any()


def test_half_precision_clouds_under_autocast(device):
    points, features = scene(device, torch.float32)
    render = renderer_of(AlphaCompositor, 0.3, device, torch.float32)
    expected = render(clouds_of(points, features))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        torch.testing.assert_close(render(clouds_of(points, features)), expected)


def test_custom_compositors_get_what_pytorch3ds_give():
    points, features = scene("cpu")
    seen = {}

    class Compositor(torch.nn.Module):
        def forward(self, fragments, alphas, ptclds, **kwargs):
            seen.update(idx=fragments, alphas=alphas, features=ptclds, **kwargs)
            return ptclds.new_zeros(3, 4, 5, 7)

    renderer_of(Compositor, 0.3, "cpu")(clouds_of(points, features), flag=1)
    assert seen["idx"].dtype == torch.int64
    assert seen["idx"].shape == seen["alphas"].shape == (3, 4, 5, 7)
    assert seen["features"].shape == (4, sum(SIZES))
    assert seen["flag"] == 1


def test_moves_its_parts():
    render = renderer_of(AlphaCompositor, 0.3, "cpu")
    assert render.to("cpu") is render


def test_clouds_without_features():
    points, _ = scene("cpu")
    with pytest.raises(ValueError, match="point_clouds must have features to render, got None"):
        renderer_of(AlphaCompositor, 0.3, "cpu")(Pointclouds([points]))
