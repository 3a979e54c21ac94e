"""ShapeNetCore and R2N2 from local copies, as torch data sets of meshes, pictures, cameras and voxels."""

from __future__ import annotations

from . import r2n2, shapenet, shapenet_base, utils
from .r2n2 import R2N2, BlenderCamera, collate_batched_R2N2, render_cubified_voxels
from .shapenet import ShapeNetCore
from .utils import collate_batched_meshes

__all__ = [
    "R2N2",
    "BlenderCamera",
    "ShapeNetCore",
    "collate_batched_R2N2",
    "collate_batched_meshes",
    "r2n2",
    "render_cubified_voxels",
    "shapenet",
    "shapenet_base",
    "utils",
]
