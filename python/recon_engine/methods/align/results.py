"""The results folder of an alignment: maps, moved shapes, curves, pictures, numbers and the report."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recon_engine.io import save_obj, save_ply
from recon_engine.renderer import TexturesVertex
from recon_engine.report import Number, Picture, Report, versions
from recon_engine.structures import Meshes

from .. import _pictures as pictures
from ..shapes import octahedron
from .fit import AlignResult
from .shapes import Shapes

_FILES = {
    "alignment.json": "R, T and s of each source: x is moved to s x R + T",
    "losses.csv": "the loss of every iteration",
    "losses.png": "the same as a curve",
    "pictures.png": "every pair before and after",
    "metrics.json": "the numbers of this page, the settings and the versions",
}
_COLORS = {"source": pictures.RESULT_ONLY, "target": pictures.TARGET_ONLY}
_DOTS = 1500  # of a point cloud in a picture
_SHOWN = ((20.0, 30.0), (20.0, 120.0))  # elevation and azimuth
_DISTANCE = 2.7
_SIZE = 320


def save_results(result: AlignResult, folder: Path, source: str) -> None:
    """Write everything that an alignment leaves behind.

    Args:
        result: of `align` or `from_shapes`.
        folder: exists, and is best the work folder of an atomic results folder.
        source: what was aligned, for the report's title.

    Raises:
        ImportError: pillow or matplotlib is missing; names the pip line.
    """
    files = {**_save_shapes(result.moved, folder), **_FILES}
    pairs = _pairs(result)
    (folder / "alignment.json").write_text(json.dumps(pairs, indent=2) + "\n", encoding="utf-8")
    result.history.save_csv(folder / "losses.csv")
    result.history.save_png(folder / "losses.png", f"Alignment of {source}")
    views = [_views(result.sources, result.targets, i) for i in range(len(pairs))]
    moved = [_views(result.moved, result.targets, i) for i in range(len(pairs))]
    sheet = np.concatenate([np.concatenate(pair) for pair in zip(views, moved, strict=True)])
    (folder / "pictures.png").write_bytes(pictures.png(pictures.tiled(sheet, columns=2 * len(_SHOWN))))
    (folder / "metrics.json").write_text(json.dumps(_metrics(result, source, pairs), indent=2) + "\n", encoding="utf-8")
    _report(result, source, views, moved, files).save(folder / "report.html")


def _save_shapes(moved: Shapes, folder: Path) -> dict[str, str]:
    """Meshes as OBJ, clouds as PLY; their file names and what they hold."""
    files = {}
    for i, (name, verts, faces) in enumerate(zip(moved.names, moved.verts, moved.faces, strict=True)):
        file = f"moved{i + 1}.{'obj' if len(faces) else 'ply'}"
        if len(faces):
            save_obj(str(folder / file), verts, faces)
        else:
            save_ply(str(folder / file), verts, ascii=True)
        files[file] = f"{name}, moved onto its target"
    return files


def _views(sources: Shapes, targets: Shapes, i: int) -> np.ndarray:
    """(len(_SHOWN), S, S, 4): a source and a target together."""
    verts, faces, colors, count = [], [], [], 0
    both = torch.cat([sources.verts[i], targets.verts[i]])
    low, high = both.amin(0), both.amax(0)
    center, radius = (low + high) / 2, max(float((high - low).norm()) / 2, 1e-30)
    for shapes, color in zip((sources, targets), _COLORS.values(), strict=True):
        v, f = _body((shapes.verts[i] - center) / radius, shapes.faces[i])
        verts.append(v)
        faces.append(f + count)
        colors.append(torch.tensor(color, device=v.device).expand(len(v), 3) / 255)
        count += len(v)
    mesh = Meshes([torch.cat(verts)], [torch.cat(faces)], TexturesVertex([torch.cat(colors)]))
    elevation, azimuth = zip(*_SHOWN, strict=True)
    fov = 1.05 * math.degrees(2 * math.asin(1 / _DISTANCE))
    return pictures.shaded(mesh, elevation, azimuth, distance=_DISTANCE, fov=fov, size=_SIZE)


def _body(verts: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """The mesh; small octahedra for the points of a cloud."""
    if len(faces):
        return verts, faces
    points = verts[:: max(1, len(verts) // _DOTS)]
    dot = octahedron(device=verts.device)
    corners = points[:, None] + 0.012 * dot.verts_packed()
    numbers = dot.faces_packed() + 6 * torch.arange(len(points), device=verts.device)[:, None, None]
    return corners.reshape(-1, 3), numbers.reshape(-1, 3)


def _pairs(result: AlignResult) -> list[dict[str, object]]:
    pairs: list[dict[str, object]] = [
        {"source": source, "target": target, "R": R, "T": T, "s": s, "distance": distance, "distance_at_start": start}
        for source, target, R, T, s, distance, start in zip(
            result.sources.names,
            result.targets.names,
            *(x.tolist() for x in (result.R, result.T, result.s, result.distance, result.start_distance)),
            strict=True,
        )
    ]
    if result.errors is not None:
        for pair, error in zip(pairs, result.errors.tolist(), strict=True):
            pair["error"] = error
    return pairs


def _metrics(result: AlignResult, source: str, pairs: list[dict[str, object]]) -> dict[str, object]:
    return {
        "source": source,
        "iterations": result.history.length,
        "interrupted": result.interrupted,
        "seconds": round(result.seconds, 3),
        "error_max": None if result.errors is None else float(result.errors.max()),
        "distance_mean": float(result.distance.mean()),
        "pairs": pairs,
        "settings": asdict(result.settings),
        "versions": versions(),
    }


def _report(
    result: AlignResult, source: str, views: list[np.ndarray], moved: list[np.ndarray], files: dict[str, str]
) -> Report:
    steps, settings = result.history.length, result.settings
    found = "a displacement" if not settings.rigid else "a rotation and a displacement"
    shared = " for all together" if settings.shared and not settings.rigid else " for each"
    how = "closest points" if settings.rigid else "points drawn from both surfaces"
    report = Report(
        f"Alignment of {source}",
        f"{len(result.sources)} shapes in one batch, moved onto their targets in {steps} iterations: {found}{shared}, "
        f"by {how}.",
    )
    if result.interrupted:
        report.notice(f"The run was stopped after {steps} of {settings.iterations} iterations.")
    report.numbers(_numbers(result))
    report.section("Before and after", "Source and target from two sides, before the alignment and after it.")
    report.key({text: f"rgb{color}" for text, color in _COLORS.items()})
    shown = []
    for i, name in enumerate(result.sources.names):
        both = [("before", view) for view in views[i]] + [("after", view) for view in moved[i]]
        shown += [
            Picture(pictures.png(view), f"{name} and its target {when}", f"{name}, {when}") for when, view in both
        ]
    report.pictures(shown, cell=220)
    report.section("Pairs", "A point x of a source is moved to s x R + T.")
    report.table(*_table(result))
    report.losses(result.history.table())
    report.appendix(asdict(settings), files)
    return report


def _numbers(result: AlignResult) -> list[Number]:
    numbers = []
    if result.errors is not None:
        note = "of a vertex, from where it should be" if result.settings.rigid else "of the displacement"
        numbers.append(Number("Error", f"{float(result.errors.max()):.4f}", note))
    if result.settings.shared and not result.settings.rigid:
        numbers.append(Number("Displacement", _vector(result.T[0], 3), "x, y, z"))
    numbers.append(
        Number(
            "Distance",
            f"{float(result.distance.mean()):.4g}",
            f"root mean square; {float(result.start_distance.mean()):.4g} at the start",
        )
    )
    rate = result.history.length / max(result.seconds, 1e-9)
    numbers.append(
        Number("Time", f"{result.seconds:.1f} s", f"{result.history.length} iterations, {rate:.0f} a second")
    )
    return numbers


def _table(result: AlignResult) -> tuple[list[str], list[list[str]]]:
    header = ["source", "target", "displacement", "turned by", "scale", "distance before", "after"]
    # The trace of a rotation is 1 + 2 cos(angle).
    trace = result.R.diagonal(dim1=1, dim2=2).sum(1)
    degrees = ((trace - 1) / 2).clamp(-1, 1).acos().rad2deg()
    rows = [
        [
            result.sources.names[i],
            result.targets.names[i],
            _vector(result.T[i], 4),
            f"{float(degrees[i]):.2f}°",
            f"{float(result.s[i]):.4g}",
            f"{float(result.start_distance[i]):.4g}",
            f"{float(result.distance[i]):.4g}",
        ]
        for i in range(len(result.sources))
    ]
    if result.errors is not None:
        header.append("error")
        rows = [[*row, f"{error:.4f}"] for row, error in zip(rows, result.errors.tolist(), strict=True)]
    return header, rows


def _vector(values: Tensor, digits: int) -> str:
    return ", ".join(f"{value:.{digits}g}" for value in values.tolist())
