"""The cameras of silhouettes: around the object at angles, those of a camera file, and such that are found."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recon_engine.renderer import FoVPerspectiveCameras, PerspectiveCameras, look_at_view_transform

from .._views import Cameras, Pictures

CAPTURED_RADIUS = 0.7  # of the sphere around the object of a capture: about that of the cube from -0.5 to 0.5


@dataclass(frozen=True)
class Views:
    """Cameras on a sphere around the object.

    Fields:
        elevation: (N,) degrees.
        azimuth: (N,) degrees.
        distance: from the origin; one for all, or (N,).
        fov: field of view in degrees.
    """

    elevation: Tensor
    azimuth: Tensor
    distance: float | Tensor
    fov: float

    def __len__(self) -> int:
        return len(self.elevation)

    def rotation_translation(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """R (N, 3, 3) and T (N, 3) of the cameras."""
        R, T = look_at_view_transform(self.distance, self.elevation, self.azimuth, device=self.elevation.device)
        return R.to(device), T.to(device)

    def cameras(self, device: torch.device | str = "cpu") -> Cameras:
        """The N cameras."""
        R, T = self.rotation_translation(device)
        return FoVPerspectiveCameras(R=R, T=T, fov=self.fov, device=device)


@dataclass(frozen=True)
class CapturedViews(Views):
    """Cameras of a camera file, each with a lens of its own.

    Fields:
        captured: the cameras, in the units of the fit; `distance` and `fov` are their means.
    """

    captured: PerspectiveCameras

    def rotation_translation(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """R (N, 3, 3) and T (N, 3) of the cameras."""
        return self.captured.R.to(device), self.captured.T.to(device)

    def cameras(self, device: torch.device | str = "cpu") -> Cameras:
        """The N cameras."""
        cameras: Cameras = self.captured.to(device)
        return cameras


class CameraOffsets(torch.nn.Module):
    """How far cameras are from where they were said to be; learnt together with the shape.

    An object that is turned around its vertical axis, or larger, looks the same from cameras that are turned or farther
    away: the mean azimuth, and the mean of the distances' logarithms, stay what they were.

    Args:
        views: N cameras as they were given.
        device: where to compute.

    Attributes:
        offsets: (N, 3), added to elevation and azimuth in radians, and to the logarithm of the distance.
    """

    def __init__(self, views: Views, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self._views = views
        self._distance = torch.as_tensor(views.distance, dtype=torch.float32).expand(len(views)).to(device)
        self.offsets = torch.nn.Parameter(torch.zeros(len(views), 3, device=device))

    def forward(self) -> Views:
        """The cameras where they are now. Differentiable."""
        elevation, azimuth, distance = self.offsets.unbind(1)
        return Views(
            elevation.rad2deg() + self._views.elevation.to(elevation),
            (azimuth - azimuth.mean()).rad2deg() + self._views.azimuth.to(azimuth),
            self._distance * (distance - distance.mean()).exp(),
            self._views.fov,
        )


def captured_views(pictures: Pictures) -> CapturedViews:
    """The cameras of pictures in the units of the fit."""
    cameras = pictures.cameras.clone()
    assert isinstance(cameras, PerspectiveCameras)
    cameras.T = cameras.T * CAPTURED_RADIUS
    distance = float(cameras.T.norm(dim=1).mean())
    reach = cameras.image_size.float().amin(1) / 2 / cameras.focal_length.amax(1)
    fov = math.degrees(2 * math.atan(float(reach.mean())))
    return CapturedViews(pictures.elevation, pictures.azimuth, distance, fov, cameras)
