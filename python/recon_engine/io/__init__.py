"""Files of meshes and point clouds: OBJ, PLY, OFF and GLB."""

from __future__ import annotations

from . import experimental_gltf_io, mtl_io, obj_io, off_io, pluggable, pluggable_formats, ply_io, utils
from .obj_io import load_obj, load_objs_as_meshes, save_obj
from .pluggable import IO
from .ply_io import load_ply, save_ply

__all__ = [
    "IO",
    "experimental_gltf_io",
    "load_obj",
    "load_objs_as_meshes",
    "load_ply",
    "mtl_io",
    "obj_io",
    "off_io",
    "pluggable",
    "pluggable_formats",
    "ply_io",
    "save_obj",
    "save_ply",
    "utils",
]
