"""What fits of volumes and of radiance fields share: their measures, pictures and results folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recon_engine.io import IO
from recon_engine.renderer import PerspectiveCameras
from recon_engine.report import Number, Picture, Report, versions
from recon_engine.structures import Meshes, Volumes

from . import _pictures as pictures
from ._isosurface import surface_of
from ._run import History
from ._views import Cameras, CameraSettings, Frame, Pictures, Subject, cameras_at, take_pictures
from .build import silhouette_iou

LOSSES = ("color", "silhouette")
Render = Callable[[Cameras], Tensor]

_FRAMES = 24  # of a turntable
_EXAGGERATED = 4  # differences in pictures
_FILES = {
    "losses.csv": "every loss of every iteration",
    "losses.png": "the same as curves",
    "held_out.png": "target, result and difference of every held-out view",
    "turntable.gif": "the object and the result, turning",
    "metrics.json": "the numbers of this page, the settings and the versions",
}

SURFACE = "mesh.ply"
SURFACE_FILE = {SURFACE: "the surface, by marching cubes, with colours, at the place and scale of the object"}


@dataclass(frozen=True)
class FieldResult:
    """What the fit of a volume or of a radiance field reached.

    Fields:
        center: (3,), with the next two the place of the object: x_object = (x_fit rotation) * scale + center.
        scale: see `center`.
        rotation: (3, 3), see `center`; the identity where the object came as a mesh.
        views: what the fit saw.
        held_out: what it did not see; `views` itself where there was nothing else.
        rendered: (M, S, S, 4), the result from the cameras of `held_out`: colours on black, and opacity.
        psnr: (M,) decibels of `rendered` to `held_out`, colours on black, over all pixels.
        psnr_inside: (M,) the same over the pixels of the object alone.
        iou: (M,) intersection over union of the silhouettes, both cut at one half.
        turntable: pictures of the result, once around, (S, S, 3) uint8; (S, 2 S, 3) with the object on the left, where
            it is known.
        history: the losses of every iteration.
        settings: what it was made with.
        interrupted: Ctrl-C ended it early.
        seconds: how long the iterations took.
    """

    center: Tensor
    scale: float
    rotation: Tensor
    views: Pictures
    held_out: Pictures
    rendered: Tensor
    psnr: Tensor
    psnr_inside: Tensor
    iou: Tensor
    turntable: list[np.ndarray]
    history: History
    settings: CameraSettings
    interrupted: bool
    seconds: float

    @property
    def is_unseen(self) -> bool:
        """Whether the measures are of pictures that the fit did not see."""
        return self.held_out is not self.views

    @property
    def frame(self) -> Frame:
        """`center`, `scale` and `rotation`."""
        return Frame(self.center, self.scale, self.rotation)


def psnr(got: Tensor, expected: Tensor, weights: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in decibels, `-10 log10(mean squared difference)`, at most 100.

    Args:
        got: (N, H, W, C) from 0 to 1.
        expected: the same.
        weights: (N, H, W), of the pixels; all the same when not given.

    Returns:
        (N,).
    """
    squared = (got.clamp(0, 1) - expected).square().mean(-1)
    weights = torch.ones_like(squared) if weights is None else weights.to(squared)
    mean = (squared * weights).sum((1, 2)) / weights.sum((1, 2)).clamp(min=1e-12)
    return -10 * mean.clamp(min=1e-10).log10()


def measures(render: Render, held_out: Pictures) -> dict[str, Tensor]:
    """`rendered`, `psnr`, `psnr_inside` and `iou` of a `FieldResult`."""
    rendered = render(held_out.cameras)
    rgb, expected, alpha = rendered[..., :3], held_out.rgba[..., :3], held_out.rgba[..., 3]
    return {
        "rendered": rendered,
        "psnr": psnr(rgb, expected),
        "psnr_inside": psnr(rgb, expected, alpha > 0.5),
        "iou": silhouette_iou(rendered[..., 3], alpha),
    }


