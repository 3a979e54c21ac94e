"""PyTorch3D's own Python files on our kernels: `recon_engine.compat.accelerate()`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

from ._alias import is_installed

_NAME = "pytorch3d._C"
# What the compiled module of PyTorch3D had before, or None where ours stands in for all of it.
_before: dict[str, Any] | None = None
_active = False


def accelerate() -> None:
    """Puts our kernels under the PyTorch3D that is installed: its Python files stay as they are.

    Every call of its compiled functions, whether PyTorch3D was imported before or not, is answered by `compat._C`; its
    own compiled module may be missing or not fit the torch in use. Implicitron works as it is. Calling it again does
    nothing. For speed prefer `install`, which replaces the Python files too: they cost more than the kernels.

    Raises:
        ImportError: if PyTorch3D's Python files cannot be found.
        RuntimeError: if `install` has been called, which leaves nothing of PyTorch3D to accelerate.
    """
    global _active, _before
    if _active:
        return
    if is_installed():
        raise RuntimeError(
            "recon_engine.compat.accelerate: install() has replaced PyTorch3D altogether. Call one of the two"
        )
    if importlib.util.find_spec("pytorch3d") is None:
        raise ImportError(
            "recon_engine.compat.accelerate: PyTorch3D is not installed. Install its Python files (a build without "
            "its kernels will do), or call recon_engine.compat.install(), which needs nothing of PyTorch3D",
            name="pytorch3d",
        )
    ours = importlib.import_module("recon_engine.compat._C")
    theirs = _compiled()
    if theirs is None:
        sys.modules[_NAME] = ours
        importlib.import_module("pytorch3d")._C = ours  # type: ignore[attr-defined]
    else:
        # Modules that were imported already hold on to the module, not to its functions.
        _before = {name: getattr(theirs, name) for name in ours.__all__ if hasattr(theirs, name)}
        for name in ours.__all__:
            setattr(theirs, name, getattr(ours, name))
    _active = True


def decelerate() -> None:
    """Undoes `accelerate`. Where PyTorch3D has no compiled module of its own, what was imported keeps ours."""
    global _active, _before
    if not _active:
        return
    if _before is None:
        sys.modules.pop(_NAME, None)
    else:
        theirs, ours = sys.modules[_NAME], importlib.import_module("recon_engine.compat._C")
        for name in ours.__all__:
            if name in _before:
                setattr(theirs, name, _before[name])
            else:
                delattr(theirs, name)
    _active, _before = False, None


def _compiled() -> ModuleType | None:
    """PyTorch3D's compiled module, or None where it is missing or cannot be loaded."""
    try:
        return importlib.import_module(_NAME)
    except ImportError:
        sys.modules.pop(_NAME, None)
        return None
