"""Torus around the z axis."""

from __future__ import annotations

import math

import numpy as np
import torch

from recon_engine.structures.meshes import Meshes


def torus(r: float, R: float, sides: int, rings: int, device: torch.device | str | None = None) -> Meshes:
    """A torus around the z axis as one mesh: a circle of radius `r` swept along a circle of radius `R`.

    Vertex `i * sides + j` is ((R + r cos t) cos p, (R + r cos t) sin p, r sin t) with p = 2 pi i / rings and
    t = 2 pi j / sides. Vertices and faces have PyTorch3D's order.

    Args:
        r: radius of the tube.
        R: distance from the centre of the torus to the centre of the tube.
        sides: number of corners of the tube's cross-section.
        rings: number of cross-sections.
        device: where the tensors are made. Default: the CPU.

    Returns:
        Meshes: one mesh, float32 vertices (sides * rings, 3), int64 faces (2 * sides * rings, 3).

    Raises:
        ValueError: if `sides` or `rings` is not positive.
    """
    if sides <= 0:
        raise ValueError(f"torus: sides must be > 0, got {sides}")
    if rings <= 0:
        raise ValueError(f"torus: rings must be > 0, got {rings}")
    device = torch.device("cpu") if device is None else torch.device(device)

    cos_p, sin_p = _circle(rings)
    cos_t, sin_t = _circle(sides)
    reach = R + r * cos_t
    height = np.broadcast_to(r * sin_t, (rings, sides))
    verts = np.stack([reach * cos_p[:, None], reach * sin_p[:, None], height], axis=-1).reshape(-1, 3)

    # Each quad lies between rings i0, i1 and sides j0, j1; both pairs start with (last, 0).
    i1, j1 = np.arange(rings)[:, None], np.arange(sides)
    i0, j0 = (i1 - 1) % rings, (j1 - 1) % sides
    v00, v01, v10, v11 = (i0 * sides + j0, i0 * sides + j1, i1 * sides + j0, i1 * sides + j1)
    faces = np.stack([v00, v10, v11, v11, v01, v00], axis=-1).reshape(-1, 3)
    return Meshes(
        verts=[torch.tensor(verts, dtype=torch.float32, device=device)],
        faces=[torch.tensor(faces, dtype=torch.int64, device=device)],
    )


def _circle(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of `count` angles; by `math`, whose last digit numpy's vector functions do not promise."""
    angles = [2 * math.pi * i / count for i in range(count)]
    return np.array([math.cos(a) for a in angles]), np.array([math.sin(a) for a in angles])
