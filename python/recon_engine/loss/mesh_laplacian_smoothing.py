"""Smooth surfaces: every vertex near the mean of its neighbours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recon_engine.loss._plan import plan_of
from recon_engine.loss.mesh_edge_loss import no_loss, will_differentiate
from recon_engine.ops._mesh_losses import cot_laplacian_loss, uniform_laplacian_loss


def mesh_laplacian_smoothing(meshes: Any, method: str = "uniform", *, differentiate_weights: bool = False) -> Tensor:
    """The mean length of the Laplacian vectors of the vertices of each mesh, averaged over the meshes.

    The Laplacian vector of vertex i is sum_j w_ij (v_j - v_i) over its neighbours j, with

    - "uniform": w_ij = 1 / number of neighbours;
    - "cot": w_ij = (cot a_ij + cot b_ij) / sum_k (cot a_ik + cot b_ik), a and b the angles opposite to the edge;
    - "cotcurv": w_ij = (cot a_ij + cot b_ij) / (4 A_i), A_i the area of the faces at i: along the normal, with the
      length of the mean curvature.

    Args:
        meshes: a batch of meshes (`Meshes`).
        method: "uniform", "cot" or "cotcurv".
        differentiate_weights: whether the gradient goes through the weights of "cot" and "cotcurv" as well, and so is
            that of the loss. Otherwise the weights count as constants, as in PyTorch3D: steps of implicit fairing.

    Returns:
        The loss, a number; for a batch of nothing but empty meshes a 0 of shape (1,).

    Raises:
        ValueError: an unknown method.

    Differentiable in the vertices; a vector of length 0 has gradient 0, and an area of a face below 1e-6 counts as that
    and is a constant. CPU and CUDA, float32 and float64. Repeatable bit by bit. What depends on the faces alone is
    computed once for all meshes that share them (`offset_verts`).

    References:
        Desbrun et al., Implicit fairing of irregular meshes using diffusion and curvature flow, SIGGRAPH 1999.
        Nealen et al., Laplacian mesh optimization, GRAPHITE 2006.
    """
    if meshes.isempty():
        return no_loss(meshes)
    if method not in ("uniform", "cot", "cotcurv"):
        raise ValueError(f"Method should be one of {{uniform, cot, cotcurv}}, got {method!r}")
    verts, topology = meshes.verts_packed(), meshes.topology()
    plan = plan_of(topology, verts.dtype)
    segments, mesh_of, with_grad = plan.vert_segments, plan.mesh_of(topology), will_differentiate(verts)
    if method == "uniform":
        sums = uniform_laplacian_loss(
            verts,
            topology.vert_neighbors_offsets,
            topology.vert_neighbors_indices,
            segments,
            mesh_of,
            with_grad,
        )
    else:
        sums = cot_laplacian_loss(
            verts,
            topology.faces_packed,
            topology.vert_neighbors_offsets,
            topology.vert_neighbors_indices,
            topology.vert_neighbors_edges,
            topology.edge_faces_offsets,
            topology.edge_half_edges,
            topology.vert_faces_offsets,
            topology.vert_corners,
            segments,
            mesh_of,
            method == "cotcurv",
            differentiate_weights,
            with_grad,
        )
    return torch.dot(sums, plan.weights("verts", topology, sums.dtype))
