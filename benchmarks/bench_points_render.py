"""The point renderers: rasterisation, compositing, spheres, and whole images forward and backward."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from rivals import DEVICE, OURS, Case, Functions, Sweep, rival, speed_test
from torch import Tensor


def _both(make: Callable[[str], Callable[[], Any]]) -> Functions:
    functions: Functions = {OURS: make(OURS)}
    if rival("pytorch3d.renderer"):
        functions["pytorch3d"] = make("pytorch3d")
    return functions


def _module(package: str, name: str) -> Any:
    return importlib.import_module(f"{package}.{name}")


def _cloud(points: int) -> Tensor:
    """Points all over the image, x and y in NDC, z from 1 to 2."""
    generator = torch.Generator().manual_seed(0)
    cloud = torch.rand(points, 3, generator=generator)
    return (cloud * torch.tensor([2.0, 2.0, 1.0]) + torch.tensor([-1.0, -1.0, 1.0])).to(DEVICE)


def _rasterize(points: int, size: int, K: int, backward: bool = False) -> Functions:
    cloud = _cloud(points).requires_grad_(backward)

    def make(package: str) -> Callable[[], tuple[Tensor, ...]]:
        rasterize_points = _module(package, "renderer.points").rasterize_points
        Pointclouds = _module(package, "structures").Pointclouds
        seeds: list[Tensor] = []

        def call() -> tuple[Tensor, ...]:
            idx, zbuf, dists = rasterize_points(Pointclouds([cloud]), size, 0.01, K)
            if not backward:
                return idx, zbuf, dists
            if not seeds:
                seeds.extend((torch.ones_like(zbuf), torch.ones_like(dists)))
            return torch.autograd.grad([zbuf, dists], cloud, seeds)

        return call

    return _both(make)


def _composite(name: str, C: int, K: int, size: int, points: int, backward: bool) -> Functions:
    generator = torch.Generator().manual_seed(0)
    idx = torch.randint(-1, points, (1, K, size, size), generator=generator).to(DEVICE)
    alphas = torch.rand(1, K, size, size, generator=generator).to(DEVICE).requires_grad_(backward)
    features = torch.rand(C, points, generator=generator).to(DEVICE).requires_grad_(backward)
    seed = torch.rand(1, C, size, size, generator=generator).to(DEVICE)

    def make(package: str) -> Callable[[], Any]:
        function = getattr(_module(package, "renderer.compositing"), name)
        if not backward:
            return lambda: function(idx, alphas, features)
        image = function(idx, alphas, features)
        return lambda: torch.autograd.grad(image, (alphas, features), seed, retain_graph=True)

    return _both(make)


def _render(points: int, size: int, K: int, C: int = 3, radius: float = 0.01) -> Functions:
    """Forward and backward, in positions and features."""
    cloud, features, seed = _featured(points, size, C)

    def make(package: str) -> Callable[[], tuple[Tensor, ...]]:
        renderer, parts = _module(package, "renderer"), _module(package, "renderer.points")
        Pointclouds = _module(package, "structures").Pointclouds
        settings = parts.PointsRasterizationSettings(image_size=size, radius=radius, points_per_pixel=K)
        cameras = renderer.FoVOrthographicCameras(device=DEVICE, znear=0.01)
        render = parts.PointsRenderer(parts.PointsRasterizer(cameras, settings), parts.AlphaCompositor())

        def call() -> tuple[Tensor, ...]:
            image = render(Pointclouds([cloud], features=[features]))
            return image.detach(), *torch.autograd.grad(image, (cloud, features), seed)

        return call

    return _both(make)


def _splat(points: int, size: int, K: int, C: int) -> Functions:
    """SynSin's splatter forward and backward: discs of 4 pixels, front to back; the rival's from its functions."""
    cloud, features, seed = _featured(points, size, C)
    radius = 4.0

    def ours() -> tuple[Tensor, ...]:
        from recon_engine.renderer import FoVOrthographicCameras, PointSplatter
        from recon_engine.structures import Pointclouds

        splat = PointSplatter(FoVOrthographicCameras(device=DEVICE, znear=0.01), size, radius, K)
        image = splat(Pointclouds([cloud], features=[features]))
        return image.detach(), *torch.autograd.grad(image, (cloud, features), seed)

    def theirs() -> tuple[Tensor, ...]:
        renderer, Pointclouds = _module("pytorch3d", "renderer"), _module("pytorch3d", "structures").Pointclouds
        camera = renderer.FoVOrthographicCameras(device=DEVICE, znear=0.01)
        projected = Pointclouds([camera.transform_points(cloud)])
        r = radius * 2 / size
        idx, _, dists = _module("pytorch3d", "renderer.points").rasterize_points(projected, size, r, K)
        alphas = 1 - (dists / r**2).clamp(1e-3, 1).sqrt()
        planes = (idx.permute(0, 3, 1, 2).long().contiguous(), alphas.permute(0, 3, 1, 2).contiguous())
        image = _module("pytorch3d", "renderer.compositing").alpha_composite(*planes, features.t().contiguous())
        image = image.permute(0, 2, 3, 1)
        return image.detach(), *torch.autograd.grad(image, (cloud, features), seed)

    return {OURS: ours} | ({"pytorch3d": theirs} if rival("pytorch3d.renderer") else {})


def _featured(points: int, size: int, C: int) -> tuple[Tensor, Tensor, Tensor]:
    """Positions, features and the gradient of an image of them."""
    generator = torch.Generator().manual_seed(1)
    features = torch.rand(points, C, generator=generator).to(DEVICE).requires_grad_()
    seed = torch.rand(1, size, size, C, generator=generator).to(DEVICE)
    return _cloud(points).requires_grad_(), features, seed


def _spheres(spheres: int, size: int, gamma: float, backward: bool = False) -> Functions:
    """Spheres of about five pixels across in a slab in front of the camera."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    points = random(spheres, 3) * torch.tensor([4.0, 4.0, 2.0]) + torch.tensor([-2.0, -2.0, 4.0])
    inputs = [points, random(spheres, 3), torch.full((spheres,), 10.0 / size)]
    inputs = [a.to(DEVICE).requires_grad_(backward) for a in inputs]
    camera = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 0.8]).to(DEVICE)
    seed = random(size, size, 3).to(DEVICE)

    def make(package: str) -> Callable[[], Any]:
        render = _module(package, "renderer.points.pulsar").Renderer(size, size, spheres).to(DEVICE)

        def call() -> Any:
            image = render(*inputs, camera, gamma, 8.0, 3.0)
            return (image.detach(), *torch.autograd.grad(image, inputs, seed)) if backward else image

        return call

    return _both(make)


