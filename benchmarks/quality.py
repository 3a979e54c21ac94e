"""Measures what the methods reach: `python benchmarks/quality.py [METHOD ...]`; all when none is named.

Writes results/quality/<method>.json and the table of docs/quality.md. A method is a function here with the decorator
`@method`; it returns or yields its `Row`s, and each is saved as it comes. Real meshes come from the folder that
RECON_DATA names; without it their rows stay as they are.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/quality"
PAGE = ROOT / "docs/quality.md"


@dataclass(frozen=True)
class Row:
    """One measurement.

    Fields:
        input: what the method was given.
        measure: what was measured, and its unit.
        value: what was reached.
        wanted: the bound that the value is held against; None where there is none.
        at_least: the bound is a lower one; an upper one otherwise.
        seconds: of the processor, all threads added, that the method took for this input.
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


METHODS: dict[str, Callable[[], Iterable[Row]]] = {}


def method(measure: Callable[[], Iterable[Row]]) -> Callable[[], Iterable[Row]]:
    """Register a function under its name, with dashes for underscores."""
    METHODS[measure.__name__.replace("_", "-")] = measure
    return measure


def data(*parts: str) -> Path | None:
    """A file below RECON_DATA; None where that is not set or has no such file."""
    folder = os.environ.get("RECON_DATA")
    path = Path(folder, *parts) if folder else None
    return path if path is not None and path.is_file() else None


def save(name: str, row: Row, folder: Path = RESULTS) -> None:
    """Put a row into the JSON file of a method, in the place of what was measured for the same input before."""
    import torch

    from recon_engine.report import versions

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    measured = {**asdict(row), "holds": row.holds}
    places = [i for i, old in enumerate(rows) if (old["input"], old["measure"]) == (row.input, row.measure)]
    if places:
        rows[places[0]] = measured
    else:
        rows.append(measured)
    machine = {"processor": processor(), "threads": torch.get_num_threads()}
    results = {"method": name, "rows": rows, "machine": machine, "versions": versions()}
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def timed(fit: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, float]:
    """What a call returns, and its seconds of the processor: others on the machine hardly change them."""
    began = time.process_time()
    result = fit(*arguments, **options)
    return result, round(time.process_time() - began, 1)


def _cow() -> Any:
    """The cow of the book, in its colours; None without RECON_DATA."""
    from recon_engine import load

    path = data("book", "chap2", "data", "cow_mesh", "cow.obj")
    return None if path is None else load(path)


@method
def pose() -> Iterator[Row]:
    """Of 50 cameras in random directions, at random distances, how many are found from random starts."""
    from recon_engine import load
    from recon_engine.methods.pose import pose_settings

    teapot = data("book", "chap4", "data", "teapot.obj")
    if teapot is not None:
        yield _poses("teapot, silhouettes", load(teapot), pose_settings(), wanted=48)
    cow = _cow()
    if cow is not None:
        yield _poses("cow, silhouettes", cow, pose_settings(), wanted=48)
    if teapot is not None:
        # As documented but for the units, so that all cameras look at the same place: one start, 200 steps, no search.
        single = pose_settings("documented", framed=True, start=(3.0, 6.9, 2.5))
        yield _poses("teapot, silhouettes, the one documented start", load(teapot), single)
    if cow is not None:
        yield _poses("cow, silhouettes and colours", cow, pose_settings(texture=True), wanted=48)


