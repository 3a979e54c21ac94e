"""Wrap a sphere around a point cloud or a mesh by pulling its surface towards the points."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor

from recon_engine.loss import chamfer_distance, mesh_edge_loss, mesh_laplacian_smoothing, mesh_normal_consistency
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere

from .._live import Live
from .._run import History, OwnRandom, seeded
from .._surface import mean_square_to_nearest, surface_points
from .._train import Checkpoint, Training
from .settings import FitPointsSettings, fit_settings

LOSSES = ("chamfer", "edge", "normal", "laplacian")
_MEASURED_SAMPLES = 20_000
_TARGET = 2**40  # points of the target are drawn with other seeds than those of the mesh that they are compared with


class Measures(NamedTuple):
    """How well a mesh fits points, and how smooth it is. Distances are squared, in units of the target's half extent.

    Fields:
        chamfer: the sum of the next two.
        target_to_surface: mean over the target of the distance to the nearest of 20,000 points of the surface.
        surface_to_target: mean over those points of the distance to the nearest target point.
        edge: mean squared edge length.
        longest_edge: length of the longest edge.
        roughness: mean of 1 - cosine between the normals of neighbouring faces.
    """

    chamfer: float
    target_to_surface: float
    surface_to_target: float
    edge: float
    longest_edge: float
    roughness: float


@dataclass(frozen=True)
class FitPointsResult:
    """What a fit reached.

    Fields:
        mesh: the deformed sphere, at the target's place and scale.
        fitted: the same in the units of the fit.
        start: the sphere.
        points: (N, 3) the target in the units of the fit: the cloud, or points of the target mesh.
        start_measures: of the sphere.
        measures: of the result.
        history: the losses of every iteration.
        settings: what it was made with.
        interrupted: Ctrl-C ended it early.
        seconds: how long the iterations took.
    """

    mesh: Meshes
    fitted: Meshes
    start: Meshes
    points: Tensor
    start_measures: Measures
    measures: Measures
    history: History
    settings: FitPointsSettings
    interrupted: bool
    seconds: float


class PointsFit:
    """A fit step by step: iterate over it, look at `mesh()`, stop when you like, and ask for `result()`.

    Between steps `history.reweigh` changes the weight of a loss; a class derived from this one may compute other
    `losses`.

    Args:
        verts: (V, 3) the points, or the vertices of the target mesh.
        faces: (F, 3) int64, the target mesh; None or F = 0 for a point cloud.
        settings: `fit_settings()` when not given.
        checkpoint: a file that the state is kept in every half minute and at the end. Where it exists the fit goes on
            from it, and ends as if it had not been stopped.
        show_progress: draw a progress bar.
        live: a file that the mesh is written to every second, for `recon view`.

    Attributes:
        history: the losses so far.
        start: the sphere, in the units of the fit: there the target's largest coordinate is 1.

    Raises:
        ValueError: `verts` is not (V, 3), empty, not finite, or all in one place; a checkpoint of another run.

    Example:
        >>> fit = PointsFit(torch.rand(50, 3), settings=fit_settings(fast=True, iterations=3))
        >>> [step for step in fit]
        [0, 1, 2]
        >>> len(fit.mesh().verts_packed())
        642
    """

    def __init__(
        self,
        verts: Tensor,
        faces: Tensor | None = None,
        settings: FitPointsSettings | None = None,
        *,
        checkpoint: Path | None = None,
        show_progress: bool = False,
        live: Path | None = None,
    ) -> None:
        self.settings = settings = fit_settings() if settings is None else settings
        self._center, self._scale = _center_scale(verts)
        self._target = _Target((verts - self._center) / self._scale, faces)
        self.start = ico_sphere(settings.level, verts.device)
        weights = [getattr(settings, f"weight_{name}") for name in LOSSES]
        self.history = History(LOSSES, weights, settings.iterations, verts.device)
        self._live = Live(live, settings.iterations, self._placed)
        self._model = _Offset(self.start)
        x, y, z = self._center.tolist()
        target = f"of {len(verts)} points and {0 if faces is None else len(faces)} faces, size {self._scale:.6g} at "
        self._training = Training(
            self._model,
            [torch.optim.SGD(self._model.parameters(), lr=settings.learning_rate, momentum=settings.momentum)],
            self.losses,
            self.history,
            OwnRandom(settings.seed, verts.device),
            Checkpoint(
                checkpoint,
                {"method": "fit-points", "target": f"{target}{x:.6g}, {y:.6g}, {z:.6g}", **asdict(settings)},
            ),
            iterations=settings.iterations,
            label="fitting",
            show_progress=show_progress,
        )

    def __iter__(self) -> Iterator[int]:
        """The numbers of the steps that are left, each after it was made. Ctrl-C ends them after the current one.

        Raises:
            FloatingPointError: the learning rate was too high.
        """
        for step in self._training:
            if self._live.path is not None:
                self._live.show(self.mesh(), self.history)
            yield step

    def losses(self, generator: torch.Generator) -> Sequence[Callable[[], Tensor]]:
        """The losses of one step in the order of `LOSSES`, each as a function that computes it.

        Args:
            generator: for choices made on the host. Points of surfaces are drawn with torch's own generators.
        """
        mesh, count = self._model(), self.settings.samples
        return (
            partial(_chamfer, mesh, self._target.points(count), count),
            partial(mesh_edge_loss, mesh),
            partial(mesh_normal_consistency, mesh),
            partial(mesh_laplacian_smoothing, mesh, method="uniform"),
        )

    def mesh(self) -> Meshes:
        """The mesh as it is now, in the units of the fit; without gradients."""
        with torch.no_grad():
            return self._model().detach()

    def result(self) -> FitPointsResult:
        """What was reached so far."""
        settings, fitted = self.settings, self.mesh()
        with seeded(settings.seed + _TARGET, fitted.device):
            points = self._target.points(_MEASURED_SAMPLES)
        return FitPointsResult(
            mesh=self._placed(fitted),
            fitted=fitted,
            start=self.start,
            points=points,
            start_measures=measure(self.start, points, settings.seed),
            measures=measure(fitted, points, settings.seed),
            history=self.history,
            settings=settings,
            interrupted=self.history.length < settings.iterations,
            seconds=self._training.loop.seconds,
        )

    def _placed(self, mesh: Meshes) -> Meshes:
        """A mesh of the fit at the target's place and scale."""
        return mesh.update_padded(mesh.verts_padded() * self._scale + self._center)


