"""Records what PyTorch3D 0.7.9 answers for distances of points and meshes and for boxes into point_mesh.npz.

Run it with a Python that has PyTorch3D: `python tests/reference/record_point_mesh.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def clouds() -> list[Tensor]:
    """Three clouds of different sizes."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 3, generator=generator) for n in (30, 7, 1)]


def mesh_lists() -> tuple[list[Tensor], list[Tensor]]:
    """Three meshes; none of their faces is smaller than PyTorch3D's limit."""
    generator = torch.Generator().manual_seed(1)
    faces = [torch.tensor([[0, 1, 2], [2, 1, 3], [2, 3, 4], [4, 5, 0], [6, 2, 5]]), torch.tensor([[0, 1, 2]])]
    faces.append(torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]]))
    return [torch.randn(n, 3, generator=generator) for n in (7, 3, 4)], faces


def answers(loss: Any, meshes: Any, pointclouds: Any) -> dict[str, Tensor]:
    """What a package answers, given its loss module and its classes, with gradients."""
    points = [p.requires_grad_() for p in clouds()]
    verts, faces = mesh_lists()
    verts = [v.requires_grad_() for v in verts]
    mesh, pcls = meshes(verts, faces), pointclouds(points)
    out: dict[str, Tensor] = {}

    def note(name: str, value: Tensor) -> None:
        out[name] = value.detach()
        weights = torch.linspace(0.5, 1, value.numel()).reshape(value.shape)
        grads = torch.autograd.grad((value * weights).sum(), [*points, *verts], retain_graph=True)
        for i, grad in enumerate(grads):
            out[f"{name}_grad_{i}"] = grad

    packed = pcls.points_packed(), pcls.cloud_to_packed_first_idx()
    for kind, corners, first, limits in (
        ("face", mesh.faces_packed(), mesh.mesh_to_faces_packed_first_idx(), [(1e-9,), (3.0,), ()]),
        ("edge", mesh.edges_packed(), mesh.mesh_to_edges_packed_first_idx(), [()]),
    ):
        for i, limit in enumerate(limits):
            rows = mesh.verts_packed()[corners], first
            note(f"point_{kind}_{i}", getattr(loss, f"point_{kind}_distance")(*packed, *rows, 30, *limit))
            note(f"{kind}_point_{i}", getattr(loss, f"{kind}_point_distance")(*packed, *rows, 30, *limit))
    note("mesh_face", loss.point_mesh_face_distance(mesh, pcls))
    note("mesh_face_limit", loss.point_mesh_face_distance(mesh, pcls, 3.0))
    note("mesh_edge", loss.point_mesh_edge_distance(mesh, pcls))
    return out


if __name__ == "__main__":
    import sys

    import pytorch3d.loss.point_mesh_distance
    import pytorch3d.ops
    import pytorch3d.structures

    structures = pytorch3d.structures
    recorded = answers(pytorch3d.loss.point_mesh_distance, structures.Meshes, structures.Pointclouds)
    sys.path.append(str(Path(__file__).parents[1] / "ops"))
    from test_iou_box3d import _pairs

    recorded["box_vol"], recorded["box_iou"] = pytorch3d.ops.box3d_overlap(*_pairs())
    np.savez_compressed(Path(__file__).with_name("point_mesh.npz"), **{k: t.numpy() for k, t in recorded.items()})
