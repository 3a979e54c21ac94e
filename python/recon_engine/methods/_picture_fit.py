"""Fits of any model to pictures of an object, step by step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from recon_engine.captures import Capture
from recon_engine.structures import Meshes

from ._captured import of_capture, settings_of
from ._fields import FieldResult, Render, measures, turning
from ._processes import Processes
from ._run import History, OwnRandom
from ._train import Checkpoint, Training
from ._views import CameraSettings, Subject, of_mesh

_Settings = TypeVar("_Settings", bound=CameraSettings)
_Result = TypeVar("_Result", bound=FieldResult)
_Fit = TypeVar("_Fit", bound="PictureFit[Any, Any]")


class PictureFit(ABC, Generic[_Settings, _Result]):
    """A fit step by step: iterate over it, look at its `model`, stop when you like, and ask for `result()`.

    Between steps `history.reweigh` changes the weight of a loss; a derived class may compute other `losses`.

    With `distributed` all processes of torch.distributed's group make each step together: every one computes the losses
    of its share of the views (`pick`), their gradients are averaged (`DistributedDataParallel`), and parameters stay
    equal. The group must have been made, and all must be given the same input. Ctrl-C in one of them stops all after
    the same step; the first one shows progress and writes the checkpoint.

    Args:
        subject: the pictures.
        settings: of the fit.
        model: its parameters are changed.
        optimizers: of these. The rates of those that are Adam follow the settings.
        weights: of the losses, by their names.
        checkpoint: a file that the state is kept in every half minute and at the end. Where it exists the fit goes on
            from it, and ends as if it had not been stopped.
        show_progress: draw a progress bar.
        distributed: share the steps with the other processes of the group.

    Attributes:
        history: the losses so far.
        processes: those that share the fit.

    Raises:
        ValueError: a checkpoint of another run; `distributed` without a group.
    """

    method: ClassVar[str]
    """What it is called, in checkpoints."""
    label: ClassVar[str]
    """The text before the progress bar."""

    def __init__(
        self,
        subject: Subject,
        settings: _Settings,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        weights: dict[str, float],
        *,
        checkpoint: Path | None = None,
        show_progress: bool = False,
        distributed: bool = False,
    ) -> None:
        self.subject, self.settings = subject, settings
        self.device = subject.frame.center.device
        self.processes = Processes(distributed)
        self.history = History(list(weights), list(weights.values()), settings.iterations, self.device)
        decaying = [(adam, adam.param_groups[0]["lr"]) for adam in optimizers if isinstance(adam, torch.optim.Adam)]

        def set_rates(i: int) -> None:
            for adam, rate in decaying:
                adam.param_groups[0]["lr"] = rate * settings.rate_factor_at(i)

        self._training = Training(
            model,
            optimizers,
            self.losses,
            self.history,
            OwnRandom(settings.seed, self.device, self.processes.own_seed(settings.seed)),
            Checkpoint(checkpoint, {"method": self.method, "target": subject.about, **asdict(settings)}),
            iterations=settings.iterations,
            label=self.label,
            show_progress=show_progress,
            before=set_rates,
            processes=self.processes,
        )

    @classmethod
    def to_mesh(cls: type[_Fit], target: Meshes, settings: Any = None, **options: Any) -> _Fit:
        """A fit to pictures of a mesh; see `from_mesh`."""
        settings = cls.default_settings() if settings is None else settings
        return cls(of_mesh(target, settings), settings, **options)

    @classmethod
    def to_capture(
        cls: type[_Fit], capture: Capture, settings: Any = None, *, device: torch.device | str = "cpu", **options: Any
    ) -> _Fit:
        """A fit to pictures from files; see `from_capture`."""
        settings = cls.default_settings() if settings is None else settings
        subject = of_capture(capture, device)
        return cls(subject, settings_of(subject, settings), **options)

    @staticmethod
    @abstractmethod
    def default_settings() -> Any:
        """Those of a fit that is given none."""

    @abstractmethod
    def losses(self, generator: torch.Generator) -> Sequence[Callable[[], Tensor]]:
        """The losses of one step in the order of the history's columns, each as a function that computes it.

        Args:
            generator: draws the views (`pick`); the same in all processes.
        """

    @abstractmethod
    def result(self) -> _Result:
        """What was reached so far."""

    def __iter__(self) -> Iterator[int]:
        """The numbers of the steps that are left, each after it was made. Ctrl-C ends them after the current one.

        Raises:
            FloatingPointError: a learning rate was too high.
        """
        return iter(self._training)

    def run(self) -> _Result:
        """Make the steps that are left; what was reached then."""
        for _ in self:
            pass
        return self.result()

    def pick(self, generator: torch.Generator) -> Tensor:
        """The numbers of views, drawn at random, that one step shows to this process."""
        drawn = torch.randperm(len(self.subject.views), generator=generator)[: self.settings.views_per_iteration]
        return self.processes.part(drawn).to(self.device)

    def _reached(self, see: Render) -> dict[str, Any]:
        """What every result has, given pictures of the model from any cameras."""
        subject = self.subject
        return {
            "center": subject.frame.center,
            "scale": subject.frame.scale,
            "rotation": subject.frame.rotation,
            "views": subject.views,
            "held_out": subject.held_out,
            **measures(see, subject.held_out),
            "turntable": turning(see, subject, self.settings),
            "history": self.history,
            "settings": self.settings,
            "interrupted": self.history.length < self.settings.iterations,
            "seconds": self._training.loop.seconds,
        }
