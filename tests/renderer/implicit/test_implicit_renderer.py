from __future__ import annotations

import pytest
import torch

from recon_engine.renderer import (
    AbsorptionOnlyRaymarcher,
    EmissionAbsorptionRaymarcher,
    FoVPerspectiveCameras,
    HarmonicEmbedding,
    HeterogeneousRayBundle,
    ImplicitRenderer,
    MonteCarloRaysampler,
    NDCMultinomialRaysampler,
    RayBundle,
    VolumeRenderer,
    VolumeSampler,
    look_at_view_transform,
    ray_bundle_to_ray_points,
)
from recon_engine.structures import Volumes


def _cameras(N=3, device="cpu"):
    R, T = look_at_view_transform(2.7, torch.linspace(0, 50, N), torch.linspace(0, 300, N), device=device)
    return FoVPerspectiveCameras(R=R, T=T, device=device)


def _sampler(**options):
    return NDCMultinomialRaysampler(
        image_width=16, image_height=12, n_pts_per_ray=60, min_depth=1.0, max_depth=4.5, **options
    )


def _sphere(ray_bundle, **kwargs):
    """An opaque ball of radius 1 whose surface shows where it is."""
    points = ray_bundle_to_ray_points(ray_bundle)
    return (points.norm(dim=-1, keepdim=True) < 1).float(), points


def test_a_sphere(device):
    cameras = _cameras(device=device)
    images, rays = ImplicitRenderer(_sampler().to(device), EmissionAbsorptionRaymarcher())(cameras, _sphere)
    assert isinstance(rays, RayBundle)
    assert images.shape == (3, 12, 16, 4)
    direction = torch.nn.functional.normalize(rays.directions, dim=-1)
    b = (rays.origins * direction).sum(-1)
    discriminant = b**2 - rays.origins.square().sum(-1) + 1
    hit = images[..., 3] == 1
    assert (discriminant[hit] > 0).all()
    assert (discriminant[~hit] < 0.05).all()
    entry = rays.origins + (-b - discriminant.clamp(min=0).sqrt())[..., None] * direction
    step = 3.5 / 59 * rays.directions.norm(dim=-1).max()
    assert ((images[..., :3] - entry).norm(dim=-1)[hit] < step).all()


def test_other_marchers_and_samplers():
    images, rays = ImplicitRenderer(_sampler(n_rays_total=7), AbsorptionOnlyRaymarcher())(_cameras(), _sphere)
    assert isinstance(rays, HeterogeneousRayBundle)
    assert images.shape == (7, 1, 1, 1)


def test_options_reach_every_part():
    seen = []

    def function(ray_bundle, cameras, twist, **kwargs):
        seen.append((twist, len(cameras)))
        return _sphere(ray_bundle)

    def marcher(rays_densities, rays_features, ray_bundle, twist, **kwargs):
        seen.append((twist, ray_bundle.lengths.shape[-1]))
        return rays_densities

    ImplicitRenderer(_sampler(), marcher)(_cameras(), function, twist=4, n_pts_per_ray=5)
    assert seen == [(4, 3), (4, 5)]


def test_a_network_learns():
    """Chapter 6 of the book in small: harmonic embedding, a network, random rays."""
    embed, cameras = HarmonicEmbedding(4, omega_0=1.0), _cameras()
    net = torch.nn.Sequential(torch.nn.Linear(27, 32), torch.nn.Softplus(beta=10.0), torch.nn.Linear(32, 4))

    def field(ray_bundle, **kwargs):
        out = net(embed(ray_bundle_to_ray_points(ray_bundle)))
        return 1 - torch.exp(-torch.nn.functional.softplus(out[..., :1] - 1.5)), out[..., 1:].sigmoid()

    sampler = MonteCarloRaysampler(-1.0, 1.0, -1.0, 1.0, 40, 12, 1.0, 4.5, stratified_sampling=True)
    renderer = ImplicitRenderer(sampler, EmissionAbsorptionRaymarcher())
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        images, rays = renderer(cameras, field)
        inside = (rays.xys.norm(dim=-1, keepdim=True) < 0.7).float()
        loss = (images - inside).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", ["raysampler", "raymarcher"])
