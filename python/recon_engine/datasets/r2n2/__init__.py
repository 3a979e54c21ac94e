"""R2N2: renderings and voxels of models of ShapeNetCore, version 1."""

from __future__ import annotations

from . import r2n2, utils
from .r2n2 import R2N2
from .utils import BlenderCamera, collate_batched_R2N2, render_cubified_voxels

__all__ = ["R2N2", "BlenderCamera", "collate_batched_R2N2", "r2n2", "render_cubified_voxels", "utils"]