def fit_points(
    verts: Tensor,
    faces: Tensor | None = None,
    settings: FitPointsSettings | None = None,
    *,
    checkpoint: Path | None = None,
    show_progress: bool = False,
    live: Path | None = None,
) -> FitPointsResult:
    """Deform a sphere until its surface lies on the target.

    Args:
        verts: (V, 3) the points, or the vertices of the target mesh.
        faces: (F, 3) int64, the target mesh; None or F = 0 for a point cloud.
        settings: `fit_settings()` when not given.
        checkpoint: see `PointsFit`.
        show_progress: draw a progress bar.
        live: a file that the mesh is written to every second, for `recon view`.

    Returns:
        The deformed sphere and its measures. The same seed gives the same mesh.

    Raises:
        ValueError: `verts` is not (V, 3), empty, not finite, or all in one place; a checkpoint of another run.
        FloatingPointError: the learning rate was too high.
    """
    fit = PointsFit(verts, faces, settings, checkpoint=checkpoint, show_progress=show_progress, live=live)
    for _ in fit:
        pass
    return fit.result()


def measure(mesh: Meshes, points: Tensor, seed: int = 0) -> Measures:
    """How well a mesh fits points and how smooth it is.

    Args:
        mesh: one mesh.
        points: (N, 3) in the mesh's units.
        seed: decides the points that are drawn from the surface.
    """
    with torch.no_grad(), seeded(seed, mesh.device):
        surface = surface_points(mesh, _MEASURED_SAMPLES)
        to_surface = mean_square_to_nearest(points[None], surface)
        to_target = mean_square_to_nearest(surface, points[None])
        a, b = mesh.verts_packed()[mesh.edges_packed()].unbind(1)
        return Measures(
            chamfer=to_surface + to_target,
            target_to_surface=to_surface,
            surface_to_target=to_target,
            edge=float(mesh_edge_loss(mesh)),
            longest_edge=float((a - b).norm(dim=1).max()),
            roughness=float(mesh_normal_consistency(mesh)),
        )


def _chamfer(mesh: Meshes, points: Tensor, count: int) -> Tensor:
    """Chamfer distance between the points and `count` random points of the mesh."""
    distance, _ = chamfer_distance(points[None], surface_points(mesh, count))
    return cast(Tensor, distance)


class _Offset(torch.nn.Module):
    """Displacements of the vertices of a mesh."""

    def __init__(self, start: Meshes) -> None:
        super().__init__()
        self._start = start
        self.offset = torch.nn.Parameter(torch.zeros_like(start.verts_packed()))

    def forward(self) -> Meshes:
        """The displaced mesh. Differentiable."""
        return self._start.offset_verts(self.offset)


class _Target:
    """A point cloud, which is used as it is, or a mesh, from which points are drawn."""

    def __init__(self, verts: Tensor, faces: Tensor | None) -> None:
        self.verts = verts
        self.mesh = Meshes(verts=[verts], faces=[faces]) if faces is not None and len(faces) else None

    def points(self, count: int) -> Tensor:
        """(N, 3): the whole cloud, or `count` new points of the mesh."""
        return self.verts if self.mesh is None else surface_points(self.mesh, count)[0]


def _center_scale(verts: Tensor) -> tuple[Tensor, float]:
    """The mean of the points, and the largest coordinate once that is the origin."""
    if verts.dim() != 2 or verts.shape[1] != 3 or len(verts) == 0:
        raise ValueError(f"fit_points: verts must have shape (V, 3) with V > 0, got {tuple(verts.shape)}")
    if not bool(torch.isfinite(verts).all()):
        raise ValueError("fit_points: verts has values that are NaN or infinite")
    center = verts.mean(0)
    scale = float((verts - center).abs().max())
    if not scale > 0:
        raise ValueError(f"fit_points: verts has no extent: all points are at {center.tolist()}")
    return center, scale
