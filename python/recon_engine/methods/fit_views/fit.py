"""Fit a textured sphere to views of an object: move and colour it until it looks like the object from all of them.

The sphere is rendered softly (Liu et al., Soft Rasterizer, ICCV 2019), so that the differences of colours and of
silhouettes have gradients for every vertex and every colour; edge length, normal consistency and a Laplacian keep the
surface smooth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon_engine.captures import Capture
from recon_engine.loss import mesh_edge_loss, mesh_laplacian_smoothing, mesh_normal_consistency
from recon_engine.renderer import BlendParams, MeshRasterizer, MeshRenderer, RasterizationSettings, SoftPhongShader
from recon_engine.structures import Meshes

from .._fields import FieldResult
from .._live import Live
from .._picture_fit import PictureFit
from .._views import Cameras, Subject, lights_of, sharp_pictures
from .model import SphereModel
from .settings import FitViewsSettings, view_settings

LOSSES = ("silhouette", "rgb", "edge", "normal", "laplacian")


@dataclass(frozen=True)
class FitViewsResult(FieldResult):
    """What a fit to views reached.

    Fields:
        mesh: the fitted mesh with its texture, at the object's place and scale.
        fitted: the same in the units of the fit.
        start: the sphere, in the units of the fit.
        target: the object in the units of the fit; None where the input was pictures.
        settings: what it was made with.
    """

    mesh: Meshes
    fitted: Meshes
    start: Meshes
    target: Meshes | None
    settings: FitViewsSettings


class ViewFit(PictureFit[FitViewsSettings, FitViewsResult]):
    """A fit step by step: iterate over it, look at `mesh()`, stop when you like, and ask for `result()`.

    `to_mesh(target, settings, ...)` and `to_capture(capture, settings, ...)` make one, from what `from_mesh` and
    `from_capture` take; `run()` makes the steps that are left and returns the result. Between steps `history.reweigh`
    changes the weight of a loss; a class derived from this one may compute other `losses`.

    Args:
        subject: the views.
        settings: `view_settings()` when not given.
        live: a file that the mesh is written to every second, for `recon view`.
        **options: `checkpoint`, a file that the state is kept in and taken up from; `show_progress`, to draw a bar;
            `distributed`, to share each step with the other processes of torch.distributed's group, which must be given
            the same input.

    Attributes:
        model: the sphere, whose parameters may be changed.
        history: the losses so far.

    Raises:
        ValueError: a checkpoint of another run; `distributed` without a process group.

    Example:
        >>> from recon_engine.methods.shapes import building
        >>> fit = ViewFit.to_mesh(building(colors=True), view_settings(fast=True, iterations=3))
        >>> [step for step in fit]
        [0, 1, 2]
        >>> len(fit.mesh().verts_packed())
        642
    """

    method = "fit-views"
    label = "fitting"

    def __init__(
        self,
        subject: Subject,
        settings: FitViewsSettings | None = None,
        *,
        live: Path | None = None,
        **options: Any,
    ) -> None:
        settings = self.default_settings() if settings is None else settings
        self.model = SphereModel(settings, subject.frame.center.device)
        self._renderer = _soft_renderer(settings, subject.frame.center.device)
        weights = {name: getattr(settings, f"weight_{name}") for name in LOSSES}
        super().__init__(subject, settings, self.model, _optimizers(self.model, settings), weights, **options)
        self._live = Live(live if self.processes.is_first else None, settings.iterations, self._placed)

    @staticmethod
    def default_settings() -> FitViewsSettings:
        """`view_settings()`."""
        return view_settings()

    def __iter__(self) -> Iterator[int]:
        """The numbers of the steps that are left, each after it was made. Ctrl-C ends them after the current one.

        Raises:
            FloatingPointError: a learning rate was too high.
        """
        for step in super().__iter__():
            if self._live.path is not None:
                self._live.show(self.mesh(), self.history)
            yield step

    def losses(self, generator: torch.Generator) -> Sequence[Callable[[], Tensor]]:
        """The losses of one step in the order of `LOSSES`, each as a function that computes it.

        Args:
            generator: draws the views; the same in all processes.
        """
        views, picked = self.subject.views, self.pick(generator)
        mesh = self.model()
        got = self._renderer(self.model(len(picked)), cameras=views.cameras[picked])
        alpha, expected = got[..., 3:], views.rgba[picked]
        # Where an edge fades its colour does not: on the black behind the pictures it is as dark as it is faint.
        rgb = got[..., :3] * alpha
        return (
            partial(_mean_squared_difference, alpha, expected[..., 3:]),
            partial(_mean_squared_difference, rgb, expected[..., :3]),
            partial(mesh_edge_loss, mesh),
            partial(mesh_normal_consistency, mesh),
            partial(mesh_laplacian_smoothing, mesh, method="uniform"),
        )

    def mesh(self) -> Meshes:
        """The mesh as it is now, with its texture, in the units of the fit; without gradients."""
        with torch.no_grad():
            return self.model().detach()

    def _placed(self, mesh: Meshes) -> Meshes:
        """A mesh of the fit at the object's place and scale."""
        return mesh.update_padded(self.subject.frame.undo(mesh.verts_packed())[None])

    def result(self) -> FitViewsResult:
        """What was reached so far."""
        fitted = self.mesh()
        return FitViewsResult(
            **self._reached(partial(render, fitted, settings=self.settings)),
            mesh=self._placed(fitted),
            fitted=fitted,
            start=self.model.start,
            target=None if self.subject.placed is None else self.subject.placed.mesh,
        )


