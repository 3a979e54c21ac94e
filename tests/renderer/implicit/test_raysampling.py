from __future__ import annotations

import pytest
import torch

from recon_engine.renderer import (
    FoVPerspectiveCameras,
    GridRaysampler,
    HeterogeneousRayBundle,
    MonteCarloRaysampler,
    MultinomialRaysampler,
    NDCGridRaysampler,
    NDCMultinomialRaysampler,
    OrthographicCameras,
    PerspectiveCameras,
    RayBundle,
    look_at_view_transform,
    ray_bundle_to_ray_points,
)
from recon_engine.renderer.implicit.raysampling import _jiggle_within_stratas, _safe_multinomial

DEPTHS = {"n_pts_per_ray": 5, "min_depth": 0.5, "max_depth": 3.0}
GRID = {"min_x": -1.0, "max_x": 1.0, "min_y": -1.0, "max_y": 1.0, "image_width": 6, "image_height": 4, **DEPTHS}


def _cameras(kind=FoVPerspectiveCameras, N=3, device="cpu", dtype=torch.float32):
    R, T = look_at_view_transform(2.7, torch.linspace(0, 50, N), torch.linspace(0, 300, N), device=device)
    return kind(R=R.to(dtype), T=T.to(dtype), device=device)


def _samplers(**options):
    monte_carlo = {"n_rays_per_image": 24, **options} if "n_rays_total" not in options else options
    return [
        MultinomialRaysampler(**GRID, **options),
        NDCMultinomialRaysampler(image_width=6, image_height=4, **DEPTHS, **options),
        MonteCarloRaysampler(-1.0, 1.0, -1.0, 1.0, **{"n_rays_per_image": None, **monte_carlo}, **DEPTHS),
    ]


@pytest.mark.filterwarnings("ignore:NDCGridRaysampler:PendingDeprecationWarning")
def test_shapes_of_the_book(capsys):
    """Chapter 5: ten cameras, 64 x 64 rays, 50 points."""
    sampler = NDCGridRaysampler(image_width=64, image_height=64, n_pts_per_ray=50, min_depth=0.1, max_depth=3.0)
    rays = sampler(_cameras(N=10))
    print(*(tuple(field.shape) for field in rays))
    assert capsys.readouterr().out == "(10, 64, 64, 3) (10, 64, 64, 3) (10, 64, 64, 50) (10, 64, 64, 2)\n"