def test_parts_must_be_callable(name):
    parts = {"raysampler": _sampler(), "raymarcher": EmissionAbsorptionRaymarcher(), name: 5}
    for renderer in (ImplicitRenderer, VolumeRenderer):
        with pytest.raises(ValueError, match=f'"{name}" has to be a "Callable" object, got int'):
            renderer(**parts)


def test_function_must_be_callable():
    with pytest.raises(ValueError, match='"volumetric_function" has to be a "Callable" object'):
        ImplicitRenderer(_sampler(), EmissionAbsorptionRaymarcher())(_cameras(), torch.zeros(3))


def test_shapes_of_the_book():
    """Chapter 5: ten volumes of 64^3 voxels, read along 64 x 64 rays at 50 points."""
    sampler = NDCMultinomialRaysampler(image_width=64, image_height=64, n_pts_per_ray=50, min_depth=0.1, max_depth=3.0)
    grid = Volumes(torch.rand(10, 1, 64, 64, 64), torch.rand(10, 3, 64, 64, 64), voxel_size=0.1)
    densities, features = VolumeSampler(grid)(sampler(_cameras(10)))
    assert densities.shape == (10, 64, 64, 50, 1)
    assert features.shape == (10, 64, 64, 50, 3)
    assert EmissionAbsorptionRaymarcher()(densities, features).shape == (10, 64, 64, 4)


def test_volumes_without_features():
    grid = Volumes(torch.rand(3, 1, 5, 6, 7), voxel_size=0.3)
    densities, features = VolumeSampler(grid)(_sampler()(_cameras()))
    assert features.shape == (*densities.shape[:-1], 0)
    images, _ = VolumeRenderer(_sampler(), AbsorptionOnlyRaymarcher())(_cameras(), grid)
    assert images.shape == (3, 12, 16, 1)


def test_bad_volumes():
    with pytest.raises(ValueError, match="'volumes' have to be an instance of the 'Volumes' class, got Tensor"):
        VolumeSampler(torch.rand(1, 1, 2, 2, 2))
    with pytest.raises(ValueError, match="same batch size as rays, got 2 volumes and 3 sets of rays"):
        VolumeSampler(Volumes(torch.rand(2, 1, 5, 6, 7)))(_sampler()(_cameras()))


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_volumes_of_different_sizes_are_read_one_by_one(align_corners, padding):
    """PyTorch3D reads the padding of the smaller ones."""
    densities = [torch.rand(1, 3, 5, 4), torch.rand(1, 6, 4, 5), torch.rand(1, 2, 2, 2)]
    features = [torch.rand(2, *grid.shape[1:]) for grid in densities]
    place = {"voxel_size": 0.4, "volume_translation": [0.1, 0.0, -0.2], "align_corners": align_corners}
    rays = _sampler()(_cameras())
    together = VolumeSampler(Volumes(densities, features, **place), padding_mode=padding)(rays)
    for n in range(3):
        alone = Volumes(densities[n : n + 1], features[n : n + 1], **place)
        expected = VolumeSampler(alone, padding_mode=padding)(RayBundle(*(ray[n : n + 1] for ray in rays)))
        assert expected[0].max() > 0
        for values, read in zip(expected, together, strict=True):
            torch.testing.assert_close(read[n : n + 1], values)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_rendered_volumes_in_float64(mode):
    cameras = _cameras(1)
    rays = RayBundle(*(ray.double() for ray in _sampler()(cameras)))
    grid = Volumes(torch.rand(1, 1, 5, 6, 7).double(), torch.rand(1, 3, 5, 6, 7).double(), voxel_size=0.3)
    images, _ = VolumeRenderer(lambda **_: rays, EmissionAbsorptionRaymarcher(), mode)(cameras, grid)
    assert images.dtype == torch.float64
    single = Volumes(grid.densities().float(), grid.features().float(), voxel_size=0.3)
    expected, _ = VolumeRenderer(_sampler(), EmissionAbsorptionRaymarcher(), mode)(cameras, single)
    torch.testing.assert_close(images.float(), expected, rtol=1e-4, atol=1e-5)
