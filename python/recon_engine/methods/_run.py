"""What every long run needs: seeds, progress, a clean stop on Ctrl-C, loss curves and an atomic results folder."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor

from recon_engine._extra import extra as extra

_Item = TypeVar("_Item")

_ROWS = 2**16  # of losses, that there is room for from the beginning
_LOG_SECONDS = 0.25  # how often the progress bar reads the loss: reading it makes a GPU wait


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[torch.Generator]:
    """Make every random number inside repeatable and leave the caller's random state as it was.

    Args:
        seed: 0 or more.
        device: the device whose global generator is seeded besides the CPU's.

    Yields:
        A CPU generator with the same seed, for choices made on the host.
    """
    device = torch.device(device)
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


class OwnRandom:
    """Random numbers of a run: inside `with`, torch's generators are the run's; outside they are the caller's.

    The run goes on where it was when it was last left, whatever the caller has drawn in between.

    Args:
        seed: 0 or more.
        device: the device whose global generator is the run's too, besides the CPU's.
        own: the seed of torch's generators, where it is not that of `generator`: of one process among several.

    Attributes:
        generator: of the CPU, for choices made on the host; nobody else's at any time.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu", own: int | None = None) -> None:
        self._device = torch.device(device)
        self.generator = torch.Generator().manual_seed(seed)
        with seeded(seed if own is None else own, device):
            self._own = self._read()
        self._others: dict[str, Tensor] = {}

    def __enter__(self) -> OwnRandom:
        self._others = self._read()
        self._write(self._own)
        return self

    def __exit__(self, *_: object) -> None:
        self._own = self._read()
        self._write(self._others)

    def state(self) -> dict[str, Tensor]:
        """Everything to go on with, for a checkpoint. To be asked for outside `with`."""
        return {"host": self.generator.get_state(), **self._own}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave. To be called outside `with`."""
        self.generator.set_state(state["host"])
        self._own = {name: value for name, value in state.items() if name != "host"}

    def _read(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        return {**state, "cuda": torch.cuda.get_rng_state(self._device)} if self._device.type == "cuda" else state

    def _write(self, state: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if self._device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self._device)


class History:
    """One row of losses for each iteration, kept on the device and read back at the end.

    Args:
        columns: names of the losses.
        weights: their weights in the total, in the same order.
        iterations: how many rows are planned.
        device: where the losses are computed.

    Attributes:
        length: how many rows there are.
        planned: how many there will be, as far as is known.
    """

    def __init__(
        self, columns: Sequence[str], weights: Sequence[float], iterations: int, device: torch.device | str = "cpu"
    ) -> None:
        self.columns = tuple(columns)
        self.weights = torch.tensor(weights, dtype=torch.float32, device=device)
        self._used = [weight > 0 for weight in weights]
        self._rows = torch.zeros(min(iterations, _ROWS), len(self.columns), device=device)
        self.length = 0
        self.planned = iterations

    def total(self, losses: Sequence[Callable[[], Tensor]]) -> Tensor:
        """Evaluate the losses, keep them as the next row, and return their weighted sum.

        A loss of weight 0 is recorded only: it is evaluated without gradients, so that it cannot spoil those of the
        others where it has none (the normals of collapsed faces).

        Args:
            losses: one function for each column, returning a scalar.
        """
        values = []
        for loss, is_used in zip(losses, self._used, strict=True):
            with torch.set_grad_enabled(is_used):
                values.append(loss())
        row = torch.stack(values)
        self.record(row)
        return torch.where(self.weights > 0, row * self.weights, 0.0).sum()

    def record(self, row: Tensor) -> None:
        """Keep losses (columns,) that were evaluated elsewhere as the next row, also beyond those that were planned."""
        if self.length == len(self._rows):
            self._rows = torch.cat([self._rows, self._rows.new_zeros(max(64, self.length), len(self.columns))])
        self._rows[self.length] = row.detach()
        self.length += 1

    @property
    def newest(self) -> Tensor:
        """The last row (columns,), in place."""
        return self._rows[self.length - 1]

    def reweigh(self, name: str, weight: float) -> None:
        """Give a loss another weight from now on. The totals of earlier rows are shown with the new one too.

        Raises:
            ValueError: there is no such loss, or the weight is below 0 or not finite.
        """
        if name not in self.columns:
            raise ValueError(f"name must be one of {', '.join(dict.fromkeys(self.columns))}, got {name!r}")
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight must be 0 or more, got {weight}")
        for i, column in enumerate(self.columns):
            if column == name:
                self.weights[i] = weight
                self._used[i] = weight > 0

    def rows(self) -> Tensor:
        """(length, columns) as recorded, on the CPU."""
        return self._rows[: self.length].cpu()

    def restore(self, rows: Tensor) -> None:
        """Begin with the rows of an earlier run."""
        self.length = len(rows)
        self._rows = torch.cat([rows.to(self._rows), self._rows[self.length :]])

    def last(self) -> float:
        """The newest weighted sum. Waits for the device."""
        return float(torch.where(self.weights > 0, self.newest * self.weights, 0.0).sum())

    def table(self) -> dict[str, list[float]]:
        """Every loss as recorded, unweighted, and the weighted sum as `total`."""
        rows, weights = self.rows(), self.weights.cpu()
        total = torch.where(weights > 0, rows * weights, 0.0).sum(1)
        columns = {name: rows[:, i].tolist() for i, name in enumerate(self.columns)}
        return {"total": total.tolist(), **columns}

    def save_csv(self, path: Path) -> None:
        """Write `iteration,total,...`, one line for each iteration."""
        table = self.table()
        lines = [",".join(["iteration", *table])]
        lines += [",".join([str(i), *(f"{v:.9g}" for v in row)]) for i, row in enumerate(zip(*table.values()))]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def save_png(self, path: Path, title: str) -> None:
        """Draw the curves on a logarithmic axis. Needs matplotlib (`recon_engine[vis]`)."""
        figure_class = extra("matplotlib.figure", "vis").Figure
        figure = figure_class(figsize=(8, 4.5), dpi=120, layout="constrained")
        axes = figure.add_subplot()
        for name, values in self.table().items():
            if any(v > 0 for v in values):
                axes.semilogy(values, label=name, linewidth=1.6 if name == "total" else 1.0)
        axes.set(title=title, xlabel="iteration", ylabel="loss (before its weight)")
        axes.grid(alpha=0.25)
        if axes.lines:
            axes.legend(frameon=False)
        figure.savefig(path)


class Loop:
    """Counts iterations, shows progress, and ends after the current one when Ctrl-C is pressed.

    The second Ctrl-C raises KeyboardInterrupt as usual. Outside the main thread, where Python cannot catch signals,
    Ctrl-C is not handled here.

    Args:
        iterations: how many, those that the history has already included.
        history: where the progress bar reads the loss.
        label: the text before the bar.
        show: draw a progress bar (needs tqdm, `recon_engine[cli]`).
        stops: asked after each iteration whether to end, given whether Ctrl-C was pressed.

    Attributes:
        interrupted: Ctrl-C ended it early.
        seconds: how long it has taken; those of an earlier run may be set before it starts.

    Example:
        >>> history = History(["loss"], [1.0], 3)
        >>> [history.total([lambda: torch.tensor(2.0)]).item() for _ in Loop(3, history)]
        [2.0, 2.0, 2.0]
    """

    def __init__(
        self,
        iterations: int,
        history: History,
        label: str = "",
        show: bool = False,
        stops: Callable[[bool], bool] = bool,
    ) -> None:
        self.iterations = iterations
        self._stops = stops
        self.history = history
        self.interrupted = False
        self.seconds = 0.0
        self._bar = None
        if show:
            options = {"initial": history.length, "unit": "it", "mininterval": 0}
            self._bar = extra("tqdm", "cli").tqdm(total=iterations, desc=label, **options)

    def __iter__(self) -> Iterator[int]:
        return self.over(itertools.takewhile(lambda i: i < self.iterations, itertools.count(self.history.length)))

    def over(self, work: Iterable[_Item]) -> Iterator[_Item]:
        """What `work` yields, one for each iteration, until it ends by itself or Ctrl-C is pressed."""
        shown = time.perf_counter()
        began = shown - self.seconds
        done = counted = self.history.length
        with _CatchInterrupt() as interrupt:
            try:
                for item in work:
                    yield item
                    done += 1
                    now = time.perf_counter()
                    self.seconds = now - began
                    self.interrupted = self._stops(interrupt.pressed)
                    if now - shown > _LOG_SECONDS or done == self.iterations or self.interrupted:
                        self._log(done - counted)
                        counted, shown = done, now
                    if self.interrupted:
                        break
                if done > counted:
                    self._log(done - counted)
            finally:
                self.seconds = time.perf_counter() - began
                self.close()

    def close(self) -> None:
        """End the progress bar; what is printed next begins a line of its own. `over` does it when it ends."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None  # is deleted here: Ctrl-C while Python deletes it would be lost

    def extend(self, iterations: int) -> None:
        """Plan that many more."""
        self.iterations += iterations
        self.history.planned = self.iterations
        if self._bar is not None:
            self._bar.total = self.iterations

    def _log(self, steps: int) -> None:
        loss = self.history.last()
        if not loss < float("inf"):
            raise FloatingPointError(
                f"the loss became {loss} at iteration {self.history.length}: choose a smaller learning rate"
            )
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{loss:.5f}", refresh=False)
            self._bar.update(steps)