@pytest.mark.parametrize("kind", [FoVPerspectiveCameras, PerspectiveCameras, OrthographicCameras])
@pytest.mark.parametrize("sampler", range(3))
def test_samples_project_to_their_pixel_at_their_depth(kind, sampler, device):
    cameras = _cameras(kind, device=device)
    rays = _samplers(stratified_sampling=True)[sampler].to(device)(cameras)
    points = ray_bundle_to_ray_points(rays).reshape(3, -1, 3)
    xy = cameras.transform_points_ndc(points)[..., :2].view(3, 24, 5, 2)
    torch.testing.assert_close(xy, rays.xys.reshape(3, 24, 1, 2).expand_as(xy), rtol=0, atol=1e-4)
    depth = cameras.get_world_to_view_transform().transform_points(points)[..., 2]
    torch.testing.assert_close(depth, rays.lengths.reshape(3, -1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("width", "height"), [(6, 4), (4, 6), (5, 5), (1, 3)])
def test_ndc_convention(width, height):
    """Pixel centres are those of the rasteriser: x points left, y up, and the shorter side spans -1 to 1."""
    rays = NDCMultinomialRaysampler(image_width=width, image_height=height, **DEPTHS)(_cameras(N=1))
    half = min(width, height) / 2
    x = (width / 2 - torch.arange(width) - 0.5) / half
    y = (height / 2 - torch.arange(height) - 0.5) / half
    torch.testing.assert_close(rays.xys[0, ..., 0], x.expand(height, width))
    torch.testing.assert_close(rays.xys[0, ..., 1], y[:, None].expand(height, width))


def test_lengths_are_evenly_spaced():
    for sampler in _samplers():
        lengths = sampler(_cameras()).lengths
        torch.testing.assert_close(lengths, torch.linspace(0.5, 3, 5).expand_as(lengths))


def test_stratified_lengths_stay_in_their_strata():
    for sampler in _samplers():
        first, second = (sampler(_cameras(), stratified_sampling=True).lengths for _ in range(2))
        halfway = torch.linspace(0.5, 3, 5)[:-1] + 0.3125
        assert (first[..., :-1] <= halfway).all()
        assert (first[..., 1:] >= halfway).all()
        assert first.min() >= 0.5
        assert first.max() <= 3
        assert not torch.equal(first, second)


def test_jiggled_numbers_fill_their_strata():
    jiggled = torch.stack([_jiggle_within_stratas(torch.arange(5.0)) for _ in range(4000)])
    for i in range(5):
        low, high = max(i - 0.5, 0), min(i + 0.5, 4)
        assert low <= jiggled[:, i].min() < low + 0.01
        assert high - 0.01 < jiggled[:, i].max() <= high


@pytest.mark.parametrize("sampler", range(3))
def test_unit_directions(sampler):
    torch.manual_seed(0)
    plain = _samplers()[sampler](_cameras())
    torch.manual_seed(0)
    unit = _samplers(unit_directions=True)[sampler](_cameras())
    torch.testing.assert_close(unit.directions.norm(dim=-1), torch.ones(plain.directions.shape[:-1]))
    torch.testing.assert_close(unit.directions, torch.nn.functional.normalize(plain.directions, dim=-1))
    torch.testing.assert_close(unit.origins, plain.origins)


def _pixels(rays):
    """The columns and rows of rays of a grid."""
    xy = (rays.xys.reshape(len(rays.xys), -1, 2) + 1) / 2 * torch.tensor([5.0, 3.0])
    return xy.round().long().unbind(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int64])
def test_masks(dtype):
    mask = torch.rand(3, 4, 6) < 0.5
    mask[0, :2] = True
    rays = MultinomialRaysampler(**GRID)(_cameras(), mask=mask.to(dtype))
    count = int(mask.sum((1, 2)).min())
    assert rays.origins.shape == (3, count, 1, 3)
    x, y = _pixels(rays)
    assert mask[torch.arange(3)[:, None], y, x].all()
    assert all(len(row.unique()) == count for row in 6 * y + x)


def test_a_mask_with_fewer_pixels_than_rays():
    mask = torch.zeros(3, 4, 6)
    mask[:, 0, :2], mask[1] = 1, 1
    x, y = _pixels(MultinomialRaysampler(**GRID)(_cameras(), mask=mask, n_rays_per_image=10))
    assert set((6 * y + x)[0].tolist()) <= {0, 1}
    assert len((6 * y + x)[1].unique()) == 10


@pytest.mark.parametrize("count", [1, 7, 24, 30])
def test_rays_per_image(count):
    for sampler in (
        MultinomialRaysampler(**GRID, n_rays_per_image=count),
        NDCMultinomialRaysampler(image_width=6, image_height=4, **DEPTHS, n_rays_per_image=count),
    ):
        assert sampler(_cameras()).directions.shape == (3, count, 1, 3)
        assert sampler(_cameras(), n_rays_per_image=2).lengths.shape == (3, 2, 1, 5)
    x, y = _pixels(MultinomialRaysampler(**GRID)(_cameras(), n_rays_per_image=count))
    assert all(len(row.unique()) == count or count > 24 for row in 6 * y + x)


