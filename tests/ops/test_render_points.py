from __future__ import annotations

import math

import pytest
import torch
from point_scenes import clouds
from test_rasterize_points import SCENES

from recon_engine._load import load
from recon_engine.ops import composite, rasterize_points, render_points
from recon_engine.ops._render_points import opacity
from recon_engine.testing import values_and_grads

_C = load()
MODES = ["weighted", "norm_weighted", "alpha"]
FALLOFFS = [("parabola", 1.0), ("cone", 1.0), ("cone", 2.5)]
KINDS = [(mode, *falloff) for mode in MODES for falloff in FALLOFFS]


def features_of(scene, C, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(scene.points), C, generator=generator, dtype=torch.float64).to(scene.points)


def by_fragments(points, first, count, radius, features, image_size, K, mode, scale, falloff, tau):
    """The same by three ops that write K fragments for each pixel."""
    idx, _, dists = rasterize_points(points, first, count, radius, image_size, K)
    alphas = opacity(dists / torch.nn.functional.pad(scale, (0, 1), value=1.0)[idx.long()], falloff, tau)
    planes = (a.permute(0, 3, 1, 2) for a in (idx, alphas))
    return composite(*planes, features.t(), mode).permute(0, 2, 3, 1), idx[..., 0] >= 0


def results(function, scene, features, image_size, K, mode, falloff, tau):
    """Values, and gradients in points, radius (through the scale) and features."""

    def run(points, radius, features):
        return function(
            points, scene.first, scene.count, radius.detach(), features, image_size, K, mode,
            scale=radius.square(), falloff=falloff, tau=tau,
        )  # fmt: skip

    return values_and_grads(run, scene.points, scene.radius, features)


def check(scene, C, image_size, K, *kind):
    features = features_of(scene, C)
    (image, covered), grads = results(render_points, scene, features, image_size, K, *kind)
    (expected, expected_covered), expected_grads = results(by_fragments, scene, features, image_size, K, *kind)
    assert torch.equal(covered, expected_covered)
    single = scene.points.dtype == torch.float32
    # A mean of points that hardly weigh anything is their rounding, 1e-7, over the least sum of weights, 1e-4.
    loose = 5e-3 if kind[0] == "norm_weighted" else 1e-5
    torch.testing.assert_close(image, expected, rtol=0, atol=loose if single else 1e-11)
    for grad, want in zip(grads, expected_grads, strict=True):
        # Distances of points that are far away have few digits of single precision: the gradients are compared below.
        largest = max(1.0, want.abs().max().item() if want.numel() else 1.0)
        torch.testing.assert_close(grad, want, rtol=0, atol=(2e-3 if single else 1e-10) * largest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCENES)
def test_is_what_fragments_give(name, kind, dtype, device):
    scene = SCENES[name].to(device, dtype)
    for i, (image_size, K) in enumerate([((9, 14), 3), ((33, 20), 8), ((1, 40), 1), ((18, 35), 200)]):
        check(scene, (3, 17, 1, 5)[i], image_size, K, *kind)


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("C", [0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 33, 150])
def test_any_number_of_channels(C, level):
    before = _C.simd_level()
    if not _C.set_simd_level(level):
        pytest.skip(f"this CPU has no {level}")
    try:
        for mode in MODES:
            check(clouds((60, 0, 30), radius=0.3).to("cpu", torch.float64), C, (21, 37), 6, mode, "cone", 1.0)
    finally:
        _C.set_simd_level(before)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind, device):
    scene = clouds((12, 0, 9), radius=0.5).to(device, torch.float64)
    features = features_of(scene, 3)
    mode, falloff, tau = kind

    def run(points, radius, features):
        image, covered = render_points(
            points, scene.first, scene.count, scene.radius, features, (5, 7), 4, mode,
            scale=radius.square(), falloff=falloff, tau=tau,
        )  # fmt: skip
        assert covered.sum() > 20
        return image

    inputs = [a.clone().requires_grad_() for a in (scene.points, scene.radius, features)]
    assert torch.autograd.gradcheck(run, inputs)


def test_gradient_where_points_are_opaque(device):
    """Points in the middle of pixels hide all behind them; nothing is divided by 1 - alpha."""
    scene = clouds((9,), radius=0.9).to(device, torch.float64)
    scene.points[:, :2] = torch.tensor([0.5, -0.5], device=device, dtype=torch.float64)
    scene.points[:, 2] = torch.rand(9) + 1
    inputs = [a.clone().requires_grad_() for a in (scene.points, features_of(scene, 2))]

    def run(points, features):
        return render_points(points, scene.first, scene.count, scene.radius, features, (2, 2), 9, "alpha")[0]

    assert torch.autograd.gradcheck(run, inputs)


def test_by_hand(device):
    """The centres of a 2 x 2 image lie at +-0.5; x points left and y up."""
    points = torch.tensor([[0.5, 0.5, 3.0], [0.5, 0.0, 1.0], [-0.5, 0.25, 1.0], [0.0, 0.0, -1.0]], device=device)
    radius = torch.tensor([0.2, 1.0, 0.5, 9.0], device=device)
    features = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [9.0, 90.0]], device=device)
    cloud = points, torch.tensor([0], device=device), torch.tensor([4], device=device), radius, features, (2, 2)
    for mode, left in (("alpha", 0.75 * 2 + 0.25 * 1), ("weighted", 0.75 * 2 + 1), ("norm_weighted", 2.5 / 1.75)):
        image, covered = render_points(*cloud, 8, mode)
        right = 3.0 if mode == "norm_weighted" else 0.75 * 3
        below = 2.0 if mode == "norm_weighted" else 0.75 * 2
        expected = torch.tensor([[left, right], [below, 0.0]], device=device)
        torch.testing.assert_close(image[0], torch.stack([expected, 10 * expected], -1))
        assert covered[0].tolist() == [[True, True], [True, False]]
    image, _ = render_points(*cloud, 1, "alpha", falloff="cone", tau=2.0)
    expected = torch.tensor([[0.25 * 2, 0.25 * 3], [0.25 * 2, 0.0]], device=device)
    torch.testing.assert_close(image[0, ..., 0], expected)


