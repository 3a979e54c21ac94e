"""Smooth surfaces: faces that share an edge look in the same direction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recon_engine.loss._plan import plan_of
from recon_engine.loss.mesh_edge_loss import no_loss, will_differentiate
from recon_engine.ops._mesh_losses import normal_consistency_loss


def mesh_normal_consistency(meshes: Any) -> Tensor:
    """The mean of 1 - cos(angle between the normals) over all pairs of faces that share an edge, then over the meshes.

    A pair costs 0 where its faces lie in one plane, and 2 where one is folded onto the other. The normals of a pair are
    taken as if both faces ran around their edge the same way, so that the orientation of the faces does not matter. An
    edge with n faces has n (n - 1) / 2 pairs.

    Args:
        meshes: a batch of meshes (`Meshes`).

    Returns:
        The loss, a number; a 0 of shape (1,) where no faces share an edge.

    Differentiable in the vertices; a face without area costs 1 in each of its pairs and has gradient 0. CPU and CUDA,
    float32 and float64. Repeatable bit by bit. The pairs are found once for all meshes that share their faces
    (`offset_verts`).
    """
    if meshes.isempty():
        return no_loss(meshes)
    verts, topology = meshes.verts_packed(), meshes.topology()
    plan = plan_of(topology, verts.dtype)
    across_offsets, across = plan.across(topology)
    if len(across) == 0:
        return no_loss(meshes)
    sums = normal_consistency_loss(
        verts,
        topology.faces_packed,
        across_offsets,
        across,
        topology.vert_faces_offsets,
        topology.vert_corners,
        plan.face_segments,
        plan.mesh_of(topology),
        will_differentiate(verts),
    )
    return torch.dot(sums, plan.weights("pairs", topology, sums.dtype))
