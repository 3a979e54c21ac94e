"""`recon fit-points`: a sphere that is pulled onto a point cloud or a mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from ._runs import check_run, live_file, save_run


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
    check_run(out, overwrite, device)
    from recon_engine.methods import fit_points as method
    from recon_engine.methods._files import load_shape

    changes = {"iterations": iters, "learning_rate": lr, "level": level, "samples": samples, "seed": seed}
    settings = method.fit_settings(preset, **changes)
    verts, faces = load_shape(file)
    result = method.fit_points(verts.to(device), faces.to(device), settings, show_progress=True, live=live_file(out))
    return save_run(method.save_results, result, out, overwrite, file.name)