def test_rows_with_enough_columns_are_drawn_without_repetition():
    weights = torch.tensor([[1.0, 0, 0, 0], [2, 2, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    for _ in range(50):
        drawn = _safe_multinomial(weights * torch.rand(()).add(0.1), 3)
        assert drawn.shape == (4, 3)
        assert (drawn[0] == 0).all()
        assert drawn[1].max() <= 1
        assert set(drawn[2].tolist()) == {0, 1, 2}
        assert len(drawn[3].unique()) == 3


@pytest.mark.parametrize("sampler", range(3))
def test_rays_in_all(sampler):
    cameras = _cameras(N=5)
    rays = _samplers(n_rays_total=31)[sampler](cameras)
    assert isinstance(rays, HeterogeneousRayBundle)
    ones = (1,) if sampler == 2 else (1, 1)
    assert rays.origins.shape == (31, *ones, 3)
    assert rays.lengths.shape == (31, *ones, 5)
    assert rays.camera_counts.sum() == 31
    assert rays.camera_ids.tolist() == sorted(set(rays.camera_ids.tolist()))
    of_ray = rays.camera_ids.repeat_interleave(rays.camera_counts)
    centers = cameras.get_camera_center()[of_ray]
    torch.testing.assert_close(rays.origins.view(31, 3), centers, rtol=0, atol=1e-4)


def test_masks_of_rays_in_all():
    mask = torch.zeros(3, 4, 6)
    mask[0, 0, 0], mask[1, 2, 3], mask[2, 1] = 1, 1, 1
    rays = MultinomialRaysampler(**GRID)(_cameras(), mask=mask, n_rays_total=20)
    x, y = _pixels(rays)
    of_ray = rays.camera_ids.repeat_interleave(rays.camera_counts)
    assert mask[of_ray, y[:, 0], x[:, 0]].all()


def test_float64_cameras_give_float64_rays():
    for sampler in _samplers(stratified_sampling=True):
        rays = sampler(_cameras(dtype=torch.float64))
        assert {field.dtype for field in rays} == {torch.float64}
        assert isinstance(rays, RayBundle)


def test_no_points():
    assert _samplers()[0](_cameras(), n_pts_per_ray=0, stratified_sampling=True).lengths.shape == (3, 4, 6, 0)


def test_cameras_get_gradients():
    for sampler in _samplers():
        T = torch.tensor([[0.1, 0.2, 3.0]], dtype=torch.float64, requires_grad=True)

        def origins(T, sampler=sampler):
            torch.manual_seed(0)
            return sampler(FoVPerspectiveCameras(R=torch.eye(3, dtype=T.dtype)[None], T=T)).origins

        assert torch.autograd.gradcheck(origins, T)


def test_state_of_another_resolution_loads():
    small, large = (MultinomialRaysampler(**{**GRID, "image_width": width}) for width in (6, 12))
    assert not small.state_dict()
    large.load_state_dict(small.state_dict())


@pytest.mark.parametrize(
    ("make", "arguments", "kind"),
    [
        (GridRaysampler, GRID, MultinomialRaysampler),
        (NDCGridRaysampler, {"image_width": 6, "image_height": 4, **DEPTHS}, NDCMultinomialRaysampler),
    ],
)
def test_older_names(make, arguments, kind):
    with pytest.warns(PendingDeprecationWarning, match=f"is deprecated: use {kind.__name__}"):
        sampler = make(**arguments)
    assert type(sampler) is kind
    torch.testing.assert_close(sampler(_cameras()).xys, kind(**arguments)(_cameras()).xys)


def test_bad_input():
    with pytest.raises(ValueError, match="cannot both be defined, got 3 and 4"):
        MultinomialRaysampler(**GRID, n_rays_per_image=4)(_cameras(), n_rays_total=3)
    with pytest.raises(ValueError, match=r"mask must have shape .* = \(3, 4, 6\), got \(3, 6, 4\)"):
        MultinomialRaysampler(**GRID)(_cameras(), mask=torch.ones(3, 6, 4))
    for counts in ({"n_rays_per_image": 2, "n_rays_total": 3}, {"n_rays_per_image": None}):
        sampler = MonteCarloRaysampler(-1.0, 1.0, -1.0, 1.0, **counts, **DEPTHS)
        with pytest.raises(ValueError, match="Exactly one of"):
            sampler(_cameras())