def _equal(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def _close(ours: Any, theirs: Any) -> None:
    """Sums of single precision in other orders; gradients in positions are up to 1e4."""
    pairs = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * max(1.0, float(b.abs().max())))


def _alike(ours: Any, theirs: Any) -> None:
    """PyTorch3D approximates exponentials on a CPU, and leaves out what shows less than a hundredth.

    Of gradients, those in colours: at borders, where hardly anything of a sphere weighs more than the background, those
    in positions and radii are too steep to agree.
    """
    pairs = [(ours[0], theirs[0]), (ours[2], theirs[2])] if isinstance(ours, tuple) else [(ours, theirs)]
    for a, b in pairs:
        assert float((a - b).norm() / b.norm()) < 0.01


def _composite_bytes(C: int, K: int, size: int, points: int, backward: bool) -> int:
    image, hits, features = 4 * C * size**2, K * size**2, 4 * C * points
    return image + hits * (8 + 4 + 4 * backward) + features * (1 + backward)


CASES = [
    Case(
        "rasterize_points, 10k points, 256x256, K=50",
        lambda: _rasterize(10_000, 256, 50),
        target=200,
        bytes_moved=10_000 * 16 + 12 * 50 * 256**2,
        same=_equal,
    ),
    Case(
        "rasterize_points, 100k points, 256x256, K=10",
        lambda: _rasterize(100_000, 256, 10),
        target=300,
        bytes_moved=100_000 * 16 + 12 * 10 * 256**2,
        same=_equal,
    ),
    Case(
        "rasterize_points forward + backward, 10k points, 128x128, K=8",
        lambda: _rasterize(10_000, 128, 8, backward=True),
        bytes_moved=10_000 * 40 + 24 * 8 * 128**2,
        same=_close,
    ),
    *(
        Case(
            f"{name} {'backward' if backward else 'forward'}, C={C}, K=10, 128x128",
            lambda name=name, C=C, backward=backward: _composite(name, C, 10, 128, 10_000, backward),
            target={(64, False): 20, (64, True): 30}.get((C, backward)) if name == "alpha_composite" else None,
            bytes_moved=_composite_bytes(C, 10, 128, 10_000, backward),
            same=_close,
        )
        for name, C in (("alpha_composite", 64), ("alpha_composite", 3), ("norm_weighted_sum", 64))
        for backward in (False, True)
    ),
    Case(
        "PointsRenderer forward + backward, 100k points, 256x256, K=10",
        lambda: _render(100_000, 256, 10),
        target=300,
        bytes_moved=100_000 * (24 + 24) + 2 * 12 * 256**2,
        same=_close,
        memory=True,
    ),
    Case(
        "SynSin's splatter forward + backward, 10k points, 64 channels, 128x128, K=128",
        lambda: _splat(10_000, 128, 128, 64),
        bytes_moved=2 * 10_000 * (12 + 4 * 64) + 2 * 4 * 64 * 128**2,
        same=_close,
        memory=True,
    ),
    Case(
        "pulsar, 100k spheres, 512x512",
        lambda: _spheres(100_000, 512, 1e-3),
        target=20,
        bytes_moved=100_000 * 28 + 12 * 512**2,
        same=_alike,
    ),
    Case(
        "pulsar forward + backward, 10k spheres, 256x256",
        lambda: _spheres(10_000, 256, 0.05, backward=True),
        bytes_moved=10_000 * 56 + 24 * 256**2,
        same=_alike,
    ),
]

