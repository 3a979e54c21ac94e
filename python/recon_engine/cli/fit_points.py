"""`recon fit-points`: a sphere that is pulled onto a point cloud or a mesh."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from ._runs import Run


def fit_points(
    file: Annotated[Path, "positional"],
    /,
    *,
    out: Path = Path("recon-fit-points"),
    overwrite: bool = False,
    resume: bool = False,
    preset: Literal["deform1", "deform2", "deform3"] = "deform1",
    fast: bool = False,
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
        out: the results folder.
        overwrite: replace the results folder, and the checkpoint beside it, if they exist.
        resume: go on from the checkpoint of a run that was stopped or killed; repeat its other options.
        preset: deform1 uses all losses, deform2 the chamfer distance alone, deform3 chamfer and edge lengths.
        fast: small and coarse, in a second or two.
        iters: iterations. Default: 2000, with --fast 300.
        lr: learning rate. Default: 1.
        level: how often the sphere's triangles are split. Default: 4, with --fast 3.
        samples: points drawn in each iteration. Default: 5000, with --fast 1000.
        seed: decides the drawn points.
        device: cpu, cuda or cuda:N.
    """
    run = Run(out, device, overwrite=overwrite, resume=resume)
    from recon_engine.methods import fit_points as method
    from recon_engine.methods._files import load_shape

    changes: dict[str, Any] = {
        "iterations": iters,
        "learning_rate": lr,
        "level": level,
        "samples": samples,
        "seed": seed,
    }
    settings = method.fit_settings(preset, fast=fast, **changes)
    verts, faces = (part.to(run.device) for part in load_shape(file))
    fit = partial(method.fit_points, verts, faces, settings, **run.options)
    return run.finish(fit, method.save_results, file.name)
