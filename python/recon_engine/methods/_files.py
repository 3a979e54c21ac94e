"""Shapes from files, for commands that take a mesh or a point cloud."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from recon_engine._mesh_files import check_surface
from recon_engine.io import load_obj, load_ply
from recon_engine.structures import Meshes


def load_shape(path: Path | str) -> tuple[Tensor, Tensor]:
    """Vertices and faces of an OBJ or PLY file, textures ignored.

    Args:
        path: ends in .obj or .ply.

    Returns:
        verts (V, 3) float32, faces (F, 3) int64; F is 0 for a point cloud.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another ending, a malformed file, no vertices, or what `check_surface` refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the file {path} does not exist")
    if path.suffix.lower() == ".obj":
        verts, obj_faces, _ = load_obj(str(path), load_textures=False)
        faces = obj_faces.verts_idx
    elif path.suffix.lower() == ".ply":
        verts, faces = load_ply(str(path))
    else:
        raise ValueError(f"the file {path} must end in .obj or .ply")
    if len(verts) == 0:
        raise ValueError(f"the file {path} has no vertices")
    verts, faces = verts.float(), faces.long().reshape(-1, 3)
    check_surface(path, verts, faces)
    return verts, faces


def load_mesh(path: Path | str, device: torch.device | str = "cpu") -> Meshes:
    """One mesh from an OBJ or PLY file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a malformed file, or one without faces.
    """
    verts, faces = load_shape(path)
    if len(faces) == 0:
        raise ValueError(f"the file {path} has {len(verts)} vertices but no faces: a mesh is needed")
    return Meshes(verts=[verts.to(device)], faces=[faces.to(device)])
