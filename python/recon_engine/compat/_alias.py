"""The import hook behind `recon_engine.compat`: `pytorch3d.X` is a view of `recon_engine.X`.

A view is a module object of its own, because a name like `pytorch3d.utils.torus` is a function as an attribute and a
module as an import: the import system assigns a freshly imported module to its parent, and must not do that to ours.
All reading, writing and deleting of attributes goes through to the module behind, so classes and functions are
identical.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import recon_engine

PYTORCH3D_VERSION = "0.7.9"

_THEIRS, _OURS = "pytorch3d", "recon_engine"
# Their compiled module, and ours with their functions.
_THEIR_KERNELS, _OUR_KERNELS = "pytorch3d._C", "recon_engine.compat._C"
# PyTorch3D's packages. What else is in recon_engine (`methods`, `compat`, `_C`, ...) has no counterpart there.
_PACKAGES = frozenset(
    ["common", "datasets", "implicitron", "io", "loss", "ops", "renderer", "structures", "transforms", "utils", "vis"]
)
_OWN_ATTRIBUTES = frozenset(["__spec__", "__loader__", "__package__", "__path__", "__name__", "__doc__", "_target"])


def install() -> None:
    """Makes `import pytorch3d...` resolve to recon_engine in this process. Calling it again does nothing.

    Raises:
        RuntimeError: if the real PyTorch3D is imported already: its classes and ours would then mix.
    """
    if is_installed():
        return
    for name, module in list(sys.modules.items()):
        if _is_theirs(name):
            where = getattr(module, "__file__", None) or "no file"
            raise RuntimeError(
                f"recon_engine.compat.install: the real PyTorch3D is already imported ({name} from {where}). "
                "Call install() before the first import of pytorch3d, or run the program with "
                "'python -m recon_engine.compat SCRIPT ARGS...'"
            )
    sys.meta_path.insert(0, _FINDER)


def uninstall() -> None:
    """Undoes `install`: the next `import pytorch3d` finds the real PyTorch3D, if there is one.

    Modules and names that were imported meanwhile keep working.
    """
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)
    for name, module in list(sys.modules.items()):
        if _is_theirs(name) and isinstance(module, _View):
            del sys.modules[name]


@contextmanager
def installed() -> Iterator[None]:
    """Inside of it `import pytorch3d` resolves to recon_engine, and after it to what it did before.

    The real PyTorch3D may be imported already: its modules are put aside meanwhile. What is imported inside keeps its
    names afterwards, so that both can be used side by side. It is for all threads alike.

    Example:
        >>> with installed():
        ...     from pytorch3d.structures import Meshes
        >>> Meshes.__module__
        'recon_engine.structures.meshes'
    """
    if is_installed():
        yield
        return
    theirs = _taken_out()
    sys.meta_path.insert(0, _FINDER)
    try:
        yield
    finally:
        if is_installed():
            sys.meta_path.remove(_FINDER)
        _taken_out()
        sys.modules.update(theirs)


def _taken_out() -> dict[str, ModuleType]:
    """All modules of `pytorch3d`, which are no longer imported then."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if _is_theirs(name)}


def is_installed() -> bool:
    """Whether `import pytorch3d` resolves to recon_engine."""
    return _FINDER in sys.meta_path


class _View(ModuleType):
    """A module `pytorch3d.X` that shows the attributes of `recon_engine.X`."""

    def __init__(self, name: str, target: ModuleType) -> None:
        super().__init__(name, target.__doc__)
        self._target = target

    def __getattr__(self, name: str) -> Any:
        """Called for what the view itself does not have, which is everything but the import system's attributes."""
        target = self._target
        if target is recon_engine:
            if name == "__version__":
                return PYTORCH3D_VERSION
            if name == "_C":
                return importlib.import_module(_THEIR_KERNELS)
            if name not in _PACKAGES and not (name.startswith("__") and name.endswith("__")):
                raise AttributeError(_not_part(f"{self.__name__}.{name}"), name=name, obj=self)
        try:
            value = getattr(target, name)
        except (AttributeError, ModuleNotFoundError) as error:
            if isinstance(error, ModuleNotFoundError) and error.name != f"{target.__name__}.{name}":
                raise
            if name == "__all__":
                return [key for key in vars(target) if not key.startswith("_")]
            raise AttributeError(_not_part(f"{self.__name__}.{name}"), name=name, obj=self) from None
        if isinstance(value, ModuleType) and value.__name__.startswith(f"{_OURS}."):
            return importlib.import_module(_THEIRS + value.__name__.removeprefix(_OURS))
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN_ATTRIBUTES:
            super().__setattr__(name, value)
        elif not isinstance(value, _View):  # the import system assigns submodules, `__getattr__` finds them anyway
            setattr(self._target, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._target, name)

    def __dir__(self) -> list[str]:
        return dir(self._target)

    def __repr__(self) -> str:
        return f"<module {self.__name__!r}, which is {self._target.__name__} {recon_engine.__version__}>"


class _Finder(MetaPathFinder, Loader):
    """Finds and loads views. It answers for every `pytorch3d` name, so nothing of a real installation gets mixed in."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not _is_theirs(fullname):
            return None
        if not _exists(_ours(fullname)):
            # Not ModuleNotFoundError: `from pytorch3d.ops import name` would swallow that, with the explanation.
            raise ImportError(_not_part(fullname), name=fullname)
        # Every view is a package: then the import system asks here about each name of a `from ... import`.
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _View(spec.name, importlib.import_module(_ours(spec.name)))

    def exec_module(self, module: ModuleType) -> None:
        """The module behind is loaded already."""


_FINDER = _Finder()


def _is_theirs(name: str) -> bool:
    return name == _THEIRS or name.startswith(f"{_THEIRS}.")


def _ours(name: str) -> str:
    return _OUR_KERNELS if name == _THEIR_KERNELS else _OURS + name.removeprefix(_THEIRS)


def _exists(name: str) -> bool:
    """Whether the module `name` of recon_engine mirrors one of PyTorch3D."""
    packages = name.split(".")[1:]
    if packages and packages[0] not in _PACKAGES and name != _OUR_KERNELS:
        return False
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith(_OURS):
            raise
        return False


def _not_part(name: str) -> str:
    return (
        f"{name} is not part of {_OURS} {recon_engine.__version__} yet. To use the real PyTorch3D for it, run the "
        "program with plain python, or call recon_engine.compat.uninstall() before importing pytorch3d"
    )
