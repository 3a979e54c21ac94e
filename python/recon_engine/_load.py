"""Loads the compiled module, or says why it cannot be loaded and what cures it."""

from __future__ import annotations

import platform
from types import ModuleType

import torch


def load() -> ModuleType:
    """The compiled module `recon_engine._C`.

    Raises:
        ImportError: with the Python, torch and recon_engine versions and the cure.
    """
    try:
        from recon_engine import _C
    except ImportError as error:
        from recon_engine import __version__

        raise ImportError(
            f"the compiled kernels of recon_engine cannot be loaded: {error}\n"
            f"  Python {platform.python_version()} ({platform.machine()}), torch {torch.__version__}, "
            f"recon_engine {__version__}\n"
            "Cure: pip install --force-reinstall --no-deps recon_engine   (one wheel fits every torch >= 2.4, but only "
            "the Python version and the processor it was built for; from a source tree: pip install .)"
        ) from error
    module: ModuleType = _C
    return module
