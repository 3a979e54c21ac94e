"""Reconstruct an object from silhouettes: deform a cube or a sphere until its silhouettes are those of the object.

The silhouettes are rendered softly (Liu et al., Soft Rasterizer, ICCV 2019), so that their difference to the targets
has a gradient for every vertex; edge length, normal consistency and a Laplacian keep the surface smooth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon_engine.captures import Capture
from recon_engine.loss import mesh_edge_loss, mesh_laplacian_smoothing, mesh_normal_consistency
from recon_engine.renderer.camera_utils import join_cameras_as_batch
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere

from .._live import Live
from .._run import History, OwnRandom, seeded
from .._surface import mean_square_to_nearest, surface_points
from .._train import Checkpoint, Training
from .._views import Frame
from ..shapes import create_cube
from .cameras import CameraOffsets, Views
from .closed import outward
from .images import Cutouts
from .model import DeformedMeshes
from .outlines import Outlines, silhouette_iou, silhouette_renderer, silhouettes
from .settings import BuildSettings, image_settings, mesh_settings

LOSSES = ("silhouette", "edge", "normal", "laplacian")
_CHAMFER_POINTS = 10_000


@dataclass(frozen=True)
class BuildResult:
    """What a reconstruction reached.

    Fields:
        mesh: the reconstruction, at the input's place and scale.
        fitted: the same in the units of the fit.
        frame: where those are: x_mesh = (x_fitted rotation) * scale + center.
        start: what it started from, in the units of the fit.
        start_name: the same in words.
        target: the input mesh in the units of the fit; None when the input was pictures.
        names: N names of the views.
        views: their cameras, where they were found to be if they were refined.
        given: their cameras as they were given.
        targets: (N, S, S) silhouettes of the object, 0 to 1.
        silhouettes: (N, S, S) silhouettes of the reconstruction.
        iou: (N,) intersection over union of the two, both cut at one half.
        start_iou: (N,) the same for the start.
        unseen_iou: mean of the same over views that the fit never saw; None where there are none.
        chamfer: mean squared distance between 10,000 points on either surface and the other's nearest, both ways
            added, in the units of the fit; None when the input was pictures.
        history: the losses of every iteration.
        settings: what it was made with.
        interrupted: it ended before the last iteration.
        seconds: how long the iterations took, those of all meshes that were deformed together.
        compared: what was reached from each start, where both were tried; empty otherwise.
    """

    mesh: Meshes
    fitted: Meshes
    frame: Frame
    start: Meshes
    start_name: str
    target: Meshes | None
    names: list[str]
    views: Views
    given: Views
    targets: Tensor
    silhouettes: Tensor
    iou: Tensor
    start_iou: Tensor
    unseen_iou: float | None
    chamfer: float | None
    history: History
    settings: BuildSettings
    interrupted: bool
    seconds: float
    compared: tuple[BuildResult, ...] = ()


class JointHistory(History):
    """The losses of meshes that are deformed together: the columns of the first mesh, then those of the next.

    The total is the sum of the meshes' totals, so that each mesh has the gradient that it would have alone.
    """

    def __init__(self, meshes: int, settings: BuildSettings, device: torch.device | str) -> None:
        weights = [getattr(settings, f"weight_{name}") for name in LOSSES]
        super().__init__(LOSSES * meshes, weights * meshes, settings.iterations, device)

    def of(self, i: int) -> History:
        """The losses of one mesh."""
        own = slice(i * len(LOSSES), (i + 1) * len(LOSSES))
        history = History(LOSSES, self.weights[own].tolist(), self.planned)
        history.restore(self.rows()[:, own])
        return history

    def table(self) -> dict[str, list[float]]:
        """The means of the meshes' tables."""
        tables = [self.of(i).table() for i in range(len(self.columns) // len(LOSSES))]
        return {name: torch.tensor([table[name] for table in tables]).mean(0).tolist() for name in tables[0]}


class BuildFit:
    """A reconstruction step by step: iterate over it, look at `mesh()`, stop when you like, and ask for `result()`.

    Between steps `history.reweigh` changes the weight of a loss; a class derived from this one may compute other
    `losses`. Several meshes are deformed together, with one rendering for a step, and end as each would alone: one for
    each object, or with `settings.start = "both"` two, the first of a cube and the second of a sphere.

    Args:
        outlines: of each object, with equal numbers of views.
        settings: what decides the fit.
        checkpoint: a file that the state is kept in every half minute and at the end. Where it exists the fit goes on
            from it, and ends as if it had not been stopped.
        show_progress: draw a progress bar.
        live: a file that the first mesh is written to every second, for `recon view`.

    Attributes:
        model: the meshes, whose vertices may be moved.
        history: the losses so far, of all meshes.

    Raises:
        ValueError: no object, numbers of views that differ, or a checkpoint of another run.

    Example:
        >>> from recon_engine.methods.shapes import building
        >>> fit = BuildFit.to_mesh(building(), mesh_settings(iterations=3, level=2, image_size=32))
        >>> [step for step in fit]
        [0, 1, 2]
        >>> len(fit.mesh().verts_packed())
        98
    """

    def __init__(
        self,
        outlines: Sequence[Outlines],
        settings: BuildSettings,
        *,
        checkpoint: Path | None = None,
        show_progress: bool = False,
        live: Path | None = None,
    ) -> None:
        counts = {len(each.views) for each in outlines}
        if len(counts) != 1:
            raise ValueError(
                f"outlines must be of one or more objects in equal numbers of views, got {sorted(counts) or 'none'}"
            )
        self.outlines, self.settings = list(outlines), settings
        self.device = outlines[0].silhouettes.device
        # Of every mesh the object and the start.
        self._of = [each for each in outlines for _ in settings.starts]
        self._starts = [
            _start(name, settings, self.device) if each.init is None else each.init
            for each in outlines
            for name in settings.starts
        ]
        self.model = DeformedMeshes(self._starts, settings.splits)
        self.history = JointHistory(len(self._of), settings, self.device)
        self._renderer = silhouette_renderer(settings, self.device)
        self._targets = torch.stack([each.silhouettes for each in self._of])
        self._cameras = join_cameras_as_batch([each.views.cameras(self.device) for each in self._of])
        self._found = [CameraOffsets(each.views, self.device) for each in self._of if settings.refine_cameras]
        self._live = Live(live, settings.iterations, self.outlines[0].placed)
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.SGD(self.model.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
        ]
        offsets = torch.nn.ModuleList(self._found)
        if self._found:
            optimizers.append(torch.optim.Adam(offsets.parameters(), lr=settings.camera_rate))
        self._training = Training(
            torch.nn.ModuleList([self.model, offsets]),
            optimizers,
            self.losses,
            self.history,
            OwnRandom(settings.seed, self.device),
            Checkpoint(
                checkpoint,
                {"method": "build", "target": ", ".join(each.about for each in outlines), **asdict(settings)},
            ),
            iterations=settings.iterations,
            label="reconstructing",
            show_progress=show_progress,
            before=self._begin,
        )
        self.model.split_until(settings.splits_at(max(self.history.length - 1, 0)))

    @classmethod
    def to_mesh(cls, target: Meshes, settings: BuildSettings | None = None, **options: Any) -> BuildFit:
        """A fit to silhouettes of a mesh; see `from_mesh`."""
        return cls.to_meshes([target], settings, **options)

    @classmethod
    def to_meshes(cls, targets: Sequence[Meshes], settings: BuildSettings | None = None, **options: Any) -> BuildFit:
        """A fit to silhouettes of several meshes; see `from_meshes`."""
        settings = mesh_settings() if settings is None else settings
        return cls([Outlines.of_mesh(target, settings) for target in targets], settings, **options)

    @classmethod
    def to_images(
        cls,
        cutouts: Cutouts,
        elevation: Tensor,
        azimuth: Tensor,
        settings: BuildSettings | None = None,
        *,
        init: Meshes | None = None,
        device: torch.device | str = "cpu",
        **options: Any,
    ) -> BuildFit:
        """A fit to cut-out photographs; see `from_images`."""
        if settings is None:
            settings = mesh_settings() if init is None else image_settings()
        return cls([Outlines.of_cutouts(cutouts, elevation, azimuth, settings, init, device)], settings, **options)

    @classmethod
    def to_capture(
        cls,
        capture: Capture,
        settings: BuildSettings | None = None,
        *,
        device: torch.device | str = "cpu",
        **options: Any,
    ) -> BuildFit:
        """A fit to pictures whose cameras are known; see `from_capture`."""
        settings = mesh_settings() if settings is None else settings
        return cls([Outlines.of_capture(capture, settings, device)], settings, **options)

    def __iter__(self) -> Iterator[int]:
        """The numbers of the steps that are left, each after it was made. Ctrl-C ends them after the current one.

        Raises:
            FloatingPointError: the learning rate was too high.
        """
        for step in self._training:
            if self._live.path is not None:
                self._live.show(self.mesh(), self.history)
            yield step

    def _begin(self, step: int) -> None:
        """What changes with the number of a step."""
        self.model.split_until(self.settings.splits_at(step))
        rate = self.settings.camera_rate_at(step)
        for optimizer in self._training.optimizers[1:]:
            optimizer.param_groups[0]["lr"] = rate
        if rate > 0:
            self._cameras = join_cameras_as_batch([found().cameras(self.device) for found in self._found])

    def losses(self, generator: torch.Generator) -> Sequence[Callable[[], Tensor]]:
        """The losses of one step, those of `LOSSES` for each mesh, each as a function that computes it.

        Args:
            generator: draws the views.
        """
        shapes, views = self._targets.shape[:2]
        count = min(self.settings.views_per_iteration or views, views)
        picked = torch.randperm(views, generator=generator)[:count].to(self.device)
        first = torch.arange(shapes, device=self.device)[:, None] * views
        alpha = self._renderer(self.model.copies(count), cameras=self._cameras[(first + picked).flatten()])[..., 3]
        shown, meshes = alpha.unflatten(0, (shapes, count)), self.model.meshes()
        return [
            loss
            for mesh, got, expected in zip(meshes, shown, self._targets[:, picked], strict=True)
            for loss in (
                partial(_mean_squared_difference, got, expected),
                partial(mesh_edge_loss, mesh),
                partial(mesh_normal_consistency, mesh),
                partial(mesh_laplacian_smoothing, mesh, method="uniform"),
            )
        ]

    def mesh(self, i: int = 0) -> Meshes:
        """One of the meshes as it is now, in the units of the fit; without gradients."""
        with torch.no_grad():
            return self.model.meshes()[i].detach()

    def result(self, i: int = 0) -> BuildResult:
        """What was reached so far for an object; where both starts are tried, what the better one reached."""
        count = len(self.settings.starts)
        reached = tuple(self._reached(mesh) for mesh in range(i * count, (i + 1) * count))
        best = max(reached, key=lambda result: float(result.iou.mean()))
        return best if count == 1 else replace(best, compared=reached)

    def _reached(self, i: int) -> BuildResult:
        """What was reached so far with one of the meshes."""
        outlines, start, fitted = self._of[i], self._starts[i], outward(self.mesh(i))
        name = self.settings.starts[i % len(self.settings.starts)]
        with torch.no_grad():
            views = self._found[i]() if self._found else outlines.views
        see = partial(silhouettes, settings=self.settings)
        shown = see(fitted, views)
        unseen = chamfer = None
        if outlines.unseen is not None:
            unseen = float(silhouette_iou(see(fitted, outlines.unseen[0]), outlines.unseen[1]).mean())
        if outlines.mesh is not None:
            chamfer = surface_chamfer(fitted, outlines.mesh, self.settings.seed)
        return BuildResult(
            mesh=outlines.placed(fitted),
            fitted=fitted,
            frame=outlines.frame,
            start=start,
            start_name=f"a {name}" if outlines.init is None else "the given mesh",
            target=outlines.mesh,
            names=outlines.names,
            views=views,
            given=outlines.views,
            targets=outlines.silhouettes,
            silhouettes=shown,
            iou=silhouette_iou(shown, outlines.silhouettes),
            start_iou=silhouette_iou(see(start, outlines.views), outlines.silhouettes),
            unseen_iou=unseen,
            chamfer=chamfer,
            history=self.history.of(i),
            settings=self.settings,
            interrupted=self.history.length < self.settings.iterations,
            seconds=self._training.loop.seconds,
        )

    def results(self) -> list[BuildResult]:
        """What was reached so far for each object."""
        return [self.result(i) for i in range(len(self.outlines))]


def from_mesh(
    target: Meshes,
    settings: BuildSettings | None = None,
    *,
    checkpoint: Path | None = None,
    show_progress: bool = False,
    live: Path | None = None,
) -> BuildResult:
    """Reconstruct a mesh from silhouettes that are rendered from it.

    Args:
        target: one mesh. It is centred and scaled to half extent 0.5 first; the result is put back at its scale.
        settings: `mesh_settings()` when not given.
        checkpoint: a file that the state is kept in every half minute and at the end. Where it exists the fit goes on
            from it, and ends as if it had not been stopped.
        show_progress: draw a progress bar.
        live: a file that the mesh is written to every second, for `recon view`.

    Returns:
        The reconstruction and its measures. The same seed gives the same mesh.

    Raises:
        ValueError: not exactly one mesh, or one that is empty, flat to a point, or not finite; cameras to be refined;
            a checkpoint of another run.
        FloatingPointError: the learning rate was too high.
    """
    fit = BuildFit.to_mesh(target, settings, checkpoint=checkpoint, show_progress=show_progress, live=live)
    return _whole(fit).result()


def from_meshes(
    targets: Sequence[Meshes],
    settings: BuildSettings | None = None,
    *,
    checkpoint: Path | None = None,
    show_progress: bool = False,
) -> list[BuildResult]:
    """Reconstruct several meshes together: all are deformed in one batch, with one rendering for a step.

    Args:
        targets: one or more meshes, one in each.
        settings: for all of them; `mesh_settings()` when not given.
        checkpoint: see `from_mesh`.
        show_progress: draw a progress bar.

    Returns:
        For each mesh what `from_mesh` gives, but for rounding. The seconds are those of all together.

    Raises:
        ValueError: see `from_mesh`; no mesh at all.
        FloatingPointError: the learning rate was too high for one of them.
    """
    return _whole(BuildFit.to_meshes(targets, settings, checkpoint=checkpoint, show_progress=show_progress)).results()


def from_images(
    cutouts: Cutouts,
    elevation: Tensor,
    azimuth: Tensor,
    settings: BuildSettings | None = None,
    *,
    init: Meshes | None = None,
    checkpoint: Path | None = None,
    show_progress: bool = False,
    live: Path | None = None,
    device: torch.device | str = "cpu",
) -> BuildResult:
    """Reconstruct an object from cut-out photographs.

    Args:
        cutouts: N silhouettes of side `settings.image_size`.
        elevation: (N,) degrees.
        azimuth: (N,) degrees.
        settings: when not given, `image_settings()` with `init` and `mesh_settings()` without it: the documented 100
            iterations refine a mesh, they do not shape a cube.
        init: the mesh to start from, for instance an earlier result; the result is put back at its scale. Without it
            the start is the one of the settings and the result has the units of the fit.
        checkpoint: see `from_mesh`.
        show_progress: draw a progress bar.
        live: a file that the mesh is written to every second, for `recon view`.
        device: where to compute.

    Returns:
        The reconstruction and its measures. The same seed gives the same mesh.

    Raises:
        ValueError: the numbers of silhouettes and angles differ, or the start is unusable; a checkpoint of another run.
        FloatingPointError: the learning rate was too high.
    """
    options: dict[str, Any] = {"checkpoint": checkpoint, "show_progress": show_progress, "live": live}
    fit = BuildFit.to_images(cutouts, elevation, azimuth, settings, init=init, device=device, **options)
    return _whole(fit).result()


def from_capture(
    capture: Capture,
    settings: BuildSettings | None = None,
    *,
    checkpoint: Path | None = None,
    show_progress: bool = False,
    live: Path | None = None,
    device: torch.device | str = "cpu",
) -> BuildResult:
    """Reconstruct an object from the silhouettes of pictures whose cameras are known.

    Args:
        capture: of `recon_engine.captures.load_capture`, of side `settings.image_size`.
        settings: `mesh_settings()` when not given; what they say of cameras is the capture's.
        checkpoint: see `from_mesh`.
        show_progress: draw a progress bar.
        live: a file that the mesh is written to every second, for `recon view`.
        device: where to compute.

    Returns:
        The reconstruction, in the cameras' world, and its measures. `unseen_iou` is that of the pictures that were held
        out, if there are any. The same seed gives the same mesh.

    Raises:
        ValueError: the cameras do not fit the pictures, the pictures do not have the side of the settings, or the
            settings ask for cameras to be refined; a checkpoint of another run.
        FloatingPointError: the learning rate was too high.
    """
    options: dict[str, Any] = {"checkpoint": checkpoint, "show_progress": show_progress, "live": live}
    return _whole(BuildFit.to_capture(capture, settings, device=device, **options)).result()


def surface_chamfer(a: Meshes, b: Meshes, seed: int = 0) -> float:
    """Mean squared distance from points on `a` to the nearest on `b`, plus the reverse (10,000 points each)."""
    with torch.no_grad(), seeded(seed, a.device):
        x, y = (surface_points(mesh, _CHAMFER_POINTS) for mesh in (a, b))
        return mean_square_to_nearest(x, y) + mean_square_to_nearest(y, x)


def _whole(fit: BuildFit) -> BuildFit:
    """The fit after all its steps."""
    for _ in fit:
        pass
    return fit


def _start(name: str, settings: BuildSettings, device: torch.device | str) -> Meshes:
    level = settings.level - settings.splits
    if name == "cube":
        return create_cube(level, device)
    return ico_sphere(level, device).scale_verts(settings.sphere_radius)


def _mean_squared_difference(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().mean()
