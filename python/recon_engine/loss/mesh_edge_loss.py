"""Edges of a wanted length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recon_engine._compile import is_traced
from recon_engine.loss._plan import plan_of
from recon_engine.ops._mesh_losses import edge_loss


def mesh_edge_loss(meshes: Any, target_length: float = 0.0) -> Tensor:
    """The mean of (edge length - target)^2 over the edges of each mesh, then over the meshes.

    Args:
        meshes: a batch of meshes (`Meshes`).
        target_length: the length that costs nothing.

    Returns:
        The loss, a number; for a batch of nothing but empty meshes a 0 of shape (1,).

    Differentiable in the vertices; an edge of length 0 has gradient 0. CPU and CUDA, float32 and float64. Repeatable
    bit by bit. The edges are computed once for all meshes that share their faces (`offset_verts`).
    """
    if meshes.isempty():
        return no_loss(meshes)
    verts, topology = meshes.verts_packed(), meshes.topology()
    plan = plan_of(topology, verts.dtype)
    sums = edge_loss(
        verts,
        topology.vert_neighbors_offsets,
        topology.vert_neighbors_indices,
        plan.vert_segments,
        plan.mesh_of(topology),
        float(target_length),
        will_differentiate(verts),
    )
    return torch.dot(sums, plan.weights("edges", topology, sums.dtype))


def no_loss(meshes: Any) -> Tensor:
    """What a loss on nothing is: PyTorch3D's 0 of shape (1,) that requires a gradient."""
    return torch.zeros(1, dtype=meshes.verts_packed().dtype, device=meshes.device, requires_grad=True)


def will_differentiate(verts: Tensor) -> bool:
    """Whether a gradient can be asked for. While torch.compile traces, nobody knows what will require one."""
    return torch.is_grad_enabled() and (verts.requires_grad or is_traced())
