"""Fit a neural radiance field to pictures of an object: a network learns what is where, from rays through the pictures.

Each step draws rays through random points of some pictures, evaluates the network at samples along them, and compares
what the rays show (emission and absorption) and their opacity with the pictures by a Huber loss (Mildenhall et al.,
NeRF, ECCV 2020, with the smaller network and the losses of the documented chapter).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

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

from .._captured import of_capture, settings_of
from .._fields import LOSSES, FieldResult, measures, turning
from .._run import History, seeded
from .._train import Checkpoint, train
from .._views import Cameras, Pictures, Subject, huber, of_mesh
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
    settings = nerf_settings() if settings is None else settings
    return _fit(of_mesh(target, settings), settings, checkpoint, show_progress)


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
    settings = nerf_settings() if settings is None else settings
    subject = of_capture(capture, device)
    return _fit(subject, settings_of(subject, settings), checkpoint, show_progress)


def _fit(subject: Subject, settings: NerfSettings, checkpoint: Path | None, show_progress: bool) -> NerfResult:
    device = subject.frame.center.device
    with seeded(settings.seed, device):
        field = RadianceField(settings.harmonics, settings.omega, settings.hidden).to(device)
    history = History(LOSSES, (1.0, 1.0), settings.iterations, device)
    loop = train(
        field,
        partial(_losses, field, _random_rays(settings), subject.views, settings),
        history,
        settings,
        Checkpoint(checkpoint, {"method": "nerf", "target": subject.about, **asdict(settings)}),
        label="fitting a radiance field",
        show_progress=show_progress,
    )
    see = partial(render, field, settings=settings)
    return NerfResult(
        center=subject.frame.center,
        scale=subject.frame.scale,
        rotation=subject.frame.rotation,
        views=subject.views,
        held_out=subject.held_out,
        **measures(see, subject.held_out),
        turntable=turning(see, subject, settings),
        history=history,
        settings=settings,
        interrupted=loop.interrupted,
        seconds=loop.seconds,
        field=field,
    )


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


def _losses(
    field: RadianceField,
    renderer: ImplicitRenderer,
    views: Pictures,
    settings: NerfSettings,
    generator: torch.Generator,
) -> Sequence[partial[Tensor]]:
    """Colours and silhouettes along random rays of some views, drawn at random, against the pictures."""
    count = min(settings.views_per_iteration, settings.views)
    picked = torch.randperm(settings.views, generator=generator)[:count].to(views.rgba.device)
    got, rays = renderer(views.cameras[picked], volumetric_function=field)
    expected = views.at(picked, rays.xys)
    return (
        partial(huber, got[..., :3], expected[..., :3], settings.huber),
        partial(huber, got[..., 3], expected[..., 3], settings.huber),
    )
