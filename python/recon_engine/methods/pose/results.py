"""The results folder of a pose: cameras, curves, pictures, film, numbers and the report."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recon_engine.report import Number, Picture, Report, versions

from .. import _pictures as pictures
from .._run import extra
from .cameras import centers
from .fit import PoseResult

_FILES = {
    "cameras.json": "R, T and field of view of each camera; x_camera = x_object R + T, x to the left, y up, z forward",
    "losses.csv": "the losses of the best camera in every iteration",
    "losses.png": "the same as curves",
    "pictures.png": "picture, result and the difference of their silhouettes",
    "fitting.gif": "the first camera being found",
    "metrics.json": "the numbers of this page, the settings and the versions",
}
_COLORS = {
    "in both": pictures.BOTH,
    "in the picture only": pictures.TARGET_ONLY,
    "in the result only": pictures.RESULT_ONLY,
}
_SHOWN = 24  # pictures in the report, at most


def save_results(result: PoseResult, folder: Path, source: str) -> None:
    """Write everything that an estimate leaves behind.

    Args:
        result: of `from_pictures` or `from_mesh`.
        folder: exists, and is best the work folder of an atomic results folder.
        source: what was looked at, for the report's title.

    Raises:
        ImportError: pillow or matplotlib is missing; names the pip line.
    """
    cameras = _cameras(result)
    (folder / "cameras.json").write_text(json.dumps(cameras, indent=2) + "\n", encoding="utf-8")
    result.history.save_csv(folder / "losses.csv")
    result.history.save_png(folder / "losses.png", f"Camera of {source}")
    strips = _strips(result.observed, result.rendered)
    (folder / "pictures.png").write_bytes(pictures.png(pictures.tiled(strips, columns=2)))
    pictures.save_gif(folder / "fitting.gif", _film(result))
    files = dict(_FILES)
    if len(result.names) > 1:
        pictures.save_gif(folder / "sequence.gif", list(pictures.on_paper(strips)), milliseconds=160)
        files["sequence.gif"] = "the pictures with the results beside them, one after the other"
    if len(result.landscape):
        _save_landscape(result, folder / "search.png")
        files["search.png"] = "the loss of every camera of the first search"
    (folder / "metrics.json").write_text(
        json.dumps(_metrics(result, source, cameras), indent=2) + "\n", encoding="utf-8"
    )
    _report(result, folder, source, strips, files).save(folder / "report.html")


def _strips(observed: Tensor, rendered: Tensor) -> np.ndarray:
    """(N, S, 3 S, 4): picture, result, and the difference of their silhouettes."""
    difference = pictures.compared(observed[..., 3], rendered[..., 3])[:, :, 2 * observed.shape[2] :]
    return np.concatenate([_straight(observed), _straight(rendered), difference], 2)


def _straight(rgba: Tensor) -> np.ndarray:
    """uint8 with straight alpha, of colours on white."""
    alpha = rgba[..., 3:]
    return pictures.as_bytes(torch.cat([1 - (1 - rgba[..., :3]) / alpha.clamp(min=1e-6), alpha], -1))


def _film(result: PoseResult) -> list[np.ndarray]:
    """Frames of picture, result so far, and difference; the last one stays for a second."""
    size = result.film.shape[1]
    seen = torch.nn.functional.adaptive_avg_pool2d(result.observed[:1].permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
    frames = list(pictures.on_paper(_strips(seen.expand(len(result.film), -1, -1, -1), result.film)))
    return frames + 10 * frames[-1:]


def _save_landscape(result: PoseResult, path: Path) -> None:
    """The losses of the search as a map of the sphere."""
    figure = extra("matplotlib.figure", "vis").Figure(figsize=(8, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    order = result.landscape[:, 2].argsort(descending=True)  # the best on top
    azimuth, elevation, loss = result.landscape[order].unbind(1)
    dots = axes.scatter(azimuth, elevation, c=loss.log10(), cmap="viridis_r", s=60, linewidths=0)
    axes.plot(result.azimuth[:1].cpu() % 360, result.elevation[:1].cpu(), "+", color="#d55e00", markersize=18, mew=2.5)
    axes.set(
        xlim=(0, 360),
        ylim=(-90, 90),
        xticks=range(0, 361, 60),
        yticks=range(-90, 91, 30),
        xlabel="azimuth",
        ylabel="elevation",
        title="Where the search looked; + is the camera that was found",
    )
    figure.colorbar(dots, label="log10 of the loss")
    figure.savefig(path)


def _cameras(result: PoseResult) -> list[dict[str, Any]]:
    columns = (result.distance, result.elevation, result.azimuth, result.iou, result.loss, centers(result.R, result.T))
    names = ("distance", "elevation", "azimuth", "silhouette_iou", "loss", "position")
    matrices = zip(result.names, result.R.tolist(), result.T.tolist(), result.was_searched, strict=True)
    cameras = [
        {"picture": name, "R": R, "T": T, "fov": result.settings.fov, "searched": searched, **dict(zip(names, row))}
        for (name, R, T, searched), row in zip(matrices, zip(*(c.tolist() for c in columns)), strict=True)
    ]
    if result.errors is not None:
        for camera, degrees, percent in zip(cameras, *(error.tolist() for error in result.errors), strict=True):
            camera |= {"error_degrees": degrees, "error_distance_percent": percent}
    return cameras


def _metrics(result: PoseResult, source: str, cameras: list[dict[str, Any]]) -> dict[str, object]:
    errors = {}
    if result.errors is not None:
        degrees, percent = result.errors
        errors = {"error_degrees_max": float(degrees.max()), "error_distance_percent_max": float(percent.max())}
    return {
        "source": source,
        "iterations": result.history.length,
        "interrupted": result.interrupted,
        "seconds": round(result.seconds, 3),
        "silhouette_iou_mean": float(result.iou.mean()),
        "silhouette_iou_min": float(result.iou.min()),
        **errors,
        "middle": result.middle.tolist(),
        "cameras": cameras,
        "settings": asdict(result.settings),
        "versions": versions(),
    }


def _report(result: PoseResult, folder: Path, source: str, strips: np.ndarray, files: dict[str, str]) -> Report:
    count = len(result.names)
    how = "silhouettes and colours" if result.settings.weight_texture > 0 else "silhouettes"
    begun = "one start" if result.settings.start is not None else f"{len(result.landscape)} cameras all around"
    report = Report(
        f"Camera of {source}",
        f"Beginning with {begun}, the camera was moved until the {how} of the object were those of the "
        + (
            "picture."
            if count == 1
            else f"first of {count} pictures; each of the others began where the last one ended."
        ),
    )
    if result.interrupted:
        report.notice(f"The run was stopped after {result.history.length} iterations, at picture {count}.")
    report.numbers(_numbers(result))
    report.section(
        "Pictures",
        "Each strip shows the picture, the object from the camera that was found, and how their silhouettes differ.",
    )
    report.key({text: f"rgb{color}" for text, color in _COLORS.items()})
    step = -(-count // _SHOWN)
    report.pictures([_picture(result, strips[i], i) for i in range(0, count, step)], cell=480)
    report.section("On the way", "The first camera being found.")
    films = [Picture((folder / "fitting.gif").read_bytes(), "The camera of the first picture being found", "fitting")]
    if count > 1:
        films.append(Picture((folder / "sequence.gif").read_bytes(), "All pictures and results in turn", "sequence"))
    if len(result.landscape):
        shown = "The loss over azimuth and elevation of the cameras of the search, and the camera that was found"
        films.append(Picture((folder / "search.png").read_bytes(), shown, "the search"))
    report.pictures(films, cell=480)
    report.section(
        "Cameras", "Distance is in the object's units, and counts from the point that the camera turns about."
    )
    report.table(*_table(result), bars=result.iou.tolist())
    report.losses(result.history.table())
    report.appendix(asdict(result.settings), files)
    return report


def _picture(result: PoseResult, strip: np.ndarray, number: int) -> Picture:
    name, iou = result.names[number], float(result.iou[number])
    return Picture(
        pictures.png(strip),
        f"{name}: the picture, the result, and the difference of their silhouettes; IoU {iou:.4f}",
        f"{name} · IoU {iou:.4f}",
    )


def _numbers(result: PoseResult) -> list[Number]:
    count = len(result.names)
    of_several = "" if count == 1 else f"worst of {count}"
    numbers = []
    if result.errors is not None:
        degrees, percent = result.errors
        numbers += [
            Number("Rotation", f"{float(degrees.max()):.3f}°", of_several or "off the true camera"),
            Number("Distance", f"{float(percent.max()):.3f} %", of_several or "off the true camera"),
        ]
    numbers.append(Number("Silhouette IoU", f"{float(result.iou.min()):.4f}", of_several))
    if count == 1:
        numbers += [
            Number("Elevation", f"{float(result.elevation[0]):.2f}°"),
            Number("Azimuth", f"{float(result.azimuth[0]):.2f}°"),
            Number("Camera at", f"{float(result.distance[0]):.4g}", "from the point that it turns about"),
        ]
    rate = result.history.length / max(result.seconds, 1e-9)
    numbers.append(
        Number("Time", f"{result.seconds:.1f} s", f"{result.history.length} iterations, {rate:.0f} a second")
    )
    return numbers


def _table(result: PoseResult) -> tuple[list[str], list[list[str]]]:
    header = ["picture", "distance", "elevation", "azimuth", "IoU", "loss", "searched"]
    columns = [
        result.names,
        *(
            [form.format(x) for x in column.tolist()]
            for form, column in (
                ("{:.4g}", result.distance),
                ("{:.2f}°", result.elevation),
                ("{:.2f}°", result.azimuth),
                ("{:.4f}", result.iou),
                ("{:.2e}", result.loss),
            )
        ),
        ["yes" if searched else "no" for searched in result.was_searched],
    ]
    if result.errors is not None:
        header += ["rotation off by", "distance off by"]
        columns += [
            [form.format(x) for x in error.tolist()]
            for form, error in zip(("{:.3f}°", "{:.3f} %"), result.errors, strict=True)
        ]
    return header, [list(row) for row in zip(*columns, strict=True)]
