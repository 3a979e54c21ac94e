"""Icosphere: an icosahedron whose faces are split in four, `level` times, and pushed onto the unit sphere."""

from __future__ import annotations

import functools
import operator

import numpy as np
import torch
from torch import Tensor

from recon_engine.structures.meshes import Meshes

# The corners of three golden rectangles, scaled to the unit sphere and rounded to four digits: PyTorch3D's constants.
_SHORT, _LONG = 0.5257, 0.8507
_BASE_VERTS = (
    [[x, y, 0.0] for y in (_LONG, -_LONG) for x in (-_SHORT, _SHORT)]
    + [[0.0, y, z] for z in (_LONG, -_LONG) for y in (-_SHORT, _SHORT)]
    + [[x, 0.0, z] for x in (_LONG, -_LONG) for z in (-_SHORT, _SHORT)]
)
_BASE_FACES = (
    *((0, 11, 5), (0, 5, 1), (0, 1, 7), (0, 7, 10), (0, 10, 11)),  # around vertex 0
    *((1, 5, 9), (5, 11, 4), (11, 10, 2), (10, 7, 6), (7, 1, 8)),  # their outer neighbours
    *((3, 9, 4), (3, 4, 2), (3, 2, 6), (3, 6, 8), (3, 8, 9)),  # around vertex 3
    *((4, 9, 5), (2, 4, 11), (6, 2, 10), (8, 6, 7), (9, 8, 1)),  # their outer neighbours
)
_MAX_LEVEL = 12  # 4^12 * 20 faces are 336 million: more does not fit the memory of a usual machine
_MAX_CACHED_LEVEL = 7


def ico_sphere(level: int = 0, device: torch.device | str | None = None) -> Meshes:
    """A unit icosphere as one mesh, with faces counter-clockwise seen from outside.

    Vertices and faces have PyTorch3D's values and order, so results of scripts that index them stay the same. The
    corners of level 0 are PyTorch3D's rounded constants (their length is 1 within 4e-5); from level 1 on every vertex
    is normalised. Levels up to 7 are computed once per process and copied.

    Args:
        level: how often each face is split in four: 20 * 4**level faces, 10 * 4**level + 2 vertices.
        device: where the tensors are made. Default: the CPU.

    Returns:
        Meshes: one mesh, float32 vertices (V, 3), int64 faces (F, 3).

    Raises:
        ValueError: if `level` is negative or larger than 12.
    """
    try:
        level = operator.index(level)
    except TypeError:
        raise TypeError(f"ico_sphere: level must be an int, got {type(level).__name__}") from None
    if level < 0:
        raise ValueError(f"ico_sphere: level must be >= 0, got {level}")
    if level > _MAX_LEVEL:
        raise ValueError(f"ico_sphere: level must be <= {_MAX_LEVEL} (20 * 4**level faces), got {level}")
    device = torch.device("cpu") if device is None else torch.device(device)
    verts, faces = _cached_sphere(level) if level <= _MAX_CACHED_LEVEL else _sphere(level)
    return Meshes(verts=[verts.to(device, copy=True)], faces=[faces.to(device, copy=True)])


@torch.no_grad()
def _sphere(level: int) -> tuple[Tensor, Tensor]:
    if level == 0:
        return torch.tensor(_BASE_VERTS, dtype=torch.float32), torch.tensor(_BASE_FACES, dtype=torch.int64)
    verts, faces = _cached_sphere(level - 1) if level <= _MAX_CACHED_LEVEL else _sphere(level - 1)
    edges, children = _split_faces(faces.numpy(), len(verts))
    verts = torch.cat([verts, verts[torch.from_numpy(edges)].mean(dim=1)])
    return verts / verts.norm(p=2, dim=1, keepdim=True), torch.from_numpy(children)


@functools.cache
def _cached_sphere(level: int) -> tuple[Tensor, Tensor]:
    return _sphere(level)


def _split_faces(faces: np.ndarray, num_verts: int) -> tuple[np.ndarray, np.ndarray]:
    """The edges (E, 2) in sorted order, and the 4F faces made with the midpoint of edge e as vertex num_verts + e."""
    opposite = np.stack([faces[:, [1, 2]], faces[:, [2, 0]], faces[:, [0, 1]]], axis=1)  # edge k faces corner k
    opposite.sort(axis=-1)
    keys, edge_of = np.unique(opposite[..., 0] * num_verts + opposite[..., 1], return_inverse=True)
    edges = np.stack([keys // num_verts, keys % num_verts], axis=1)
    mid = num_verts + edge_of.reshape(-1, 3)
    corners = [np.stack([faces[:, k], mid[:, (k + 2) % 3], mid[:, (k + 1) % 3]], axis=1) for k in range(3)]
    return edges, np.concatenate([*corners, mid])
