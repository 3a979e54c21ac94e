"""Records what PyTorch3D 0.7.9 answers for points that vote for voxels into points_to_volumes.npz.

Run it with a Python that has PyTorch3D: `python tests/reference/record_points_to_volumes.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def answers(module: Any) -> dict[str, Tensor]:
    """Volumes and gradients of a weighted sum of them.

    The points lie inside of the grid or beyond its upper border: PyTorch3D gives points in front of the lower one
    negative votes.
    """
    generator = torch.Generator().manual_seed(2)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    N, P, C, size = 2, 30, 3, (4, 3, 5)
    points = (random(N, P, 3) * 1.8 - 0.6).requires_grad_()
    features = random(N, P, C).requires_grad_()
    densities = (0.2 * random(N, 1, *size)).requires_grad_()
    volumes = random(N, C, *size).requires_grad_()
    grids, mask = torch.tensor([[4, 3, 5], [3, 3, 4]]), (random(N, P) > 0.2).float()
    to_volumes, to_densities = random(N, C, *size), random(N, 1, *size)
    out: dict[str, Tensor] = {}

    def keep(name: str, found: tuple[Tensor, Tensor], leaves: dict[str, Tensor]) -> None:
        out[f"{name}_features"], out[f"{name}_densities"] = (part.detach() for part in found)
        total = (found[0] * to_volumes).sum() + (found[1] * to_densities).sum()
        gradients = torch.autograd.grad(total, list(leaves.values()))
        out.update({f"{name}_grad_{leaf}": g for leaf, g in zip(leaves, gradients, strict=True)})

    for mode in ("trilinear", "nearest"):
        leaves = {"features": features, "densities": densities, "volumes": volumes}
        if mode == "trilinear":
            leaves["points"] = points
        for align in (True, False):
            for rescale in (True, False):
                for partly in (True, False):
                    options = {"mask": mask, "grid_sizes": grids, "min_weight": 0.3} if partly else {}
                    found = module.add_points_features_to_volume_densities_features(
                        points,
                        features,
                        1 * densities,  # PyTorch3D writes into them
                        1 * volumes,
                        mode,
                        rescale_features=rescale,
                        align_corners=align,
                        **options,
                    )
                    keep(f"{mode}_{int(align)}_{int(rescale)}_{int(partly)}", found, leaves)
            in_place = module._points_to_volumes(
                points, features, 1 * densities, 1 * volumes, grids, 2.5, mask, align, mode == "trilinear"
            )
            keep(f"{mode}_{int(align)}_in_place", in_place[::-1], leaves)
    return out


if __name__ == "__main__":
    import pytorch3d.ops.points_to_volumes as module

    arrays = {name: t.numpy() for name, t in answers(module).items()}
    np.savez_compressed(Path(__file__).with_name("points_to_volumes.npz"), **arrays)
