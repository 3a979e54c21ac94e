"""Many objects in one run: any number of processes take them one after the other, and a summary says how they went.

Files are all that connects the processes. An object is done when its results folder is there, it is being worked on
while a process holds a lock, which ends with the process however that ends, and else it is to be done.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from recon_engine.report import Number, Report, versions

Status = Literal["done", "kept", "failed", "stopped", "open"]


@dataclass(frozen=True)
class Outcome:
    """How far an object has come.

    Fields:
        name: of the object and of its results folder.
        file: what it was read from.
        status: `done` in this run, `kept` from an earlier one, `failed`, `stopped` with a checkpoint, or `open`.
        metrics: what the results folder says; empty unless it is done or kept.
        error: why it failed.
    """

    name: str
    file: Path
    status: Status
    metrics: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


class Many:
    """Objects with a results folder each, side by side in one folder.

    Args:
        files: what each object is read from, by its name.
        out: the folder that holds the results folders.
        settings: of the fits: results of other settings do not count as done.
        began: the time, as the folder's file system has it, after which results and failures are of this run.
    """

    def __init__(self, files: Mapping[str, Path], out: Path, settings: Mapping[str, Any], began: float) -> None:
        self.files, self.out, self.began = files, out, began
        self.settings = json.loads(json.dumps(settings))  # as it is read from a file

    def outcome(self, name: str) -> Outcome:
        """How far an object has come, as files have it."""
        file, error = self.files[name], self._error(name)
        metrics = read_metrics(self.out / name)
        if metrics is not None and metrics["settings"] == self.settings and not metrics["interrupted"]:
            return Outcome(name, file, "done" if self._is_new(self.out / name / "metrics.json") else "kept", metrics)
        with contextlib.suppress(FileNotFoundError):  # a run that tries again removes it
            if self._is_new(error):
                return Outcome(name, file, "failed", error=error.read_text(encoding="utf-8").strip())
        return Outcome(name, file, "stopped" if self.checkpoint(name).exists() else "open")

    def outcomes(self) -> list[Outcome]:
        """How far all objects have come."""
        return [self.outcome(name) for name in self.files]

    def checkpoint(self, name: str) -> Path:
        """The file that the state of an object's fit is kept in."""
        return self.out / f"{name}.checkpoint"

    def work(self, fit: Callable[[str], bool], failed: Callable[[Outcome], None]) -> bool:
        """Do what no other process does, then wait for the others, and do what those leave that have died.

        Args:
            fit: makes the results folder of an object; returns False where it was stopped instead.
            failed: is told of an object whose fit raised an error.

        Returns:
            Whether all objects are done or have failed; False where it was stopped.
        """
        for wait in (False, True):
            for name in self.files:
                if self._is_settled(name):
                    continue
                with _claimed(self.out / f"{name}.lock", wait) as is_ours:
                    # Another process may have done it before it let go of the lock.
                    if is_ours and not self._is_settled(name) and not self._fit(name, fit, failed):
                        return False
        return True

    def _fit(self, name: str, fit: Callable[[str], bool], failed: Callable[[Outcome], None]) -> bool:
        self._error(name).unlink(missing_ok=True)
        try:
            return fit(name)
        except Exception as error:
            known = isinstance(error, (ValueError, OSError, FloatingPointError))
            text = " ".join((str(error) if known else f"{type(error).__name__}: {error}").split())
            self._error(name).write_text(text + "\n", encoding="utf-8")
            failed(self.outcome(name))
            return True

    def _error(self, name: str) -> Path:
        return self.out / f"{name}.error"

    def _is_settled(self, name: str) -> bool:
        return self.outcome(name).status in ("done", "kept", "failed")

    def _is_new(self, path: Path) -> bool:
        try:
            return path.stat().st_mtime >= self.began
        except OSError:  # it is not there, or not any more
            return False


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """The metrics of a results folder; None if there are none.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / "metrics.json"
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        metrics["settings"], metrics["interrupted"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the file {path} is damaged: remove the folder {folder}") from error
    return metrics


def file_time(folder: Path) -> float:
    """The time now, as the file system of a folder has it."""
    path = folder / f".{os.getpid()}.time"
    path.touch()
    try:
        return path.stat().st_mtime
    finally:
        path.unlink()


@contextlib.contextmanager
def _claimed(path: Path, wait: bool) -> Iterator[bool]:
    """Hold the lock on a file, which is made for it; whether we do. The system ends it when the process ends.

    Args:
        path: the file; it is gone afterwards.
        wait: until whoever has the lock lets it go.
    """
    with contextlib.ExitStack() as opened:
        while True:
            file = opened.enter_context(path.open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            if _is_at(file.fileno(), path):
                break  # else the one before us has removed it, and a lock on it keeps nobody out
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)


def _is_at(number: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(number), path.stat())
    except FileNotFoundError:
        return False


def table(outcomes: list[Outcome], columns: Mapping[str, tuple[str, str]]) -> list[list[str]]:
    """Rows of text: a title, then name, status and measures of each object.

    Args:
        outcomes: of the objects.
        columns: for each title, the name in the metrics and how the number is written.
    """
    rows = [["object", "status", *columns]]
    for outcome in outcomes:
        values = [(outcome.metrics.get(name), form) for name, form in columns.values()]
        rows.append([outcome.name, outcome.status, *("" if v is None else form.format(v) for v, form in values)])
    return rows


def save_summary(outcomes: list[Outcome], many: Many, columns: Mapping[str, tuple[str, str]], title: str) -> None:
    """Write `summary.json` and `summary.html` beside the results folders.

    Args:
        outcomes: of the objects.
        many: where they are.
        columns: see `table`; bars are drawn of the first.
        title: of the page.
    """
    rows = [
        {
            "object": outcome.name,
            "file": str(outcome.file),
            "status": outcome.status,
            **{name: outcome.metrics.get(name) for name, _ in columns.values()},
            "error": outcome.error,
        }
        for outcome in outcomes
    ]
    kept = {"objects": rows, "settings": many.settings, "versions": versions()}
    path = many.out / "summary.json"
    work = path.with_name(path.name + ".part")
    work.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    work.replace(path)
    _page(outcomes, many, columns, title).save(many.out / "summary.html")


def _page(outcomes: list[Outcome], many: Many, columns: Mapping[str, tuple[str, str]], title: str) -> Report:
    whole = [outcome for outcome in outcomes if outcome.metrics]
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    report = Report(title, f"{len(whole)} of {len(outcomes)} objects are done.")
    left = len(outcomes) - len(whole) - len(failed)
    if left:
        report.notice(f"The run was stopped: {left} objects are left. The same command goes on.")
    numbers = [Number("Objects", str(len(outcomes)), f"{len(whole)} done, {len(failed)} failed")]
    for heading, (name, form) in columns.items():
        values = [outcome.metrics[name] for outcome in whole]
        if values:
            numbers.append(Number(heading, form.format(sum(values) / len(values)), "mean of what is done"))
    report.numbers(numbers)
    head, *rows = table(outcomes, columns)
    name, _ = next(iter(columns.values()))
    report.section("Objects")
    report.table(head, rows, bars=[outcome.metrics.get(name, 0.0) for outcome in outcomes])
    if failed:
        report.section("What failed", "Why, for each of them.")
        report.table(["object", "file", "error"], [[each.name, str(each.file), each.error] for each in failed])
    if whole:
        report.section("Reports")
        report.files({f"{outcome.name}/report.html": str(outcome.file) for outcome in whole})
    report.appendix(many.settings, {"summary.json": "the numbers of this page, the settings and the versions"})
    return report
