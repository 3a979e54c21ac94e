"""Find the camera that took a picture of a known object, by making its rendering look like the picture.

Silhouettes, and colours where wanted, are rendered softly (Liu et al., Soft Rasterizer, ICCV 2019), so that their
difference to the picture has a gradient for the camera. From one start a descent finds the camera only where the start
is near. So the search begins everywhere on the sphere around the object, at a low resolution, and goes on with the
best; pictures of a sequence begin where the camera was before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recon_engine.renderer import FoVPerspectiveCameras
from recon_engine.structures import Meshes

from .._live import Live, Thing
from .._run import History, Loop
from .._train import Checkpoint
from ..build import silhouette_iou
from .cameras import Orbit, Position, angle_between, look_angles
from .pictures import Observed
from .scene import Scene
from .search import search
from .settings import PoseSettings, Stage, pose_settings

LOSSES = ("silhouette", "texture")
Cameras = Orbit | Position
_TRUTH = 2**40  # seeds of known cameras are others than those of the search for them
_FRAMES = 40  # of the film, at most
_FILM_SIZE = 200
_FAR = 1e9  # no number of a camera is as large
_MOST_FRAMES = 10_000


class Step(NamedTuple):
    """Where a fit is after an iteration.

    Fields:
        picture: the number of the picture.
        stage: the number of the descent: 0 is at the low resolution, where there is one.
        iteration: of this descent, from 0.
        cameras: the cameras that are moved, N of them.
        losses: (N,) the weighted sum of the losses of each.
    """

    picture: int
    stage: int
    iteration: int
    cameras: Cameras
    losses: Tensor


@dataclass(frozen=True)
class PoseResult:
    """Cameras that were found.

    Fields:
        mesh: the object.
        names: N names of the pictures, those that were reached.
        R: (N, 3, 3) rotations for row vectors, x_camera = x_object R + T.
        T: (N, 3) translations.
        distance: (N,) from the point that the cameras turn about to the cameras.
        elevation: (N,) degrees.
        azimuth: (N,) degrees.
        middle: (3,) the point that the cameras turn about.
        observed: (N, S, S, 4), the pictures: colours on white, and how much of a pixel the object covers.
        rendered: (N, S, S, 4), the object from the cameras that were found.
        film: (F, s, s, 4), the object from the best camera while that of the first picture was looked for.
        iou: (N,) intersection over union of the silhouettes.
        loss: (N,) mean over the pixels of the weighted squared differences.
        was_searched: (N,) whether the camera was looked for all around, not only from a start.
        landscape: (M, 3) azimuth and elevation in degrees, and loss, of the cameras of the first search; M may be 0.
        history: the losses of the best camera in every iteration.
        settings: what it was made with.
        interrupted: Ctrl-C ended it early.
        seconds: how long it took.
        true: R (N, 3, 3) and T (N, 3) of the cameras that took the pictures, where they are known.
    """

    mesh: Meshes
    names: list[str]
    R: Tensor
    T: Tensor
    distance: Tensor
    elevation: Tensor
    azimuth: Tensor
    middle: Tensor
    observed: Tensor
    rendered: Tensor
    film: Tensor
    iou: Tensor
    loss: Tensor
    was_searched: list[bool]
    landscape: Tensor
    history: History
    settings: PoseSettings
    interrupted: bool
    seconds: float
    true: tuple[Tensor, Tensor] | None = None

    @property
    def errors(self) -> tuple[Tensor, Tensor] | None:
        """Degrees (N,) between the cameras and the true ones, and errors (N,) of the distances in percent."""
        if self.true is None:
            return None
        R, T = (part[: len(self.R)] for part in self.true)
        distance = look_angles(R, T, self.middle)[0]
        return angle_between(self.R, R), 100 * (self.distance / distance - 1).abs()

    @property
    def cameras(self) -> FoVPerspectiveCameras:
        """N cameras in the object's units."""
        near, far = 0.01 * float(self.distance.min()), 100 * float(self.distance.max())
        return FoVPerspectiveCameras(near, far, fov=self.settings.fov, R=self.R, T=self.T, device=self.R.device)


