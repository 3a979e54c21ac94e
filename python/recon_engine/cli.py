"""The `recon` command: `recon build`, `recon fit-points`, `recon demo`, `recon doctor`.

Wrong input ends in one line on stderr and exit code 2; Ctrl-C saves what was reached and ends with 130.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

_INTERRUPTED = 130  # 128 + SIGINT, as shells count


def build(
    *,
    obj: Path | None = None,
    images: Path | None = None,
    angles: Path | None = None,
    init: Path | None = None,
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
    """Reconstruct an object from silhouettes: of a mesh (--obj) or of photographs (--images and --angles).

    Args:
        obj: the mesh to reconstruct, OBJ or PLY. Its silhouettes are rendered.
        images: a folder of RGBA cut-outs, any size.
        angles: a CSV with the columns file,azimuth,elevation in degrees; without `file`, rows follow the sorted names.
        init: with --images: the mesh to start from, instead of --start.
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
    if images is not None and angles is None:
        raise ValueError("--images needs --angles FILE.csv")
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
        "seed": seed,
    }
    _prepare(out, overwrite, device)
    from recon_engine.methods import build as method
    from recon_engine.methods._files import load_mesh

    if obj is not None:
        settings = method.mesh_settings(preset, **changes)
        result = method.from_mesh(load_mesh(obj, device), settings, show_progress=True)
        return _save(method.save_results, result, out, overwrite, obj.name)
    assert images is not None
    assert angles is not None
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
    result = method.fit_points(verts.to(device), faces.to(device), settings, show_progress=True)
    return _save(method.save_results, result, out, overwrite, file.name)


def demo(*, out: Path = Path("recon-demo"), overwrite: bool = True, iters: int = 1000, device: str = "cpu") -> int:
    """Reconstruct the built-in building from its silhouettes. Needs no file and no network.

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
    result = method.from_mesh(building(colors=True, device=device), settings, show_progress=True)
    return _save(method.save_results, result, out, overwrite, "the built-in building")


def doctor() -> int:
    """Print versions, devices and extras, and test every op against its reference."""
    from recon_engine.doctor import main as run_doctor

    return run_doctor()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; those of the process when not given.

    Returns:
        The exit code: 0 done, 2 wrong input, 130 stopped by Ctrl-C.
    """
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        return _complain("stopped before anything was saved", _INTERRUPTED)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        return _complain(" ".join(str(error).split()), 2)


def _run(arguments: list[str]) -> int:
    """Parse the arguments with tyro and call the command."""
    from recon_engine.methods._run import extra

    tyro = extra("tyro", "cli")
    commands = {"build": build, "fit-points": fit_points, "demo": demo, "doctor": doctor}
    return int(
        tyro.extras.subcommand_cli_from_dict(
            commands, prog="recon", description="Differentiable 3D reconstruction.", args=arguments
        )
    )


def _prepare(out: Path, overwrite: bool, device: str) -> None:
    """Refuse before any work what would fail after it: a taken results folder, a missing device or extra."""
    import torch

    from recon_engine.methods._run import check_folder, extra

    check_folder(out, overwrite)
    for module, extras in (("tqdm", "cli"), ("PIL.Image", "io"), ("matplotlib", "vis")):
        extra(module, extras)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error


def _save(save: Callable[[Any, Path, str], None], result: Any, out: Path, overwrite: bool, source: str) -> int:
    """Write the results folder, say where it is, and return the exit code."""
    from recon_engine.methods._run import results_folder

    with results_folder(out, overwrite) as folder:
        save(result, folder, source)
    print(f"report: {(out / 'report.html').absolute()}")
    if not result.interrupted:
        return 0
    done, planned = result.history.length, result.settings.iterations
    return _complain(f"stopped after {done} of {planned} iterations; what was reached is saved", _INTERRUPTED)


def _complain(text: str, code: int) -> int:
    print(f"recon: {text}", file=sys.stderr)
    return code