SWEEPS = [
    Sweep(
        "rasterize_points, 256x256, K=10",
        "points",
        (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000),
        lambda points: _rasterize(points, 256, 10),
    ),
    Sweep("rasterize_points, 10k points, 256x256", "K", (1, 4, 16, 64, 256), lambda K: _rasterize(10_000, 256, K)),
    Sweep(
        "alpha_composite backward, C=4, 128x128",
        "K",
        (1, 4, 16, 64, 256),
        lambda K: _composite("alpha_composite", 4, K, 128, 10_000, True),
    ),
    Sweep(
        "alpha_composite forward, K=10, 128x128",
        "channels",
        (1, 4, 16, 64, 256),
        lambda C: _composite("alpha_composite", C, 10, 128, 10_000, False),
    ),
    Sweep(
        "PointsRenderer forward + backward, 256x256, K=10",
        "points",
        (1000, 3000, 10_000, 30_000, 100_000, 300_000),
        lambda points: _render(points, 256, 10),
    ),
    Sweep(
        "PointsRenderer forward + backward, 10k points of 13 pixels, 256x256",
        "K",
        (1, 4, 16, 64, 256),
        lambda K: _render(10_000, 256, K, radius=0.1),
    ),
    Sweep(
        "PointsRenderer forward + backward, 10k points, 256x256, K=10",
        "channels",
        (1, 4, 16, 64, 256),
        lambda C: _render(10_000, 256, 10, C),
    ),
    Sweep(
        "pulsar, 256x256",
        "spheres",
        (100, 1000, 10_000, 100_000, 1_000_000),
        lambda spheres: _spheres(spheres, 256, 1e-3),
    ),
]

test_speed = speed_test(CASES)
