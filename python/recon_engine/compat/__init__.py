"""Runs programs written for PyTorch3D, unchanged: the name `pytorch3d` and its modules resolve to recon_engine.

From the command line::

    python -m recon_engine.compat script.py args...
    python -m recon_engine.compat -m package.module args...
    torchrun --nproc-per-node 2 -m recon_engine.compat script.py args...

or in a program, before its first import of `pytorch3d`::

    import recon_engine.compat
    recon_engine.compat.install()

PyTorch3D need not be installed. Where it is, its own Python files can be kept and only its kernels replaced::

    python -m recon_engine.compat --accelerate script.py args...
    recon_engine.compat.accelerate()

Modules and names that recon_engine does not have yet raise an `ImportError` or
`AttributeError` that says so. Processes that multiprocessing starts with "spawn" import everything anew: there the
program itself must call `install()`.
"""

from __future__ import annotations

from ._accelerate import accelerate, decelerate
from ._alias import PYTORCH3D_VERSION, install, is_installed, uninstall
from ._check import UsedName, check

__all__ = [
    "PYTORCH3D_VERSION",
    "UsedName",
    "accelerate",
    "check",
    "decelerate",
    "install",
    "is_installed",
    "uninstall",
]
