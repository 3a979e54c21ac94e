"""Points on surfaces and distances between them, as single tensors."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from recon_engine.ops import knn_points, sample_points_from_meshes
from recon_engine.structures import Meshes


def surface_points(mesh: Meshes, count: int) -> Tensor:
    """(B, count, 3) points drawn uniformly from the surfaces. Differentiable in the vertices."""
    return cast(Tensor, sample_points_from_meshes(mesh, count))


def mean_square_to_nearest(x: Tensor, y: Tensor) -> float:
    """The mean over the points of x (1, N, 3) of the squared distance to the nearest of y (1, M, 3)."""
    return float(knn_points(x, y, K=1).dists.mean())
