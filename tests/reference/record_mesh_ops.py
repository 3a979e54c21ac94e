"""Records what PyTorch3D 0.7.9 answers for graph convolution, vert_align, cubify and marching cubes into mesh_ops.npz.

Run it with a Python that has PyTorch3D: `python tests/reference/record_mesh_ops.py`.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def answers(package: str) -> dict[str, Tensor]:
    """What a package answers, with gradients."""
    ops = importlib.import_module(f"{package}.ops")
    graph_conv = importlib.import_module(f"{package}.ops.graph_conv")
    marching_cubes = importlib.import_module(f"{package}.ops.marching_cubes").marching_cubes
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    out: dict[str, Tensor] = {}

    def note(name: str, value: Tensor, *leaves: Tensor) -> None:
        out[name] = value.detach()
        weights = torch.linspace(0.5, 1, value.numel()).reshape(value.shape)
        for i, grad in enumerate(torch.autograd.grad((value * weights).sum(), leaves)):
            out[f"{name}_grad_{i}"] = grad

    features, edges = random(12, 5).requires_grad_(), (random(30, 2) * 12).long()
    for directed in (False, True):
        note(f"gather_scatter_{directed}", graph_conv.gather_scatter(features, edges, directed), features)
        layer = ops.GraphConv(5, 3, directed=directed)
        layer.load_state_dict({k: random(*v.shape) for k, v in layer.state_dict().items()})
        note(f"graph_conv_{directed}", layer(features, edges), features, *layer.parameters())

    maps = [random(2, 3, 4, 5).requires_grad_(), random(2, 2, 3, 3).requires_grad_()]
    verts = (random(2, 9, 3) * 3 - 1.5).requires_grad_()
    for mode in ("bilinear", "nearest"):
        for padding in ("zeros", "border", "reflection"):
            for corners in (True, False):
                sampled = ops.vert_align(maps, verts, True, mode, padding, corners)
                note(f"vert_align_{mode}_{padding}_{corners}", sampled, *maps, verts)

    voxels, colors = random(2, 4, 5, 6), random(2, 3, 4, 5, 6)
    for align in ("topleft", "corner", "center"):
        meshes = ops.cubify(voxels, 0.6, feats=colors, align=align)
        out[f"cubify_{align}_verts"], out[f"cubify_{align}_faces"] = meshes.verts_packed(), meshes.faces_packed()
    out["cubify_colors"] = meshes.textures.atlas_packed()

    for local in (True, False):
        surfaces, _ = marching_cubes(random(2, 6, 7, 8), 0.4, local)
        for n, points in enumerate(surfaces):
            # The order of the vertices is left open.
            order = np.lexsort(points.numpy().round(4).T)
            out[f"marching_cubes_{local}_{n}"] = points[torch.from_numpy(order)]
    return out


if __name__ == "__main__":
    arrays = {name: t.numpy() for name, t in answers("pytorch3d").items()}
    np.savez_compressed(Path(__file__).with_name("mesh_ops.npz"), **arrays)