def from_mesh(
    target: Meshes,
    settings: FitViewsSettings | None = None,
    *,
    checkpoint: Path | None = None,
    show_progress: bool = False,
    live: Path | None = None,
) -> FitViewsResult:
    """Fit a sphere to views that are rendered from a mesh, in its colours.

    Args:
        target: one mesh. It is centred and scaled into the unit sphere first; the result is put back at its scale.
        settings: `view_settings()` when not given.
        checkpoint: a file that the state is kept in every half minute and at the end. Where it exists the fit goes on
            from it, and ends as if it had not been stopped.
        show_progress: draw a progress bar.
        live: a file that the mesh is written to every second, for `recon view`.

    Returns:
        The mesh and its measures. The same seed gives the same mesh.

    Raises:
        ValueError: not exactly one mesh, or one that is empty, flat to a point, or not finite; a checkpoint of another
            run.
        FloatingPointError: a learning rate was too high.
    """
    return ViewFit.to_mesh(target, settings, checkpoint=checkpoint, show_progress=show_progress, live=live).run()


def from_capture(
    capture: Capture,
    settings: FitViewsSettings | None = None,
    *,
    checkpoint: Path | None = None,
    show_progress: bool = False,
    live: Path | None = None,
    device: torch.device | str = "cpu",
) -> FitViewsResult:
    """Fit a sphere to pictures from files, with their cameras.

    Args:
        capture: of `recon_engine.captures.load_capture`. The object is centred, stood upright and scaled into the unit
            sphere first; the result is put back into the cameras' world.
        settings: `view_settings()` when not given; what they say of cameras and light is the capture's.
        checkpoint: see `from_mesh`.
        show_progress: draw a progress bar.
        live: a file that the mesh is written to every second, for `recon view`.
        device: where to compute.

    Returns:
        The mesh and its measures. The same seed gives the same mesh. Colours are those of the pictures, light included.

    Raises:
        ValueError: cameras that do not fit the pictures; a checkpoint of another run.
        FloatingPointError: a learning rate was too high.
    """
    options: dict[str, Any] = {"checkpoint": checkpoint, "show_progress": show_progress, "live": live}
    return ViewFit.to_capture(capture, settings, device=device, **options).run()


def render(mesh: Meshes, cameras: Cameras, settings: FitViewsSettings) -> Tensor:
    """(N, S, S, 4): colours on black and coverage of one mesh in the light of the settings, without gradients."""
    return sharp_pictures(lambda _: mesh, cameras, settings)


def _optimizers(model: SphereModel, settings: FitViewsSettings) -> list[torch.optim.Optimizer]:
    """Adam for the parts that have a rate, and one gradient descent for those that have none."""
    parts = ((model.shape, settings.shape_rate), (model.colors, settings.color_rate))
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Adam(numbers, lr=rate) for numbers, rate in parts if rate is not None
    ]
    descended = [parameter for numbers, rate in parts if rate is None for parameter in numbers]
    if descended:
        optimizers.append(torch.optim.SGD(descended, lr=settings.learning_rate, momentum=settings.momentum))
    return optimizers


def _soft_renderer(settings: FitViewsSettings, device: torch.device) -> MeshRenderer:
    raster = RasterizationSettings(
        image_size=settings.image_size,
        blur_radius=settings.blur_radius,
        faces_per_pixel=settings.faces_per_pixel,
        perspective_correct=False,
    )
    blend = BlendParams(settings.sigma, settings.gamma, background_color=(0.0, 0.0, 0.0))
    shader = SoftPhongShader(device=device, lights=lights_of(settings, device), blend_params=blend)
    return MeshRenderer(MeshRasterizer(raster_settings=raster), shader)


def _mean_squared_difference(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().mean()
