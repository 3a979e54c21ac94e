"""Fit a neural radiance field to pictures of an object: a network learns what is where, from rays through the pictures.

Each step draws rays through random points of some pictures, evaluates the network at samples along them, and compares
what the rays show (emission and absorption) and their opacity with the pictures by a Huber loss (Mildenhall et al.,
NeRF, ECCV 2020, with the smaller network and the losses of the documented chapter).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon_engine.captures import Capture
from recon_engine.renderer import (
    EmissionAbsorptionRaymarcher,
    ImplicitRenderer,
    MonteCarloRaysampler,
    NDCMultinomialRaysampler,
)
from recon_engine.structures import Meshes

from .._fields import LOSSES, FieldResult
from .._picture_fit import PictureFit
from .._run import seeded
from .._views import Cameras, Subject, huber
from .field import RadianceField
from .settings import NerfSettings, nerf_settings


@dataclass(frozen=True)
class NerfResult(FieldResult):
    """What the fit of a radiance field reached.

    Fields:
        field: the network, in the units of the fit.
        settings: what it was made with.
    """

    field: RadianceField
    settings: NerfSettings


class NerfFit(PictureFit[NerfSettings, NerfResult]):
    """The fit of a radiance field step by step: iterate over it, look at `model`, stop, ask for `result()`.

    `to_mesh(target, settings, ...)` and `to_capture(capture, settings, ...)` make one, from what `from_mesh` and
    `from_capture` take; `run()` makes the steps that are left and returns the result. A derived class may compute other
    `losses`.

    Args:
        subject: the pictures.
        settings: `nerf_settings()` when not given.
        **options: `checkpoint`, a file that the state is kept in and taken up from; `show_progress`, to draw a bar;
            `distributed`, to share each step with the other processes of torch.distributed's group, which must be given
            the same input.

    Attributes:
        model: the network, which may be changed.
        history: the losses so far.

    Raises:
        ValueError: a checkpoint of another run; `distributed` without a process group.

    Example:
        >>> from recon_engine.methods.shapes import building
        >>> fit = NerfFit.to_mesh(building(colors=True), nerf_settings(fast=True, rays_per_view=8, iterations=3))
        >>> [step for step in fit]
        [0, 1, 2]
        >>> len(fit.history.table()["color"])
        3
    """

    method = "nerf"
    label = "fitting a radiance field"

    def __init__(self, subject: Subject, settings: NerfSettings | None = None, **options: Any) -> None:
        settings = self.default_settings() if settings is None else settings
        device = subject.frame.center.device
        with seeded(settings.seed, device):
            self.model = RadianceField(settings.harmonics, settings.omega, settings.hidden).to(device)
        self._renderer = _random_rays(settings)
        adam = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate, fused=True)
        super().__init__(subject, settings, self.model, [adam], dict.fromkeys(LOSSES, 1.0), **options)

    @staticmethod
    def default_settings() -> NerfSettings:
        """`nerf_settings()`."""
        return nerf_settings()

    def losses(self, generator: torch.Generator) -> Sequence[Callable[[], Tensor]]:
        """Colours and silhouettes along random rays of some views, drawn at random, against the pictures.

        Args:
            generator: draws the views; the same in all processes.
        """
        views, scale, picked = self.subject.views, self.settings.huber, self.pick(generator)
        got, rays = self._renderer(views.cameras[picked], volumetric_function=self.model)
        expected = views.at(picked, rays.xys)
        return (
            partial(huber, got[..., :3], expected[..., :3], scale),
            partial(huber, got[..., 3], expected[..., 3], scale),
        )

    def result(self) -> NerfResult:
        """What was reached so far."""
        return NerfResult(**self._reached(partial(render, self.model, settings=self.settings)), field=self.model)


def from_mesh(
    target: Meshes,
    settings: NerfSettings | None = None,
    *,
    checkpoint: Path | None = None,
    show_progress: bool = False,
) -> NerfResult:
    """Fit a radiance field to pictures that are rendered from a mesh, in its colours.

    Args:
        target: one mesh. It is centred and scaled into the unit sphere first.
        settings: `nerf_settings()` when not given.
        checkpoint: a file that the state is kept in every half minute and at the end. Where it exists the fit goes on
            from it, and ends as if it had not been stopped.
        show_progress: draw a progress bar.

    Returns:
        The field and its measures. The same seed gives the same field.

    Raises:
        ValueError: not exactly one mesh, or one that is empty, flat to a point, or not finite; a checkpoint of another
            run.
        FloatingPointError: the learning rate was too high.
    """
    return NerfFit.to_mesh(target, settings, checkpoint=checkpoint, show_progress=show_progress).run()


def from_capture(
    capture: Capture,
    settings: NerfSettings | None = None,
    *,
    checkpoint: Path | None = None,
    show_progress: bool = False,
    device: torch.device | str = "cpu",
) -> NerfResult:
    """Fit a radiance field to pictures from files, with their cameras.

    Args:
        capture: of `recon_engine.captures.load_capture`. The object is centred, stood upright and scaled into the unit
            sphere first.
        settings: `nerf_settings()` when not given; what they say of cameras, light and depths is the capture's.
        checkpoint: a file that the state is kept in every half minute and at the end. Where it exists the fit goes on
            from it, and ends as if it had not been stopped.
        show_progress: draw a progress bar.
        device: where to compute.

    Returns:
        The field and its measures. The same seed gives the same field.

    Raises:
        ValueError: cameras that do not fit the pictures; a checkpoint of another run.
        FloatingPointError: the learning rate was too high.
    """
    options: dict[str, Any] = {"checkpoint": checkpoint, "show_progress": show_progress}
    return NerfFit.to_capture(capture, settings, device=device, **options).run()


def render(field: RadianceField, cameras: Cameras, settings: NerfSettings) -> Tensor:
    """(N, S, S, 4): colours on black and opacity of a field from N cameras, without gradients."""
    near, far = settings.depths
    rays = NDCMultinomialRaysampler(
        image_width=settings.image_size,
        image_height=settings.image_size,
        n_pts_per_ray=settings.points_per_ray,
        min_depth=near,
        max_depth=far,
    )
    renderer = ImplicitRenderer(rays, EmissionAbsorptionRaymarcher())
    with torch.no_grad():
        pictures = [renderer(cameras[i], volumetric_function=field.in_chunks)[0] for i in range(len(cameras))]
    return torch.cat(pictures)


def _random_rays(settings: NerfSettings) -> ImplicitRenderer:
    near, far = settings.depths
    rays = MonteCarloRaysampler(
        -1.0,
        1.0,
        -1.0,
        1.0,
        n_rays_per_image=settings.rays_per_view,
        n_pts_per_ray=settings.points_per_ray,
        min_depth=near,
        max_depth=far,
        stratified_sampling=settings.stratified,
    )
    return ImplicitRenderer(rays, EmissionAbsorptionRaymarcher())
