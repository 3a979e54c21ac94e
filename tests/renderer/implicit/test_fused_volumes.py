"""Volumes that are read and marched in one kernel look like volumes of which the samples are written."""

from __future__ import annotations

import pytest
import torch

from recon_engine.ops import _march_volume
from recon_engine.renderer import (
    AbsorptionOnlyRaymarcher,
    EmissionAbsorptionRaymarcher,
    FoVPerspectiveCameras,
    ImplicitRenderer,
    MonteCarloRaysampler,
    MultinomialRaysampler,
    NDCMultinomialRaysampler,
    RayBundle,
    VolumeRenderer,
    VolumeSampler,
    fused,
    look_at_view_transform,
)
from recon_engine.structures import Volumes

PLACE = {"voxel_size": 0.4, "volume_translation": [0.1, 0.0, -0.2]}


@pytest.fixture
def calls(monkeypatch):
    """How many volumes each call of the fused op gets."""
    seen, op = [], _march_volume.march_volume

    def march_volume(*args):
        seen.append((len(args[0]), len(args[1])))
        return op(*args)

    monkeypatch.setattr(_march_volume, "march_volume", march_volume)
    return seen


def _cameras(N=2, **options):
    R, T = look_at_view_transform(2.7, torch.linspace(0, 50, N), torch.linspace(10, 300, N))
    return FoVPerspectiveCameras(R=R, T=T, **options)


def _sampler(**options):
    return NDCMultinomialRaysampler(
        image_width=9, image_height=7, n_pts_per_ray=30, min_depth=1.0, max_depth=4.5, **options
    )


def _tensors(N=2, C=3, size=(6, 5, 7), dtype=torch.float32):
    return torch.rand(N, 1, *size, dtype=dtype), torch.rand(N, C, *size, dtype=dtype)


def _images(renderer, cameras, tensors, **options):
    """Images of volumes and the gradients of the tensors, fused and not."""
    results = []
    for enabled in (True, False):
        leaves = [t.clone().requires_grad_() for t in tensors]
        with fused(enabled):
            torch.manual_seed(1)
            images, rays = renderer(cameras, Volumes(*leaves, **PLACE), **options)
        # Squares: the gradient then differs from ray to ray.
        grads = torch.autograd.grad(images.square().sum(), leaves, allow_unused=True, materialize_grads=True)
        results.append((images.detach(), *grads, *rays))
    return results


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize(
    "marcher", [EmissionAbsorptionRaymarcher(), EmissionAbsorptionRaymarcher(3), AbsorptionOnlyRaymarcher()]
)
def test_same_images_and_gradients(calls, marcher, mode):
    ours, theirs = _images(VolumeRenderer(_sampler(), marcher, mode), _cameras(), _tensors())
    assert len(calls) == 1
    assert ours[0].abs().max() > 0.5
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("eps", [1e-10, 1e-3, 0.0, 0.2])
def test_eps(calls, eps):
    renderer = VolumeRenderer(_sampler(), EmissionAbsorptionRaymarcher())
    ours, theirs = _images(renderer, _cameras(), _tensors(), eps=eps)
    assert len(calls) == 1
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_float64(calls, padding, align_corners):
    rays = RayBundle(*(ray.double() for ray in _sampler()(_cameras())))
    densities, features = _tensors(dtype=torch.float64)
    densities = densities.clamp(max=0.3)
    volumes = Volumes(densities, features, **PLACE, align_corners=align_corners)
    renderer = ImplicitRenderer(lambda **_: rays, EmissionAbsorptionRaymarcher())
    images = []
    for enabled in (True, False):
        with fused(enabled):
            images.append(renderer(_cameras(), VolumeSampler(volumes, padding_mode=padding))[0])
    assert len(calls) == 1
    torch.testing.assert_close(*images, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "sampler",
    [
        _sampler(stratified_sampling=True),
        _sampler(n_rays_per_image=11),
        MultinomialRaysampler(
            min_x=-1.0,
            max_x=1.0,
            min_y=1.0,
            max_y=-1.0,
            image_width=5,
            image_height=4,
            n_pts_per_ray=8,
            min_depth=1.0,
            max_depth=4.0,
        ),
        MonteCarloRaysampler(-1.0, 1.0, -1.0, 1.0, 17, 12, 1.0, 4.5, stratified_sampling=True),
    ],
)
def test_every_kind_of_rays(calls, sampler):
    ours, theirs = _images(VolumeRenderer(sampler, EmissionAbsorptionRaymarcher()), _cameras(), _tensors())
    assert len(calls) == 1
    torch.testing.assert_close(ours, theirs)


