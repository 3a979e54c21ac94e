"""Optional dependencies, imported where they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType


def extra(module: str, extras: str) -> ModuleType:
    """Import an optional module, or say which pip line brings it.

    Args:
        module: dotted module name.
        extras: the extra of recon_engine that installs it.

    Raises:
        ImportError: the module is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{module} is missing: pip install "recon_engine[{extras}]"') from error
