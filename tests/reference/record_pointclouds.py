"""Records what PyTorch3D 0.7.9 answers for `recon_engine.structures.Pointclouds` into pointclouds.npz.

Run it with a Python that has PyTorch3D: `python tests/reference/record_pointclouds.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

LISTS = ("points_list", "normals_list", "features_list")
TENSORS = (
    "points_packed",
    "points_padded",
    "normals_packed",
    "normals_padded",
    "features_packed",
    "features_padded",
    "packed_to_cloud_idx",
    "cloud_to_packed_first_idx",
    "num_points_per_cloud",
    "padded_to_packed_idx",
)
BOX = torch.tensor([[-0.5, -1.0, -0.7], [0.9, 0.8, 1.0]])


def inputs() -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """Points, normals and features of four clouds (one empty) and an offset for each point."""
    generator = torch.Generator().manual_seed(3)
    sizes = [5, 0, 9, 2]
    points, normals = ([torch.randn(P, 3, generator=generator) for P in sizes] for _ in range(2))
    features = [torch.randn(P, 4, generator=generator) for P in sizes]
    return points, normals, features, torch.randn(sum(sizes), 3, generator=generator)


def answers(structures: Any) -> dict[str, Tensor]:
    """What the methods of `Pointclouds` of the package `structures` (PyTorch3D's or ours) return."""
    points, normals, features, offsets = inputs()
    clouds = structures.Pointclouds(points, normals=normals, features=features)
    padded = structures.Pointclouds(clouds.points_padded(), clouds.normals_padded(), clouds.features_padded())
    np.random.seed(11)  # noqa: NPY002
    variants = {
        "list": clouds,
        "from_padded": padded,
        "offset": clouds.offset(offsets),
        "moved": padded.offset(torch.tensor([1.0, 2.0, -3.0])),
        "scaled": clouds.scale(torch.tensor([0.5, 1.5, 2.0, -3.0])),
        "updated": clouds.update_padded(2.0 * clouds.points_padded(), new_features_padded=clouds.features_padded() + 1),
        "chosen": clouds[[3, 0]],
        "extended": clouds.extend(2),
        "subsampled": clouds.subsample(4),
        "subsampled_each": clouds.subsample([2, 1, 3, 5]),
        "batch": structures.join_pointclouds_as_batch([clouds[1:], clouds[0]]),
        "scene": structures.join_pointclouds_as_scene(clouds),
    }
    out: dict[str, Tensor] = {}
    for name, batch in variants.items():
        for method in TENSORS:
            out[f"{name}_{method}"] = getattr(batch, method)()
        for method in LISTS:
            for n, tensor in enumerate(getattr(batch, method)()):
                out[f"{name}_{method}_{n}"] = tensor
        out[f"{name}_valid"] = batch.valid
        out[f"{name}_inside_box"] = batch.inside_box(BOX)
    out["inside_boxes"] = clouds.inside_box(torch.stack([BOX, 2 * BOX, BOX + 0.1, 0.5 * BOX]))
    out["boxes"] = clouds[[0, 2, 3]].get_bounding_boxes()
    return out


if __name__ == "__main__":
    import pytorch3d.structures

    recorded = answers(pytorch3d.structures)
    np.savez_compressed(Path(__file__).with_name("pointclouds.npz"), **{k: v.numpy() for k, v in recorded.items()})