def test_gradients_of_cameras_and_places(calls):
    angles = torch.tensor([20.0, 40.0], dtype=torch.float32)
    results = []
    densities, features = _tensors(size=(12, 12, 12))
    for enabled in (True, False):
        leaves = [t.clone().requires_grad_() for t in (angles, torch.full((2, 3), 0.2), torch.zeros(3))]
        R, T = look_at_view_transform(2.7, leaves[0], 30.0)
        volumes = Volumes(densities, features, voxel_size=leaves[1], volume_translation=leaves[2])
        with fused(enabled):
            renderer = VolumeRenderer(_sampler(), EmissionAbsorptionRaymarcher())
            images, _ = renderer(FoVPerspectiveCameras(R=R, T=T), volumes)
        results.append(torch.autograd.grad(images.square().mean(), leaves))
    assert len(calls) == 1
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-5)
    assert all(g.abs().max() > 1e-4 for g in results[0])


def test_autocast_does_not_lower_the_precision(calls):
    cameras, volumes = _cameras(), Volumes(*_tensors(), **PLACE)
    renderer = VolumeRenderer(_sampler(), EmissionAbsorptionRaymarcher())
    expected, _ = renderer(cameras, volumes)
    for enabled in (True, False):
        with fused(enabled), torch.autocast("cpu", dtype=torch.bfloat16):
            images, _ = renderer(cameras, volumes)
        torch.testing.assert_close(images, expected)
    assert len(calls) == 2


def test_volumes_that_are_one_tensor(calls):
    """The gradient of what was expanded is not computed for each image."""
    densities, features = (t[0] for t in _tensors(1))
    renderer, results = VolumeRenderer(_sampler(), EmissionAbsorptionRaymarcher()), []
    for enabled in (True, False):
        leaves = [densities.clone().requires_grad_(), features.clone().requires_grad_()]
        values = [leaf.sigmoid()[None].expand(3, -1, -1, -1, -1) for leaf in leaves]
        with fused(enabled):
            images, _ = renderer(_cameras(3), Volumes(*values, **PLACE))
        results.append((images.detach(), *torch.autograd.grad(images.square().sum(), leaves)))
    torch.testing.assert_close(*results)
    assert calls == [(1, 1)]


@pytest.mark.parametrize("kind", ["leaf", "retained", "hooked", "constant"])
def test_gradients_of_expanded_tensors(kind):
    """Where somebody may look at the gradient of the batch, it is there."""
    densities, features = (t.expand(3, -1, -1, -1, -1) for t in _tensors(1))
    renderer, grads = VolumeRenderer(_sampler(), EmissionAbsorptionRaymarcher()), {}
    for enabled in (True, False):
        if kind == "leaf":
            batch = [densities.detach().requires_grad_(), features.detach().requires_grad_()]
        elif kind == "constant":
            batch = [densities.detach(), features.detach().requires_grad_()]
        else:
            batch = [t[:1].clone().requires_grad_().sigmoid().expand(3, -1, -1, -1, -1) for t in (densities, features)]
        if kind == "retained":
            [t.retain_grad() for t in batch]
        seen = []
        if kind == "hooked":
            [t.register_hook(seen.append) for t in batch]
        with fused(enabled):
            images, _ = renderer(_cameras(3), Volumes(*batch, **PLACE))
        images.square().sum().backward()
        # Hooks run in the order of the graph.
        seen.sort(key=lambda g: g.shape[1])
        grads[enabled] = seen if kind == "hooked" else [t.grad for t in batch if t.requires_grad]
        assert all(g.shape[0] == 3 for g in grads[enabled])
    torch.testing.assert_close(grads[True], grads[False])
    assert len(grads[True]) == (1 if kind == "constant" else 2)


def test_no_features(calls):
    renderer = VolumeRenderer(_sampler(), EmissionAbsorptionRaymarcher())
    ours, theirs = _images(renderer, _cameras(), _tensors()[:1])
    assert ours[0].shape == (2, 7, 9, 1)
    assert len(calls) == 1
    torch.testing.assert_close(ours, theirs)


