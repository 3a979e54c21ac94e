"""Training of a module that can be stopped, killed and taken up again, and then ends as if it had not been."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon_engine import __version__

from ._processes import Processes
from ._run import History, Loop, OwnRandom, save_tensors

_SAVE_SECONDS = 30.0
_LARGEST_PARAMETER = 1e9


class Checkpoint:
    """The state of a run in a file, which is replaced as a whole.

    Args:
        path: the file. None: nothing is kept.
        about: what the run is. A file of another run is refused.
        seconds: how often to save.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any], seconds: float = _SAVE_SECONDS) -> None:
        self.path, self.about, self.seconds = path, {**about, "version": __version__}, seconds
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
            save_tensors({**state, "about": self.about}, work)
            work.replace(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                work.unlink(missing_ok=True)
            raise OSError(f"the checkpoint {self.path} cannot be written: {error.strerror}") from error
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


def checksum(*tensors: Tensor) -> str:
    """What tells tensors from others, to be a part of what a checkpoint is about."""
    digest = 0
    for tensor in tensors:
        digest = zlib.crc32(tensor.detach().contiguous().cpu().numpy().tobytes(), digest)
    return f"{digest:08x}"


class Training:
    """The steps of a fit: iterate over it, and stop when you like.

    It begins from the checkpoint, if there is one. Between steps the caller may draw random numbers, look at the model
    and change the weights of the losses (`history.reweigh`).

    Args:
        model: its parameters are changed in place.
        optimizers: of these parameters.
        losses: draws the batch of one step and returns a function for each column of the history. What is random comes
            from torch's global generators or the one given.
        history: where the losses go, planned for as many iterations as there shall be.
        random: the random numbers of the steps.
        checkpoint: where the state goes every now and then, and at the end.
        iterations: how many steps, those of the checkpoint included.
        label: the text before the progress bar.
        show_progress: draw it.
        before: called with the number of each step before it, for instance to set learning rates.
        after: called after each step, for instance to keep parameters in their range.
        processes: those that make each step together; gradients and recorded losses are means over them. This one alone
            when not given.

    Raises:
        ValueError: the checkpoint is of another run.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        losses: Callable[[torch.Generator], Sequence[Callable[[], Tensor]]],
        history: History,
        random: OwnRandom,
        checkpoint: Checkpoint,
        *,
        iterations: int,
        label: str,
        show_progress: bool,
        before: Callable[[int], None] | None = None,
        after: Callable[[], None] | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.model, self.optimizers, self.losses, self.history = model, optimizers, losses, history
        self.random, self.checkpoint = random, checkpoint
        self.before, self.after = before, after
        self.processes = processes = Processes() if processes is None else processes
        kept = processes.first(checkpoint.load)
        if kept is not None:
            if len(kept["random"]) != processes.count:
                raise ValueError(
                    f"the checkpoint {checkpoint.path} is of a run with {len(kept['random'])} processes, not "
                    f"{processes.count}: start as many, or remove it"
                )
            model.load_state_dict(kept["model"])
            for optimizer, state in zip(optimizers, kept["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            history.restore(kept["losses"])
            random.restore(kept["random"][processes.rank])
        self.loop = Loop(iterations, history, label, show_progress and processes.is_first, processes.any)
        self.loop.seconds = 0.0 if kept is None else kept["seconds"]
        self._total = processes.averaged(_Total(model, self._losses_of_step))

    def __iter__(self) -> Iterator[int]:
        """The numbers of the steps that are left, each after it was made. Ctrl-C ends them after the current one.

        Raises:
            FloatingPointError: the learning rate was too high.
            OSError: the checkpoint cannot be written; the one before is kept.
            PeerError: another process failed.
        """
        try:
            self.save()  # a place that cannot hold it is known before any work is done
            for i in self.loop:
                try:
                    with self.random:
                        self._step(i)
                except (ValueError, RuntimeError):
                    self._check_bounds()
                    raise
                if self.processes.any(self.processes.is_first and self.checkpoint.is_due):
                    self.save()
                yield i
            self._check_bounds()
            self.save()
        finally:
            self.loop.close()

    def _check_bounds(self) -> None:
        """Raises FloatingPointError where the parameters are not finite or so large that no loss of them would be."""
        largest = torch.stack([p.detach().abs().max() for p in self.model.parameters() if p.numel()]).max()
        if not float(largest) < _LARGEST_PARAMETER:
            raise FloatingPointError(
                f"the fit left all bounds by iteration {self.history.length}: choose a smaller learning rate"
            )

    def save(self) -> None:
        """Write the checkpoint now."""
        random = self.processes.gather(self.random.state())

        def write() -> None:
            self.checkpoint.save(
                {
                    "model": self.model.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                    "losses": self.history.rows(),
                    "seconds": self.loop.seconds,
                    "random": random,
                }
            )

        self.processes.first(write)

    def _step(self, i: int) -> None:
        if self.before is not None:
            self.before(i)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.processes.backward(self._total())
        self.processes.average_(self.history.newest)
        for optimizer in self.optimizers:
            optimizer.step()
        if self.after is not None:
            self.after()

    def _losses_of_step(self) -> Tensor:
        return self.history.total(self.losses(self.random.generator))


class _Total(torch.nn.Module):
    """All losses of a step as a module: whatever they do with the model, its gradients can be averaged."""

    def __init__(self, model: torch.nn.Module, total: Callable[[], Tensor]) -> None:
        super().__init__()
        self.model = model
        self._total = total

    def forward(self) -> Tensor:
        return self._total()
