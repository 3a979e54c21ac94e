"""What a running fit shows of itself: a file beside its results folder, which `recon view` follows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from recon_engine.renderer import FoVPerspectiveCameras
from recon_engine.structures import Meshes, Pointclouds

from ._run import History

_SECONDS = 1.0


Thing = Meshes | Pointclouds | FoVPerspectiveCameras


class Live:
    """Keeps the newest state of a fit in a file, replaced as a whole now and then.

    Looking must not harm: a file that cannot be written is left out without a word.

    Args:
        path: the file. None: nothing is kept.
        steps: iterations planned.
        place: puts a mesh of the fit where the object is.
        seconds: how often to write.
    """

    def __init__(
        self,
        path: Path | None,
        steps: int,
        place: Callable[[Meshes], Meshes] | None = None,
        seconds: float = _SECONDS,
    ) -> None:
        self.path, self.steps, self.place, self.seconds = path, steps, place, seconds
        self._written = 0.0

    @property
    def is_due(self) -> bool:
        """Whether the time to write has come."""
        return self.path is not None and time.perf_counter() - self._written >= self.seconds

    def show(self, things: Meshes | Mapping[str, Thing], history: History) -> None:
        """Write a mesh of the fit, or things by name that are where the object is, if it is time to."""
        if self.path is None or not self.is_due:
            return
        if isinstance(things, Meshes):
            things = {"mesh": things if self.place is None else self.place(things.detach())}
        kept = {
            "things": {name: _tensors(thing) for name, thing in things.items()},
            "step": history.length,
            "steps": self.steps,
            "loss": history.last(),
        }
        work = self.path.with_name(self.path.name + ".part")
        with contextlib.suppress(OSError, RuntimeError):  # torch wraps what writing raises
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(kept, work)
            work.replace(self.path)
        self._written = time.perf_counter()


def read_live(path: Path) -> dict[str, Any]:
    """What `Live` has written: `things` by name, step, steps, loss.

    Raises:
        ValueError: the file is damaged or another one.
    """
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever zip and pickle stumble over
        raise ValueError(f"the file {path} cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(kept, dict) or not {"things", "step", "steps", "loss"} <= set(kept):
        raise ValueError(f"the file {path} is not what a running fit shows")
    return {**kept, "things": {name: _thing(tensors) for name, tensors in kept["things"].items()}}


def _tensors(thing: Thing) -> dict[str, Any]:
    """A thing without its colours, on the CPU."""
    if isinstance(thing, Meshes):
        return {
            "verts": [verts.detach().cpu() for verts in thing.verts_list()],
            "faces": [faces.cpu() for faces in thing.faces_list()],
        }
    if isinstance(thing, Pointclouds):
        return {"points": [points.detach().cpu() for points in thing.points_list()]}
    return {"R": thing.R.detach().cpu(), "T": thing.T.detach().cpu(), "fov": thing.fov.cpu()}


def _thing(tensors: Mapping[str, Any]) -> Thing:
    """The inverse of `_tensors`."""
    kind = Meshes if "verts" in tensors else Pointclouds if "points" in tensors else FoVPerspectiveCameras
    return kind(**tensors)
