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


def check_run(out: Path, overwrite: bool, device: str, shared: bool = False) -> None:
    """Refuse before any work what would fail after it: a taken results folder, a missing device or extra.

    Args:
        out: the results folder.
        overwrite: it may exist.
        device: as it was given.
        shared: several processes may work on it together.
    """
    from recon_engine.methods._processes import processes_started
    from recon_engine.methods._run import check_folder

    if processes_started() > 1 and not shared:
        raise ValueError("this command works in one process: start it without torchrun")
    check_folder(out, overwrite)
    check_machine(device)


def check_machine(device: str) -> None:
    """Refuse a missing device or extra."""
    from recon_engine._extra import extra
    from recon_engine.methods._processes import own_device

    for module, extras in (("tqdm", "cli"), ("PIL.Image", "io"), ("matplotlib", "vis")):
        extra(module, extras)
    check_device(own_device(device))


def check_checkpoint(out: Path, overwrite: bool, resume: bool, device: str, shared: bool = False) -> Path:
    """As `check_run`; and the file beside the results folder that the state of the run is kept in."""
    if overwrite and resume:
        raise ValueError("give either --overwrite, which begins anew, or --resume, which goes on")
    check_run(out, overwrite or resume, device, shared)
    checkpoint = out.with_name(out.name + ".checkpoint")
    if resume and not checkpoint.is_file():
        raise FileNotFoundError(f"there is no checkpoint {checkpoint} to resume from")
    if checkpoint.exists() and not resume and not overwrite:
        raise FileExistsError(
            f"the checkpoint {checkpoint} of an earlier run exists: add --resume to go on, or --overwrite to begin anew"
        )
    return checkpoint


def live_file(out: Path) -> Path:
    """The file beside the results folder that a running fit shows itself in."""
    return out.with_name(out.name + ".live")


def check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error


def fit_to_pictures(
    kind: Any,
    save: Callable[[Any, Path, str], None],
    settings: Any,
    mesh: Path | None,
    capture: Any,
    images: Path | None,
    out: Path,
    checkpoint: Path,
    overwrite: bool,
    resume: bool,
    device: str,
    **options: Any,
) -> int:
    """Make a fit to the pictures of a folder, or else to those of a mesh or the built-in building, and save it.

    Under torchrun all processes make it together, and the first one saves it.
    """
    from recon_engine.methods._processes import joined, own_device

    device = own_device(device)
    with joined(device) as processes:
        options |= {"checkpoint": checkpoint, "show_progress": True, "distributed": processes.count > 1}
        if capture is None:
            target, source = load_object(mesh, device)
            begin = partial(kind.to_mesh, target, settings, **options)
        else:
            folder = images.name if images is not None and images.name else "a folder"
            source = f"{len(capture.names)} pictures in {folder}"
            begin = partial(kind.to_capture, capture, settings, device=device, **options)
        if not processes.is_first:
            for _ in begin():
                pass
            code = 0
        else:
            code = run_fit(lambda: begin().run(), save, out, overwrite, resume, source, checkpoint)
        return processes.first(lambda: code)


def run_fit(
    fit: Callable[[], Any],
    save: Callable[[Any, Path, str], None],
    out: Path,
    overwrite: bool,
    resume: bool,
    source: str,
    checkpoint: Path,
) -> int:
    """Fit, from the checkpoint if the run is resumed, and save what came of it; what stops that says what is kept.

    Args:
        fit: returns the result. It keeps its state in the checkpoint.
        save: writes the result of a source into a folder.
        out: the results folder.
        overwrite: begin anew, whatever is there.
        resume: go on from the checkpoint.
        source: what was fitted, for the report's title.
        checkpoint: of `check_checkpoint`.

    Returns:
        The exit code.
    """
    if overwrite:
        checkpoint.unlink(missing_ok=True)
    try:
        return save_run(save, fit(), out, overwrite or resume, source, checkpoint)
    except (KeyboardInterrupt, Exception) as error:
        live_file(out).unlink(missing_ok=True)  # nothing goes on
        if not checkpoint.is_file():
            raise
        if is_interrupt(error):
            return complain(f"stopped; {checkpoint} keeps the run: --resume goes on", INTERRUPTED)
        if isinstance(error, OSError):
            raise OSError(f"{error}; {checkpoint} keeps the run: --resume goes on") from error
        raise


def save_run(
    save: Callable[[Any, Path, str], None],
    result: Any,
    out: Path,
    overwrite: bool,
    source: str,
    checkpoint: Path | None = None,
) -> int:
    """Write the results folder, say where it is, remove the checkpoint of a whole run, and return the exit code."""
    from recon_engine.methods._run import results_folder

    with results_folder(out, overwrite) as folder:
        save(result, folder, source)
    live_file(out).unlink(missing_ok=True)
    print(f"report: {(out / 'report.html').absolute()}")
    if not result.interrupted:
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        return 0
    done, planned = result.history.length, result.history.planned
    more = "" if checkpoint is None else "; --resume goes on"
    return complain(f"stopped after {done} of {planned} iterations; what was reached is saved{more}", INTERRUPTED)


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
