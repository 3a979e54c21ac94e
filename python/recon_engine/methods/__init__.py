"""Whole reconstruction methods, each in one folder: settings, fit, results, and a `recon ...` command.

`build` reconstructs an object from silhouettes, `fit_points` wraps a sphere around a point cloud or mesh, `fit_views`,
`volume` and `nerf` fit a textured mesh, a volume and a radiance field to pictures, `pose` finds cameras, `align` moves
shapes onto others, and `shapes` makes meshes by rule.
"""

from __future__ import annotations

import importlib
from typing import Any

_SUBPACKAGES = ("align", "build", "fit_points", "fit_views", "nerf", "pose", "shapes", "volume")


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBPACKAGES])
