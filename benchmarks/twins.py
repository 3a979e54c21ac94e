"""Runs programs that import pytorch3d with PyTorch3D and with recon_engine: `python benchmarks/twins.py [NAME ...]`.

The programs are those of tests/compat, unchanged. For each seed a program runs with PyTorch3D and then as
`python -m recon_engine.compat PROGRAM`, in the same environment with the same arguments, and prints what it reached.
Writes results/twins/<name>.json and the second table of docs/quality.md. Where PyTorch3D is not importable nothing is
measured and the table stays as it is; meshes come from the folder that RECON_DATA names.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from quality import PAGE, ROOT, data, processor, spliced

PROGRAMS = ROOT / "tests/compat"
RESULTS = ROOT / "benchmarks/results/twins"
THREADS = 2
RUNNERS: dict[str, tuple[str, ...]] = {"pytorch3d": (), "recon_engine": ("-m", "recon_engine.compat")}

_COW = ("book", "chap2", "data", "cow_mesh", "cow.obj")
_TEAPOT = ("book", "chap4", "data", "teapot.obj")


@dataclass(frozen=True)
class Twin:
    """A program and what it is run with.

    Fields:
        method: the command that is made of the same loop.
        program: of tests/compat.
        input: the file below RECON_DATA that it reads.
        arguments: with `{input}`, `{out}` for a file or folder that is thrown away, and `{seed}`.
        settings: the same in words, and what is documented where that is more.
        label: what it prints and how that is called in the table.
        seeds: how often it is run with recon_engine; how far the results are apart is what noise there is.
        slow_seeds: how often with PyTorch3D. Where both draw the same random numbers once is enough.
    """

    method: str
    program: str
    input: tuple[str, ...]
    arguments: str
    settings: str
    label: tuple[str, str]
    seeds: int = 3
    slow_seeds: int = 1


TWINS = {
    "build": Twin(
        "build",
        "build_object.py",
        _COW,
        "{input} {folder} cube 400 48 3 20 0 {seed}",
        "3DBuilder, cow: a cube of 768 faces, 20 views of 48 x 48, 400 steps (documented: 3072, 128 x 128, 2000)",
        ("iou", "mean IoU of silhouettes"),
    ),
    "fit-points-cloud": Twin(
        "fit-points",
        "fit_cloud.py",
        ("book", "chap3", "pedestrian.ply"),
        "{input} {file} deform1 2000 {seed}",
        "chapter 3, deform1: a sphere of 5120 faces to 239 points, 2000 steps, as documented",
        ("chamfer", "chamfer"),
        slow_seeds=3,
    ),
    "fit-points-mesh": Twin(
        "fit-points",
        "fit_mesh.py",
        _COW,
        "{input} {file} 500 4 5000 {seed}",
        "task 1, cow: a sphere of 5120 faces, 5000 points of either surface, 500 steps (documented: 2000)",
        ("chamfer", "chamfer"),
        slow_seeds=3,
    ),
    "fit-views": Twin(
        "fit-views",
        "fit_images.py",
        _COW,
        "300 48 20 3 {seed} {input}",
        "task 2, cow: a sphere of 1280 faces, 20 views of 48 x 48, 300 steps (documented: 5120, 128 x 128, 2000)",
        ("psnr", "PSNR of 8 held-out views, dB"),
    ),
    "pose": Twin(
        "pose",
        "pose_silhouette.py",
        _TEAPOT,
        "{input} 200 64",
        "chapter 4, teapot: one silhouette of 64 x 64, until the loss is below its bound (documented: 256 x 256)",
        ("distance", "distance from the true camera, 5.3 at the start"),
        seeds=1,
    ),
    "pose-documented": Twin(
        "pose",
        "pose_silhouette.py",
        _TEAPOT,
        "{input} 4 256",
        "the first 4 steps of the same with the documented size",
        ("distance", "distance from the true camera"),
        seeds=1,
    ),
}


def run(twin: Twin, runner: str, seed: int) -> dict[str, float]:
    """The numbers that a program prints behind a name at the beginning of a line, the last of each name."""
    with tempfile.TemporaryDirectory() as folder:
        words = {"input": str(data(*twin.input)), "folder": folder, "file": f"{folder}/result", "seed": str(seed)}
        arguments = [word.format(**words) for word in twin.arguments.split()]
        path = os.pathsep.join([str(ROOT / "python"), *filter(None, [os.environ.get("PYTHONPATH")])])
        threads = {"OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "PASSIVE"}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *RUNNERS[runner], str(PROGRAMS / twin.program), *arguments],
            env={**os.environ, "PYTHONPATH": path, **threads},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return {name: float(value) for name, value in re.findall(r"^(\w+) (-?[\d.e-]+)$", done.stdout, re.MULTILINE)}


def measure(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """Run a twin on both and save what came out."""
    from recon_engine.report import versions

    twin = TWINS[name]
    runs: dict[str, list[dict[str, float]]] = {runner: [] for runner in RUNNERS}
    for seed in range(twin.seeds):
        for runner, results in runs.items():
            if runner == "pytorch3d" and seed >= twin.slow_seeds:
                continue
            results.append(run(twin, runner, seed))
            print(f"{name}, seed {seed}, {runner}: {results[-1]}", flush=True)
    results = {
        "method": twin.method,
        "program": twin.program,
        "settings": twin.settings,
        "name": twin.label[0],
        "measure": twin.label[1],
        "runs": runs,
        "machine": {"processor": processor(), "threads": THREADS},
        "versions": versions(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


def values(results: dict[str, Any], runner: str, name: str | None = None) -> list[float]:
    """What the runs of one of the two printed behind a name; the measure when none is given."""
    return [run[name or results["name"]] for run in results["runs"][runner]]


def ratio(results: dict[str, Any], name: str) -> float:
    """How many times the seconds of recon_engine PyTorch3D needs; `name` is `cpu` or `wall`."""
    theirs, ours = (mean(values(results, runner, name)) for runner in RUNNERS)
    return theirs / ours


def agree(results: dict[str, Any]) -> bool:
    """Whether the means of the measure differ by less than the seeds do, or by less than 2 percent."""
    theirs, ours = (values(results, runner) for runner in RUNNERS)
    spread = max(max(some) - min(some) for some in (theirs, ours))
    return abs(mean(theirs) - mean(ours)) <= max(spread, 0.02 * abs(mean(theirs)))


def table(folder: Path = RESULTS) -> str:
    """The table of all results."""
    lines = [
        "| method | program and settings | measure | PyTorch3D | recon_engine | CPU seconds | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    paths = [path for name in TWINS if (path := folder / f"{name}.json").exists()]
    return "\n".join(lines + [_line(json.loads(path.read_text())) for path in paths])


def _line(results: dict[str, Any]) -> str:
    reached = [_range(values(results, runner)) for runner in RUNNERS]
    seconds = [mean(values(results, runner, "cpu")) for runner in RUNNERS]
    return (
        f"| {results['method']} | {results['settings']} | {results['measure']} | {reached[0]} | {reached[1]} | "
        f"{seconds[0]:.3g}, {seconds[1]:.3g} | **{_times(ratio(results, 'cpu'))}** |"
    )


def _times(value: float) -> str:
    """Two digits."""
    return f"{float(f'{value:.2g}'):g}x"


def _range(some: Sequence[float]) -> str:
    low, high = (f"{value:.4g}" for value in (min(some), max(some)))
    return low if low == high else f"{low} to {high}"


def updated(page: str) -> str:
    """The text of docs/quality.md with the second table between its markers written again."""
    return spliced(page, "twins", table())


def main(names: list[str]) -> int:
    """Measure the twins of these names, or all; the exit code."""
    unknown = sorted(set(names) - set(TWINS))
    if unknown:
        print(f"no twin {unknown[0]!r}: expected {', '.join(TWINS)}", file=sys.stderr)
        return 2
    if importlib.util.find_spec("pytorch3d") is None:
        print("PyTorch3D is not installed here: its rows stay as they are")
        return 0
    for name in names or TWINS:
        if data(*TWINS[name].input) is None:
            print(f"{name}: RECON_DATA has no {'/'.join(TWINS[name].input)}, its row stays as it is")
            continue
        print(_line(measure(name)), flush=True)
        PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
