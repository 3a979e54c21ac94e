"""Cameras around an object as a few numbers that can be optimised, and how far two of them are apart."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from recon_engine.renderer import look_at_rotation
from recon_engine.transforms import axis_angle_to_matrix

_NEAREST = 1.05  # distance of a camera from the middle of an object of radius 1
_RINGS_AZIMUTHS = 18  # least cameras of a ring of the search: near the poles they differ in how the picture is turned


class Orbit(NamedTuple):
    """N cameras by the numbers that are optimised: where they are, and how they look past the object.

    The angles are those of `look_at_view_transform`, with one difference: an elevation may pass the pole, behind which
    the camera is upside down. So nothing jumps there.

    Fields:
        angles: (N, 2) azimuth and elevation, in radians.
        log_distance: (N, 1) of the distance along the camera's axis.
        shift: (N, 2) where the object's middle appears, in NDC.
    """

    angles: Tensor
    log_distance: Tensor
    shift: Tensor

    @classmethod
    def at(cls, azimuth: Tensor, elevation: Tensor, distance: Tensor | float) -> Orbit:
        """Upright cameras that look at the middle, from angles (N,) in degrees."""
        angles = torch.stack([azimuth, elevation], 1).deg2rad()
        log_distance = torch.as_tensor(distance).to(angles).expand(len(angles)).log()[:, None]
        return cls(angles, log_distance, torch.zeros_like(angles))

    @classmethod
    def from_position(cls, position: Tensor) -> Orbit:
        """Upright cameras at (N, 3) that look at the middle."""
        x, y, z = position.double().unbind(1)
        azimuth, elevation = torch.atan2(x, z), torch.atan2(y, torch.hypot(x, z))
        angles = torch.stack([azimuth, elevation], 1).to(position)
        return cls(angles, position.norm(dim=1, keepdim=True).log(), torch.zeros_like(position[:, :2]))

    def pick(self, index: Tensor | slice) -> Orbit:
        """Some of them."""
        return Orbit(*(part[index] for part in self))

    def rotation_translation(self, half_width: float) -> tuple[Tensor, Tensor]:
        """R (N, 3, 3) and T (N, 3) of the cameras. Differentiable.

        Args:
            half_width: tangent of half the field of view.
        """
        azimuth, elevation = self.angles.unbind(1)
        zero = torch.zeros_like(azimuth)
        # The camera at azimuth and elevation 0 looks along -z: its left is -x, its up y.
        facing = azimuth.new_tensor([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -1.0]])
        turn = axis_angle_to_matrix(torch.stack([zero, azimuth, zero], 1))
        rise = axis_angle_to_matrix(torch.stack([-elevation, zero, zero], 1))
        distance = self.log_distance.exp()
        return turn @ rise @ facing, torch.cat([self.shift * (half_width * distance), distance], 1)

    def clamped(self) -> Orbit:
        """With cameras kept outside of the unit sphere; the numbers are changed in place."""
        self.log_distance.clamp_(min=math.log(_NEAREST))
        return self


class Position(NamedTuple):
    """N cameras as the book has them: by their positions (N, 3). They look at the origin and are upright."""

    position: Tensor

    def pick(self, index: Tensor | slice) -> Position:
        """Some of them."""
        return Position(self.position[index])

    def rotation_translation(self, half_width: float) -> tuple[Tensor, Tensor]:
        """R (N, 3, 3) and T (N, 3) of the cameras; any field of view. Differentiable."""
        R = look_at_rotation(self.position, device=self.position.device)
        return R, -(self.position[:, None] @ R)[:, 0]

    def clamped(self) -> Position:
        """As they are."""
        return self


def around(spacing: float, distance: float, generator: torch.Generator) -> Orbit:
    """Cameras all around, about evenly; a random turn for each ring of equal elevation.

    Args:
        spacing: degrees between neighbours.
        distance: of all of them.
        generator: of the random turns.
    """
    rings = max(2, math.ceil(180 / spacing))
    azimuths, elevations = [], []
    for ring in range(rings):
        elevation = -90 + 180 * (ring + 0.5) / rings
        count = max(_RINGS_AZIMUTHS, math.ceil(360 / spacing * math.cos(math.radians(elevation))))
        turn = float(torch.rand((), generator=generator))
        azimuths.append((torch.arange(count) + turn) * (360 / count))
        elevations.append(torch.full((count,), elevation))
    return Orbit.at(torch.cat(azimuths), torch.cat(elevations), distance)


def angle_between(R: Tensor, other: Tensor) -> Tensor:
    """The angles (...) in degrees between rotations (..., 3, 3): that of the turn from one to the other."""
    # |A - B|^2 = 8 sin^2(angle / 2) keeps its digits where the angle is small, which its cosine does not.
    chord = (R.double() - other.double()).square().sum((-2, -1)).clamp(max=8)
    return 2 * (chord / 8).sqrt().asin().rad2deg()


def centers(R: Tensor, T: Tensor) -> Tensor:
    """(N, 3): where the cameras are."""
    return -(R @ T[..., None])[..., 0]


def look_angles(R: Tensor, T: Tensor, middle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distance (N,), elevation (N,) and azimuth (N,), in degrees, of cameras as seen from a point (3,)."""
    offset = (centers(R, T) - middle).double()
    x, y, z = offset.unbind(1)
    return offset.norm(dim=1), torch.atan2(y, torch.hypot(x, z)).rad2deg(), torch.atan2(x, z).rad2deg()
