"""The results folder of a reconstruction: mesh, curves, pictures, turntable, numbers and the report."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recon_engine.io import save_obj
from recon_engine.ops import closest_points_on_mesh
from recon_engine.report import Number, Picture, Report, versions
from recon_engine.structures import Meshes

from .. import _pictures as pictures
from .closed import enclosed_volume, is_watertight, reclosed
from .fit import BuildResult
from .outlines import placed

_FILES = {
    "mesh.obj": "the reconstruction, at the input's scale",
    "losses.csv": "every loss of every iteration",
    "losses.png": "the same as curves",
    "silhouettes.png": "target, result and difference of every view",
    "turntable.gif": "the reconstruction, turning",
    "metrics.json": "the numbers of this page, the settings and the versions",
}
_COLORS = {
    "in both": pictures.BOTH,
    "in the target only": pictures.TARGET_ONLY,
    "in the result only": pictures.RESULT_ONLY,
}
_DISTANCE = 2.7  # of the cameras of all pictures
_WHOLE_CUBE = 42.0  # a field of view that holds the cube from -0.5 to 0.5 from every side
_SHOWN = ((20.0, 30.0), (20.0, 150.0), (20.0, -90.0), (60.0, 30.0))  # elevation and azimuth of the shaded views


def save_results(result: BuildResult, folder: Path, source: str) -> None:
    """Write everything that a reconstruction leaves behind.

    Args:
        result: of `from_mesh` or `from_images`.
        folder: exists, and is best the work folder of an atomic results folder.
        source: what was reconstructed, for the report's title.

    Raises:
        ImportError: pillow or matplotlib is missing; names the pip line.
    """
    closed = reclosed(result.fitted) if result.settings.watertight else None
    save_obj(str(folder / "mesh.obj"), result.mesh.verts_packed(), result.mesh.faces_packed())
    if closed is not None:
        at_place = placed(closed, result.frame)
        save_obj(str(folder / "watertight.obj"), at_place.verts_packed(), at_place.faces_packed())
    result.history.save_csv(folder / "losses.csv")
    result.history.save_png(folder / "losses.png", f"Reconstruction of {source}")
    strips = pictures.compared(result.targets, result.silhouettes)
    (folder / "silhouettes.png").write_bytes(pictures.png(pictures.tiled(strips, columns=4)))
    # The cut-outs of photographs come without the object's shape: only the result can turn.
    turning = [mesh for mesh in (result.target, result.fitted) if mesh is not None]
    frames = pictures.turntable(turning, fov=_shown_fov(result))
    pictures.save_gif(folder / "turntable.gif", frames)
    if result.settings.refine_cameras:
        _save_cameras(result, folder / "cameras.csv")
    metrics = _metrics(result, source, closed)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    _report(result, folder, source, strips, closed).save(folder / "report.html")


def _save_cameras(result: BuildResult, path: Path) -> None:
    """A CSV of the cameras as they were found, which `load_angles` reads."""
    views = result.views
    distances = torch.as_tensor(views.distance).expand(len(views))
    columns = (views.azimuth, views.elevation, distances)
    rows = zip(result.names, *(column.tolist() for column in columns), strict=True)
    lines = ["file,azimuth,elevation,distance,fov"]
    lines += [f"{name},{a:.4f},{e:.4f},{d:.5f},{views.fov:.4f}" for name, a, e, d in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _shown_fov(result: BuildResult) -> float:
    """A field of view, in degrees, that holds the sphere around object and result, whatever the fit's cameras saw."""
    shown = [mesh for mesh in (result.target, result.fitted) if mesh is not None]
    radius = max(float(mesh.verts_packed().norm(dim=1).max()) for mesh in shown)
    return 1.06 * math.degrees(2 * math.asin(min(radius / _DISTANCE, 0.9)))


def _azimuth_change(result: BuildResult) -> Tensor:
    """(N,) degrees."""
    return result.views.azimuth - result.given.azimuth.to(result.views.azimuth)


def _metrics(result: BuildResult, source: str, closed: Meshes | None) -> dict[str, object]:
    columns = (result.views.elevation, result.views.azimuth, result.iou)
    per_view = [
        {"view": name, "elevation": elevation, "azimuth": azimuth, "iou": iou}
        for name, elevation, azimuth, iou in zip(result.names, *(column.tolist() for column in columns), strict=True)
    ]
    return {
        "source": source,
        "iterations": result.history.length,
        "interrupted": result.interrupted,
        "seconds": round(result.seconds, 3),
        "silhouette_iou_mean": float(result.iou.mean()),
        "silhouette_iou_min": float(result.iou.min()),
        "silhouette_iou_mean_at_start": float(result.start_iou.mean()),
        "cameras_refined": result.settings.refine_cameras,
        "azimuth_change_mean": float(_azimuth_change(result).abs().mean()),
        "silhouette_iou_mean_unseen_views": result.unseen_iou,
        "chamfer": result.chamfer,
        "watertight": is_watertight(result.mesh),
        "volume": enclosed_volume(result.mesh),
        "reclosed": None if closed is None else _reclosed(result, closed),
        "starts": [_reached(each) for each in result.compared or (result,)],
        "fov": result.views.fov,
        "cameras": _cameras(result),
        "silhouette_iou": per_view,
        "settings": asdict(result.settings),
        "versions": versions(),
    }