class _CatchInterrupt:
    """While active, the first SIGINT sets `pressed`; it then hands Ctrl-C back to whoever had it before."""

    def __init__(self) -> None:
        self.pressed = False
        self._previous: Any = None
        self._active = threading.current_thread() is threading.main_thread()

    def _press(self, _signal: int, _frame: FrameType | None) -> None:
        self.pressed = True
        signal.signal(signal.SIGINT, self._previous)

    def __enter__(self) -> _CatchInterrupt:
        if self._active:
            self._previous = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._active and not self.pressed:
            signal.signal(signal.SIGINT, self._previous)


def check_folder(out: Path, overwrite: bool) -> None:
    """Refuse a results folder before any work is done.

    Raises:
        FileExistsError: `out` exists and `overwrite` is not set, or it holds something else than results.
        NotADirectoryError: `out`, or what should hold it, is a file.
        OSError: nothing can be made where `out` should be.
        ValueError: `out` is this folder, the one above, or the root.
    """
    if out.name in ("", ".."):
        raise ValueError(f"the results folder must have a name of its own, got {str(out)!r}")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"the results folder {out} is a file: choose another name")
    if out.exists() and not overwrite:
        raise FileExistsError(f"the results folder {out} exists already: choose another, or add --overwrite")
    if out.exists() and any(out.iterdir()) and not (out / "metrics.json").exists():
        raise FileExistsError(f"the folder {out} holds no results of an earlier run: it is not overwritten")
    holder = next(parent for parent in out.absolute().parents if parent.exists())
    if not holder.is_dir():
        raise NotADirectoryError(f"the results folder {out} cannot be made: {holder} is a file")
    try:
        os.rmdir(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=holder))
    except OSError as error:
        raise type(error)(f"the results folder {out} cannot be made in {holder}: {error.strerror}") from error


