"""Smoothing of meshes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def taubin_smoothing(meshes: Any, lambd: float = 0.53, mu: float = -0.53, num_iter: int = 10) -> Any:
    """Meshes with smoother surfaces that do not shrink.

    Each iteration moves every vertex towards the mean of its neighbours, weighted by one over their distances, by the
    factor `lambd`, and then away from it by the factor `mu`.

    Args:
        meshes: a batch of meshes (`Meshes`).
        lambd: factor of the first step, positive.
        mu: factor of the second step, negative.
        num_iter: number of iterations.

    Returns:
        A new batch of the same faces, without textures. Vertices without edges stay where they are.

    Differentiable in the vertices.

    References:
        Taubin, Curve and surface smoothing without shrinkage, ICCV 1995.
    """
    from recon_engine.structures import Meshes

    verts, edges = meshes.verts_packed(), meshes.edges_packed()
    for _ in range(num_iter):
        for factor in (lambd, mu):
            verts = verts + factor * (_neighbor_mean(verts, edges) - verts)
    return Meshes(verts=list(verts.split(meshes.topology().num_verts)), faces=meshes.faces_list())


def _neighbor_mean(verts: Tensor, edges: Tensor) -> Tensor:
    v0, v1 = edges.unbind(1)
    weight = ((verts[v0] - verts[v1]).norm(dim=1) + 1e-12).reciprocal()[:, None]
    ends, others = torch.cat([v0, v1]), torch.cat([v1, v0])
    weight = weight.repeat(2, 1)
    total = verts.new_zeros(len(verts), 1).index_add(0, ends, weight)
    mean = torch.zeros_like(verts).index_add(0, ends, weight * verts[others]) / torch.where(total > 0, total, 1)
    return torch.where(total > 0, mean, verts)
