"""`recon align`: shapes moved onto others."""

from __future__ import annotations

from pathlib import Path

from ._runs import Run


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
    run = Run(out, device, overwrite=overwrite, resume=resume)
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
    shapes = method.load_shapes(sources, run.device) if sources else method.built_in(rigid, run.device)
    loaded = method.load_shapes(targets, run.device) if targets else None
    source = " and ".join(filter(None, [", ".join(shapes.names[:-1]), shapes.names[-1]]))

    def fit() -> method.AlignResult:
        if loaded is not None:
            return method.align(shapes, loaded, settings, **run.options)
        return method.from_shapes(shapes, settings, **run.options)

    return run.finish(fit, method.save_results, source)
