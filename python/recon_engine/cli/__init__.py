"""The `recon` command: `recon build`, `recon render` and the others of `commands()`.

Wrong input ends in one line on stderr and exit code 2; Ctrl-C saves what was reached and ends with 130.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from ._help import shown
from ._runs import INTERRUPTED, complain, is_interrupt
from .align import align
from .build import build
from .checks import compat, doctor
from .demo import demo
from .fit_points import fit_points
from .fit_views import fit_views
from .nerf import nerf
from .pose import pose
from .render import render
from .view import view
from .volume import volume

__all__ = ["commands", "main"]


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
    except (KeyboardInterrupt, Exception) as error:
        text = " ".join(str(error).split())
        if is_interrupt(error):
            return complain("stopped before anything was saved", INTERRUPTED)
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:  # the system's own
            text = f"{error.filename}: {error.strerror}"
        if isinstance(error, (ValueError, OSError, ImportError, FloatingPointError)):
            return complain(text, 2)
        if _is_out_of_memory(error):
            return complain(f"there is not enough memory: choose smaller sizes ({text[:200]})", 2)
        raise


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory has ended; torch says so in a RuntimeError of its own or in the text of one."""
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def _run(arguments: list[str]) -> int:
    """Parse the arguments with tyro and call the command."""
    from recon_engine._extra import extra

    tyro = extra("tyro", "cli")
    return int(
        tyro.extras.subcommand_cli_from_dict(
            {name: shown(command) for name, command in commands().items()},
            prog="recon",
            description="Differentiable 3D reconstruction.",
            args=arguments,
        )
    )
