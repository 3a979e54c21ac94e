"""Batches of geometry of different sizes: lists, packed and padded tensors behind one object."""

from __future__ import annotations

from .meshes import Meshes, join_meshes_as_batch, join_meshes_as_scene
from .pointclouds import Pointclouds, join_pointclouds_as_batch, join_pointclouds_as_scene
from .topology import Topology
from .utils import list_to_packed, list_to_padded, packed_to_list, padded_to_list
from .volumes import Volumes

__all__ = [
    "Meshes",
    "Pointclouds",
    "Topology",
    "Volumes",
    "join_meshes_as_batch",
    "join_meshes_as_scene",
    "join_pointclouds_as_batch",
    "join_pointclouds_as_scene",
    "list_to_packed",
    "list_to_padded",
    "meshes",
    "packed_to_list",
    "padded_to_list",
    "pointclouds",
    "topology",
    "utils",
    "volumes",
]
