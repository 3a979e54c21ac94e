"""One command for many objects."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ._runs import INTERRUPTED, check_machine, complain, live_file

SOME_FAILED = 1


def is_many(given: Sequence[Path]) -> bool:
    """Whether these are several files, or a pattern for files."""
    return len(given) > 1 or any(_is_pattern(path) for path in given)


def named_files(given: Sequence[Path], flag: str) -> dict[str, Path]:
    """The files that are given, by the names of their results folders.

    Args:
        given: files and patterns.
        flag: what errors call them.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a pattern matches nothing, or two files would have the same folder.
    """
    named: dict[str, Path] = {}
    for path in given:
        found = sorted(map(Path, glob.glob(str(path), recursive=True))) if _is_pattern(path) else [path]
        files = [file for file in found if file.is_file()]
        if not files and _is_pattern(path):
            raise ValueError(f"{flag} {path} matches no file")
        if not files:
            raise FileNotFoundError(f"the file {path} does not exist")
        for file in files:
            other = named.setdefault(file.stem, file)
            if other.resolve() != file.resolve():
                raise ValueError(
                    f"{other} and {file} would both have the results folder {file.stem}: rename one of them"
                )
    return named


def _is_pattern(path: Path) -> bool:
    return glob.has_magic(str(path)) and not path.exists()


def run_many(
    files: Mapping[str, Path],
    fit: Callable[..., Any],
    save: Callable[[Any, Path, str], None],
    settings: Any,
    out: Path,
    overwrite: bool,
    device: str,
    columns: Mapping[str, tuple[str, str]],
) -> int:
    """Fit each of many objects that is not done, save it in a folder of its own, and summarise all.

    Under torchrun the processes share the objects; so do commands that are started side by side. What was stopped or
    killed goes on where it was.

    Args:
        files: of `named_files`.
        fit: given a file and the options `device`, `checkpoint`, `show_progress` and `live`, returns a result.
        save: writes the result of a source into a folder.
        settings: of the fits.
        out: the folder of the results folders.
        overwrite: replace results of other settings, and begin anew what was stopped.
        device: where to compute.
        columns: of the summary: for each title, the name in the metrics and how the number is written.

    Returns:
        The exit code: 0 where all objects are done, 1 where some failed, 130 after Ctrl-C.
    """
    from recon_engine.methods._many import Many, Outcome, file_time, save_summary, table
    from recon_engine.methods._processes import joined, own_device
    from recon_engine.methods._run import results_folder

    check_machine(device)
    device = own_device(device)
    with joined("cpu") as processes:

        def prepare() -> float:
            _check_folders(files, asdict(settings), out, overwrite)
            out.mkdir(parents=True, exist_ok=True)
            return file_time(out)

        many = Many(files, out, asdict(settings), processes.first(prepare))

        def one(name: str) -> bool:
            checkpoint, live = many.checkpoint(name), live_file(out / name)
            options = {"device": device, "checkpoint": checkpoint, "show_progress": processes.is_first, "live": live}
            result = fit(files[name], **options)
            live.unlink(missing_ok=True)
            if result.interrupted:
                return False
            with results_folder(out / name, overwrite=True) as folder:
                save(result, folder, files[name].name)
            checkpoint.unlink(missing_ok=True)
            print("  ".join(table([many.outcome(name)], columns)[1]), flush=True)
            return True

        def failed(outcome: Outcome) -> None:
            complain(f"{outcome.name}: {outcome.error}", SOME_FAILED)

        def summary() -> int:
            outcomes = many.outcomes()
            save_summary(outcomes, many, columns, f"Reconstructions of {len(outcomes)} objects")
            _print(table(outcomes, columns))
            print(f"summary: {(out / 'summary.html').absolute()}", flush=True)
            wrong = sum(outcome.status == "failed" for outcome in outcomes)
            return complain(f"{wrong} of {len(outcomes)} objects failed", SOME_FAILED) if wrong else 0

        try:
            is_whole = many.work(one, failed)
        except KeyboardInterrupt:
            is_whole = False
        if is_whole:
            return processes.first(summary)
        if processes.is_first:
            summary()
        return complain("stopped; what was reached is kept: the same command goes on", INTERRUPTED)


def _check_folders(files: Mapping[str, Path], settings: Mapping[str, Any], out: Path, overwrite: bool) -> None:
    """Refuse before any work what is in the way; with `overwrite`, make room for what begins anew.

    Raises:
        FileExistsError: results of other settings, of another command, or something else than results.
        NotADirectoryError: `out`, or what should hold it, is a file.
    """
    from recon_engine.methods._many import Many, read_metrics
    from recon_engine.methods._run import check_folder

    if not out.is_dir():
        check_folder(out, overwrite)
    if read_metrics(out) is not None:
        raise FileExistsError(f"the folder {out} holds the results of one object: choose another for those of many")
    many = Many(files, out, settings, 0.0)
    for name in files:
        check_folder(out / name, overwrite=True)
        metrics = read_metrics(out / name)
        if metrics is not None and not overwrite:
            theirs = metrics["settings"]
            differing = [key for key in {**theirs, **many.settings} if theirs.get(key) != many.settings.get(key)]
            if differing:
                key = differing[0]
                raise FileExistsError(
                    f"the results folder {out / name} was made with {key} {theirs.get(key)}, not "
                    f"{many.settings.get(key)}: choose another --out, or add --overwrite"
                )
        if overwrite:
            many.checkpoint(name).unlink(missing_ok=True)


def _print(rows: Sequence[Sequence[str]]) -> None:
    """Rows of text in columns; numbers, which come after the first two, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(n) if i < 2 else cell.rjust(n) for i, (cell, n) in enumerate(zip(row, widths, strict=True))]
        print("  ".join(cells).rstrip())
