"""The `recon` command: `recon build`, `recon render` and the others of `commands()`.

Wrong input ends in one line on stderr and exit code 2; Ctrl-C saves what was reached and ends with 130.
"""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

_INTERRUPTED = 130  # 128 + SIGINT, as shells count
_BACKGROUNDS = {"light": (244, 242, 237), "white": (255, 255, 255), "black": (0, 0, 0)}
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
_TRANSPARENT = (".png", ".webp", ".tif", ".tiff")
_FILMS = (".mp4", ".gif")
_LARGEST = 8192  # side of a picture
_FASTEST_GIF = 50  # frames per second: viewers slow shorter delays than 20 ms down to 100 ms


def build(
    *,
    obj: Path | None = None,
    images: Path | None = None,
    angles: Path | None = None,
    cameras: Path | None = None,
    masks: Path | None = None,
    init: Path | None = None,
    refine_cameras: bool = False,
    out: Path = Path("recon-build"),
    overwrite: bool = False,
    preset: Literal["framed", "documented"] = "framed",
    start: Literal["cube", "sphere"] | None = None,
    views: int | None = None,
    iters: int | None = None,
    lr: float | None = None,
    level: int | None = None,
    image_size: int | None = None,
    fov: float | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> int:
    """Reconstruct an object from silhouettes of a mesh or of photographs.

    Args:
        obj: the mesh to reconstruct, OBJ or PLY. Its silhouettes are rendered.
        images: a folder of RGBA cut-outs, any size, with --angles; or of pictures with cameras.
        angles: a CSV with the columns file,azimuth,elevation in degrees; without `file`, rows follow the sorted names.
        cameras: with --images: transforms.json, COLMAP's folder, or a CSV with distances and fields of view, instead of
            --angles. Default: what is there.
        masks: with --images and cameras: a folder of grey pictures, white where the object is. Default: `masks` in that
            folder.
        init: with --angles: the mesh to start from, instead of --start.
        refine_cameras: with --angles: they were estimated; move the cameras together with the shape.
        out: the results folder.
        overwrite: replace the results folder if it exists.
        preset: `documented` keeps every documented value; `framed` changes only what the cameras see.
        start: the shape to deform. Default: cube.
        views: cameras around the mesh. Default: 20.
        iters: iterations. Default: 2000, with --init 100.
        lr: learning rate. Default: 0.25, with --init 0.12.
        level: how often the start's triangles are split. Default: 4.
        image_size: side of the silhouettes in pixels. Default: 128.
        fov: field of view of the cameras in degrees. Default: of the preset.
        seed: decides the order of views.
        device: cpu, cuda or cuda:N.
    """
    if (obj is None) == (images is None):
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
    if images is not None and views is not None:
        raise ValueError("--views goes with --obj: pictures have the views of their angles")
    changes = {
        "start": start,
        "views": views,
        "iterations": iters,
        "learning_rate": lr,
        "level": level,
        "image_size": image_size,
        "fov": fov,
        "refine_cameras": refine_cameras,
        "seed": seed,
    }
    _prepare(out, overwrite, device)
    from recon_engine.methods import build as method
    from recon_engine.methods._files import load_mesh

    if obj is not None:
        settings = method.mesh_settings(preset, **changes)
        result = method.from_mesh(load_mesh(obj, device), settings, show_progress=True, live=_live(out))
        return _save(method.save_results, result, out, overwrite, obj.name)
    assert images is not None
    if angles is None:
        settings = method.mesh_settings(preset, **changes)
        capture = _capture(images, cameras, masks, settings.image_size)
        result = method.from_capture(capture, settings, show_progress=True, live=_live(out), device=device)
        return _save(method.save_results, result, out, overwrite, f"{len(capture.names)} pictures in {images.name}")
    # The documented 100 iterations on pictures refine a mesh; a cube or a sphere needs those of the first step.
    settings = (method.mesh_settings if init is None else method.image_settings)(preset, **changes)
    cutouts = method.load_cutouts(images, settings.image_size)
    elevation, azimuth = method.match_angles(cutouts.names, method.load_angles(angles), str(angles))
    result = method.from_images(
        cutouts,
        elevation,
        azimuth,
        settings,
        init=None if init is None else load_mesh(init, device),
        show_progress=True,
        live=_live(out),
        device=device,
    )
    return _save(method.save_results, result, out, overwrite, f"{len(cutouts.names)} pictures in {images.name}")


def fit_points(
    file: Annotated[Path, "positional"],
    /,
    *,
    preset: Literal["deform1", "deform2", "deform3"] = "deform1",
    out: Path = Path("recon-fit-points"),
    overwrite: bool = False,
    iters: int | None = None,
    lr: float | None = None,
    level: int | None = None,
    samples: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> int:
    """Fit a sphere to a point cloud or a mesh.

    Args:
        file: the target, OBJ or PLY.
        preset: deform1 uses all losses, deform2 the chamfer distance alone, deform3 chamfer and edge lengths.
        out: the results folder.
        overwrite: replace the results folder if it exists.
        iters: iterations. Default: 2000.
        lr: learning rate. Default: 1.
        level: how often the sphere's triangles are split. Default: 4.
        samples: points drawn in each iteration. Default: 5000.
        seed: decides the drawn points.
        device: cpu, cuda or cuda:N.
    """
    _prepare(out, overwrite, device)
    from recon_engine.methods import fit_points as method
    from recon_engine.methods._files import load_shape

    changes = {"iterations": iters, "learning_rate": lr, "level": level, "samples": samples, "seed": seed}
    settings = method.fit_settings(preset, **changes)
    verts, faces = load_shape(file)
    result = method.fit_points(verts.to(device), faces.to(device), settings, show_progress=True, live=_live(out))
    return _save(method.save_results, result, out, overwrite, file.name)


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
    _check_pictures(mesh, "--mesh", images, cameras, masks, views)
    checkpoint = _prepare_checkpoint(out, overwrite, resume, device)
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
        None if images is None else _capture(images, cameras, masks, settings.image_size, held_out, distance, fov)
    )
    return _fit_to_pictures(
        method, settings, mesh, pictures, images, out, checkpoint, overwrite, resume, device, live=_live(out)
    )


def _check_pictures(
    mesh: Path | None,
    flag: str,
    images: Path | None,
    cameras: Path | None,
    masks: Path | None,
    views: int | None,
) -> None:
    """Refuse options that do not go together."""
    if mesh is not None and images is not None:
        raise ValueError(f"give either {flag} FILE or --images FOLDER")
    if images is None and (cameras is not None or masks is not None):
        raise ValueError("--cameras and --masks go with --images")
    if images is not None and views is not None:
        raise ValueError("--views goes with a mesh: pictures are as many as they are")


def _capture(
    images: Path,
    cameras: Path | None,
    masks: Path | None,
    image_size: int,
    held_out: int | None = None,
    distance: float | None = None,
    fov: float | None = None,
) -> Any:
    """The pictures of a folder and their cameras."""
    from recon_engine.captures import load_capture

    given = {name: value for name, value in (("distance", distance), ("fov", fov)) if value is not None}
    return load_capture(images, cameras, masks, image_size=image_size, held_out=held_out, **given)


def _fit_to_pictures(
    method: Any,
    settings: Any,
    mesh: Path | None,
    capture: Any,
    images: Path | None,
    out: Path,
    checkpoint: Path,
    overwrite: bool,
    resume: bool,
    device: str,
    **options: Any,
) -> int:
    """Run a method on the pictures of a folder, or else on those of a mesh or the built-in building, and save it."""
    if capture is None:
        target, source = _object(mesh, device)
    else:
        source = f"{len(capture.names)} pictures in {images.name if images is not None and images.name else 'a folder'}"
    if overwrite:
        checkpoint.unlink(missing_ok=True)
    options |= {"checkpoint": checkpoint, "show_progress": True}
    if capture is None:
        result = method.from_mesh(target, settings, **options)
    else:
        result = method.from_capture(capture, settings, device=device, **options)
    return _save(method.save_results, result, out, overwrite or resume, source, checkpoint)


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
    _check_pictures(obj, "--obj", images, cameras, masks, views)
    checkpoint = _prepare_checkpoint(out, overwrite, resume, device)
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
    pictures = None if images is None else _capture(images, cameras, masks, settings.image_size)
    return _fit_to_pictures(method, settings, obj, pictures, images, out, checkpoint, overwrite, resume, device)


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
    _check_pictures(obj, "--obj", images, cameras, masks, views)
    checkpoint = _prepare_checkpoint(out, overwrite, resume, device)
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
    pictures = None if images is None else _capture(images, cameras, masks, settings.image_size)
    return _fit_to_pictures(method, settings, obj, pictures, images, out, checkpoint, overwrite, resume, device)


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
    checkpoint = _prepare_checkpoint(out, overwrite, resume, device)
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
    mesh, source = _object(obj, device)
    if overwrite:
        checkpoint.unlink(missing_ok=True)
    if observed is not None:
        result = method.from_pictures(mesh, observed, settings, checkpoint=checkpoint, show_progress=True)
    else:
        count = 1 if frames is None else frames
        result = method.from_mesh(mesh, settings, frames=count, checkpoint=checkpoint, show_progress=True)
    return _save(method.save_results, result, out, overwrite or resume, source, checkpoint)


def align(
    *,
    sources: tuple[Path, ...] = (),
    targets: tuple[Path, ...] = (),
    rigid: bool = False,
    scale: bool = False,
    per_mesh: bool = False,
    out: Path = Path("recon-align"),
    overwrite: bool = False,
    resume: bool = False,
    fast: bool = False,
    motion: tuple[float, float, float] | None = None,
    noise: float | None = None,
    iters: int | None = None,
    lr: float | None = None,
    samples: int | None = None,
    starts: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> int:
    """Move meshes or point clouds of any sizes onto others, all pairs in one batch.

    Args:
        sources: the shapes to move, OBJ or PLY. Default: a cube, an octahedron and a dodecahedron.
        targets: what they are moved onto, one for each. Default: the sources themselves, displaced and with noise.
        rigid: find a rotation and a displacement for each pair, by closest points from many starts.
        scale: with --rigid: find a scale for each pair as well.
        per_mesh: without --rigid: a displacement for each pair instead of one for all.
        out: the results folder.
        overwrite: replace the results folder, and the checkpoint beside it, if they exist.
        resume: go on from the checkpoint of a run that was stopped or killed; repeat its other options.
        fast: few points and few steps.
        motion: without --targets: how they are displaced, x y z. Default: 3 4 5.
        noise: without --targets: standard deviation of the noise on their vertices. Default: 0.316, with --rigid 0.01.
        iters: iterations. Default: 200, with --rigid at most 100.
        lr: learning rate of displacements. Default: 0.1.
        samples: points drawn from each shape. Default: 5000.
        starts: rotations that --rigid starts from; 1 is the shape as it lies. Default: 48.
        seed: decides everything random.
        device: cpu, cuda or cuda:N.
    """
    if targets and not sources:
        raise ValueError("--targets goes with --sources")
    if targets and len(targets) != len(sources):
        raise ValueError(f"give one of --targets for each of the {len(sources)} --sources, got {len(targets)}")
    if targets and (motion is not None or noise is not None):
        raise ValueError("--motion and --noise go without --targets: they make targets of the sources")
    if not rigid and (scale or starts is not None):
        raise ValueError("--scale and --starts go with --rigid")
    if rigid and (per_mesh or lr is not None):
        raise ValueError("--per-mesh and --lr go without --rigid")
    checkpoint = _prepare_checkpoint(out, overwrite, resume, device)
    from recon_engine.methods import align as method

    changes = {
        "scale": scale,
        "shared": not per_mesh,
        "motion": motion,
        "noise": noise,
        "iterations": iters,
        "learning_rate": lr,
        "samples": samples,
        "starts": starts,
        "seed": seed,
    }
    settings = method.align_settings(rigid=rigid, fast=fast, **changes)
    shapes = method.load_shapes(sources, device) if sources else method.built_in(rigid, device)
    loaded = method.load_shapes(targets, device) if targets else None
    if overwrite:
        checkpoint.unlink(missing_ok=True)
    if loaded is not None:
        result = method.align(shapes, loaded, settings, checkpoint=checkpoint, show_progress=True)
    else:
        result = method.from_shapes(shapes, settings, checkpoint=checkpoint, show_progress=True)
    source = " and ".join(filter(None, [", ".join(shapes.names[:-1]), shapes.names[-1]]))
    return _save(method.save_results, result, out, overwrite or resume, source, checkpoint)


def _object(obj: Path | None, device: str) -> tuple[Any, str]:
    """The mesh of a file, or the built-in building; and what to call it."""
    if obj is not None:
        return _load(obj, device), obj.name
    from recon_engine.methods.shapes import building

    return building(colors=True, device=device), "the built-in building"


def _load(file: Path, device: str) -> Any:
    """The mesh of a file; what its reader warns of goes to stderr in our words."""
    from recon_engine import quick

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        mesh = quick.load(file, device)
    for warning in heard:
        print(f"recon: warning: {warning.message}", file=sys.stderr)
    return mesh


def render(
    file: Annotated[Path, "positional"],
    /,
    *,
    output: Path | None = None,
    turntable: Path | None = None,
    size: str = "512",
    shader: Literal["phong", "flat", "gouraud", "unlit", "silhouette", "depth"] = "phong",
    camera: str = "perspective",
    background: Literal["light", "white", "black", "transparent"] | None = None,
    frames: int | None = None,
    fps: float | None = None,
    device: str = "cpu",
) -> int:
    """Make a picture or a turntable of a mesh.

    Args:
        file: the mesh, in any format that trimesh reads: OBJ, PLY, OFF, STL, GLB, ...
        output: the picture, PNG, JPEG, WebP, TIFF or BMP. Default: the mesh's name with .png, in this folder.
        turntable: a film of the mesh turning once, MP4 or GIF, instead of the picture or, with --output, besides it.
        size: height x width in pixels, like 480x640, or one number for both.
        shader: depth is brighter the nearer the surface.
        camera: [KIND,][[DISTANCE,]ELEVATION,AZIMUTH] with KIND perspective or orthographic and angles in degrees, like
            20,30 or 2.7,20,30 or orthographic,20,30. Without a distance the mesh fills the picture.
        background: behind the mesh. Default: light; black for silhouette and depth.
        frames: of the turntable. Default: 90.
        fps: frames per second of the turntable. Default: 25.
        device: cpu, cuda or cuda:N.
    """
    if turntable is None and (frames is not None or fps is not None):
        raise ValueError("--frames and --fps go with --turntable FILE")
    shown = {"size": _parse_size(size), "shader": shader, **_parse_camera(camera)}
    count, rate = 90 if frames is None else frames, 25.0 if fps is None else fps
    picture = output
    if output is None and turntable is None:
        picture = Path(f"{file.stem}.png")
    if background is None:
        background = "black" if shader in ("silhouette", "depth") else "light"
    if turntable is not None:
        _check_film(turntable, shown["size"], count, rate, background)
    if picture is not None:
        _check_picture(picture, background, is_chosen=output is not None)
    _check_device(device)
    from recon_engine import quick
    from recon_engine.methods import _pictures as pictures

    view = quick.View(**shown)
    mesh = _load(file, device)

    def laid(rgba: Any) -> Any:
        pixels = pictures.as_bytes(rgba)
        return pixels if background == "transparent" else pictures.on_paper(pixels, _BACKGROUNDS[background])

    import torch

    with torch.no_grad():
        if picture is not None:
            with pictures.whole_file(picture) as work:
                pictures.save_picture(work, laid(quick.render(mesh, **vars(view))))
            print(f"picture: {picture.absolute()}")
        if turntable is not None:
            from recon_engine._extra import extra

            turn = quick.turntable(mesh, count, **vars(view))
            bar = extra("tqdm", "cli").tqdm(turn, desc="turntable", total=count, unit="frame")
            with bar, pictures.whole_file(turntable) as work:
                film = (laid(rgba) for rgba in bar)
                if turntable.suffix.lower() == ".gif":
                    pictures.save_gif(work, film, milliseconds=10 * round(100 / rate), colors=256)
                else:
                    pictures.save_mp4(work, film, rate)
            print(f"turntable: {turntable.absolute()}")
    return 0


def _parse_size(text: str) -> tuple[int, int]:
    """Height and width of "HxW", or of one number."""
    numbers = text.lower().split("x")
    if len(numbers) > 2 or not all(number.isascii() and number.isdigit() for number in numbers):
        raise ValueError(f"--size must be HxW in pixels, like 480x640, or one number, got {text!r}")
    height, width = int(numbers[0]), int(numbers[-1])
    if not (1 <= height <= _LARGEST and 1 <= width <= _LARGEST):
        raise ValueError(f"--size must be from 1 to {_LARGEST} pixels on each side, got {text!r}")
    return height, width


def _parse_camera(text: str) -> dict[str, Any]:
    """Options of `quick.View` from "[kind,][[distance,]elevation,azimuth]"."""
    first, *rest = text.split(",")
    options: dict[str, Any] = {}
    if first in ("perspective", "orthographic"):
        options["projection"] = first
    else:
        rest = [first, *rest]
    try:
        numbers = [float(number) for number in rest]
    except ValueError:
        numbers = [math.nan]
    if len(numbers) not in (0, 2, 3) or not all(math.isfinite(number) for number in numbers):
        raise ValueError(
            "--camera must be elevation,azimuth or distance,elevation,azimuth in degrees and the mesh's units, like "
            f"2.7,20,30, with or without perspective or orthographic before it, got {text!r}"
        )
    if len(numbers) == 3 and numbers[0] <= 0:
        raise ValueError(f"--camera must have a distance above 0, got {text!r}")
    return {**options, **dict(zip(("azimuth", "elevation", "distance"), reversed(numbers)))}


def _check_picture(path: Path, background: str, is_chosen: bool) -> None:
    """Refuse a picture that could not be written, and a file that nobody asked to replace."""
    from recon_engine._extra import extra

    extra("PIL.Image", "io")
    if path.suffix.lower() not in _PICTURES:
        raise ValueError(f"--output {path} must end in one of {', '.join(_PICTURES)}")
    if background == "transparent" and path.suffix.lower() not in _TRANSPARENT:
        raise ValueError(f"--background transparent needs an --output that ends in one of {', '.join(_TRANSPARENT)}")
    _check_place(path)
    if not is_chosen and path.exists():
        from recon_engine.methods._pictures import is_ours

        if not is_ours(path):
            raise FileExistsError(f"the file {path} exists and is no picture of ours: name one with --output")


def _check_film(path: Path, size: tuple[int, int], frames: int, fps: float, background: str) -> None:
    """Refuse a turntable that could not be written."""
    from recon_engine._extra import extra

    kind = path.suffix.lower()
    if kind not in _FILMS:
        raise ValueError(f"--turntable {path} must end in .mp4 or .gif")
    if frames < 1:
        raise ValueError(f"--frames must be 1 or more, got {frames}")
    if not 0 < fps < math.inf:
        raise ValueError(f"--fps must be above 0, got {fps}")
    if kind == ".gif" and fps > _FASTEST_GIF:
        raise ValueError(f"--fps of a GIF must be at most {_FASTEST_GIF}, got {fps}: write an .mp4")
    if kind == ".mp4" and (size[0] % 2 or size[1] % 2):
        raise ValueError(f"--size of an MP4 must be even numbers, got {size[0]}x{size[1]}")
    if background == "transparent":
        raise ValueError("--background transparent goes with pictures, not with --turntable")
    for module, extras in (("tqdm", "cli"), ("PIL.Image", "io"), *([("imageio_ffmpeg", "io")] * (kind == ".mp4"))):
        extra(module, extras)
    _check_place(path)


def _check_place(path: Path) -> None:
    folder = path.absolute().parent
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file")
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} of {path.name} does not exist")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"the file {path} cannot be written: the folder {folder} is not writable")


def demo(*, out: Path = Path("recon-demo"), overwrite: bool = True, iters: int = 1000, device: str = "cpu") -> int:
    """Reconstruct the built-in building; needs no file.

    Args:
        out: the results folder.
        overwrite: replace the results of an earlier demo.
        iters: iterations.
        device: cpu, cuda or cuda:N.
    """
    _prepare(out, overwrite, device)
    from recon_engine.methods import build as method
    from recon_engine.methods.shapes import building

    settings = method.mesh_settings("framed", iterations=iters)
    result = method.from_mesh(building(colors=True, device=device), settings, show_progress=True, live=_live(out))
    return _save(method.save_results, result, out, overwrite, "the built-in building")


def view(
    files: Annotated[tuple[Path, ...], "positional"],
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    browser: bool = True,
) -> int:
    """Look at files and runs in a browser; a run that goes on is followed.

    Args:
        files: meshes, point clouds, volume.pt, field.pt, .npy arrays, results folders, or the --out of a run that goes
            on. Several are shown together.
        host: the address to listen at; 0.0.0.0 lets the network look.
        port: the port, or the next one that is free.
        browser: open the page here. Over SSH the address is printed only.
    """
    from recon_engine.viewer import Viewer

    if not 0 <= port <= 65535:
        raise ValueError(f"--port must be from 0 to 65535, got {port}")
    with Viewer(*files, host=host, port=port) as viewer:
        print(f"page: {viewer.url}", flush=True)
        if "SSH_CONNECTION" in os.environ:
            import platform

            number = viewer.server.get_port()
            print(f"over SSH: ssh -L {number}:localhost:{number} {platform.node()}", flush=True)
        elif browser and (sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            import webbrowser

            webbrowser.open(viewer.url)
        try:
            viewer.follow()
        except KeyboardInterrupt:
            print()
    return 0


def doctor() -> int:
    """Print versions, devices and extras, and test every op."""
    from recon_engine.doctor import main as run_doctor

    return run_doctor()


def compat(action: Annotated[Literal["check"], "positional"], script: Annotated[Path, "positional"], /) -> int:
    """List the names of PyTorch3D that a program uses, and say which of them are here. Nothing is run.

    Args:
        action: check.
        script: a Python file that imports pytorch3d.
    """
    from recon_engine.compat import check

    try:
        names = check(script)
    except SyntaxError as error:
        raise ValueError(f"{script} is not Python: {error}") from error
    for used in names:
        print(f"{'ok     ' if used.here else 'MISSING'} {used.name}  line {used.line}")
    missing = sum(not used.here for used in names)
    print(f"{len(names)} names of PyTorch3D, {missing} of them missing")
    return 1 if missing else 0


def commands() -> dict[str, Callable[..., int]]:
    """Every command by the name that follows `recon`, in the order of `recon --help`."""
    return {
        "build": build,
        "fit-points": fit_points,
        "fit-views": fit_views,
        "volume": volume,
        "nerf": nerf,
        "pose": pose,
        "align": align,
        "render": render,
        "view": view,
        "compat": compat,
        "demo": demo,
        "doctor": doctor,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; those of the process when not given.

    Returns:
        The exit code: 0 done, 2 wrong input, 130 stopped by Ctrl-C.
    """
    # Torch's OpenMP threads spin for a while after each loop. Where other programs use the cores as well, that makes
    # everything ten times slower. It must be set before torch is imported; in a library that is not ours to decide.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        return _complain("stopped before anything was saved", _INTERRUPTED)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        return _complain(" ".join(str(error).split()), 2)


def _run(arguments: list[str]) -> int:
    """Parse the arguments with tyro and call the command."""
    from recon_engine._extra import extra

    tyro = extra("tyro", "cli")
    return int(
        tyro.extras.subcommand_cli_from_dict(
            commands(), prog="recon", description="Differentiable 3D reconstruction.", args=arguments
        )
    )


def _prepare(out: Path, overwrite: bool, device: str) -> None:
    """Refuse before any work what would fail after it: a taken results folder, a missing device or extra."""
    from recon_engine._extra import extra
    from recon_engine.methods._run import check_folder

    check_folder(out, overwrite)
    for module, extras in (("tqdm", "cli"), ("PIL.Image", "io"), ("matplotlib", "vis")):
        extra(module, extras)
    _check_device(device)


def _prepare_checkpoint(out: Path, overwrite: bool, resume: bool, device: str) -> Path:
    """As `_prepare`; and the file beside the results folder that the state of the run is kept in."""
    if overwrite and resume:
        raise ValueError("give either --overwrite, which begins anew, or --resume, which goes on")
    _prepare(out, overwrite or resume, device)
    checkpoint = out.with_name(out.name + ".checkpoint")
    if resume and not checkpoint.is_file():
        raise FileNotFoundError(f"there is no checkpoint {checkpoint} to resume from")
    if checkpoint.exists() and not resume and not overwrite:
        raise FileExistsError(
            f"the checkpoint {checkpoint} of an earlier run exists: add --resume to go on, or --overwrite to begin anew"
        )
    return checkpoint


def _live(out: Path) -> Path:
    """The file beside the results folder that a running fit shows itself in."""
    return out.with_name(out.name + ".live")


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error


def _save(
    save: Callable[[Any, Path, str], None],
    result: Any,
    out: Path,
    overwrite: bool,
    source: str,
    checkpoint: Path | None = None,
) -> int:
    """Write the results folder, say where it is, remove the checkpoint of a whole run, and return the exit code."""
    from recon_engine.methods._run import results_folder

    with results_folder(out, overwrite) as folder:
        save(result, folder, source)
    _live(out).unlink(missing_ok=True)
    print(f"report: {(out / 'report.html').absolute()}")
    if not result.interrupted:
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        return 0
    done, planned = result.history.length, result.history.planned
    more = "" if checkpoint is None else "; --resume goes on"
    return _complain(f"stopped after {done} of {planned} iterations; what was reached is saved{more}", _INTERRUPTED)


def _complain(text: str, code: int) -> int:
    print(f"recon: {text}", file=sys.stderr)
    return code
