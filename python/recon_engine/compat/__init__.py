"""Runs programs written for PyTorch3D, unchanged: the name `pytorch3d` and its modules resolve to recon_engine.

From the command line::

    python -m recon_engine.compat script.py args...
    python -m recon_engine.compat -m package.module args...
    torchrun --nproc-per-node 2 -m recon_engine.compat script.py args...

or in a program, before its first import of `pytorch3d`::

    import recon_engine.compat
    recon_engine.compat.install()

or for a part of one::

    with recon_engine.compat.installed():
        from pytorch3d.structures import Meshes
        meshes = torch.load("meshes.pt", weights_only=False)  # what PyTorch3D's classes were saved to becomes ours

PyTorch3D need not be installed. Where it is, its own Python files can be kept and only its kernels replaced::

    python -m recon_engine.compat --accelerate script.py args...
    recon_engine.compat.accelerate()

Modules and names that recon_engine does not have yet raise an `ImportError` or
`AttributeError` that says so. Processes that multiprocessing starts with "spawn" import everything anew: there the
program itself must call `install()`.
"""

from __future__ import annotations

from ._accelerate import accelerate, decelerate
from ._alias import PYTORCH3D_VERSION, install, installed, is_installed, uninstall
from ._check import UsedName, check
from ._pickles import safe_globals

__all__ = [
    "PYTORCH3D_VERSION",
    "UsedName",
    "accelerate",
    "check",
    "decelerate",
    "install",
    "installed",
    "is_installed",
    "safe_globals",
    "uninstall",
]