def _reclosed(result: BuildResult, closed: Meshes) -> dict[str, object]:
    """What the closed surface without self-intersections is like, and how far it is from the mesh at most."""
    found = closest_points_on_mesh(closed.verts_packed(), result.fitted.verts_packed(), result.fitted.faces_packed())
    return {
        "faces": len(closed.faces_packed()),
        "watertight": is_watertight(closed),
        "volume": enclosed_volume(placed(closed, result.frame)),
        "distance_max": float(found.distance.max()) * result.frame.scale,
    }


def _reached(result: BuildResult) -> dict[str, object]:
    """What was reached from one start."""
    return {
        "start": result.start_name,
        "silhouette_iou_mean": float(result.iou.mean()),
        "silhouette_iou_min": float(result.iou.min()),
        "silhouette_iou_mean_unseen_views": result.unseen_iou,
        "chamfer": result.chamfer,
        "loss": result.history.last(),
    }


def _cameras(result: BuildResult) -> list[dict[str, object]]:
    """R, T and field of view of each view's camera at the place and scale of the mesh.

    There x = x_fit Q * scale + center, so x_view = (x - center) Q^T R + scale T.
    """
    center, scale, turn = result.frame
    R, T = result.views.rotation_translation()
    R = turn.cpu().T @ R
    T = scale * T - center.cpu() @ R
    return [
        {"view": name, "R": r, "T": t, "fov": result.views.fov}
        for name, r, t in zip(result.names, R.tolist(), T.tolist(), strict=True)
    ]


def _report(result: BuildResult, folder: Path, source: str, strips: np.ndarray, closed: Meshes | None) -> Report:
    steps = result.history.length
    report = Report(
        f"Reconstruction of {source}",
        f"{result.start_name.capitalize()}, deformed in {steps} iterations until its silhouettes matched those of the "
        f"object in {len(result.names)} views.",
    )
    if result.interrupted:
        report.notice(f"The run was stopped after {steps} of {result.settings.iterations} iterations.")
    report.numbers(_numbers(result))
    report.section("Shape", _shape_text(result))
    report.pictures(_shapes(result, folder, closed), cell=235)
    if result.compared:
        _compare_starts(report, result)
    report.section("Silhouettes", "Each strip shows the target, the result, and the two laid over each other.")
    report.key({text: f"rgb{color}" for text, color in _COLORS.items()})
    report.pictures(_silhouettes(result, strips), cell=330)
    report.section(
        "Intersection over union in each view",
        "Pixels in both silhouettes over pixels in either, silhouettes cut at one half. 1 is a perfect match.",
    )
    report.table(
        ["view", "elevation", "azimuth", *_moved_titles(result), "IoU at the start", "IoU"],
        _view_rows(result),
        bars=result.iou.tolist(),
    )
    report.losses(result.history.table())
    more = {"cameras.csv": "the cameras as they were found"} if result.settings.refine_cameras else {}
    if closed is not None:
        more["watertight.obj"] = "a closed surface without self-intersections around what mesh.obj encloses"
    report.appendix(asdict(result.settings), {**_FILES, **more})
    return report


def _compare_starts(report: Report, result: BuildResult) -> None:
    """The section on what was reached from each start."""
    report.section(
        "Start shapes",
        f"Both were deformed with the same settings and looked at the same views. The result began as "
        f"{result.start_name}, which ended with the higher mean IoU.",
    )
    measures = (
        ("total loss", "{:.5f}", lambda each: each.history.last()),
        ("chamfer", "{:.2e}", lambda each: each.chamfer),
        ("IoU in unseen views", "{:.4f}", lambda each: each.unseen_iou),
        ("worst IoU", "{:.4f}", lambda each: float(each.iou.min())),
        ("mean IoU", "{:.4f}", lambda each: float(each.iou.mean())),
    )
    known = [measure for measure in measures if measure[2](result) is not None]
    report.table(
        ["start", *(title for title, _, _ in known)],
        [[each.start_name, *(form.format(read(each)) for _, form, read in known)] for each in result.compared],
        bars=[float(each.iou.mean()) for each in result.compared],
    )
    fov = max(_shown_fov(each) for each in result.compared)
    shown = [_shaded(f"result of {each.start_name}", each.fitted, fov, _SHOWN[:2]) for each in result.compared]
    report.pictures([picture for pair in shown for picture in pair], cell=235)
    curves = {each.start_name: each.history.table()["total"] for each in result.compared}
    ends = ", ".join(f"{values[-1]:.3g} from {name}" for name, values in curves.items() if values)
    report.chart(curves, f"The total loss over {result.history.length} iterations. It ends at {ends}.")


