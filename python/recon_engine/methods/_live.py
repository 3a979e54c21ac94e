"""What a running fit of a mesh shows of itself: a file beside its results folder, which `recon view` follows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from recon_engine.structures import Meshes

from ._run import History

_SECONDS = 1.0


class Live:
    """Keeps the newest mesh of a fit in a file, replaced as a whole now and then.

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

    def show(self, mesh: Meshes, history: History) -> None:
        """Write the mesh, if it is time to."""
        if self.path is None or time.perf_counter() - self._written < self.seconds:
            return
        mesh = mesh.detach() if self.place is None else self.place(mesh.detach())
        kept = {
            "verts": mesh.verts_packed().cpu(),
            "faces": mesh.faces_packed().cpu(),
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
    """What `Live` has written: verts (V, 3), faces (F, 3), step, steps, loss.

    Raises:
        ValueError: the file is damaged or another one.
    """
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever zip and pickle stumble over
        raise ValueError(f"the file {path} cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(kept, dict) or not {"verts", "faces", "step", "steps", "loss"} <= set(kept):
        raise ValueError(f"the file {path} is not what a running fit shows")
    return kept
