"""How the cost grows: `python benchmarks/growth.py` times the sweeps of the benchmark files and draws them.

Times go to benchmarks/results/growth/<machine>.json, `python benchmarks/growth.py --draw` draws them again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import torch
from rivals import DEVICE, THREADS, Sweep, alternate

ROOT = Path(__file__).parents[1]
RESULTS, IMAGES = ROOT / "benchmarks/results/growth", ROOT / "docs/images"
_LIMIT = 5.0  # a rival that needs more seconds is not asked for the next larger value
_COLUMNS = 4  # of plots in a picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("machine", nargs="?", help="name of the result file")
    parser.add_argument("--only", default="", help="benchmark files whose name contains this")
    parser.add_argument("--draw", action="store_true", help="draw the committed results, measure nothing")
    options = parser.parse_args()
    if not options.draw:
        if not options.machine:
            parser.error("name the machine: its results go to benchmarks/results/growth/<machine>.json")
        torch.set_num_threads(THREADS)
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = RESULTS / f"{options.machine}.json"
        results = json.loads(path.read_text()) if path.exists() else {}
        for file in sorted(Path(__file__).parent.glob("bench_*.py")):
            module = importlib.import_module(file.stem)
            if options.only in file.stem and hasattr(module, "SWEEPS"):
                results[file.stem.removeprefix("bench_")] = [_measure(sweep) for sweep in module.SWEEPS]
                path.write_text(json.dumps(results, indent=1) + "\n")
    for path in sorted(RESULTS.glob("*.json")):
        for topic, sweeps in json.loads(path.read_text()).items():
            _draw(sweeps, IMAGES / f"growth-{topic}.png")


def _measure(sweep: Sweep) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {}
    for value in sweep.values:
        functions = {
            name: function
            for name, function in sweep.make(value).items()
            if len(seconds.get(name, [])) == sweep.values.index(value) and max(seconds.get(name, [0.0])) < _LIMIT
        }
        for name, time in alternate(functions, rounds=3).items():
            seconds.setdefault(name, []).append(time)
            print(f"{sweep.name}: {sweep.axis} {value}: {name} {time:.3g} s", file=sys.stderr)
    return {
        "name": sweep.name,
        "axis": sweep.axis,
        "values": [sweep.shown(value) for value in sweep.values],
        "seconds": seconds,
        "threads": THREADS,
        "device": DEVICE.type,
    }


def _draw(sweeps: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    colors = {"recon_engine": "#1b6ca8", "pytorch3d": "#c8553d"}
    columns = min(len(sweeps), _COLUMNS)
    rows = -(-len(sweeps) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.9 * rows), layout="constrained")
    plots = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in plots[len(sweeps) :]:
        axes.remove()
    for axes, sweep in zip(plots[: len(sweeps)], sweeps, strict=True):
        for name, seconds in sweep["seconds"].items():
            line = axes.loglog(sweep["values"][: len(seconds)], seconds, "o-", markersize=3, label=name)[0]
            if name in colors:
                line.set_color(colors[name])
        axes.set(title=textwrap.fill(sweep["name"], 42), xlabel=sweep["axis"], ylabel="seconds")
        axes.title.set_size(8)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
