"""`recon volume`: a volume of densities and colours from views."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ._inputs import check_pictures, load_pictures
from ._runs import Run, fit_to_pictures


def volume(
    *,
    obj: Path | None = None,
    images: Path | None = None,
    cameras: Path | None = None,
    masks: Path | None = None,
    out: Path = Path("recon-volume"),
    overwrite: bool = False,
    resume: bool = False,
    preset: Literal["framed", "documented"] = "framed",
    fast: bool = False,
    views: int | None = None,
    iters: int | None = None,
    lr: float | None = None,
    resolution: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> int:
    """Fit a volume of densities and colours to pictures of a mesh.

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
        fast: small and coarse, in seconds.
        views: cameras around the mesh. Default: 40.
        iters: iterations. Default: 300.
        lr: learning rate. Default: 0.1.
        resolution: voxels along each side. Default: 128.
        image_size: side of the pictures in pixels. Default: 128.
        seed: decides everything random.
        device: cpu, cuda or cuda:N.
    """
    check_pictures(obj, "--obj", images, cameras, masks, views)
    run = Run(out, device, overwrite=overwrite, resume=resume, shared=True)
    from recon_engine.methods import volume as method

    changes = {
        "views": views,
        "iterations": iters,
        "learning_rate": lr,
        "resolution": resolution,
        "image_size": image_size,
        "seed": seed,
    }
    settings = method.volume_settings(preset, fast=fast, **changes)
    pictures = None if images is None else load_pictures(images, cameras, masks, settings.image_size)
    return fit_to_pictures(run, method.VolumeFit, method.save_results, settings, obj, pictures, images)
