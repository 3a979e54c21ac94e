"""`recon doctor` and `recon compat`: is everything there?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal


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
