"""Surfaces: points on them, distances between those, connected parts."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from recon_engine.ops import knn_points, sample_points_from_meshes
from recon_engine.structures import Meshes


def surface_points(mesh: Meshes, count: int) -> Tensor:
    """(B, count, 3) points drawn uniformly from the surfaces. Differentiable in the vertices."""
    return cast(Tensor, sample_points_from_meshes(mesh, count))


def mean_square_to_nearest(x: Tensor, y: Tensor) -> float:
    """The mean over the points of x (1, N, 3) of the squared distance to the nearest of y (1, M, 3)."""
    return float(knn_points(x, y, K=1).dists.mean())


def largest_part(verts: Tensor, faces: Tensor) -> Meshes:
    """The connected part with the most faces."""
    label = torch.arange(len(verts), device=verts.device)
    while True:
        least = label[faces].amin(1, keepdim=True).expand(-1, 3)
        lower = label.scatter_reduce(0, faces.flatten(), least.flatten(), "amin")
        lower = lower[lower]
        if torch.equal(lower, label):
            break
        label = lower
    largest = torch.bincount(label[faces[:, 0]]).argmax()
    kept, renumbered = faces[label[faces[:, 0]] == largest].unique(return_inverse=True)
    return Meshes(verts=[verts[kept]], faces=[renumbered])
