"""Fit a volume to pictures of an object: its densities and colours are changed until it looks like the object.

Every voxel has a density and a colour, both the sigmoid of a free number. A ray shows the colours along it, weighted by
the densities and dimmed by what lies in front (emission and absorption: Max, Optical models for direct volume
rendering, 1995); its opacity is the silhouette. Both are compared with pictures by a Huber loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon_engine.captures import Capture
from recon_engine.renderer import (
    EmissionAbsorptionRaymarcher,
    NDCMultinomialRaysampler,
    RayBundle,
    VolumeRenderer,
)
from recon_engine.structures import Meshes, Volumes

from .._fields import LOSSES, FieldResult
from .._picture_fit import PictureFit
from .._views import Cameras, Subject, huber
from .settings import VolumeSettings, volume_settings

_START_DENSITY = -4.0  # its sigmoid, 0.018, is thin enough that every voxel is seen


@dataclass(frozen=True)
class VolumeResult(FieldResult):
    """What the fit of a volume reached.

    Fields:
        volumes: one volume in the units of the fit, densities (1, 1, D, H, W) and colours (1, 3, D, H, W) from 0 to 1.
        settings: what it was made with.
    """

    volumes: Volumes
    settings: VolumeSettings


class VolumeModel(torch.nn.Module):
    """The free numbers of a volume.

    Args:
        settings: for its size.
    """

    def __init__(self, settings: VolumeSettings) -> None:
        super().__init__()
        shape = 3 * (settings.resolution,)
        self.voxel_size = settings.voxel_size
        self.log_densities = torch.nn.Parameter(torch.full((1, *shape), _START_DENSITY))
        self.log_colors = torch.nn.Parameter(torch.zeros(3, *shape))

    def forward(self) -> Volumes:
        """The volume, centred at the origin. Differentiable."""
        return Volumes(
            densities=self.log_densities.sigmoid()[None],
            features=self.log_colors.sigmoid()[None],
            voxel_size=self.voxel_size,
        )


class VolumeFit(PictureFit[VolumeSettings, VolumeResult]):
    """The fit of a volume step by step: iterate over it, look at `volumes()`, stop when you like, ask for `result()`.

    `to_mesh(target, settings, ...)` and `to_capture(capture, settings, ...)` make one, from what `from_mesh` and
    `from_capture` take; `run()` makes the steps that are left and returns the result. A derived class may compute other
    `losses`.

    Args:
        subject: the pictures.
        settings: `volume_settings()` when not given.
        **options: `checkpoint`, a file that the state is kept in and taken up from; `show_progress`, to draw a bar;
            `distributed`, to share each step with the other processes of torch.distributed's group, which must be given
            the same input.

    Attributes:
        model: the free numbers of the volume, which may be changed.
        history: the losses so far.

    Raises:
        ValueError: a checkpoint of another run; `distributed` without a process group.

    Example:
        >>> from recon_engine.methods.shapes import building
        >>> fit = VolumeFit.to_mesh(building(colors=True), volume_settings(fast=True, resolution=8, iterations=3))
        >>> [step for step in fit]
        [0, 1, 2]
        >>> fit.volumes().densities().shape
        torch.Size([1, 1, 8, 8, 8])
    """

    method = "volume"
    label = "fitting a volume"

    def __init__(self, subject: Subject, settings: VolumeSettings | None = None, **options: Any) -> None:
        settings = self.default_settings() if settings is None else settings
        self.model = VolumeModel(settings).to(subject.frame.center.device)
        self._renderer = _renderer(settings)
        adam = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate, fused=True)
        super().__init__(subject, settings, self.model, [adam], dict.fromkeys(LOSSES, 1.0), **options)

    @staticmethod
    def default_settings() -> VolumeSettings:
        """`volume_settings()`."""
        return volume_settings()

    def losses(self, generator: torch.Generator) -> Sequence[Callable[[], Tensor]]:
        """Colours and silhouettes of some views, drawn at random, against the pictures.

        Args:
            generator: draws the views; the same in all processes.
        """
        views, scale, picked = self.subject.views, self.settings.huber, self.pick(generator)
        images, rays = self._renderer(cameras=views.cameras[picked], volumes=self.model())
        got = images.reshape(len(picked), -1, 4)
        expected = views.at(picked, rays.xys.reshape(len(picked), -1, 2))
        return (
            partial(huber, got[..., :3], expected[..., :3], scale),
            partial(huber, got[..., 3], expected[..., 3], scale),
        )

    def volumes(self) -> Volumes:
        """The volume as it is now, in the units of the fit; without gradients."""
        with torch.no_grad():
            return self.model()

    def result(self) -> VolumeResult:
        """What was reached so far."""
        volumes = self.volumes()
        return VolumeResult(**self._reached(partial(render, volumes, settings=self.settings)), volumes=volumes)


def from_mesh(
    target: Meshes,
    settings: VolumeSettings | None = None,
    *,
    checkpoint: Path | None = None,
    show_progress: bool = False,
) -> VolumeResult:
    """Fit a volume to pictures that are rendered from a mesh, in its colours.

    Args:
        target: one mesh. It is centred and scaled into the unit sphere first.
        settings: `volume_settings()` when not given.
        checkpoint: a file that the state is kept in every half minute and at the end. Where it exists the fit goes on
            from it, and ends as if it had not been stopped.
        show_progress: draw a progress bar.

    Returns:
        The volume and its measures. The same seed gives the same volume.

    Raises:
        ValueError: not exactly one mesh, or one that is empty, flat to a point, or not finite; a checkpoint of another
            run.
        FloatingPointError: the learning rate was too high.
    """
    return VolumeFit.to_mesh(target, settings, checkpoint=checkpoint, show_progress=show_progress).run()


def from_capture(
    capture: Capture,
    settings: VolumeSettings | None = None,
    *,
    checkpoint: Path | None = None,
    show_progress: bool = False,
    device: torch.device | str = "cpu",
) -> VolumeResult:
    """Fit a volume to pictures from files, with their cameras.

    Args:
        capture: of `recon_engine.captures.load_capture`. The object is centred, stood upright and scaled into the unit
            sphere first.
        settings: `volume_settings()` when not given; what they say of cameras, light and depths is the capture's.
        checkpoint: a file that the state is kept in every half minute and at the end. Where it exists the fit goes on
            from it, and ends as if it had not been stopped.
        show_progress: draw a progress bar.
        device: where to compute.

    Returns:
        The volume and its measures. The same seed gives the same volume.

    Raises:
        ValueError: cameras that do not fit the pictures; a checkpoint of another run.
        FloatingPointError: the learning rate was too high.
    """
    options: dict[str, Any] = {"checkpoint": checkpoint, "show_progress": show_progress}
    return VolumeFit.to_capture(capture, settings, device=device, **options).run()


def render(volumes: Volumes, cameras: Cameras, settings: VolumeSettings) -> Tensor:
    """(N, S, S, 4): colours on black and opacity of one volume from N cameras, without gradients."""
    renderer = _renderer(replace(settings, rays_per_view=0, stratified=False))
    size = settings.image_size
    with torch.no_grad():
        rays = [renderer(cameras=cameras[i], volumes=volumes)[0] for i in range(len(cameras))]
    return torch.cat(rays).reshape(-1, size, size, 4)


class _OneVolume(torch.nn.Module):
    """The rays of all cameras as one set of rays: those of the only volume."""

    def __init__(self, raysampler: NDCMultinomialRaysampler) -> None:
        super().__init__()
        self.raysampler = raysampler

    def forward(self, **kwargs: Any) -> RayBundle:
        return RayBundle(*(field.reshape(1, -1, field.shape[-1]) for field in self.raysampler(**kwargs)))


def _renderer(settings: VolumeSettings) -> VolumeRenderer:
    near, far = settings.depths
    rays = NDCMultinomialRaysampler(
        image_width=settings.image_size,
        image_height=settings.image_size,
        n_pts_per_ray=settings.points_per_ray,
        min_depth=near,
        max_depth=far,
        n_rays_per_image=min(settings.rays_per_view, settings.image_size**2) or None,
        stratified_sampling=settings.stratified,
    )
    return VolumeRenderer(_OneVolume(rays), EmissionAbsorptionRaymarcher())
