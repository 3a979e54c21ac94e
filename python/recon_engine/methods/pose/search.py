"""Cameras to start from: the best of many all around, at a low resolution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .cameras import Orbit, angle_between, around
from .scene import Scene
from .settings import PoseSettings

_APART = 0.9  # candidates are as many spacings apart at least
_ROOM = 1.1  # around the object, from the first distance


def search(
    scene: Scene, seen: Tensor, settings: PoseSettings, weights: Tensor, generator: torch.Generator
) -> tuple[Orbit, Tensor]:
    """The cameras from which the object looks most like a picture.

    From every direction the object is seen once at a distance from which it fits the picture. How large its silhouette
    is there, and where, tells how far away it must be, and where, to cover as much as in the picture; from there it is
    compared with it.

    Args:
        scene: the object.
        seen: (S, S, 4), the picture.
        settings: for the spacing and the number of candidates.
        weights: (2,) of the silhouettes and of the colours.
        generator: of the directions.

    Returns:
        The best cameras, best first, no two of them close together; and (M, 3) azimuth and elevation in degrees, and
        loss, of all.
    """
    size = len(seen)
    cameras = around(settings.spacing, _ROOM / math.sin(math.atan(scene.half_width)), generator)
    cameras = Orbit(*(part.to(seen) for part in cameras))
    for _ in range(2):
        cameras = _matched(cameras, scene.quick(cameras, size)[..., 3], seen[..., 3], is_centered=settings.centered)
    got = scene.quick(cameras, size)
    squared = (got - seen).square().mean((1, 2))
    losses = weights[0] * squared[:, 3] + weights[1] * squared[:, :3].sum(1)
    degrees = cameras.angles.rad2deg()
    landscape = torch.stack([degrees[:, 0] % 360, degrees[:, 1], losses], 1).cpu()
    R, _ = cameras.rotation_translation(scene.half_width)
    return cameras.pick(_apart(losses, R, settings.candidates, _APART * settings.spacing)), landscape


def _matched(cameras: Orbit, got: Tensor, seen: Tensor, is_centered: bool) -> Orbit:
    """The cameras at distances, and where wanted also with shifts, that lay silhouettes over each other.

    Args:
        cameras: N of them.
        got: (N, S, S) what they see.
        seen: (S, S) what they should see.
        is_centered: whether they look at the middle of the object.
    """
    area, middle = _area_middle(got)
    wanted_area, wanted_middle = _area_middle(seen[None])
    farther = (area / wanted_area).sqrt().clamp(0.2, 5.0)[:, None]
    moved = cameras._replace(log_distance=cameras.log_distance + farther.log())
    if not is_centered:
        # What lies beside the axis moves outwards as the camera comes nearer.
        moved = moved._replace(shift=wanted_middle - (middle - cameras.shift) / farther)
    return moved.clamped()


def _area_middle(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Areas (N,) in pixels of silhouettes (N, S, S), and their middles (N, 2) in NDC: x to the left, y up."""
    size = alpha.shape[1]
    axis = 1 - (2 * torch.arange(size, device=alpha.device, dtype=alpha.dtype) + 1) / size
    area = alpha.sum((1, 2)).clamp(min=0.5)
    return area, torch.stack([(alpha.sum(1) * axis).sum(1), (alpha.sum(2) * axis).sum(1)], 1) / area[:, None]


def _apart(losses: Tensor, R: Tensor, count: int, angle: float) -> Tensor:
    """The numbers of the best cameras, best first, of which no two are within an angle, in degrees."""
    chosen: list[int] = []
    left = losses.clone()
    while len(chosen) < count and bool((left < math.inf).any()):
        best = int(left.argmin())
        chosen.append(best)
        left[angle_between(R, R[best]) < angle] = math.inf
    return torch.tensor(chosen, device=losses.device)
