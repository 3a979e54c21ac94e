"""Closed forms for small matrices, where the batched routines of linear algebra libraries are slow."""

from __future__ import annotations

from .symeig3x3 import symeig3x3
from .utils import _safe_det_3x3

__all__ = ["_safe_det_3x3", "symeig3x3"]
