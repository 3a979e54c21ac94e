"""Move shapes onto others: a displacement by gradient descent, or a rotation and a displacement by closest points.

The displacement minimises the chamfer distance between points that are drawn anew from both surfaces in every step; all
pairs are one batch, however different their sizes. The rigid alignment (Besl and McKay, A method for registration of
3-D shapes, PAMI 1992) finds the nearest best place only, so it starts from many rotations at once.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recon_engine.loss import chamfer_distance
from recon_engine.ops import closest_points_on_mesh, iterative_closest_point, knn_points
from recon_engine.ops.points_alignment import SimilarityTransform
from recon_engine.transforms import random_rotations

from .._live import Live
from .._run import History, Loop, seeded
from .._surface import mean_square_to_nearest
from .._train import Checkpoint
from .settings import AlignSettings, align_settings
from .shapes import Shapes

_MEASURED_SAMPLES = 10_000
_SEARCH_SAMPLES, _SEARCH_ITERATIONS = 600, 25
_DENSER = 4  # points of the targets, for each of the sources: what is nearest is nearer to what is right
_KEPT = 3  # of the starts, for all points
_TRUTH = 2**40  # seeds of known answers are others than those of the search for them
_STEP_SEEDS = 1_000_003  # apart, so that the steps of two seeds do not draw the same points


class AlignStep(NamedTuple):
    """Where an alignment is after an iteration.

    Fields:
        iteration: from 0.
        R: (N, 3, 3), with `T` and `s` the map x -> s x R + T of each source.
        T: (N, 3).
        s: (N,).
        loss: the chamfer distance, or the mean over the pairs of the root mean square to the closest points.
    """

    iteration: int
    R: Tensor
    T: Tensor
    s: Tensor
    loss: Tensor


@dataclass(frozen=True)
class AlignResult:
    """What an alignment reached.

    Fields:
        sources: N shapes.
        targets: what they were moved onto.
        R: (N, 3, 3) rotations, with `T` and `s` the map x -> s x R + T of each source.
        T: (N, 3) displacements.
        s: (N,) scales.
        start_distance: (N,) root mean square distance from points of the sources to the nearest of the targets.
        distance: (N,) the same of the moved sources.
        true: R, T and s of targets that were made from the sources; None otherwise.
        history: the loss of every iteration.
        settings: what it was made with.
        interrupted: Ctrl-C ended it early.
        seconds: how long the iterations took.
    """

    sources: Shapes
    targets: Shapes
    R: Tensor
    T: Tensor
    s: Tensor
    start_distance: Tensor
    distance: Tensor
    true: SimilarityTransform | None
    history: History
    settings: AlignSettings
    interrupted: bool
    seconds: float

    @property
    def moved(self) -> Shapes:
        """The sources where the targets are."""
        return self.sources.moved(self.R, self.T, self.s)

    @property
    def errors(self) -> Tensor | None:
        """(N,) how far the moved sources are from where they should be; None where that is not known.

        Of displacements, the length of the difference to the true one. Of rigid alignments, the largest distance of a
        vertex from the source that was moved truly: shapes with symmetries may come to lie in several rotations.
        """
        if self.true is None:
            return None
        if not self.settings.rigid:
            return (self.T - self.true.T).norm(dim=1)
        right = self.sources.moved(*self.true)
        shapes = zip(self.moved.verts, right.verts, right.faces, strict=True)
        return torch.stack([_farthest(got, verts, faces) for got, verts, faces in shapes])


class AlignFit:
    """An alignment step by step: iterate over it, look at what it yields, stop when you like, and ask for `result()`.

    A class derived from this one may compute another `loss`. What is random in a step depends on the seed and the
    number of the step alone.

    Args:
        sources: N shapes.
        targets: N shapes.
        settings: `align_settings()` when not given.
        checkpoint: a file that the state is kept in. Where it exists the alignment goes on from it, and ends as if it
            had not been stopped.
        show_progress: draw a progress bar.
        live: a file that moved sources and targets are written to every second, for `recon view`.

    Raises:
        ValueError: other numbers of sources and targets; a checkpoint of another run.
    """

    def __init__(
        self,
        sources: Shapes,
        targets: Shapes,
        settings: AlignSettings | None = None,
        *,
        checkpoint: Path | None = None,
        show_progress: bool = False,
        live: Path | None = None,
    ) -> None:
        self.settings = settings = align_settings() if settings is None else settings
        if len(sources) != len(targets):
            raise ValueError(f"every source needs a target, got {len(sources)} sources and {len(targets)} targets")
        self.sources, self.targets = sources, targets
        self.history = History(["rmse" if settings.rigid else "chamfer"], (1.0,), settings.iterations, sources.device)
        about = {"method": "align", "sources": sources.about, "targets": targets.about, **asdict(settings)}
        self._checkpoint = Checkpoint(checkpoint, about)
        kept = self._checkpoint.load()
        if kept is not None:
            self.history.restore(kept["losses"])
        label = "finding closest points" if settings.rigid else "moving"
        self._loop = Loop(settings.iterations, self.history, label, show_progress)
        self._loop.seconds = 0.0 if kept is None else kept["seconds"]
        self._live = Live(live, settings.iterations)
        self._state: dict[str, Any] = {} if kept is None else kept["state"]
        N, device = len(sources), sources.device
        self._now = SimilarityTransform(
            torch.eye(3, device=device).repeat(N, 1, 1), torch.zeros(N, 3, device=device), torch.ones(N, device=device)
        )
        if "now" in self._state:
            self._now = SimilarityTransform(*(part.to(device) for part in self._state["now"]))

    def __iter__(self) -> Iterator[AlignStep]:
        """The steps that are left; Ctrl-C ends them after the current one."""
        try:
            self._save()  # a place that cannot hold it is known before any work is done
            for step in self._loop.over(self._rigid() if self.settings.rigid else self._displaced()):
                if self._checkpoint.is_due:
                    self._save()
                if self._live.is_due:
                    moved = self.sources.moved(*self._now[:3])
                    self._live.show({**moved.things("moved"), **self.targets.things("target")}, self.history)
                yield step
            self._save()
        finally:
            self._loop.close()

    def loss(self, moved: Tensor, target: Tensor) -> Tensor:
        """What a displacement minimises: the chamfer distance of points (N, P, 3) and (N, P, 3)."""
        distance, _ = chamfer_distance(moved, target)
        assert isinstance(distance, Tensor)
        return distance

    def result(self) -> AlignResult:
        """What was reached so far."""
        R, T, s = self._now
        with torch.no_grad(), seeded(self.settings.seed, self.sources.device):
            targets = self.targets.points(_MEASURED_SAMPLES)
            sources = self.sources.points(_MEASURED_SAMPLES)
            moved = s[:, None, None] * (sources @ R) + T[:, None]
            before, after = (
                torch.tensor([mean_square_to_nearest(a[None], b[None]) for a, b in zip(points, targets, strict=True)])
                for points in (sources, moved)
            )
        return AlignResult(
            sources=self.sources,
            targets=self.targets,
            R=R,
            T=T,
            s=s,
            start_distance=before.sqrt(),
            distance=after.sqrt(),
            true=None,
            history=self.history,
            settings=self.settings,
            interrupted=self._loop.interrupted,
            seconds=self._loop.seconds,
        )

    def _displaced(self) -> Generator[AlignStep, None, None]:
        settings, device = self.settings, self.sources.device
        rows = 1 if settings.shared else len(self.sources)
        displacement = torch.zeros(rows, 3, device=device)
        if self._state:
            displacement = self._state["displacement"].to(device)
        displacement.requires_grad_()
        optimizer = torch.optim.SGD([displacement], lr=settings.learning_rate, momentum=settings.momentum)
        if self._state:
            optimizer.load_state_dict(self._state["optimizer"])
        for i in range(self.history.length, settings.iterations):
            optimizer.zero_grad()
            with seeded(settings.seed * _STEP_SEEDS + i, device):
                sources = self.sources.points(settings.samples)
                targets = self.targets.points(settings.samples)
            loss = self.loss(sources + displacement[:, None], targets)
            loss.backward()
            optimizer.step()
            self.history.record(loss.detach()[None])
            moved = displacement.detach().clone()
            self._now = self._now._replace(T=moved.expand(len(self.sources), -1))
            self._state = {"now": tuple(self._now), "displacement": moved, "optimizer": optimizer.state_dict()}
            yield AlignStep(i, *self._now[:3], loss.detach())

    def _rigid(self) -> Generator[AlignStep, None, None]:
        """A few starts of each pair with all points, until no error falls any more; `_now` holds the best of them."""
        settings, N = self.settings, len(self.sources)
        if self._state.get("has_converged"):
            return
        with seeded(settings.seed, self.sources.device), torch.no_grad():
            x, y = self.sources.points(settings.samples), self.targets.points(_DENSER * settings.samples)
        if self._state:
            maps = SimilarityTransform(*(part.to(x.device) for part in self._state["maps"]))
            rmse = self._state["rmse"].to(x.device)
        else:
            maps, rmse = _starts(x, y, settings), torch.full((), torch.inf, device=x.device)
        count = len(maps.R) // N
        x, y = (points.repeat_interleave(count, 0) for points in (x, y))
        for i in range(self.history.length, settings.iterations):
            with torch.no_grad():
                solution = iterative_closest_point(x, y, maps, max_iterations=1, estimate_scale=settings.scale)
            assert solution.rmse is not None
            has_converged = not bool((solution.rmse < rmse * (1 - settings.tolerance)).any())
            maps, rmse = solution.RTs, solution.rmse
            best, which = rmse.view(N, count).min(1)
            index = which + count * torch.arange(N, device=x.device)
            self._now = SimilarityTransform(*(part[index] for part in maps))
            self.history.record(best.mean()[None])
            self._state = {"now": tuple(self._now), "maps": tuple(maps), "rmse": rmse, "has_converged": has_converged}
            yield AlignStep(i, *self._now[:3], best.mean())
            if has_converged:
                self._loop.extend(i + 1 - self._loop.iterations)
                break

    def _save(self) -> None:
        self._checkpoint.save({"state": self._state, "losses": self.history.rows(), "seconds": self._loop.seconds})


def align(
    sources: Shapes,
    targets: Shapes,
    settings: AlignSettings | None = None,
    *,
    checkpoint: Path | None = None,
    show_progress: bool = False,
    live: Path | None = None,
) -> AlignResult:
    """Move shapes onto others, all pairs in one batch.

    Args:
        sources: N shapes.
        targets: N shapes.
        settings: `align_settings()` when not given.
        checkpoint: see `AlignFit`.
        show_progress: draw a progress bar.
        live: see `AlignFit`.

    Returns:
        The maps and their measures. The same seed gives the same maps.

    Raises:
        ValueError: other numbers of sources and targets; a checkpoint of another run.
        FloatingPointError: the learning rate was too high.
    """
    fit = AlignFit(sources, targets, settings, checkpoint=checkpoint, show_progress=show_progress, live=live)
    for _ in fit:
        pass
    return fit.result()


def from_shapes(
    sources: Shapes,
    settings: AlignSettings | None = None,
    *,
    checkpoint: Path | None = None,
    show_progress: bool = False,
    live: Path | None = None,
) -> AlignResult:
    """Move shapes onto copies of them that were moved by the settings' motion, and have noise.

    Args:
        sources: N shapes.
        settings: `align_settings()` when not given. For rigid alignments the copies are also turned, each in its own
            way.
        checkpoint: see `AlignFit`.
        show_progress: draw a progress bar.
        live: see `AlignFit`.

    Returns:
        The maps, with `true` and `errors`.
    """
    settings = align_settings() if settings is None else settings
    true, targets = displaced(sources, settings)
    result = align(sources, targets, settings, checkpoint=checkpoint, show_progress=show_progress, live=live)
    return replace(result, true=true)


def displaced(sources: Shapes, settings: AlignSettings) -> tuple[SimilarityTransform, Shapes]:
    """A map for each shape, and what it and the settings' noise make of the shapes."""
    N, device = len(sources), sources.device
    with seeded(settings.seed + _TRUTH, device):
        R = random_rotations(N, device=device) if settings.rigid else torch.eye(3, device=device).repeat(N, 1, 1)
        T = torch.tensor([settings.motion], device=device).repeat(N, 1)
        true = SimilarityTransform(R, T, torch.ones(N, device=device))
        return true, sources.moved(*true).noisy(settings.noise)


