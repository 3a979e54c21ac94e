"""Rays: marching, samples of distributions, rays of a camera, encodings; volumes along rays and of points.

Every function here is written once and runs on either package: the names are the same.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from rivals import DEVICE, OURS, Case, Functions, Sweep, rival, speed_test
from torch import Tensor

RAYS, SAMPLES = 16384, 128
SIDE = 128


def _module(package: str, name: str) -> Any:
    return importlib.import_module(f"{package}.{name}")


def _both(make: Callable[[str], Callable[[], Any]]) -> Functions:
    return {package: make(package) for package in (OURS, "pytorch3d") if rival(package)}


def _random(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def _march(channels: int, backward: bool) -> Functions:
    densities = (_random(RAYS, SAMPLES, 1) * 0.05).requires_grad_(backward)
    features = _random(RAYS, SAMPLES, channels).requires_grad_(backward)

    def make(package: str) -> Callable[[], tuple[Tensor, ...]]:
        marcher = _module(package, "renderer").EmissionAbsorptionRaymarcher()

        def call() -> tuple[Tensor, ...]:
            image = marcher(densities, features)
            if not backward:
                return (image,)
            return image.detach(), *torch.autograd.grad(image.square().sum(), (densities, features))

        return call

    return _both(make)


def _opacity() -> Functions:
    densities = (_random(RAYS, SAMPLES, 1) * 0.05).requires_grad_()

    def make(package: str) -> Callable[[], tuple[Tensor, ...]]:
        marcher = _module(package, "renderer").AbsorptionOnlyRaymarcher()

        def call() -> tuple[Tensor, ...]:
            image = marcher(densities)
            return image.detach(), *torch.autograd.grad(image.square().sum(), densities)

        return call

    return _both(make)


def _samples_of_bins(det: bool) -> Functions:
    bins, weights = _random(RAYS, SAMPLES + 1).cumsum(1), _random(RAYS, SAMPLES)

    def make(package: str) -> Callable[[], Tensor]:
        sample_pdf = _module(package, "renderer.implicit.sample_pdf").sample_pdf

        def call() -> Tensor:
            torch.manual_seed(0)
            return sample_pdf(bins, weights, SAMPLES, det=det)

        return call

    return _both(make)


def _grid(stratified: bool) -> Functions:
    def make(package: str) -> Callable[[], tuple[Tensor, ...]]:
        renderer = _module(package, "renderer")
        R, T = renderer.look_at_view_transform(2.7, 10.0, torch.linspace(0, 300, 10))
        cameras = renderer.FoVPerspectiveCameras(R=R, T=T, device=DEVICE)
        sampler = renderer.NDCMultinomialRaysampler(
            image_width=64,
            image_height=64,
            n_pts_per_ray=50,
            min_depth=0.1,
            max_depth=3.0,
            stratified_sampling=stratified,
        ).to(DEVICE)

        def call() -> tuple[Tensor, ...]:
            torch.manual_seed(0)
            return tuple(sampler(cameras))

        return call

    return _both(make)


def _encoding() -> Functions:
    points = _random(RAYS, 3)

    def make(package: str) -> Callable[[], Tensor]:
        embed = _module(package, "renderer").HarmonicEmbedding(10, omega_0=0.1).to(DEVICE)
        return lambda: embed(points)

    return _both(make)


def _votes(points: int, size: int, channels: int, mode: str, backward: bool) -> Functions:
    places = (_random(1, points, 3) * 1.9 - 0.95).requires_grad_(backward and mode == "trilinear")
    features = _random(1, points, channels).requires_grad_(backward)

    def make(package: str) -> Callable[[], tuple[Tensor, ...]]:
        add_points = _module(package, "ops").add_points_features_to_volume_densities_features
        leaves = [leaf for leaf in (places, features) if leaf.requires_grad]

        def call() -> tuple[Tensor, ...]:
            # PyTorch3D writes into what it is given.
            densities, volumes = (torch.zeros(1, c, size, size, size, device=DEVICE) for c in (1, channels))
            found = add_points(places, features, densities, volumes, mode)
            if not backward:
                return found
            grads = torch.autograd.grad(found[0].square().sum() + found[1].square().sum(), leaves)
            return found[0].detach(), *grads

        return call

    return _both(make)


def _volume(views: int, voxels: int = SIDE, side: int = SIDE, samples: int = 150, channels: int = 3) -> Functions:
    """Chapter 5 of the book: a volume of 128^3 voxels seen from several sides, and its gradient."""
    inputs = [(_random(C, *[voxels] * 3) + shift).requires_grad_() for C, shift in ((1, -4.5), (channels, -0.5))]

    def make(package: str) -> Callable[[], tuple[Tensor, ...]]:
        renderer, Volumes = _module(package, "renderer"), _module(package, "structures").Volumes
        R, T = renderer.look_at_view_transform(2.7, 0.0, torch.linspace(0, 324, views))
        cameras = renderer.FoVPerspectiveCameras(R=R, T=T, device=DEVICE)
        sampler = renderer.NDCMultinomialRaysampler(
            image_width=side, image_height=side, n_pts_per_ray=samples, min_depth=0.1, max_depth=3.0
        )
        draw = renderer.VolumeRenderer(sampler, renderer.EmissionAbsorptionRaymarcher()).to(DEVICE)

        def call() -> tuple[Tensor, ...]:
            batch = (t.sigmoid()[None].expand(views, -1, -1, -1, -1) for t in inputs)
            images, _ = draw(cameras, Volumes(*batch, voxel_size=3 / voxels))
            return images.detach(), *torch.autograd.grad(images.square().mean(), inputs)

        return call

    return _both(make)


def _close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


CASES = [
    Case(
        "VolumeRenderer forward + backward, 128^3 voxels, 128 x 128 x 150",
        lambda: _volume(1),
        target=6,
        # Voxels are read in each direction and their gradients written.
        bytes_moved=SIDE**3 * 4 * 4 * 3,
        same=_close,
        memory=True,
    ),
    Case(
        "the same from 10 sides",
        lambda: _volume(10),
        target=6,
        bytes_moved=SIDE**3 * 4 * 4 * 3,
        same=_close,
        memory=True,
    ),
    Case(
        "emission-absorption forward + backward, 16k rays x 128 x RGB",
        lambda: _march(3, True),
        target=6,
        # Densities and features are read in each direction, and their gradients written.
        bytes_moved=RAYS * SAMPLES * 4 * 4 * 3,
        same=_close,
        memory=True,
    ),
    Case(
        "emission-absorption forward, 16k rays x 128 x RGB",
        lambda: _march(3, False),
        bytes_moved=RAYS * SAMPLES * 4 * 4,
        same=_close,
    ),
    Case(
        "emission-absorption forward + backward, 16k rays x 128 x 32",
        lambda: _march(32, True),
        bytes_moved=RAYS * SAMPLES * 33 * 4 * 3,
        same=_close,
    ),
    Case(
        "absorption only forward + backward, 16k rays x 128",
        _opacity,
        bytes_moved=RAYS * SAMPLES * 4 * 3,
        same=_close,
    ),
    Case(
        "sample_pdf, 16k rays x 128 bins x 128 evenly spaced quantiles",
        lambda: _samples_of_bins(True),
        target=10,
        bytes_moved=RAYS * SAMPLES * 4 * 3,
        same=_close,
    ),
    Case(
        "sample_pdf, 16k rays x 128 bins x 128 quantiles drawn by torch",
        lambda: _samples_of_bins(False),
        bytes_moved=RAYS * SAMPLES * 4 * 4,
        same=_close,
    ),
    Case("rays of 10 cameras, 64 x 64 x 50", lambda: _grid(False), same=_close),
    Case("the same, stratified", lambda: _grid(True), same=_close),
    Case("HarmonicEmbedding(10), 16k points", _encoding, same=_close),
    Case(
        "points to volumes forward, 100k points, 64^3 x RGB",
        lambda: _votes(100_000, 64, 3, "trilinear", False),
        bytes_moved=100_000 * 24 + 2 * 4 * 4 * 64**3,
        same=_close,
    ),
    Case(
        "points to volumes forward + backward, 100k points, 64^3 x RGB",
        lambda: _votes(100_000, 64, 3, "trilinear", True),
        bytes_moved=100_000 * 72 + 4 * 4 * 4 * 64**3,
        same=_close,
    ),
    Case(
        "points to nearest voxels forward, 1M points, 128^3 x 16",
        lambda: _votes(1_000_000, 128, 16, "nearest", False),
        bytes_moved=1_000_000 * 76 + 2 * 17 * 4 * 128**3,
        same=_close,
    ),
]

SWEEPS = [
    Sweep(
        "VolumeRenderer forward + backward, 64x64, 64^3 voxels",
        "samples of a ray",
        (16, 64, 256, 1024),
        lambda samples: _volume(1, 64, 64, samples),
    ),
    Sweep(
        "VolumeRenderer forward + backward, 64^3 voxels, 64 samples of a ray",
        "rays",
        (16, 32, 64, 128, 256),
        lambda side: _volume(1, 64, side, 64),
        shown=lambda side: side * side,
    ),
    Sweep(
        "VolumeRenderer forward + backward, 64x64x64 samples",
        "voxels",
        (16, 32, 64, 128, 256),
        lambda voxels: _volume(1, voxels, 64, 64),
        shown=lambda voxels: voxels**3,
    ),
    Sweep(
        "VolumeRenderer forward + backward, 64x64x64 samples, 64^3 voxels",
        "channels",
        (1, 3, 8, 32, 128),
        lambda channels: _volume(1, 64, 64, 64, channels),
    ),
]

test_speed = speed_test(CASES)
