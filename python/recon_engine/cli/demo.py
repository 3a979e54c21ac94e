"""`recon demo`: a reconstruction that needs no file."""

from __future__ import annotations

from pathlib import Path

from ._runs import Run


def demo(*, out: Path = Path("recon-demo"), overwrite: bool = True, iters: int = 1000, device: str = "cpu") -> int:
    """Reconstruct the built-in building; needs no file.

    Args:
        out: the results folder.
        overwrite: replace the results of an earlier demo.
        iters: iterations.
        device: cpu, cuda or cuda:N.
    """
    run = Run(out, device, overwrite=overwrite)
    from recon_engine.methods import build as method
    from recon_engine.methods.shapes import building

    settings = method.mesh_settings("framed", iterations=iters)
    result = method.from_mesh(building(colors=True, device=run.device), settings, show_progress=True, live=run.live)
    return run.save(result, method.save_results, "the built-in building")
