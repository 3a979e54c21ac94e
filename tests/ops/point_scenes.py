"""Packed point clouds that the tests of the point rasteriser share, and what PyTorch3D makes of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Points(NamedTuple):
    """A batch of clouds in NDC, as `recon_engine.ops.rasterize_points` takes them."""

    points: Tensor
    first: Tensor
    count: Tensor
    radius: Tensor

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Points:
        """The same elsewhere."""
        moved = (a.to(device, dtype) if a.is_floating_point() else a.to(device) for a in self)
        return Points(*moved)


def clouds(sizes: tuple[int, ...], radius: float = 0.1, seed: int = 0, spread: float = 1.3) -> Points:
    """Random points around the image, a few behind the camera, with radii of their own."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(sizes)
    points = torch.rand(total, 3, generator=generator) * 2 - 1
    points = points * torch.tensor([spread, spread, 1.0]) + torch.tensor([0.0, 0.0, 0.8])
    count = torch.tensor(sizes, dtype=torch.int64)
    radii = radius * (0.5 + torch.rand(total, generator=generator))
    return Points(points, count.cumsum(0) - count, count, radii)


def lattice(n: int, seed: int = 0) -> Points:
    """Points on pixel corners and centres of an 8 x 8 image, of four depths: ties in every comparison."""
    scene = clouds((n,), seed=seed)
    points = (scene.points * 8).round() / 8
    points[:, 2] = (scene.points[:, 2] * 2).round().clamp(min=0) / 2
    return scene._replace(points=points, radius=torch.full((n,), 0.25))


def pytorch3d_forward(scene: Points, image_size: tuple[int, int], K: int) -> tuple[Tensor, Tensor, Tensor]:
    """PyTorch3D's CPU kernel."""
    from pytorch3d import _C

    return _C.rasterize_points(scene.points, scene.first, scene.count, image_size, scene.radius, K, 0, 0)


def pytorch3d_backward(scene: Points, idx: Tensor, grad_zbuf: Tensor, grad_dists: Tensor) -> Tensor:
    """The gradient of PyTorch3D's CPU kernel in the points."""
    from pytorch3d import _C

    return _C.rasterize_points_backward(scene.points, idx, grad_zbuf, grad_dists)
