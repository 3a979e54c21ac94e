"""Training of a module that can be stopped, killed and taken up again, and then ends as if it had not been."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._run import History, Loop, seeded
from ._views import ViewSettings

_SAVE_SECONDS = 30.0


class Checkpoint:
    """The state of a run in a file, which is replaced as a whole.

    Args:
        path: the file. None: nothing is kept.
        about: what the run is. A file of another run is refused.
        seconds: how often to save.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any], seconds: float = _SAVE_SECONDS) -> None:
        self.path, self.about, self.seconds = path, dict(about), seconds
        self._saved = time.perf_counter()

    @property
    def is_due(self) -> bool:
        """Whether the time to save has come."""
        return self.path is not None and time.perf_counter() - self._saved > self.seconds

    def load(self) -> dict[str, Any] | None:
        """What `save` was given last; None if there is no file.

        Raises:
            ValueError: the file is damaged, or of a run that differs; says in what.
        """
        if self.path is None or not self.path.exists():
            return None
        kept = read_checkpoint(self.path)
        theirs = kept.pop("about")
        differing = [name for name in {**theirs, **self.about} if theirs.get(name) != self.about.get(name)]
        if differing:
            name = differing[0]
            raise ValueError(
                f"the checkpoint {self.path} is of a run with {name} {theirs.get(name)}, not {self.about.get(name)}: "
                "give the same settings, or remove it"
            )
        return kept

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the file.

        Raises:
            OSError: it cannot be written; the old one is untouched.
        """
        if self.path is None:
            return
        work = self.path.with_name(self.path.name + ".part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with work.open("wb") as file:
                torch.save({**state, "about": self.about}, file)
                file.flush()
                os.fsync(file.fileno())
            work.replace(self.path)
        except (OSError, RuntimeError) as error:  # torch wraps what writing raises
            work.unlink(missing_ok=True)
            raise OSError(f"the checkpoint {self.path} cannot be written: {error}") from error
        self._saved = time.perf_counter()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds: `about`, and the state that was saved.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged or no checkpoint.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path} to resume from")
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever zip and pickle stumble over
        raise ValueError(f"the checkpoint {path} cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(kept, dict) or not isinstance(kept.get("about"), dict):
        raise ValueError(f"the file {path} is no checkpoint")
    return kept


def train(
    model: torch.nn.Module,
    losses: Callable[[torch.Generator], Sequence[Callable[[], Tensor]]],
    history: History,
    settings: ViewSettings,
    checkpoint: Checkpoint,
    *,
    label: str,
    show_progress: bool,
) -> Loop:
    """Adam on the parameters of a module, from the checkpoint on, if there is one.

    Args:
        model: its parameters are changed in place.
        losses: draws the batch of one step and returns a function for each column of the history. What is random comes
            from torch's global generators or the one given.
        history: where the losses go.
        settings: iterations, learning rate, seed.
        checkpoint: where the state goes every now and then, and at the end.
        label: the text before the progress bar.
        show_progress: draw it.

    Returns:
        How the loop went.

    Raises:
        ValueError: the checkpoint is of another run.
        FloatingPointError: the learning rate was too high.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, fused=True)
    kept = checkpoint.load()
    if kept is not None:
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        history.restore(kept["losses"])
    loop = Loop(settings.iterations, history, label, show_progress)

    with seeded(settings.seed, device) as generator:
        if kept is not None:
            loop.seconds = kept["seconds"]
            _set_random_state(kept["random"], generator, device)

        def save() -> None:
            checkpoint.save(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "losses": history.rows(),
                    "seconds": loop.seconds,
                    "random": _random_state(generator, device),
                }
            )

        for i in loop:
            optimizer.param_groups[0]["lr"] = settings.learning_rate_at(i)
            optimizer.zero_grad()
            history.total(losses(generator)).backward()
            optimizer.step()
            if checkpoint.is_due:
                save()
        save()
    return loop


def _random_state(generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
    state = {"host": generator.get_state(), "cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def _set_random_state(state: Mapping[str, Tensor], generator: torch.Generator, device: torch.device) -> None:
    generator.set_state(state["host"])
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
