"""What every command that fits does before and after the fit."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ._inputs import load_object

INTERRUPTED = 130  # 128 + SIGINT, as shells count


def check_machine(device: str) -> None:
    """Refuse a missing device or extra."""
    from recon_engine._extra import extra
    from recon_engine.methods._processes import own_device

    for module, extras in (("tqdm", "cli"), ("PIL.Image", "io"), ("matplotlib", "vis")):
        extra(module, extras)
    check_device(own_device(device))


def live_file(out: Path) -> Path:
    """The file beside the results folder that a running fit shows itself in."""
    return out.with_name(out.name + ".live")


def check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error


class Run:
    """One run of a command: its results folder, and the files beside that which it keeps its state in.

    Args:
        out: the results folder.
        device: as it was given.
        overwrite: begin anew, whatever is there.
        resume: go on from the checkpoint.
        shared: several processes may work on it together.

    Attributes:
        device: of this process.
        checkpoint: the file that the state is kept in.
        live: the file that a running fit shows itself in.

    Raises:
        ValueError, OSError, ImportError: what would fail after the work: a taken results folder, no checkpoint to
            resume from or one that nobody asked to replace, a missing device or extra.
    """

    def __init__(
        self, out: Path, device: str, *, overwrite: bool = False, resume: bool = False, shared: bool = False
    ) -> None:
        from recon_engine.methods._processes import own_device, processes_started
        from recon_engine.methods._run import check_folder

        if overwrite and resume:
            raise ValueError("give either --overwrite, which begins anew, or --resume, which goes on")
        if processes_started() > 1 and not shared:
            raise ValueError("this command works in one process: start it without torchrun")
        check_folder(out, overwrite or resume)
        check_machine(device)
        self.out, self.overwrite, self.resume = out, overwrite, resume
        self.device = own_device(device)
        self.checkpoint, self.live = out.with_name(out.name + ".checkpoint"), live_file(out)
        if resume and not self.checkpoint.is_file():
            raise FileNotFoundError(f"there is no checkpoint {self.checkpoint} to resume from")
        if self.checkpoint.exists() and not resume and not overwrite:
            raise FileExistsError(
                f"the checkpoint {self.checkpoint} of an earlier run exists: add --resume to go on, or --overwrite to "
                "begin anew"
            )

    @property
    def options(self) -> dict[str, Any]:
        """What a fit is told of its run."""
        return {"checkpoint": self.checkpoint, "show_progress": True, "live": self.live}

    def finish(self, fit: Callable[[], Any], save: Callable[[Any, Path, str], None], source: str) -> int:
        """Fit, and save what came of it; what stops that says what is kept.

        Args:
            fit: returns the result. It keeps its state in the checkpoint.
            save: writes the result of a source into a folder.
            source: what was fitted, for the report's title.

        Returns:
            The exit code.
        """
        if self.overwrite:
            self.checkpoint.unlink(missing_ok=True)
        try:
            return self.save(fit(), save, source)
        except (KeyboardInterrupt, Exception) as error:
            self.live.unlink(missing_ok=True)  # nothing goes on
            if not self.checkpoint.is_file():
                raise
            if is_interrupt(error):
                return complain(f"stopped; {self.checkpoint} keeps the run: --resume goes on", INTERRUPTED)
            if isinstance(error, OSError):
                raise OSError(f"{error}; {self.checkpoint} keeps the run: --resume goes on") from error
            raise

    def save(self, result: Any, save: Callable[[Any, Path, str], None], source: str) -> int:
        """Write the results folder, say where it is, remove the checkpoint of a whole run, and return the exit code."""
        from recon_engine.methods._run import results_folder

        with results_folder(self.out, self.overwrite or self.resume) as folder:
            save(result, folder, source)
        self.live.unlink(missing_ok=True)
        print(f"report: {(self.out / 'report.html').absolute()}")
        if not result.interrupted:
            self.checkpoint.unlink(missing_ok=True)
            return 0
        done, planned = result.history.length, result.history.planned
        more = "; --resume goes on" if self.checkpoint.is_file() else ""
        return complain(f"stopped after {done} of {planned} iterations; what was reached is saved{more}", INTERRUPTED)


def fit_to_pictures(
    run: Run,
    kind: Any,
    save: Callable[[Any, Path, str], None],
    settings: Any,
    mesh: Path | None,
    capture: Any,
    images: Path | None,
    **options: Any,
) -> int:
    """Make a fit to the pictures of a folder, or else to those of a mesh or the built-in building, and save it.

    Under torchrun all processes make it together, and the first one saves it.
    """
    from recon_engine.methods._processes import joined

    with joined(run.device) as processes:
        options |= {"checkpoint": run.checkpoint, "show_progress": True, "distributed": processes.count > 1}
        if capture is None:
            target, source = load_object(mesh, run.device)
            begin = partial(kind.to_mesh, target, settings, **options)
        else:
            folder = images.name if images is not None and images.name else "a folder"
            source = f"{len(capture.names)} pictures in {folder}"
            begin = partial(kind.to_capture, capture, settings, device=run.device, **options)
        if not processes.is_first:
            for _ in begin():
                pass
            code = 0
        else:
            code = run.finish(lambda: begin().run(), save, source)
        return processes.first(lambda: code)


def is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind it: a module that was being imported makes an ImportError of it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def complain(text: str, code: int) -> int:
    """Say on stderr what went wrong, under torchrun also in which process, and return the exit code."""
    rank = os.environ.get("RANK", "0")
    print(f"recon: {text}" if rank == "0" else f"recon (process {rank}): {text}", file=sys.stderr)
    return code