def _poses(name: str, mesh: Any, settings: Any, wanted: float | None = None, count: int = 50) -> Row:
    """How many of `count` cameras are found within 2 degrees and 2 percent of the distance."""
    from dataclasses import replace

    import torch

    from recon_engine.methods.pose import Orbit, PoseFit, angle_between, observe

    generator = torch.Generator().manual_seed(1)
    errors, began = [], time.process_time()
    for i in range(count):
        direction = torch.randn(3, generator=generator)
        distance = 2.2 + 1.8 * torch.rand((), generator=generator)
        true = Orbit.from_position((direction / direction.norm() * distance)[None])
        fit = PoseFit(mesh, observe(mesh, true, settings), replace(settings, seed=i))
        for _ in fit:
            pass
        result = fit.result()
        R, _ = true.rotation_translation(fit.scene.half_width)
        percent = 100 * float((result.distance / (distance * fit.scene.scale) - 1).abs())
        errors.append((round(float(angle_between(result.R, R)), 3), round(percent, 3)))
    seconds = (time.process_time() - began) / count
    missed = {f"camera {i}": error for i, error in enumerate(errors) if max(error) > 2}
    degrees, percents = (sorted(column) for column in zip(*errors))
    details = {"median_degrees": degrees[count // 2], "median_distance_percent": percents[count // 2], "missed": missed}
    measure = f"of {count} cameras within 2° and 2 %"
    return Row(name, measure, count - len(missed), wanted, True, round(seconds, 2), details)


@method
def align() -> Iterator[Row]:
    """The documented displacement with noise of variance 0.1, and rigid maps; errors are lengths."""
    from dataclasses import replace

    import torch

    from recon_engine.methods.align import align_settings, built_in, displaced, from_shapes, load_shapes

    count = 5
    files = [data("book", "chap2", "data", f"{name}.obj") for name in ("cube", "diamond", "dodecahedron")]
    cases = [("solids of 1,800 vertices", built_in(), 0.05)]
    if None not in files:
        cases.append(("the book's solids, 34 vertices", load_shapes(files), None))
    for name, shapes, wanted in cases:
        began, errors, ideal = time.process_time(), [], []
        for seed in range(count):
            settings = replace(align_settings(), seed=seed)
            errors.append(float(from_shapes(shapes, settings).errors[0]))
            true, targets = displaced(shapes, settings)
            moved = zip(targets.verts, shapes.verts, strict=True)
            ideal.append(float((torch.cat([a - b for a, b in moved]).mean(0) - true.T[0]).norm()))
        seconds = (time.process_time() - began) / count
        details = {
            "errors": [round(error, 4) for error in errors],
            "mean_length_of_the_mean_noise": round(sum(ideal) / count, 4),
        }
        yield Row(
            f"[3, 4, 5], {name}",
            f"mean error of {count} seeds",
            sum(errors) / count,
            wanted,
            False,
            round(seconds, 2),
            details,
        )
    began = time.process_time()
    shapes = built_in(rigid=True)
    errors = [float(from_shapes(shapes, align_settings(rigid=True, seed=seed)).errors.max()) for seed in range(count)]
    seconds = round((time.process_time() - began) / count, 2)
    yield Row("rigid, solids and the building", f"largest error of {count} seeds", max(errors), 0.05, False, seconds)


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
        result, seconds = timed(from_mesh, mesh, view_settings(**changes), show_progress=True)
        details = {
            "psnr_min": float(result.psnr.min()),
            "psnr_inside_mean": float(result.psnr_inside.mean()),
            "iou_mean": float(result.iou.mean()),
            "iterations": result.history.length,
        }
        psnr = float(result.psnr.mean())
        rows.append(Row(name, "PSNR of 10 held-out views, dB", psnr, wanted, seconds=seconds, details=details))
    return rows


@method
def build() -> Iterator[Row]:
    """Silhouettes of the reconstruction in the 20 views it was made from, and how far its surface is from the truth."""
    from recon_engine import load
    from recon_engine.methods.build import from_mesh, mesh_settings
    from recon_engine.methods.shapes import building

    teapot, cow = data("book", "chap4", "data", "teapot.obj"), _cow()
    cases = [("cow", cow, 0.97), ("teapot", None if teapot is None else load(teapot), 0.95)]
    cases += [("the built-in building", building(), 0.95)]
    for name, mesh, wanted in cases:
        if mesh is None:
            continue
        for coarse in (False, True):
            settings = mesh_settings(coarse_to_fine=coarse)
            result, seconds = timed(from_mesh, mesh, settings, show_progress=True)
            details = {
                "iou_min": float(result.iou.min()),
                "iou_unseen": result.unseen_iou,
                "iterations": result.history.length,
            }
            title = f"{name}, 20 views of 128 x 128" + (", coarse to fine" if coarse else "")
            iou = float(result.iou.mean())
            yield Row(title, "mean IoU of silhouettes", iou, wanted, seconds=seconds, details=details)
            yield Row(title, "chamfer, both ways, half extent 0.5", float(result.chamfer))


@method
def fit_points() -> Iterator[Row]:
    """The book's pedestrian, held against the book's own results; a mesh; noisy points of a known surface."""
    from recon_engine.methods.shapes import building

    if data("book", "chap3", "pedestrian.ply") is not None:
        yield from _pedestrian()
    cow = _cow()
    if cow is not None:
        yield _wrapped("cow, points of its surface", cow)
    yield _wrapped("20,000 points of the built-in building with noise", building(), noise=0.01)


def _pedestrian(count: int = 3) -> Iterator[Row]:
    """The book's three weightings. It has one mesh of each; ours are those of several seeds."""
    from recon_engine.io import load_ply
    from recon_engine.methods.fit_points import fit_points, fit_settings, measure
    from recon_engine.structures import Meshes

    cloud, _ = load_ply(data("book", "chap3", "pedestrian.ply"))
    center = cloud.mean(0)
    scale = (cloud - center).abs().max()
    presets = ("deform1", "deform2", "deform3")
    for preset, changes in [*((preset, {}) for preset in presets), ("deform2", {"iterations": 3000})]:
        verts, faces = load_ply(data("book", "chap3", f"{preset}.ply"))
        book = measure(Meshes([(verts - center) / scale], [faces]), (cloud - center) / scale)
        settings = [fit_settings(preset, seed=seed, **changes) for seed in range(count)]
        fits = [timed(fit_points, cloud, settings=some) for some in settings]
        measures = [fit.measures for fit, _ in fits]
        means = {name: round(sum(getattr(m, name) for m in measures) / count, 6) for name in book._fields}
        rounded = {name: round(value, 6) for name, value in book._asdict().items()}
        details = {"chamfers": [round(m.chamfer, 6) for m in measures], "means": means, "the_books": rounded}
        seconds = sum(seconds for _, seconds in fits) / count
        words = "".join(f", {value} {name}" for name, value in changes.items())
        name = f"pedestrian, 239 points, {preset}{words}"
        yield Row(name, f"mean chamfer of {count} seeds", means["chamfer"], book.chamfer, False, seconds, details)
    found: dict[str, list[Any]] = {preset: [] for preset in presets}
    for preset in presets:  # as many points of the surface a step as the book draws
        for seed in range(count):
            found[preset].append(fit_points(cloud, settings=fit_settings(preset, seed=seed, samples=239)).measures)
    ordered = sum(
        two.chamfer < three.chamfer < one.chamfer
        and one.edge < three.edge < two.edge
        and one.roughness < three.roughness < two.roughness
        for one, two, three in zip(*found.values(), strict=True)
    )
    details = {preset: [{k: round(v, 6) for k, v in m._asdict().items()} for m in found[preset]] for preset in presets}
    label = f"of {count} seeds in the book's order by chamfer, mean edge and roughness"
    yield Row("pedestrian, the three weightings, 239 samples", label, ordered, count, details=details)


def _wrapped(name: str, mesh: Any, noise: float = 0.0) -> Row:
    """Between the result and the surface that the points are of, in units of its half extent."""
    import torch

    from recon_engine.methods.fit_points import fit_points, fit_settings
    from recon_engine.ops import closest_points_on_mesh, sample_points_from_meshes

    torch.manual_seed(0)
    verts, faces = mesh.verts_packed(), mesh.faces_packed()
    scale = float((verts - verts.mean(0)).abs().max())

    def squared(points: Any, surface: Any) -> float:
        closest = closest_points_on_mesh(points, surface.verts_packed(), surface.faces_packed()).points
        return float((points - closest).square().sum(1).mean()) / scale**2

    points = sample_points_from_meshes(mesh, 20_000)[0]
    given = points + noise * scale * torch.randn_like(points)
    target = (given, None) if noise else (verts, faces)
    result, seconds = timed(fit_points, *target, fit_settings(), show_progress=True)
    found = sample_points_from_meshes(result.mesh, 20_000)[0]
    ways = {"result_to_surface": squared(found, mesh), "surface_to_result": squared(points, result.mesh)}
    details = {**ways, "roughness": result.measures.roughness, "iterations": result.history.length}
    if noise:
        details |= {"noise": noise, "points_to_surface": squared(given, mesh)}
    return Row(name, "chamfer to the surface itself", sum(ways.values()), None, False, seconds, details)


@method
def volume() -> Iterator[Row]:
    """Held-out views of a cow that was fitted to 40 views, and of the building."""
    from recon_engine.methods.shapes import building
    from recon_engine.methods.volume import from_mesh, volume_settings

    cow = _cow()
    cases = [("the built-in building, 40 views", building(colors=True), None)]
    if cow is not None:
        cases.insert(0, ("cow, 40 views", cow, 27.0))
    for name, mesh, wanted in cases:
        yield _field(name, *timed(from_mesh, mesh, volume_settings(), show_progress=True), wanted)


@method
def nerf() -> Iterator[Row]:
    """Held-out views of what a minute on a CPU gives. The full fit is for a GPU."""
    from recon_engine.methods.nerf import from_mesh, nerf_settings

    cow = _cow()
    if cow is not None:
        settings = nerf_settings(fast=True)
        name = f"cow, {settings.views} views of {settings.image_size} x {settings.image_size}, --fast"
        yield _field(name, *timed(from_mesh, cow, settings, show_progress=True))


def _field(name: str, result: Any, seconds: float, wanted: float | None = None) -> Row:
    """The row of the fit of a volume or of a radiance field."""
    details = {
        "psnr_min": float(result.psnr.min()),
        "psnr_inside_mean": float(result.psnr_inside.mean()),
        "iou_mean": float(result.iou.mean()),
        "iterations": result.history.length,
    }
    measure = f"PSNR of {len(result.psnr)} held-out views, dB"
    return Row(name, measure, float(result.psnr.mean()), wanted, seconds=seconds, details=details)


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
        result, seconds = timed(from_images, cutouts, elevation, given, chosen, show_progress=True)
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
                seconds=seconds,
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


def spliced(page: str, name: str, text: str) -> str:
    """A page with other text between the markers of a name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{text}\n{end}{after}"


def updated(page: str) -> str:
    """The text of docs/quality.md with its first table written again."""
    return spliced(page, "quality", table())


def processor() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _line(name: str, row: dict[str, Any]) -> str:
    wanted = ""
    if row["wanted"] is not None:
        sign = "≥" if row["at_least"] else "≤"
        wanted = f"{sign} {row['wanted']:.4g}" + ("" if row["holds"] else " (missed)")
    seconds = "" if row["seconds"] is None else f"{row['seconds']:.3g}"
    return f"| {name} | {row['input']} | {row['measure']} | **{row['value']:.4g}** | {wanted} | {seconds} |"


def main(names: list[str]) -> int:
    """Measure the methods of these names, or all; the exit code."""
    unknown = sorted(set(names) - set(METHODS))
    if unknown:
        print(f"no method {unknown[0]!r}: expected {', '.join(METHODS)}", file=sys.stderr)
        return 2
    for name in names or METHODS:
        for row in METHODS[name]():
            save(name, row)
            print(_line(name, {**asdict(row), "holds": row.holds}), flush=True)
            PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
