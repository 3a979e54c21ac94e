"""`PointsRenderer` gives the same by its fused kernel and by fragments."""

from __future__ import annotations

import pytest
import torch

from recon_engine import ops
from recon_engine.renderer import (
    FoVOrthographicCameras,
    FoVPerspectiveCameras,
    PerspectiveCameras,
    fused,
    look_at_view_transform,
)
from recon_engine.renderer.points import (
    AlphaCompositor,
    NormWeightedCompositor,
    PointsRasterizationSettings,
    PointsRasterizer,
    PointsRenderer,
)
from recon_engine.structures import Pointclouds

DTYPE = torch.float64
SIZES = (40, 0, 25)
COMPOSITORS = [AlphaCompositor, NormWeightedCompositor]
CAMERAS = ["perspective", "orthographic", "screen"]
BACKGROUNDS = [None, 0.3, (0.1, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4)]


@pytest.fixture
def calls(monkeypatch):
    """How often the fused op ran."""
    counts = []
    original = ops.render_points
    monkeypatch.setattr(ops, "render_points", lambda *a, **kw: counts.append(1) or original(*a, **kw))
    return counts


class Scene:
    """Clouds with everything that an image can have a gradient in."""

    def __init__(self, camera="perspective", form="point", C=4, dtype=DTYPE):
        g = torch.Generator().manual_seed(0)
        self.leaves = []

        def leaf(*shape, low=0.0, high=1.0):
            value = low + (high - low) * torch.rand(shape, generator=g, dtype=torch.float64)
            self.leaves.append(value.to(dtype).requires_grad_())
            return self.leaves[-1]

        points = [leaf(n, 3, low=-0.5, high=0.5) for n in SIZES]
        features = [leaf(n, C) for n in SIZES]
        self.clouds = Pointclouds(points, features=features)
        shape = {"number": (), "cloud": (3,), "point": (3, 40)}[form]
        self.radius = leaf(*shape, low=0.1, high=0.3)
        R, T = look_at_view_transform(1.6, torch.linspace(10, 50, 3, dtype=dtype), torch.linspace(30, 80, 3))
        T = T.to(dtype).requires_grad_()
        self.leaves.append(T)
        if camera == "perspective":
            self.cameras = FoVPerspectiveCameras(R=R.to(dtype), T=T)
        elif camera == "orthographic":
            self.cameras = FoVOrthographicCameras(R=R.to(dtype), T=T)
        else:
            focal, center = leaf(1, 2, low=18.0, high=20.0), torch.tensor([[9.0, 10.0]], dtype=dtype)
            size = torch.tensor([[21, 17]])
            self.cameras = PerspectiveCameras(focal, center, R.to(dtype), T, in_ndc=False, image_size=size)

    def renderer(self, compositor, K=5, **options):
        settings = PointsRasterizationSettings((21, 17), self.radius, K, **options)
        return PointsRenderer(PointsRasterizer(self.cameras, settings), compositor)


def results(enabled, compositor, *scene, K=5, **kwargs):
    made = Scene(*scene)
    with fused(enabled):
        image = made.renderer(compositor, K)(made.clouds, **kwargs)
    weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return image.detach(), torch.autograd.grad((image * weights).sum(), made.leaves)


def check(*args, **kwargs):
    image, grads = results(True, *args, **kwargs)
    expected, expected_grads = results(False, *args, **kwargs)
    assert image[0].std() > 0.05, "nothing to see"
    torch.testing.assert_close(image, expected)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("compositor", COMPOSITORS)
@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("form", ["number", "cloud", "point"])
def test_equals_unfused(compositor, camera, form, calls):
    for K in (1, 5, 60):
        check(compositor(), camera, form, K=K)
    assert len(calls) == 3


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_backgrounds(background, calls):
    check(AlphaCompositor(background))
    check(AlphaCompositor(0.9), background_color=background)
    assert len(calls) == 2


def test_the_background_has_a_gradient():
    color = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=DTYPE, requires_grad=True)
    grads = []
    for enabled in (True, False):
        made = Scene()
        with fused(enabled):
            image = made.renderer(NormWeightedCompositor(color))(made.clouds)
        grads.append(torch.autograd.grad(image.square().sum(), color)[0])
    assert grads[0].all()
    torch.testing.assert_close(*grads)


def test_settings_and_cameras_of_the_call(calls):
    other = Scene("orthographic", "number")
    settings = PointsRasterizationSettings((9, 11), 0.3, 2)
    images = []
    for enabled in (True, False):
        made = Scene()
        with fused(enabled):
            images.append(
                made.renderer(AlphaCompositor())(made.clouds, cameras=other.cameras, raster_settings=settings)
            )
    assert images[0].shape == (3, 9, 11, 4)
    torch.testing.assert_close(*images)
    assert len(calls) == 1


def test_what_is_not_known_gets_fragments(calls):
    class Compositor(AlphaCompositor):
        pass

    class Rasterizer(PointsRasterizer):
        pass

    made = Scene()
    made.renderer(Compositor())(made.clouds)
    render = made.renderer(AlphaCompositor())
    PointsRenderer(Rasterizer(made.cameras, render.rasterizer.raster_settings), AlphaCompositor())(made.clouds)
    seen = []
    render.rasterizer.register_forward_hook(lambda module, args, output: seen.append(output))
    render(made.clouds)
    assert len(seen) == 1
    assert not calls


@pytest.mark.parametrize("enabled", [True, False])
def test_bad_input_is_named_as_before(enabled):
    made = Scene()
    with fused(enabled):
        render = made.renderer(AlphaCompositor())
        with pytest.raises(ValueError, match="bin_size too small"):
            render(made.clouds, raster_settings=PointsRasterizationSettings(64, 0.1, 2, bin_size=1))
        with pytest.raises(ValueError, match="radius must be of shape"):
            render(made.clouds, raster_settings=PointsRasterizationSettings(64, torch.ones(2, 3), 2))
        with pytest.raises(ValueError, match="Cameras must be specified"):
            PointsRenderer(PointsRasterizer(), AlphaCompositor())(made.clouds)
        with pytest.raises(ValueError, match="Background color has 2 channels"):
            render(made.clouds, background_color=(0.1, 0.2))
        single = Pointclouds(made.clouds.points_list(), features=[f.float() for f in made.clouds.features_list()])
        with pytest.raises((ValueError, RuntimeError), match="float32"):
            render(single)


def test_reference_mode():
    from recon_engine import reference

    made = Scene()
    expected = made.renderer(AlphaCompositor())(made.clouds)
    with reference():
        torch.testing.assert_close(made.renderer(AlphaCompositor())(made.clouds), expected)
