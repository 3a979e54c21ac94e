"""`recon nerf`: a neural radiance field from views."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ._inputs import check_pictures, load_pictures
from ._runs import Run, fit_to_pictures


def nerf(
    *,
    obj: Path | None = None,
    images: Path | None = None,
    cameras: Path | None = None,
    masks: Path | None = None,
    out: Path = Path("recon-nerf"),
    overwrite: bool = False,
    resume: bool = False,
    preset: Literal["framed", "documented"] = "framed",
    fast: bool = False,
    views: int | None = None,
    iters: int | None = None,
    lr: float | None = None,
    hidden: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> int:
    """Fit a neural radiance field to pictures of a mesh.

    Args:
        obj: the mesh, in any format that trimesh reads. Default: the built-in building.
        images: instead of a mesh, a folder of pictures with cameras: RGBA cut-outs, or pictures with masks.
        cameras: with --images: transforms.json, COLMAP's folder, or a CSV of file,azimuth,elevation. Default: what is
            there.
        masks: with --images: a folder of grey pictures, white where the object is. Default: `masks` in that folder.
        out: the results folder.
        overwrite: replace the results folder, and the checkpoint beside it, if they exist.
        resume: go on from the checkpoint of a run that was stopped or killed; repeat its other options.
        preset: `documented` keeps every documented value; `framed` has cameras all around and keeps to the object.
        fast: a small network on small pictures, for a CPU; without it the fit is for a GPU.
        views: cameras around the mesh. Default: 40, with --fast 20.
        iters: iterations. Default: 3000, with --fast 300.
        lr: learning rate. Default: 0.001, with --fast 0.003.
        hidden: width of the network. Default: 256, with --fast 64.
        image_size: side of the pictures in pixels. Default: 128, with --fast 64.
        seed: decides everything random.
        device: cpu, cuda or cuda:N.
    """
    check_pictures(obj, "--obj", images, cameras, masks, views)
    run = Run(out, device, overwrite=overwrite, resume=resume, shared=True)
    from recon_engine.methods import nerf as method

    changes = {
        "views": views,
        "iterations": iters,
        "learning_rate": lr,
        "hidden": hidden,
        "image_size": image_size,
        "seed": seed,
    }
    settings = method.nerf_settings(preset, fast=fast, **changes)
    pictures = None if images is None else load_pictures(images, cameras, masks, settings.image_size)
    return fit_to_pictures(run, method.NerfFit, method.save_results, settings, obj, pictures, images)
