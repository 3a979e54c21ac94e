"""Measures what the methods reach: `python benchmarks/quality.py [METHOD ...]`; all when none is named.

Writes results/quality/<method>.json and the table of docs/quality.md. A method is a function here with the decorator
`@method`; it returns its `Row`s. Real meshes come from the folder that RECON_DATA names; without it their rows are left
out, and the results of a method that would lose rows are not replaced.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/quality"
PAGE = ROOT / "docs/quality.md"
BEGIN, END = "<!-- quality: begin -->", "<!-- quality: end -->"


@dataclass(frozen=True)
class Row:
    """One measurement.

    Fields:
        input: what the method was given.
        measure: what was measured, and its unit.
        value: what was reached.
        wanted: the bound that the value is held against; None where there is none.
        at_least: the bound is a lower one; an upper one otherwise.
        seconds: how long the method took for this input.
        details: anything else worth keeping in the JSON file.
    """

    input: str
    measure: str
    value: float
    wanted: float | None = None
    at_least: bool = True
    seconds: float | None = None
    details: dict[str, Any] | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the bound is kept; None without one."""
        if self.wanted is None:
            return None
        return self.value >= self.wanted if self.at_least else self.value <= self.wanted


METHODS: dict[str, Callable[[], list[Row]]] = {}


def method(measure: Callable[[], list[Row]]) -> Callable[[], list[Row]]:
    """Register a function under its name, with dashes for underscores."""
    METHODS[measure.__name__.replace("_", "-")] = measure
    return measure


def data(*parts: str) -> Path | None:
    """A file below RECON_DATA; None where that is not set or has no such file."""
    folder = os.environ.get("RECON_DATA")
    path = Path(folder, *parts) if folder else None
    return path if path is not None and path.is_file() else None


def measured(name: str) -> dict[str, Any]:
    """Run a method; what its JSON file holds."""
    import torch

    from recon_engine.report import versions

    began = time.perf_counter()
    rows = METHODS[name]()
    return {
        "method": name,
        "rows": [{**asdict(row), "holds": row.holds} for row in rows],
        "seconds": round(time.perf_counter() - began, 1),
        "machine": {"processor": _processor(), "threads": torch.get_num_threads()},
        "versions": versions(),
    }


def save(results: dict[str, Any], folder: Path = RESULTS) -> None:
    """Write the JSON file of a method.

    Raises:
        ValueError: the file that is there has rows of inputs that these results lack.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{results['method']}.json"
    if path.exists():
        missing = {row["input"] for row in json.loads(path.read_text())["rows"]} - {r["input"] for r in results["rows"]}
        if missing:
            raise ValueError(f"{path.name} has rows of {', '.join(sorted(missing))}, which were not measured now")
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _cow() -> Any:
    """The cow of the book, in its colours; None without RECON_DATA."""
    from recon_engine import load

    path = data("book", "chap2", "data", "cow_mesh", "cow.obj")
    return None if path is None else load(path)


@method
def fit_views() -> list[Row]:
    """Held-out views of a cow that was fitted to 20 views, as an image and in vertex colours, and of the building."""
    from recon_engine.methods.fit_views import from_mesh, view_settings
    from recon_engine.methods.shapes import building

    cases = [("the built-in building, 20 views", building(colors=True), {}, None)]
    cow = _cow()
    if cow is not None:
        cases += [
            ("cow, 20 views", cow, {}, 25.0),
            ("cow, 20 views, vertex colours", cow, {"texture": "vertex"}, 25.0),
        ]
    rows = []
    for name, mesh, changes, wanted in cases:
        result = from_mesh(mesh, view_settings(**changes), show_progress=True)
        details = {
            "psnr_min": float(result.psnr.min()),
            "psnr_inside_mean": float(result.psnr_inside.mean()),
            "iou_mean": float(result.iou.mean()),
            "iterations": result.history.length,
        }
        psnr = float(result.psnr.mean())
        rows.append(Row(name, "PSNR of 10 held-out views, dB", psnr, wanted, seconds=result.seconds, details=details))
    return rows


@method
def build_photos() -> list[Row]:
    """Noisy cut-outs of the building whose azimuths are wrong by up to 10 degrees, with and without moving cameras."""
    import torch

    from recon_engine.methods.build import Cutouts, Views, from_images, mesh_settings, normalize, silhouettes
    from recon_engine.methods.shapes import building

    views, fov = 16, 30.0
    settings = mesh_settings(fov=fov)
    random = torch.Generator().manual_seed(0)
    azimuth, elevation = torch.arange(views) * (360.0 / views) - 180, torch.zeros(views)
    given = azimuth + 20 * torch.rand(views, generator=random) - 10
    alpha = silhouettes(
        normalize(building(), "building")[0], Views(elevation, azimuth, settings.distance, fov), settings
    )
    alpha = (alpha + 0.1 * torch.randn(alpha.shape, generator=random)).clamp(0, 1)
    cutouts = Cutouts([f"{i:02}.png" for i in range(views)], alpha)
    rows: list[Row] = []
    for refined in (False, True):
        chosen = mesh_settings(fov=fov, refine_cameras=refined)
        result = from_images(cutouts, elevation, given, chosen, show_progress=True)
        off = [angles - azimuth for angles in (given, result.views.azimuth)]
        before, after = (float((error - error.mean()).abs().mean()) for error in off)
        name = f"16 cut-outs, azimuths off by up to 10 degrees, {'refined' if refined else 'as given'}"
        details = {"azimuth_error_mean": after, "azimuth_error_mean_given": before, "iou_min": float(result.iou.min())}
        bound = max(0.93, rows[0].value) if refined else None
        rows.append(
            Row(
                name,
                "mean IoU of silhouettes",
                float(result.iou.mean()),
                bound,
                seconds=result.seconds,
                details=details,
            )
        )
    return rows


def table(folder: Path = RESULTS) -> str:
    """The table of all results."""
    lines = ["| method | input | measure | reached | wanted | seconds |", "|---|---|---|---|---|---|"]
    for path in sorted(folder.glob("*.json")):
        results = json.loads(path.read_text())
        lines += [_line(results["method"], row) for row in results["rows"]]
    return "\n".join(lines)


def updated(page: str) -> str:
    """The text of docs/quality.md with the table between its markers written again."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _line(name: str, row: dict[str, Any]) -> str:
    wanted = ""
    if row["wanted"] is not None:
        sign = "≥" if row["at_least"] else "≤"
        wanted = f"{sign} {row['wanted']:.4g}" + ("" if row["holds"] else " (missed)")
    seconds = "" if row["seconds"] is None else f"{row['seconds']:.3g}"
    return f"| {name} | {row['input']} | {row['measure']} | **{row['value']:.4g}** | {wanted} | {seconds} |"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main(names: list[str]) -> int:
    """Measure the methods of these names, or all; the exit code."""
    unknown = sorted(set(names) - set(METHODS))
    if unknown:
        print(f"no method {unknown[0]!r}: expected {', '.join(METHODS)}", file=sys.stderr)
        return 2
    for name in names or METHODS:
        results = measured(name)
        for row in results["rows"]:
            print(_line(name, row))
        try:
            save(results)
        except ValueError as error:
            print(f"not saved: {error}", file=sys.stderr)
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
