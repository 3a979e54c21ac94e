"""The results folder of a fit: mesh, curves, pictures, turntable, numbers and the report."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np

from recon_engine.io import save_obj, save_ply
from recon_engine.renderer import FoVPerspectiveCameras, look_at_view_transform
from recon_engine.report import Number, Picture, Report, versions

from .. import _pictures as pictures
from .fit import FitPointsResult

_FILES = {
    "mesh.obj": "the fitted mesh, at the target's scale",
    "mesh.ply": "the same as ASCII PLY",
    "losses.csv": "every loss of every iteration",
    "losses.png": "the same as curves",
    "views.png": "the fitted mesh and the target's points",
    "turntable.gif": "the fitted mesh, turning",
    "metrics.json": "the numbers of this page, the settings and the versions",
}
_DISTANCE = 3.6  # of the cameras; the target's coordinates reach from -1 to 1
_SIZE = 320
_ELEVATION = (15.0, 15.0, 15.0, 75.0)
_AZIMUTH = (0.0, 60.0, 150.0, 0.0)
_DOTS = 3000


def save_results(result: FitPointsResult, folder: Path, source: str) -> None:
    """Write everything that a fit leaves behind.

    Args:
        result: of `fit_points`.
        folder: exists, and is best the work folder of an atomic results folder.
        source: what was fitted, for the report's title.

    Raises:
        ImportError: pillow or matplotlib is missing; names the pip line.
    """
    verts, faces = result.mesh.verts_packed(), result.mesh.faces_packed()
    save_obj(str(folder / "mesh.obj"), verts, faces)
    save_ply(str(folder / "mesh.ply"), verts, faces, ascii=True)
    result.history.save_csv(folder / "losses.csv")
    result.history.save_png(folder / "losses.png", f"Fit to {source}")
    views = _views(result)
    (folder / "views.png").write_bytes(pictures.png(pictures.tiled(views, columns=4)))
    frames = pictures.turntable([result.fitted], fov=_fov(result), distance=_DISTANCE)
    pictures.save_gif(folder / "turntable.gif", frames)
    (folder / "metrics.json").write_text(json.dumps(_metrics(result, source), indent=2) + "\n", encoding="utf-8")
    _report(result, folder, source, views).save(folder / "report.html")


def _fov(result: FitPointsResult) -> float:
    """The field of view, in degrees, that holds the fitted mesh and the target."""
    radius = max(float(points.norm(dim=1).max()) for points in (result.fitted.verts_packed(), result.points))
    return 1.06 * math.degrees(2 * math.asin(min(radius / _DISTANCE, 0.9)))


def _views(result: FitPointsResult) -> np.ndarray:
    """(4, S, S, 4): the fitted mesh with the target's points as dots over it."""
    shaded = pictures.shaded(result.fitted, _ELEVATION, _AZIMUTH, distance=_DISTANCE, fov=_fov(result), size=_SIZE)
    R, T = look_at_view_transform(_DISTANCE, _ELEVATION, _AZIMUTH)
    cameras = FoVPerspectiveCameras(R=R, T=T, fov=_fov(result))
    points = result.points[:: max(1, len(result.points) // _DOTS)].cpu()
    pixels = cameras.transform_points_screen(points.expand(len(R), -1, 3), image_size=(_SIZE, _SIZE))[..., :2]
    radius = 2 if len(points) < 1000 else 1
    for view, centers in zip(shaded, pixels.round().long().tolist(), strict=True):
        for x, y in centers:
            view[max(y - radius, 0) : y + radius, max(x - radius, 0) : x + radius] = (*pictures.RESULT_ONLY, 255)
    return shaded


def _metrics(result: FitPointsResult, source: str) -> dict[str, object]:
    return {
        "source": source,
        "iterations": result.history.length,
        "interrupted": result.interrupted,
        "seconds": round(result.seconds, 3),
        **result.measures._asdict(),
        "at_start": result.start_measures._asdict(),
        "settings": asdict(result.settings),
        "versions": versions(),
    }


def _report(result: FitPointsResult, folder: Path, source: str, views: np.ndarray) -> Report:
    steps = result.history.length
    report = Report(
        f"Fit to {source}", f"A sphere, deformed in {steps} iterations until its surface lay on the target."
    )
    if result.interrupted:
        report.notice(f"The run was stopped after {steps} of {result.settings.iterations} iterations.")
    rate = steps / max(result.seconds, 1e-9)
    report.numbers(
        [
            Number(
                "Chamfer",
                f"{result.measures.chamfer:.2e}",
                f"squared, both ways; {result.start_measures.chamfer:.2e} at the start",
            ),
            Number("Roughness", f"{result.measures.roughness:.3f}", "1 - cosine between neighbouring faces"),
            Number("Longest edge", f"{result.measures.longest_edge:.3f}", "in units of the target's half extent"),
            Number("Time", f"{result.seconds:.1f} s", f"{steps} iterations, {rate:.0f} a second"),
            Number(
                "Mesh", f"{len(result.mesh.faces_packed()):,}", f"faces, {len(result.mesh.verts_packed()):,} vertices"
            ),
        ]
    )
    report.section("Shape", "The fitted mesh with the points of the target over it, and the mesh turning.")
    gif = (folder / "turntable.gif").read_bytes()
    shown = [
        Picture(
            pictures.png(view),
            f"The fitted mesh and the target's points, seen from elevation {e:.0f} and azimuth {a:.0f} degrees",
            f"elevation {e:.0f}°, azimuth {a:.0f}°",
        )
        for view, e, a in zip(views, _ELEVATION, _AZIMUTH, strict=True)
    ]
    report.pictures(
        [*shown, Picture(gif, "The fitted mesh, turning once around the vertical axis", "turning")], cell=200
    )
    report.section("Measures", "Squared distances, in units of the target's half extent.")
    report.table(
        ["measure", "start", "result"],
        [
            [name.replace("_", " "), f"{before:.6f}", f"{after:.6f}"]
            for (name, before), after in zip(result.start_measures._asdict().items(), result.measures, strict=True)
        ],
    )
    report.losses(result.history.table())
    report.appendix(asdict(result.settings), _FILES)
    return report
