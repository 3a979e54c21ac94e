"""ShapeNetCore, versions 1 and 2."""

from __future__ import annotations

from . import shapenet_core
from .shapenet_core import ShapeNetCore

__all__ = ["ShapeNetCore", "shapenet_core"]
