"""`recon build`: an object from silhouettes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ._inputs import load_pictures
from ._many import is_many, named_files, run_many
from ._runs import Run

_COLUMNS = {
    "IoU": ("silhouette_iou_mean", "{:.4f}"),
    "Chamfer": ("chamfer", "{:.2e}"),
    "Seconds": ("seconds", "{:.1f}"),
}


def build(
    *,
    obj: tuple[Path, ...] = (),
    images: Path | None = None,
    angles: Path | None = None,
    cameras: Path | None = None,
    masks: Path | None = None,
    init: Path | None = None,
    refine_cameras: bool = False,
    out: Path = Path("recon-build"),
    overwrite: bool = False,
    resume: bool = False,
    preset: Literal["framed", "documented"] = "framed",
    fast: bool = False,
    start: Literal["cube", "sphere", "both"] | None = None,
    views: int | None = None,
    iters: int | None = None,
    lr: float | None = None,
    level: int | None = None,
    coarse_to_fine: bool = False,
    image_size: int | None = None,
    fov: float | None = None,
    watertight: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> int:
    """Reconstruct an object from silhouettes of a mesh or of photographs.

    Args:
        obj: the mesh to reconstruct, OBJ or PLY. Its silhouettes are rendered. Several, or a quoted pattern like
            'shapes/*.obj': each gets a results folder of its own in --out, and what is done already is kept.
        images: a folder of RGBA cut-outs, any size, with --angles; or of pictures with cameras.
        angles: a CSV with the columns file,azimuth,elevation in degrees; without `file`, rows follow the sorted names.
        cameras: with --images: transforms.json, COLMAP's folder, or a CSV with distances and fields of view, instead of
            --angles. Default: what is there.
        masks: with --images and cameras: a folder of grey pictures, white where the object is. Default: `masks` in that
            folder.
        init: with --angles: the mesh to start from, instead of --start.
        refine_cameras: with --angles: they were estimated; move the cameras together with the shape.
        out: the results folder.
        overwrite: replace the results folder, and the checkpoint beside it, if they exist; of several objects those
            that were made with other settings.
        resume: go on from the checkpoint of a run that was stopped or killed; repeat its other options. Several objects
            always go on.
        preset: `documented` keeps every documented value; `framed` changes only what the cameras see.
        fast: small and coarse, in a second or two.
        start: the shape to deform, without --init; or both, which the report compares; the better one is the result.
            Default: cube.
        views: cameras around the mesh. Default: 20.
        iters: iterations. Default: 2000, with --fast 300, with --init 100.
        lr: learning rate. Default: 0.25, with --init 0.12.
        level: how often the start's triangles are split. Default: 4, with --fast 3.
        coarse_to_fine: begin two levels lower, at level 2 at least, and split the triangles of the deformed mesh after
            1/4 and 1/2 of the iterations. On three objects the IoU was the same within 0.002, in two thirds of the
            time.
        image_size: side of the silhouettes in pixels. Default: 128, with --fast 64.
        fov: field of view of the cameras in degrees. Default: of the preset.
        watertight: write watertight.obj as well, a closed surface without self-intersections around what the result
            encloses, also where --init has holes.
        seed: decides the order of views.
        device: cpu, cuda or cuda:N.
    """
    if bool(obj) == (images is not None):
        raise ValueError("give either --obj MESH or --images FOLDER")
    if images is None and (angles is not None or init is not None):
        raise ValueError("--angles and --init go with --images")
    if images is None and refine_cameras:
        raise ValueError("--refine-cameras goes with --images: the cameras of rendered silhouettes are known")
    if images is None and (cameras is not None or masks is not None):
        raise ValueError("--cameras and --masks go with --images")
    if angles is not None and (cameras is not None or masks is not None):
        raise ValueError("give either --angles FILE.csv, for cut-outs, or --cameras")
    if images is not None and angles is None and (init is not None or refine_cameras):
        raise ValueError("--init and --refine-cameras need --angles FILE.csv")
    if init is not None and (start is not None or coarse_to_fine):
        raise ValueError("--start and --coarse-to-fine go without --init, which is the start")
    if images is not None and views is not None:
        raise ValueError("--views goes with --obj: pictures have the views of their angles")
    changes = {
        "start": start,
        "views": views,
        "iterations": iters,
        "learning_rate": lr,
        "level": level,
        "coarse_to_fine": coarse_to_fine,
        "image_size": image_size,
        "fov": fov,
        "refine_cameras": refine_cameras,
        "watertight": watertight,
        "seed": seed,
    }
    if obj and is_many(obj):
        return _build_many(named_files(obj, "--obj"), preset, fast, changes, out, overwrite, device)
    run = Run(out, device, overwrite=overwrite, resume=resume)
    from recon_engine.methods import build as method
    from recon_engine.methods._files import load_mesh

    # The documented 100 iterations on pictures refine a mesh; a cube or a sphere needs those of the first step.
    settings = (method.mesh_settings if init is None else method.image_settings)(preset, fast=fast, **changes)
    fit: Callable[[], Any]
    if obj:
        source, fit = obj[0].name, partial(method.from_mesh, load_mesh(obj[0], run.device), settings, **run.options)
    elif images is not None and angles is None:
        capture = load_pictures(images, cameras, masks, settings.image_size)
        source = f"{len(capture.names)} pictures in {images.name}"
        fit = partial(method.from_capture, capture, settings, device=run.device, **run.options)
    elif images is not None and angles is not None:
        cutouts = method.load_cutouts(images, settings.image_size)
        elevation, azimuth = method.match_angles(cutouts.names, method.load_angles(angles), str(angles))
        source, given = f"{len(cutouts.names)} pictures in {images.name}", (cutouts, elevation, azimuth)
        shape = None if init is None else load_mesh(init, run.device)
        fit = partial(method.from_images, *given, settings, init=shape, device=run.device, **run.options)
    return run.finish(fit, method.save_results, source)


def _build_many(
    files: dict[str, Path],
    preset: Any,
    fast: bool,
    changes: dict[str, Any],
    out: Path,
    overwrite: bool,
    device: str,
) -> int:
    from recon_engine.methods import build as method
    from recon_engine.methods._files import load_mesh

    settings = method.mesh_settings(preset, fast=fast, **changes)

    def fit(file: Path, device: str, **options: Any) -> Any:
        return method.from_mesh(load_mesh(file, device), settings, **options)

    return run_many(files, fit, method.save_results, settings, out, overwrite, device, _COLUMNS)
