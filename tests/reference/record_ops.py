"""Records what PyTorch3D 0.7.9 answers for neighbours, mesh losses and surface samples into ops.npz.

Run it with a Python that has PyTorch3D: `python tests/reference/record_ops.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def clouds() -> dict[str, Tensor]:
    """Two ragged batches of points with normals and weights; no ties, whose order PyTorch3D leaves open for K > 1."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x, y = random(3, 30, 3), random(3, 41, 3)
    return {
        "x": x,
        "y": y,
        "x_lengths": torch.tensor([30, 11, 1]),
        "y_lengths": torch.tensor([7, 41, 30]),
        "x_normals": random(3, 30, 3),
        "y_normals": random(3, 41, 3),
        "weights": torch.tensor([0.3, 0.0, 2.0]),
    }


def mesh_lists() -> tuple[list[Tensor], list[Tensor]]:
    """Three meshes: two tetrahedra glued along a face that three more faces cross, a square, a tetrahedron."""
    generator = torch.Generator().manual_seed(1)
    tetrahedron = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
    glued = torch.cat([tetrahedron, torch.tensor([[0, 1, 4], [1, 2, 4], [4, 2, 0], [5, 1, 0]])])
    square = torch.tensor([[0, 1, 2], [2, 1, 3]])
    verts = [torch.randn(n, 3, generator=generator) for n in (7, 4, 4)]  # one vertex without faces
    return verts, [glued, square, tetrahedron]


def chamfer_options() -> list[dict[str, Any]]:
    """One call for each way to reduce."""
    pairs = [("mean", "mean"), ("sum", "mean"), ("mean", "sum"), (None, "sum"), ("mean", "max"), (None, None)]
    return [
        {"batch_reduction": batch, "point_reduction": points, "norm": norm, "single_directional": single}
        for batch, points in pairs
        for norm in (1, 2)
        for single in (False, True)
    ]


def flat(result: Any) -> list[Tensor]:
    """The tensors of nested tuples."""
    if result is None:
        return []
    return [result] if isinstance(result, Tensor) else [t for part in result for t in flat(part)]


def answers(ops: Any, loss: Any, structures: Any) -> dict[str, Tensor]:
    """What a package answers to all of this, with gradients."""
    out: dict[str, Tensor] = {}

    def note(name: str, tensors: list[Tensor], leaves: list[Tensor]) -> None:
        for i, t in enumerate(tensors):
            out[f"{name}_{i}"] = t.detach()
        total = sum((t * torch.linspace(0.5, 1, t.numel()).reshape(t.shape)).sum() for t in tensors if t.requires_grad)
        for i, grad in enumerate(torch.autograd.grad(total, leaves)):
            out[f"{name}_grad_{i}"] = grad

    c = clouds()
    x, y = c["x"].requires_grad_(), c["y"].requires_grad_()
    for norm in (1, 2):
        for K in (1, 5, 40):
            knn = ops.knn_points(x, y, c["x_lengths"], c["y_lengths"], norm=norm, K=K, return_nn=True)
            note(f"knn_{norm}_{K}", flat(tuple(knn)), [x, y])
    for i, options in enumerate(chamfer_options()):
        normals = {} if options["point_reduction"] == "max" else {k: c[k] for k in ("x_normals", "y_normals")}
        more = {k: c[k] for k in ("x_lengths", "y_lengths", "weights")}
        result = loss.chamfer_distance(x, y, **more, **normals, **options)
        note(f"chamfer_{i}", flat(result), [x, y])

    verts, faces = mesh_lists()
    verts = [v.requires_grad_() for v in verts]
    meshes = structures.Meshes(verts=verts, faces=faces)
    note("edge", [loss.mesh_edge_loss(meshes, 0.7)], verts)
    for method in ("uniform", "cot", "cotcurv"):
        note(method, [loss.mesh_laplacian_smoothing(meshes, method)], verts)
    note("normal", [loss.mesh_normal_consistency(meshes)], verts)
    torch.manual_seed(3)
    samples = ops.sample_points_from_meshes(meshes, 20, return_normals=True)
    note("samples", list(samples), verts)
    areas, normals = ops.mesh_face_areas_normals(verts[0], faces[0])
    note("areas", [areas], verts[:1])
    out["normals"] = normals.detach()
    out["smooth"] = ops.taubin_smoothing(
        structures.Meshes([v[:4].detach() for v in verts], faces[1:2] * 3)
    ).verts_packed()
    L, inv_areas = ops.cot_laplacian(meshes.verts_packed().detach(), meshes.faces_packed())
    out["cot_laplacian"], out["inv_areas"] = L.to_dense(), inv_areas
    for name in ("laplacian", "norm_laplacian"):
        out[name] = getattr(ops, name)(meshes.verts_packed().detach(), meshes.edges_packed()).to_dense()
    return out


if __name__ == "__main__":
    import pytorch3d.loss
    import pytorch3d.ops
    import pytorch3d.structures

    recorded = answers(pytorch3d.ops, pytorch3d.loss, pytorch3d.structures)
    arrays = {name: t.numpy() for name, t in recorded.items()}
    np.savez_compressed(Path(__file__).with_name("ops.npz"), **arrays)
