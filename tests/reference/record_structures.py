"""Records what PyTorch3D 0.7.9 answers for `recon_engine.structures` into structures.npz.

Run it with a Python that has PyTorch3D: `python tests/reference/record_structures.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

LISTS = ("verts_list", "faces_list", "verts_normals_list")
TENSORS = (
    "verts_packed",
    "verts_padded",
    "verts_packed_to_mesh_idx",
    "mesh_to_verts_packed_first_idx",
    "num_verts_per_mesh",
    "verts_padded_to_packed_idx",
    "faces_packed",
    "faces_padded",
    "faces_packed_to_mesh_idx",
    "mesh_to_faces_packed_first_idx",
    "num_faces_per_mesh",
    "edges_packed",
    "edges_packed_to_mesh_idx",
    "mesh_to_edges_packed_first_idx",
    "faces_packed_to_edges_packed",
    "num_edges_per_mesh",
    "verts_normals_packed",
    "verts_normals_padded",
    "get_bounding_boxes",
)


def inputs() -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Vertices and faces of four meshes (one without faces) and an offset for each vertex."""
    generator = torch.Generator().manual_seed(7)
    sizes = [(5, 8), (9, 3), (4, 0), (7, 12)]
    verts = [torch.randn(V, 3, generator=generator) for V, _ in sizes]
    faces = [
        torch.stack([torch.randperm(V, generator=generator)[:3] for _ in range(F)])
        if F
        else torch.zeros((0, 3), dtype=torch.int64)
        for V, F in sizes
    ]
    return verts, faces, torch.randn(sum(V for V, _ in sizes), 3, generator=generator)


def answers(structures: Any) -> dict[str, Tensor]:
    """What the methods of `Meshes` of the package `structures` (PyTorch3D's or ours) return."""
    verts, faces, offsets = inputs()
    meshes = structures.Meshes(verts=verts, faces=faces)
    variants = {
        "list": meshes,
        "from_padded": structures.Meshes(verts=meshes.verts_padded(), faces=meshes.faces_padded()),
        "offset": meshes.offset_verts(offsets),
        "scaled": meshes.scale_verts(torch.tensor([0.5, 1.5, 2.0, -3.0])),
        "updated": meshes.update_padded(2.0 * meshes.verts_padded()),
        "chosen": meshes[[3, 0]],
        "extended": meshes[:2].extend(2),
        "batch": structures.join_meshes_as_batch([meshes[1:], meshes[0]]),
        "scene": structures.join_meshes_as_scene(meshes),
        "parts": meshes.submeshes([[torch.tensor([0, 4])], [], [], [torch.tensor([1]), torch.arange(6)]]),
    }
    out: dict[str, Tensor] = {}
    for name, batch in variants.items():
        for method in TENSORS:
            out[f"{name}_{method}"] = getattr(batch, method)()
        for method in LISTS:
            for n, tensor in enumerate(getattr(batch, method)()):
                out[f"{name}_{method}_{n}"] = tensor
    return out


if __name__ == "__main__":
    import pytorch3d.structures

    recorded = answers(pytorch3d.structures)
    np.savez_compressed(Path(__file__).with_name("structures.npz"), **{k: v.numpy() for k, v in recorded.items()})
