"""Differentiable 3D reconstruction: kernels, renderers and methods with PyTorch3D's names.

`import recon_engine` imports torch and numpy and nothing else heavy. The compiled kernels load with the first op that
needs them, so that structures, transforms, cameras and file formats also work where the compiled module does not.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_SUBPACKAGES = (
    "common",
    "compat",
    "io",
    "loss",
    "methods",
    "ops",
    "renderer",
    "structures",
    "transforms",
    "utils",
    "viewer",
)
_QUICK = ("depth_map", "load", "render", "turntable")


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _QUICK:
        return getattr(importlib.import_module(f"{__name__}.quick"), name)
    if name == "show":
        return importlib.import_module(f"{__name__}.viewer").show
    if name == "reference":
        return importlib.import_module(f"{__name__}._op").reference
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBPACKAGES, *_QUICK, "reference", "show"])