def test_densities_that_are_none_are_reported():
    """Their samples are marched as ever, with the warning."""
    densities, features = _tensors()
    renderer = VolumeRenderer(_sampler(), EmissionAbsorptionRaymarcher())
    for wrong in (densities - 0.5, densities * 2):
        images = []
        for enabled in (True, False):
            with fused(enabled), pytest.warns(UserWarning, match="outside of valid range"):
                images.append(renderer(_cameras(), Volumes(wrong, features, **PLACE))[0])
        assert torch.equal(*images)


def test_densities_of_one_are_no_reason_to_warn():
    """Weights of voxels add up to a little more than one here and there."""
    volumes = Volumes(torch.ones(2, 1, 6, 5, 7), **PLACE)
    images, _ = VolumeRenderer(_sampler(), AbsorptionOnlyRaymarcher())(_cameras(), volumes)
    assert images.max() == 1


class Sampler(VolumeSampler):
    """Might do anything."""


class Marcher(EmissionAbsorptionRaymarcher):
    """Might do anything."""


def test_what_is_not_fused(calls):
    cameras, (densities, features) = _cameras(), _tensors()
    volumes = Volumes(densities, features, **PLACE)
    hooked = EmissionAbsorptionRaymarcher()
    hooked.register_forward_hook(lambda module, inputs, out: out * 2)
    ragged = Volumes([densities[0], densities[1, :, 1:]], [features[0], features[1, :, 1:]], **PLACE)
    for marcher, function in (
        (Marcher(), VolumeSampler(volumes)),
        (hooked, VolumeSampler(volumes)),
        (EmissionAbsorptionRaymarcher(), Sampler(volumes)),
        (EmissionAbsorptionRaymarcher(), VolumeSampler(volumes, padding_mode="reflection")),
        (EmissionAbsorptionRaymarcher(), VolumeSampler(ragged)),
        (lambda rays_densities, **_: rays_densities, VolumeSampler(volumes)),
    ):
        images, _ = ImplicitRenderer(_sampler(), marcher)(cameras, function)
        with fused(False):
            assert torch.equal(images, ImplicitRenderer(_sampler(), marcher)(cameras, function)[0])
    two = Volumes(torch.rand(2, 2, 3, 3, 3), features[..., :3, :3, :3], **PLACE)
    with pytest.raises(ValueError, match="rays_densities must have shape"):
        VolumeRenderer(_sampler(), EmissionAbsorptionRaymarcher())(cameras, two)
    assert calls == []


def test_wrong_rays_are_refused(calls):
    volumes = Volumes(*_tensors(), **PLACE)
    with pytest.raises(ValueError, match="same batch size as rays, got 2 volumes and 3 sets of rays"):
        VolumeRenderer(_sampler(), EmissionAbsorptionRaymarcher())(_cameras(3), volumes)


def test_a_volume_is_fitted():
    """Chapter 5 of the book in small: silhouettes and colours of a ball from eight sides."""
    R, T = look_at_view_transform(2.7, 0.0, torch.linspace(0, 315, 8))
    cameras = FoVPerspectiveCameras(R=R, T=T)
    rays = _sampler()(cameras)
    directions = torch.nn.functional.normalize(rays.directions, dim=-1)
    b = (rays.origins * directions).sum(-1)
    inside = (b.square() - rays.origins.square().sum(-1) + 1 > 0).float()
    target = torch.cat([inside[..., None] * torch.tensor([0.9, 0.5, 0.1]), inside[..., None]], -1)
    densities, features = (
        torch.full((1, 16, 16, 16), -4.0).requires_grad_(),
        torch.zeros(3, 16, 16, 16).requires_grad_(),
    )
    optimizer = torch.optim.Adam([densities, features], lr=0.1)
    renderer = VolumeRenderer(_sampler(), EmissionAbsorptionRaymarcher())
    losses = []
    for _ in range(40):
        batch = (t.sigmoid()[None].expand(8, -1, -1, -1, -1) for t in (densities, features))
        images, _ = renderer(cameras, Volumes(*batch, voxel_size=3 / 16))
        loss = (images - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
