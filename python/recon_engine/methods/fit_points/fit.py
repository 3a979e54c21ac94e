"""Wrap a sphere around a point cloud or a mesh by pulling its surface towards the points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor

from recon_engine.loss import chamfer_distance, mesh_edge_loss, mesh_laplacian_smoothing, mesh_normal_consistency
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere

from .._live import Live
from .._run import History, Loop, seeded
from .._surface import mean_square_to_nearest, surface_points
from .settings import FitPointsSettings, fit_settings

LOSSES = ("chamfer", "edge", "normal", "laplacian")
_MEASURED_SAMPLES = 20_000


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


def fit_points(
    verts: Tensor,
    faces: Tensor | None = None,
    settings: FitPointsSettings | None = None,
    *,
    show_progress: bool = False,
    live: Path | None = None,
) -> FitPointsResult:
    """Deform a sphere until its surface lies on the target.

    Args:
        verts: (V, 3) the points, or the vertices of the target mesh.
        faces: (F, 3) int64, the target mesh; None or F = 0 for a point cloud.
        settings: `fit_settings()` when not given.
        show_progress: draw a progress bar.
        live: a file that the mesh is written to every second, for `recon view`.

    Returns:
        The deformed sphere and its measures. The same seed gives the same mesh.

    Raises:
        ValueError: `verts` is not (V, 3), empty, not finite, or all in one place.
        FloatingPointError: the learning rate was too high.
    """
    settings = fit_settings() if settings is None else settings
    center, scale = _center_scale(verts)
    target = _Target((verts - center) / scale, faces)
    start = ico_sphere(settings.level, verts.device)
    weights = [getattr(settings, f"weight_{name}") for name in LOSSES]
    history = History(LOSSES, weights, settings.iterations, verts.device)
    loop = Loop(settings.iterations, history, "fitting", show_progress)
    shown = Live(live, settings.iterations, lambda mesh: mesh.update_padded(mesh.verts_padded() * scale + center))
    offset = torch.zeros_like(start.verts_packed(), requires_grad=True)
    optimizer = torch.optim.SGD([offset], lr=settings.learning_rate, momentum=settings.momentum)
    with seeded(settings.seed, verts.device):
        for _ in loop:
            optimizer.zero_grad()
            mesh = start.offset_verts(offset)
            total = history.total(
                (
                    partial(_chamfer, mesh, target.points(settings.samples), settings.samples),
                    partial(mesh_edge_loss, mesh),
                    partial(mesh_normal_consistency, mesh),
                    partial(mesh_laplacian_smoothing, mesh, method="uniform"),
                )
            )
            total.backward()
            optimizer.step()
            shown.show(mesh, history)
        fitted = start.offset_verts(offset.detach())
        points = target.points(_MEASURED_SAMPLES)
    return FitPointsResult(
        mesh=fitted.update_padded(fitted.verts_padded() * scale + center),
        fitted=fitted,
        start=start,
        points=points,
        start_measures=measure(start, points, settings.seed),
        measures=measure(fitted, points, settings.seed),
        history=history,
        settings=settings,
        interrupted=loop.interrupted,
        seconds=loop.seconds,
    )


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
