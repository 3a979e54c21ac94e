"""Losses on point clouds and meshes."""

from __future__ import annotations

from .chamfer import chamfer_distance as chamfer_distance
from .mesh_edge_loss import mesh_edge_loss as mesh_edge_loss
from .mesh_laplacian_smoothing import mesh_laplacian_smoothing as mesh_laplacian_smoothing
from .mesh_normal_consistency import mesh_normal_consistency as mesh_normal_consistency
from .point_mesh_distance import point_mesh_edge_distance as point_mesh_edge_distance
from .point_mesh_distance import point_mesh_face_distance as point_mesh_face_distance

__all__ = [k for k in globals() if not k.startswith("_")]