def _farthest(points: Tensor, verts: Tensor, faces: Tensor) -> Tensor:
    """The largest distance of points (P, 3) from a mesh or a cloud."""
    if len(faces):
        return closest_points_on_mesh(points, verts, faces).distance.max()
    return knn_points(points[None], verts[None]).dists.max().sqrt()


def _starts(x: Tensor, y: Tensor, settings: AlignSettings) -> SimilarityTransform:
    """The best maps of points (N, P, 3) after some iterations with few of them: as many for each pair, in turn."""
    N, device = len(x), x.device
    # As it lies, and turned at random: the rotations of a regular solid would all be one to a shape that shares them.
    with seeded(settings.seed, device):
        turns = torch.cat([torch.eye(3, device=device)[None], random_rotations(settings.starts - 1, device=device)])
    few_x, few_y = x[:, :_SEARCH_SAMPLES], y[:, : _DENSER * _SEARCH_SAMPLES]
    count = len(turns)
    R = turns.repeat(N, 1, 1)
    middle_x, middle_y = (points.mean(1).repeat_interleave(count, 0) for points in (x, y))
    ones = torch.ones(N * count, device=device)
    s = ones
    if settings.scale:
        spread = [(points - points.mean(1, keepdim=True)).square().sum((1, 2)).sqrt() for points in (x, y)]
        s = (spread[1] / spread[0]).repeat_interleave(count)
    T = middle_y - s[:, None] * (middle_x[:, None] @ R)[:, 0]
    with torch.no_grad():
        solution = iterative_closest_point(
            few_x.repeat_interleave(count, 0),
            few_y.repeat_interleave(count, 0),
            SimilarityTransform(R, T, s),
            max_iterations=_SEARCH_ITERATIONS,
            estimate_scale=settings.scale,
        )
    assert solution.rmse is not None
    kept = min(_KEPT, count)
    order = solution.rmse.view(N, count).argsort(1)[:, :kept]
    index = (order + count * torch.arange(N, device=device)[:, None]).reshape(-1)
    return SimilarityTransform(*(part[index] for part in solution.RTs))