def turning(render: Render, subject: Subject, settings: CameraSettings) -> list[np.ndarray]:
    """The frames of a turntable: the object, where it is known, and right of it the result."""
    azimuth = torch.arange(_FRAMES) * (360.0 / _FRAMES)
    elevation = torch.full_like(azimuth, (settings.lowest + settings.highest) / 2)
    cameras = cameras_at(elevation, azimuth, settings, subject.frame.center.device)
    sides = [] if subject.placed is None else [take_pictures(subject.placed, elevation, azimuth, settings).rgba]
    return list(np.concatenate([pictures.on_paper(straight(side)) for side in (*sides, render(cameras))], 2))


def save_surface(result: FieldResult, volumes: Volumes, step: float, path: Path) -> bool:
    """Write the surface of a result as PLY, at the place and scale of its object; whether there is any.

    Args:
        result: of a fit.
        volumes: what was found, see `surface_of`.
        step: see `surface_of`.
        path: the file.
    """
    mesh = surface_of(volumes, step)
    if mesh is None:
        return False
    placed = Meshes([result.frame.undo(mesh.verts_packed())], mesh.faces_list(), mesh.textures)
    IO().save_mesh(placed, path)
    return True


def straight(rgba: Tensor) -> np.ndarray:
    """uint8 with straight alpha, of colours on black."""
    alpha = rgba[..., 3:]
    return pictures.as_bytes(torch.cat([rgba[..., :3] / alpha.clamp(min=1e-6), alpha], -1))


def save_field(
    result: FieldResult,
    folder: Path,
    title: str,
    lead: str,
    source: str,
    files: Mapping[str, str],
    numbers: Sequence[Number],
    shown: Sequence[Picture] = (),
) -> None:
    """Write curves, pictures, turntable, metrics and report.

    Args:
        result: of a fit.
        folder: exists.
        title: of the report.
        lead: what was done, in a sentence.
        source: what was fitted.
        files: the other files in the folder.
        numbers: shown besides those that every fit has.
        shown: pictures beside the turntable.

    Raises:
        ImportError: pillow or matplotlib is missing; names the pip line.
    """
    result.history.save_csv(folder / "losses.csv")
    result.history.save_png(folder / "losses.png", title)
    strips = _strips(result)
    (folder / "held_out.png").write_bytes(pictures.png(pictures.tiled(strips, columns=2)))
    pictures.save_gif(folder / "turntable.gif", result.turntable)
    (folder / "metrics.json").write_text(json.dumps(_metrics(result, source), indent=2) + "\n", encoding="utf-8")

    steps = result.history.length
    report = Report(title, lead)
    if result.interrupted:
        report.notice(f"The run was stopped after {steps} of {result.settings.iterations} iterations.")
    report.numbers([*_numbers(result), *numbers])
    gif = (folder / "turntable.gif").read_bytes()
    height, width, _ = result.turntable[0].shape
    if width > height:
        report.section("Turning", "The object on the left, the result on the right, from cameras all around.")
        turning = Picture(gif, "The object and, right of it, the result, turning", "object, result", wide=True)
    else:
        report.section("Turning", "The result, from cameras all around.")
        turning = Picture(gif, "The result, turning", "result")
    report.pictures([turning, *shown])
    report.section(
        "Views that the fit never saw" if result.is_unseen else "Views that were fitted",
        f"Target, result, and where their colours differ, {_EXAGGERATED} times as strong as it is.",
    )
    report.pictures(_held_out(result, strips), cell=330)
    report.table(
        ["view", "elevation", "azimuth", "PSNR", "PSNR inside", "IoU"],
        _rows(result),
        bars=(result.psnr / 40).tolist(),
        summary="Measures of each view",
    )
    report.losses(result.history.table())
    report.appendix(asdict(result.settings), {**files, **_FILES})
    report.save(folder / "report.html")


def _strips(result: FieldResult) -> np.ndarray:
    """(M, S, 3 S, 4): target, result, difference."""
    expected, got = result.held_out.rgba.cpu(), result.rendered.cpu().clamp(0, 1)
    differing = (expected - got).abs().amax(-1) * _EXAGGERATED
    orange = torch.tensor(pictures.TARGET_ONLY) / 255
    marked = pictures.as_bytes(torch.cat([orange.expand(*differing.shape, 3), differing[..., None]], -1))
    return np.concatenate([straight(expected), straight(got), marked], 2)


