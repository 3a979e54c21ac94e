"""Records what PyTorch3D 0.7.9 answers for balls, farthest points and long lists of neighbours into neighbours.npz.

Run it with a Python that has PyTorch3D: `python tests/reference/record_neighbours.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def answers(ops: Any) -> dict[str, Tensor]:
    """Values and gradients by name; `ops` is `pytorch3d.ops` or ours."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(2, n, 3, generator=generator).requires_grad_() for n in (20, 300))
    lengths = torch.tensor([20, 13]), torch.tensor([300, 60])
    out: dict[str, Tensor] = {}

    def note(name: str, dists: Tensor, idx: Tensor, nn: Tensor) -> None:
        grads = torch.autograd.grad(dists.square().sum() + nn.sin().sum(), (x, y))
        parts = {"dists": dists.detach(), "idx": idx, "nn": nn.detach(), "grad_x": grads[0], "grad_y": grads[1]}
        out.update({f"{name}_{part}": value for part, value in parts.items()})

    for radius, K in ((0.1, 3), (0.3, 8), (2.0, 80)):
        note(f"ball_{radius}_{K}", *ops.ball_query(x, y, *lengths, K=K, radius=radius))
    for K in (24, 100):
        note(f"knn_{K}", *ops.knn_points(x, y, *lengths, K=K, return_nn=True))
    cloud = torch.randn(3, 900, 3, generator=generator)
    sizes = torch.tensor([900, 500, 20])
    for name, K in (("number", 250), ("list", [5, 210, 20]), ("tensor", torch.tensor([300, 1, 30]))):
        for grid in (False, True):
            points = (cloud * 3).round() if grid else cloud
            out[f"samples_{name}_{grid}"] = ops.sample_farthest_points(points, sizes, K)[1]
    return out


if __name__ == "__main__":
    import pytorch3d.ops

    arrays = {name: t.numpy() for name, t in answers(pytorch3d.ops).items()}
    np.savez_compressed(Path(__file__).with_name("neighbours.npz"), **arrays)
