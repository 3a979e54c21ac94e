"""`recon pose`: the cameras of pictures of a mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ._inputs import load_object
from ._runs import Run


def pose(
    *,
    obj: Path | None = None,
    images: Path | None = None,
    masks: Path | None = None,
    frames: int | None = None,
    out: Path = Path("recon-pose"),
    overwrite: bool = False,
    resume: bool = False,
    preset: Literal["search", "documented"] = "search",
    fast: bool = False,
    texture: bool = False,
    off_center: bool = False,
    start: tuple[float, float, float] | None = None,
    fov: float | None = None,
    iters: int | None = None,
    lr: float | None = None,
    spacing: float | None = None,
    image_size: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> int:
    """Find the camera that took a picture of a mesh, or the cameras of a sequence.

    Args:
        obj: the mesh, in any format that trimesh reads. Default: the built-in building.
        images: a picture, or a folder of pictures in the order of their names, with an alpha channel or --masks.
            Default: pictures that are rendered from the mesh; their cameras are known, and the report has the errors.
        masks: a picture, or a folder of pictures, white where the object is, named like the --images.
        frames: without --images: how many pictures, from a camera that goes around. Default: 1.
        out: the results folder.
        overwrite: replace the results folder, and the checkpoint beside it, if they exist.
        resume: go on from the checkpoint of a run that was stopped or killed; repeat its other options.
        preset: `search` begins all around; `documented` keeps every documented value, its one start included.
        fast: small pictures and few steps, in a second or two for each picture.
        texture: compare colours as well as silhouettes; the light must be that of the pictures.
        off_center: the object may lie beside the middle of the picture; without it the camera looks at its middle.
        start: where the camera starts, x y z, instead of the search. Default for documented: 3 6.9 2.5.
        fov: field of view of the camera along the longer side of the pictures, in degrees. Default: 60.
        iters: iterations for each picture at the full resolution. Default: 40, for documented 200.
        lr: learning rate. Default: 0.02, for documented 0.05.
        spacing: degrees between neighbouring cameras of the search. Default: 12.
        image_size: side of the pictures in pixels; others are resized. Default: 256.
        seed: decides the cameras of the search, and those of rendered pictures.
        device: cpu, cuda or cuda:N.
    """
    if images is None and masks is not None:
        raise ValueError("--masks goes with --images")
    if images is not None and frames is not None:
        raise ValueError("--frames goes without --images: it counts pictures that are rendered")
    if images is not None and obj is None:
        raise ValueError("--images needs --obj MESH: what the pictures show")
    run = Run(out, device, overwrite=overwrite, resume=resume)
    from recon_engine.methods import pose as method

    changes = {
        "centered": not off_center,
        "start": start,
        "fov": fov,
        "iterations": iters,
        "learning_rate": lr,
        "spacing": spacing,
        "image_size": image_size,
        "seed": seed,
    }
    settings = method.pose_settings(preset, fast=fast, texture=texture, **changes)
    observed = None if images is None else method.load_pictures(images, settings.image_size, masks)
    mesh, source = load_object(obj, run.device)

    def fit() -> method.PoseResult:
        if observed is not None:
            return method.from_pictures(mesh, observed, settings, **run.options)
        return method.from_mesh(mesh, settings, frames=1 if frames is None else frames, **run.options)

    return run.finish(fit, method.save_results, source)
