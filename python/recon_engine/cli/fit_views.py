"""`recon fit-views`: shape and texture from views."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ._inputs import check_pictures, load_pictures
from ._runs import Run, fit_to_pictures


def fit_views(
    *,
    mesh: Path | None = None,
    images: Path | None = None,
    cameras: Path | None = None,
    masks: Path | None = None,
    out: Path = Path("recon-fit-views"),
    overwrite: bool = False,
    resume: bool = False,
    preset: Literal["framed", "documented", "silhouette"] = "framed",
    fast: bool = False,
    texture: Literal["vertex", "uv"] | None = None,
    texture_size: int | None = None,
    views: int | None = None,
    held_out: int | None = None,
    iters: int | None = None,
    lr: float | None = None,
    level: int | None = None,
    image_size: int | None = None,
    distance: float | None = None,
    fov: float | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> int:
    """Fit a textured sphere to views of an object.

    Args:
        mesh: the object, in any format that trimesh reads. Default: the built-in building.
        images: instead of a mesh, a folder of pictures with cameras: RGBA cut-outs, or pictures with masks.
        cameras: with --images: transforms.json, COLMAP's folder, or a CSV of file,azimuth,elevation. Default: what is
            there.
        masks: with --images: a folder of grey pictures, white where the object is. Default: `masks` in that folder.
        out: the results folder.
        overwrite: replace the results folder, and the checkpoint beside it, if they exist.
        resume: go on from the checkpoint of a run that was stopped or killed; repeat its other options.
        preset: `documented` keeps every documented value, `silhouette` leaves out the colours; `framed` has cameras all
            around whose pictures the object fills, and moves shape and colours from coarse to fine.
        fast: small and coarse, in seconds.
        texture: colours of vertices, or an image. Default: uv, documented vertex.
        texture_size: texels along each side of the image's six parts. Default: 64.
        views: cameras around the mesh. Default: 20.
        held_out: views that are kept for the measures. Default: 10; of pictures the data set's own, or one in eight.
        iters: iterations. Default: 500, documented 2000.
        lr: step of the shape. Default: 0.003, documented 1.
        level: how often the sphere's triangles are split. Default: 4.
        image_size: side of the pictures in pixels. Default: 128.
        distance: of the cameras from the object. Default: 2.7; with --images only where a CSV has none.
        fov: field of view in degrees. Default: of the preset; with --images 60, only where a CSV has none.
        seed: decides the order of views.
        device: cpu, cuda or cuda:N.
    """
    check_pictures(mesh, "--mesh", images, cameras, masks, views)
    run = Run(out, device, overwrite=overwrite, resume=resume, shared=True)
    from recon_engine.methods import fit_views as method

    changes = {
        "texture": texture,
        "texture_size": texture_size,
        "views": views,
        "held_out": held_out if images is None else None,
        "iterations": iters,
        "shape_rate" if preset == "framed" else "learning_rate": lr,
        "level": level,
        "image_size": image_size,
        "distance": distance,
        "fov": fov,
        "seed": seed,
    }
    settings = method.view_settings(preset, fast=fast, **changes)
    pictures = (
        None if images is None else load_pictures(images, cameras, masks, settings.image_size, held_out, distance, fov)
    )
    return fit_to_pictures(run, method.ViewFit, method.save_results, settings, mesh, pictures, images, live=run.live)