class PoseFit:
    """An estimate step by step: iterate over it, look at what it yields, stop when you like, and ask for `result()`.

    Between steps `history.reweigh` changes a weight; a class derived from this one may compute other `losses`.

    Args:
        mesh: one mesh.
        observed: pictures of side `settings.image_size`.
        settings: `pose_settings()` when not given.
        checkpoint: a file that the state is kept in after each picture. Where it exists the fit goes on from it, and
            ends as if it had not been stopped.
        show_progress: draw a progress bar.
        live: a file that the object and the cameras are written to every second, for `recon view`.

    Attributes:
        weights: (2,) of the silhouettes and of the colours, those of the history.
        history: the losses of the best camera in every iteration so far.

    Raises:
        ValueError: not exactly one mesh, or one that is empty, flat to a point, or not finite; pictures of another
            size; a checkpoint of another run.

    Example:
        >>> from recon_engine.methods.shapes import building
        >>> settings = pose_settings(fast=True)
        >>> seen = observe(building(), Orbit.at(torch.tensor([30.0]), torch.tensor([20.0]), 3.0), settings)
        >>> fit = PoseFit(building(), seen, settings)
        >>> losses = [float(step.losses.min()) for step in fit]
        >>> fit.result().iou[0] > 0.95
        tensor(True)
    """

    def __init__(
        self,
        mesh: Meshes,
        observed: Observed,
        settings: PoseSettings | None = None,
        *,
        checkpoint: Path | None = None,
        show_progress: bool = False,
        live: Path | None = None,
    ) -> None:
        self.settings = pose_settings() if settings is None else settings
        self.scene = Scene.of(mesh, self.settings)
        size = self.settings.image_size
        expected = (len(observed.names), size, size, 4)
        if tuple(observed.rgba.shape) != expected or not expected[0]:
            raise ValueError(f"observed.rgba must have shape (N, {size}, {size}, 4), got {tuple(observed.rgba.shape)}")
        self.names = list(observed.names)
        self.rgba = observed.rgba.to(self.scene.device)
        weights = (self.settings.weight_silhouette, self.settings.weight_texture)
        planned = len(self.names) * self.settings.iterations_per_picture
        self.history = History(LOSSES, weights, planned, self.scene.device)
        self.weights = self.history.weights
        self._found: list[_Found] = []
        self._current: _Found | None = None
        self._path: list[Cameras] = []
        self._landscape = torch.zeros(0, 3)
        self._rows_done = 0
        about = {"method": "pose", "object": self.scene.about, "pictures": _digest(self.rgba), **asdict(self.settings)}
        self._checkpoint = Checkpoint(checkpoint, about)
        kept = self._checkpoint.load()
        if kept is not None:
            self._restore(kept)
        left = len(self.names) - len(self._found)
        planned = self.history.length + left * self.settings.iterations_per_picture
        self._loop = Loop(planned, self.history, "looking for the camera", show_progress)
        if kept is not None:
            self._loop.seconds = kept["seconds"]
        self._live = Live(live, planned)

    def __iter__(self) -> Iterator[Step]:
        """The steps that are left; Ctrl-C ends them after the current one."""
        try:
            self._save()  # a place that cannot hold it is known before any work is done
            for step in self._loop.over(self._steps()):
                if self._live.is_due:
                    self._live.show(self._shown(step.cameras), self.history)
                yield step
        finally:
            self._loop.close()

    def losses(self, picture: int, stage: Stage, sigma: float, cameras: Cameras) -> Tensor:
        """(N, 2): means over the pixels of squared differences, of silhouettes and, summed over channels, of colours.

        Args:
            picture: the number of the picture.
            stage: for the resolution.
            sigma: how soft edges are now.
            cameras: N cameras.
        """
        seen = self._seen(picture, stage.size)
        alpha, rgb = self.scene.soft(cameras, stage, sigma, with_colors=bool(self.weights[1] > 0))
        silhouette = (alpha - seen[..., 3]).square().mean((1, 2))
        if rgb is None:
            return torch.stack([silhouette, torch.zeros_like(silhouette)], 1)
        return torch.stack([silhouette, (rgb - seen[..., :3]).square().sum(-1).mean((1, 2))], 1)

    def result(self) -> PoseResult:
        """What was reached so far: every picture that was begun.

        Raises:
            ValueError: no step was made.
        """
        found = [*self._found, *([] if self._current is None else [self._current])]
        if not found:
            raise ValueError("no step was made: iterate over the fit before asking for its result")
        settings, scene = self.settings, self.scene
        cameras = _joined([f.cameras for f in found])
        path = _joined([*self._path[:: -(-len(self._path) // _FRAMES)], found[0].cameras])
        R, T = scene.in_object_units(*cameras.rotation_translation(scene.half_width))
        distance, elevation, azimuth = look_angles(R, T, scene.center)
        rendered = scene.picture(cameras, settings.image_size)
        observed = self.rgba[: len(found)]
        return PoseResult(
            mesh=scene.original,
            names=self.names[: len(found)],
            R=R,
            T=T,
            distance=distance,
            elevation=elevation,
            azimuth=azimuth,
            middle=scene.center,
            observed=observed,
            rendered=rendered,
            film=scene.picture(path, min(settings.image_size, _FILM_SIZE)),
            iou=silhouette_iou(rendered[..., 3], observed[..., 3]),
            loss=torch.cat([f.loss for f in found]),
            was_searched=[f.was_searched for f in found],
            landscape=self._landscape,
            history=self.history,
            settings=settings,
            interrupted=self._loop.interrupted,
            seconds=self._loop.seconds,
        )

    def _shown(self, moved: Cameras) -> dict[str, Thing]:
        """The object, the cameras that were found, and those that are moved."""
        shown: dict[str, Thing] = {"object": self.scene.original}
        found = _joined([f.cameras for f in self._found]) if self._found else None
        for name, cameras in (("found", found), ("moved", moved)):
            if cameras is not None:
                R, T = self.scene.in_object_units(*cameras.rotation_translation(self.scene.half_width))
                shown[name] = FoVPerspectiveCameras(R=R, T=T, fov=self.settings.fov, device=self.scene.device)
        return shown

    def _steps(self) -> Generator[Step, None, None]:
        """All pictures from the first that is not done."""
        settings = self.settings
        for picture in range(len(self._found), len(self.names)):
            before = self._found[-1].cameras if self._found else self._given_start()
            if before is None:
                found = yield from self._searched(picture)
            else:
                found = yield from self._descended(picture, before, was_searched=False)
                if settings.start is None and self._iou(picture, found.cameras) < settings.lost:
                    self._loop.extend(settings.iterations_per_picture)
                    again = yield from self._searched(picture)
                    found = min(again, found, key=lambda f: float(f.loss))
            self._found.append(found)
            self._current = None
            self._rows_done = self.history.length
            self._save()

    def _given_start(self) -> Cameras | None:
        """The start of the settings in the units of the fit."""
        if self.settings.start is None:
            return None
        position = self.scene.in_fit_units(torch.tensor([self.settings.start], device=self.scene.device))
        return Orbit.from_position(position) if self.settings.framed else Position(position)

    def _searched(self, picture: int) -> Generator[Step, None, _Found]:
        """From all around, by a generator of its own: a resumed run looks in the same places."""
        generator = torch.Generator().manual_seed(self.settings.seed + picture)
        size = self.settings.stages[0].size
        best, landscape = search(self.scene, self._seen(picture, size), self.settings, self.weights, generator)
        if picture == 0:
            self._landscape = landscape
        return (yield from self._descended(picture, best, was_searched=True))

    def _descended(self, picture: int, start: Cameras, was_searched: bool) -> Generator[Step, None, _Found]:
        """The best of some cameras after a descent in each stage, of which the best go on to the next."""
        cameras = start
        for number, stage in enumerate(self.settings.stages):
            cameras = cameras.pick(slice(stage.cameras))
            moved = type(cameras)(*(part.clone().requires_grad_() for part in cameras))
            optimizer = torch.optim.Adam(tuple(moved), lr=self.settings.learning_rate)
            for i in range(stage.iterations):
                part = i / stage.iterations
                optimizer.param_groups[0]["lr"] = self.settings.learning_rate_at(part)
                optimizer.zero_grad()
                each = self._losses_in_bounds(picture, stage, stage.sigma_at(part), moved)
                total = (each * self.weights).sum(1)
                total.sum().backward()
                self._hold(moved)
                optimizer.step()
                with torch.no_grad():
                    moved.clamped()
                best = total.detach().argmin()[None]  # not read here: a GPU need not wait
                self.history.record(each.detach()[best][0])
                now = type(moved)(*(part.detach() for part in moved))
                self._current = _Found(now.pick(best), total.detach()[best], was_searched)
                if picture == 0:
                    self._path.append(self._current.cameras)
                yield Step(picture, number, i, now, total.detach())
                if self.settings.stop > 0 and self._current.loss < self.settings.stop:
                    self._loop.extend(i + 1 - stage.iterations)
                    break
            with torch.no_grad():
                cameras = type(moved)(*(part.detach() for part in moved))
                total = (self._losses_in_bounds(picture, stage, stage.last_sigma, cameras) * self.weights).sum(1)
            order = total.argsort()
            cameras = cameras.pick(order)
        return _Found(cameras.pick(slice(1)), total[order[:1]], was_searched)

    def _losses_in_bounds(self, picture: int, stage: Stage, sigma: float, cameras: Cameras) -> Tensor:
        """`losses`; cameras that a step took out of all bounds are named as what they are."""
        try:
            return self.losses(picture, stage, sigma, cameras)
        except ValueError as error:
            if self.history.length == self._rows_done or bool(torch.cat(tuple(cameras), 1).abs().max() < _FAR):
                raise
            raise FloatingPointError(
                f"the camera left all bounds at iteration {self.history.length}: choose a smaller learning rate"
            ) from error

    def _hold(self, cameras: Cameras) -> None:
        """Where the camera looks at the middle of the object, that does not move in the picture."""
        if self.settings.centered and isinstance(cameras, Orbit):
            cameras.shift.grad = None

    def _seen(self, picture: int, size: int) -> Tensor:
        """(size, size, 4) of one picture."""
        image = self.rgba[picture]
        if size == len(image):
            return image
        return F.adaptive_avg_pool2d(image.permute(2, 0, 1), size).permute(1, 2, 0)

    def _iou(self, picture: int, cameras: Cameras) -> float:
        rendered = self.scene.picture(cameras, self.settings.image_size)
        return float(silhouette_iou(rendered[..., 3], self.rgba[picture : picture + 1, ..., 3]))

    def _save(self) -> None:
        """Keep the pictures that are done; what a stopped run did of the next is done again."""
        self._checkpoint.save(
            {
                "found": [(*f.cameras, f.loss, f.was_searched) for f in self._found],
                "path": [tuple(cameras) for cameras in self._path] if self._found else [],
                "landscape": self._landscape,
                "losses": self.history.rows()[: self._rows_done],
                "seconds": self._loop.seconds,
            }
        )

    def _restore(self, kept: dict[str, Any]) -> None:
        kind = Orbit if self.settings.framed else Position
        device = self.scene.device
        for *cameras, loss, was_searched in kept["found"]:
            self._found.append(_Found(kind(*(part.to(device) for part in cameras)), loss.to(device), was_searched))
        self._path = [kind(*(part.to(device) for part in cameras)) for cameras in kept["path"]]
        self._landscape = kept["landscape"]
        self.history.restore(kept["losses"])
        self._rows_done = self.history.length


class _Found(NamedTuple):
    """The camera (a batch of one) of a picture, its loss (1,), and whether it was searched for."""

    cameras: Cameras
    loss: Tensor
    was_searched: bool


def from_pictures(
    mesh: Meshes,
    observed: Observed,
    settings: PoseSettings | None = None,
    *,
    checkpoint: Path | None = None,
    show_progress: bool = False,
    live: Path | None = None,
) -> PoseResult:
    """Find the cameras that took pictures of a known object.

    Args:
        mesh: one mesh.
        observed: one picture, or a sequence of them: from the second on the search begins with the camera before, and
            goes all around only where that ends in another silhouette.
        settings: `pose_settings()` when not given.
        checkpoint: see `PoseFit`.
        show_progress: draw a progress bar.
        live: see `PoseFit`.

    Returns:
        The cameras and their measures. The same seed gives the same cameras.

    Raises:
        ValueError: see `PoseFit`.
    """
    fit = PoseFit(mesh, observed, settings, checkpoint=checkpoint, show_progress=show_progress, live=live)
    for _ in fit:
        pass
    return fit.result()


def observe(mesh: Meshes, cameras: Cameras, settings: PoseSettings) -> Observed:
    """Pictures of a mesh that a pose can be estimated from.

    Args:
        mesh: one mesh.
        cameras: N of them in the units of the fit: those of the object, or where it is framed, of the unit sphere that
            holds it.
        settings: for the light, the field of view and the size.
    """
    pictures = Scene.of(mesh, settings).picture(cameras, settings.image_size)
    return Observed([f"view {i + 1}" for i in range(len(pictures))], pictures)


def from_mesh(
    mesh: Meshes,
    settings: PoseSettings | None = None,
    *,
    frames: int = 1,
    checkpoint: Path | None = None,
    show_progress: bool = False,
    live: Path | None = None,
) -> PoseResult:
    """Find cameras that are known: from pictures that are rendered from a mesh.

    Args:
        mesh: one mesh.
        settings: `pose_settings()` when not given. With a start the cameras begin at the documented one (distance 3,
            elevation 50, azimuth 0 degrees), for the search at one that the seed decides.
        frames: how many pictures; they are taken in turn from a camera that goes around the object.
        checkpoint: see `PoseFit`.
        show_progress: draw a progress bar.
        live: see `PoseFit`.

    Returns:
        The cameras, with `true` and `errors`.

    Raises:
        ValueError: see `PoseFit`; fewer than one frame, or more than 10,000.
    """
    settings = pose_settings() if settings is None else settings
    if frames < 1:
        raise ValueError(f"frames must be 1 or more, got {frames}")
    if frames > _MOST_FRAMES:
        raise ValueError(f"frames must be {_MOST_FRAMES} or less, got {frames}")
    scene = Scene.of(mesh, settings)
    cameras = _known_cameras(settings, frames, scene.device)
    observed = observe(mesh, cameras, settings)
    result = from_pictures(mesh, observed, settings, checkpoint=checkpoint, show_progress=show_progress, live=live)
    R, T = scene.in_object_units(*cameras.rotation_translation(scene.half_width))
    return replace(result, true=(R, T))


def _known_cameras(settings: PoseSettings, frames: int, device: torch.device) -> Orbit:
    """Cameras that go around by 8 degrees from one to the next, and up and down, nearer and farther as they do."""
    i = torch.arange(frames)
    azimuth, elevation, distance = 0.0, 50.0, 3.0
    if settings.start is None:
        generator = torch.Generator().manual_seed(settings.seed + _TRUTH)
        first, second, third = torch.rand(3, generator=generator).tolist()
        azimuth, elevation, distance = 360 * first, 120 * second - 60, 2.4 + 1.2 * third
    cameras = Orbit.at(
        azimuth + 8.0 * i,
        elevation - 10 * (1 - torch.cos(0.3 * i)),
        torch.as_tensor(distance) * (1 + 0.1 * torch.sin(0.3 * i)),
    )
    return Orbit(*(part.to(device) for part in cameras))


def _joined(cameras: list[Cameras]) -> Cameras:
    """Batches of cameras of one kind as one."""
    return type(cameras[0])(*(torch.cat(parts) for parts in zip(*cameras, strict=True)))


def _digest(pictures: Tensor) -> str:
    """What tells pictures from others."""
    return hashlib.sha256(pictures.cpu().numpy().tobytes()).hexdigest()[:16]
