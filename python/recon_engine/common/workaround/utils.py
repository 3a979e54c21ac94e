"""Determinants of small matrices."""

from __future__ import annotations

import torch
from torch import Tensor


def _safe_det_3x3(t: Tensor) -> Tensor:
    """Determinants (...) of 3x3 matrices (..., 3, 3), as the triple product of their rows."""
    a, b, c = t.unbind(-2)
    return (a * torch.linalg.cross(b, c)).sum(-1)