def _metrics(result: FieldResult, source: str) -> dict[str, object]:
    held_out = result.held_out
    columns = (held_out.elevation, held_out.azimuth, result.psnr, result.psnr_inside, result.iou)
    titles = ("view", "elevation", "azimuth", "psnr", "psnr_inside", "iou")
    rows = zip(held_out.names, *(column.tolist() for column in columns), strict=True)
    per_view = [dict(zip(titles, row, strict=True)) for row in rows]
    losses = {name: column[-1] for name, column in result.history.table().items() if column}
    return {
        "source": source,
        "iterations": result.history.length,
        "interrupted": result.interrupted,
        "seconds": round(result.seconds, 3),
        "psnr_mean": float(result.psnr.mean()),
        "psnr_min": float(result.psnr.min()),
        "psnr_mean_inside": float(result.psnr_inside.mean()),
        "silhouette_iou_mean": float(result.iou.mean()),
        "loss": losses,
        "measured_views_were_fitted": not result.is_unseen,
        "held_out": per_view,
        "center": result.center.tolist(),
        "scale": result.scale,
        "rotation": result.rotation.tolist(),
        "cameras_of_fit": _cameras(result),
        "settings": asdict(result.settings),
        "versions": versions(),
    }


def _cameras(result: FieldResult) -> list[dict[str, object]]:
    """R, T and field of view, in degrees, of the cameras that the result was measured from, in the units of the fit."""
    cameras = result.held_out.cameras
    if isinstance(cameras, PerspectiveCameras):
        focal = 2 * cameras.focal_length[:, 1] / cameras.get_image_size().amin(1)
    else:
        focal = cameras.get_projection_transform().get_matrix()[:, 1, 1]
    fov = torch.rad2deg(2 * torch.atan(1 / focal)).expand(len(cameras))
    matrices = zip(cameras.R.tolist(), cameras.T.tolist(), fov.tolist(), strict=True)
    return [dict(zip(("R", "T", "fov"), row, strict=True)) for row in matrices]


def _numbers(result: FieldResult) -> list[Number]:
    of = f"mean of {len(result.psnr)} views {'not fitted' if result.is_unseen else 'that were fitted'}"
    rate = result.history.length / max(result.seconds, 1e-9)
    digits = max(0, 1 - math.floor(math.log10(max(rate, 1e-3))))
    return [
        Number("PSNR", f"{float(result.psnr.mean()):.1f} dB", of),
        Number("Worst view", f"{float(result.psnr.min()):.1f} dB", "PSNR"),
        Number("Inside", f"{float(result.psnr_inside.mean()):.1f} dB", "PSNR, without the background"),
        Number("Silhouette IoU", f"{float(result.iou.mean()):.4f}", of),
        Number("Time", f"{result.seconds:.1f} s", f"{result.history.length} iterations, {rate:.{digits}f} a second"),
    ]


def _held_out(result: FieldResult, strips: np.ndarray) -> list[Picture]:
    held_out = result.held_out
    values = zip(strips, held_out.names, held_out.elevation.tolist(), held_out.azimuth.tolist(), result.psnr.tolist())
    return [
        Picture(
            pictures.png(strip),
            f"{name}, from elevation {e:.0f} and azimuth {a:.0f} degrees: target, result, difference; {value:.1f} dB",
            f"{name} ({e:.0f}°, {a:.0f}°) · {value:.1f} dB",
        )
        for strip, name, e, a, value in values
    ]


def _rows(result: FieldResult) -> list[list[str]]:
    held_out = result.held_out
    columns = (held_out.elevation, held_out.azimuth, result.psnr, result.psnr_inside, result.iou)
    formats = ("{:.1f}°", "{:.1f}°", "{:.2f} dB", "{:.2f} dB", "{:.4f}")
    return [
        [name, *(form.format(value) for form, value in zip(formats, row, strict=True))]
        for name, *row in zip(held_out.names, *(column.tolist() for column in columns), strict=True)
    ]