@contextlib.contextmanager
def results_folder(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder that appears under its name only when it is complete.

    Files go to a hidden folder beside it, which is renamed at the end and removed on any error, Ctrl-C included. Those
    of runs that were killed are removed with it.

    Args:
        out: the final folder.
        overwrite: replace a folder of that name; it stays untouched until the new one is complete.

    Yields:
        The folder to write into.

    Raises:
        FileExistsError: `out` exists and `overwrite` is not set.
        NotADirectoryError: `out`, or what should hold it, is a file.
        OSError: something could not be written.
    """
    check_folder(out, overwrite)
    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=parent))
    work.chmod(0o777 & ~_umask())
    try:
        yield work
        check_folder(out, overwrite)
        old = work.with_suffix(".old")
        if out.exists():
            out.rename(old)
        try:
            work.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
        for left in parent.glob(f".{glob.escape(out.name)}.????????.*"):  # of this run and of others that were killed
            if left.suffix in (".part", ".old"):
                shutil.rmtree(left, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(work, ignore_errors=True)
        if isinstance(error, OSError) and error.errno is not None:  # the system's, which may not say of what
            raise OSError(f"the results folder {out} cannot be written: {error.strerror}") from error
        raise


def save_tensors(kept: Any, path: Path) -> None:
    """Write what `torch.load` reads, down to the disk.

    Raises:
        OSError: it cannot be written; torch makes another error of that.
    """
    try:
        with path.open("wb") as file:
            torch.save(kept, file)
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:
        if not isinstance(error.__context__, OSError):
            raise
        raise OSError(error.__context__.errno, error.__context__.strerror) from error


def _umask() -> int:
    """The process's umask, which can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