def test_the_middle_of_a_cone_is_held(device):
    """The square root has no slope at 0: below 1e-3 of the squared radius the opacity is that of 1e-3."""
    point = torch.tensor([[0.5 + 1e-3, 0.5, 1.0]], device=device, dtype=torch.float64, requires_grad=True)
    first, count = torch.tensor([0], device=device), torch.tensor([1], device=device)
    one = torch.ones(1, dtype=torch.float64, device=device)
    image, _ = render_points(point, first, count, one * 0.4, one[:, None], (2, 2), 1, falloff="cone")
    assert image[0, 0, 0].item() == pytest.approx(1 - math.sqrt(1e-3))
    assert not torch.autograd.grad(image.sum(), point)[0].any()


def test_depth_has_no_gradient(device):
    scene = SCENES["three"].to(device, torch.float64)
    points = scene.points.clone().requires_grad_()
    image, _ = render_points(points, *scene[1:], features_of(scene, 3), (20, 20), 5)
    (grad,) = torch.autograd.grad(image.sum(), points)
    assert grad[:, :2].any()
    assert not grad[:, 2].any()


def test_the_radius_has_a_gradient(device):
    scene = SCENES["three"].to(device, torch.float64)
    radius = scene.radius.clone().requires_grad_()
    image, _ = render_points(*scene._replace(radius=radius), features_of(scene, 3), (20, 20), 5)
    (grad,) = torch.autograd.grad(image.sum(), radius)
    assert grad.any()


def test_memory_does_not_grow_with_the_points_per_pixel(device):
    """Fragments of that many would take 10^13 bytes."""
    scene = SCENES["large"].to(device, torch.float32)
    features = features_of(scene, 3)
    expected = results(render_points, scene, features, (20, 20), len(scene.points), "alpha", "parabola", 1.0)
    actual = results(render_points, scene, features, (20, 20), 2**31 - 1, "alpha", "parabola", 1.0)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("radius", [0.01, 0.3])
def test_threads_do_not_matter(threads, radius):
    scene = clouds((6000, 3000), radius=radius)
    features = features_of(scene, 5)
    before = torch.get_num_threads()
    every = []
    try:
        for n in (1, threads):
            torch.set_num_threads(n)
            every.append(results(render_points, scene, features, (70, 90), 12, "alpha", "cone", 1.0))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(every[0], every[1], rtol=0, atol=0)


def test_a_feature_that_is_not_finite_stays_where_it_is(device):
    scene = clouds((50,), radius=0.1).to(device, torch.float32)
    scene.points[7] = torch.tensor([0.1, 0.2, 0.5])
    for C in (3, 20):
        features = features_of(scene, C)
        expected, _ = render_points(*scene, features, (30, 30), 50)
        features[7] = torch.nan
        image, _ = render_points(*scene, features, (30, 30), 50)
        hit = (rasterize_points(*scene, (30, 30), 50)[0] == 7).any(-1)
        assert hit.any()
        assert image[hit].isnan().all()
        torch.testing.assert_close(image[~hit], expected[~hit], rtol=0, atol=0)


def test_many_points_in_a_tile_are_sorted_by_depth(device):
    """Lists long enough to be sorted by digits; depths share some, differ in all, and are equal."""
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        scene = clouds((3000,), radius=0.5, spread=0.5).to(device, dtype)
        depths = torch.rand(3000, generator=generator, dtype=dtype)
        for z in (depths, depths + 5, (depths * 20).round(), depths * 1e-40, 10 ** (80 * (depths - 0.6)) % 1e30):
            scene.points[:, 2] = z
            check(scene, 2, (12, 12), 7, "alpha", "parabola", 1.0)
            idx, zbuf, _ = rasterize_points(*scene, (12, 12), 7)
            order = z.sort(stable=True).indices
            rank = torch.empty_like(order)
            rank[order] = torch.arange(3000)
            assert (rank[idx.long()].diff(dim=-1) > 0)[idx[..., 1:] >= 0].all()
            assert (zbuf == torch.where(idx >= 0, z[idx.long()], -1)).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_points_that_are_not_finite(value):
    scene = clouds((20,))
    scene.points[7, 0] = value
    scene.points[7, 2] = 1.0
    with pytest.raises(ValueError, match=r"points must be finite in front of the camera, .* in point 7"):
        render_points(*scene, features_of(scene, 3), (8, 8), 2)


def test_bad_input():
    scene = clouds((20,))
    features = features_of(scene, 3)
    with pytest.raises(ValueError, match=r"scale must be > 0 where the radius is, got 0.0* for point 3"):
        render_points(*scene, features, (8, 8), 2, scale=(torch.arange(20) != 3).float())
    with pytest.raises(ValueError, match="features must have shape"):
        render_points(*scene, features[:5], (8, 8), 2)
    with pytest.raises(ValueError, match="image_size and points_per_pixel must be positive"):
        render_points(*scene, features, (8, 8), 0)
    with pytest.raises(ValueError, match="mode must be one of 'weighted', 'norm_weighted', 'alpha', got 'sum'"):
        render_points(*scene, features, (8, 8), 2, "sum")
    with pytest.raises(ValueError, match="tau must be > 0"):
        render_points(*scene, features, (8, 8), 2, falloff="cone", tau=0)
    with pytest.raises(ValueError, match="features is float64 but points is float32"):
        render_points(*scene, features.double(), (8, 8), 2)