def _numbers(result: BuildResult) -> list[Number]:
    numbers = [
        Number(
            "Silhouette IoU",
            f"{float(result.iou.mean()):.4f}",
            f"mean; {float(result.start_iou.mean()):.4f} at the start",
        ),
        Number("Worst view", f"{float(result.iou.min()):.4f}", "silhouette IoU"),
    ]
    if result.unseen_iou is not None:
        numbers.append(Number("Unseen views", f"{result.unseen_iou:.4f}", "silhouette IoU, views not fitted"))
    if result.settings.refine_cameras:
        change = _azimuth_change(result).abs()
        numbers.append(
            Number("Cameras", f"{float(change.mean()):.1f}°", f"moved sideways, at most {change.max():.1f}°")
        )
    if result.chamfer is not None:
        numbers.append(Number("Chamfer", f"{result.chamfer:.2e}", "to the input, squared, half extent 0.5"))
    rate = result.history.length / max(result.seconds, 1e-9)
    numbers.append(
        Number("Time", f"{result.seconds:.1f} s", f"{result.history.length} iterations, {rate:.0f} a second")
    )
    verts, faces = len(result.mesh.verts_packed()), len(result.mesh.faces_packed())
    closed = (
        f"watertight, volume {enclosed_volume(result.mesh):.4g}" if is_watertight(result.mesh) else "not watertight"
    )
    numbers.append(Number("Mesh", f"{faces:,}", f"faces, {verts:,} vertices; {closed}"))
    return numbers


def _shape_text(result: BuildResult) -> str:
    if result.target is None:
        return "The result, what it started from, and the result turning."
    return "The object above the result, from the same cameras. The fit saw silhouettes only, never the shape."


def _shapes(result: BuildResult, folder: Path, closed: Meshes | None) -> list[Picture]:
    """Shaded views of object and result from the same cameras, the start, what was closed, and the turntable."""
    fov = _shown_fov(result)
    shown = [] if result.target is None else _shaded("object", result.target, fov, _SHOWN)
    shown += _shaded("result", result.fitted, fov, _SHOWN)
    shown += _shaded("start", result.start, max(fov, _WHOLE_CUBE), _SHOWN[:1])
    if closed is not None:
        shown += _shaded("result in watertight.obj", closed, fov, _SHOWN[:1])
    turning = "The result" if result.target is None else "The object and, right of it, the result"
    gif = (folder / "turntable.gif").read_bytes()
    wide = result.target is not None
    return [*shown, Picture(gif, f"{turning}, turning once around the vertical axis", f"{turning}, turning", wide)]


def _shaded(name: str, mesh: Meshes, fov: float, angles: Sequence[tuple[float, float]]) -> list[Picture]:
    elevation, azimuth = zip(*angles, strict=True)
    return [
        Picture(
            pictures.png(view),
            f"The {name}, shaded, seen from elevation {e:.0f} and azimuth {a:.0f} degrees",
            f"{name} ({e:.0f}°, {a:.0f}°)",
        )
        for view, e, a in zip(pictures.shaded(mesh, elevation, azimuth, fov=fov), elevation, azimuth, strict=True)
    ]


def _silhouettes(result: BuildResult, strips: np.ndarray) -> list[Picture]:
    return [
        Picture(
            pictures.png(strip),
            f"{name}: silhouette of the target, of the result, and their difference; IoU {iou:.4f}",
            f"{name} · IoU {iou:.4f}",
        )
        for name, strip, iou in zip(result.names, strips, result.iou.tolist(), strict=True)
    ]


def _moved_titles(result: BuildResult) -> list[str]:
    return ["elevation as given", "azimuth as given"] if result.settings.refine_cameras else []


def _view_rows(result: BuildResult) -> list[list[str]]:
    given = [result.given.elevation, result.given.azimuth] if result.settings.refine_cameras else []
    angles = [result.views.elevation, result.views.azimuth, *given]
    formats = [*["{:.1f}°"] * len(angles), "{:.4f}", "{:.4f}"]
    columns = [*angles, result.start_iou, result.iou]
    return [
        [name, *(form.format(value) for form, value in zip(formats, values, strict=True))]
        for name, *values in zip(result.names, *(column.tolist() for column in columns), strict=True)
    ]
