"""Records what PyTorch3D 0.7.9 answers for alignments of points and cameras into alignment.npz.

Run it with a Python that has PyTorch3D: `python tests/reference/record_alignment.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def answers(ops: Any, renderer: Any, structures: Any) -> dict[str, Tensor]:
    """What a package answers, with gradients; weights are 0 or 1, where its formula agrees with least squares."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    out: dict[str, Tensor] = {}
    for dim in (2, 3, 5):
        x, y = random(3, 9, dim).requires_grad_(), random(3, 9, dim).requires_grad_()
        weights = (random(3, 9) > -1).to(torch.float64)
        for scale, reflect, weighted in ((s, r, w) for s in (0, 1) for r in (0, 1) for w in (0, 1)):
            found = ops.corresponding_points_alignment(x, y, weights if weighted else None, bool(scale), bool(reflect))
            name = f"points_{dim}_{scale}_{reflect}_{weighted}"
            out.update({f"{name}_{field}": value.detach() for field, value in zip("RTs", found, strict=True)})
            total = sum((v * torch.linspace(0.5, 1, v.numel(), dtype=v.dtype).reshape(v.shape)).sum() for v in found)
            out[f"{name}_grad"] = torch.autograd.grad(total, x)[0]
    angles = torch.linspace(0, 300, 6)
    cameras = []
    for shift in (0.0, 20.0):
        R, T = renderer.look_at_view_transform(2.5 + shift / 50, angles / 10 + shift, angles + 3 * shift)
        T = T + 0.1 * random(6, 3).float()
        cameras.append(renderer.FoVPerspectiveCameras(R=R, T=T))
    for mode in ("centers", "extrinsics"):
        for scale in (False, True):
            aligned = ops.corresponding_cameras_alignment(*cameras, estimate_scale=scale, mode=mode)
            out[f"cameras_{mode}_{int(scale)}_R"], out[f"cameras_{mode}_{int(scale)}_T"] = aligned.R, aligned.T
    out.update(closest_point_answers(ops, structures))
    return out


def closest_point_answers(ops: Any, structures: Any) -> dict[str, Tensor]:
    """What `iterative_closest_point` answers for tensors, with a start, with scale, and for clouds of several sizes."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    cases: dict[str, tuple[Any, ...]] = {}
    for dim in (2, 3, 5):
        for scale in (False, True):
            points = random(3, 40, dim)
            others = 1.1 * points[:, :30] + 0.2 * random(3, 30, dim)
            cases[f"icp_{dim}_{int(scale)}"] = (points, others, None, 100, 1e-4, scale)
    x, y = random(2, 20, 3), random(2, 35, 3)
    start = (torch.linalg.qr(random(2, 3, 3))[0], random(2, 3), torch.tensor([1.5, 0.8]))
    cases["icp_start"] = (x, y, start, 100, 1e-4)
    cases["icp_reflection"] = (x * torch.tensor([-1.0, 1, 1]), x[:, :15], None, 100, 1e-4, False, True)
    cases["icp_stopped"] = (x, y, None, 3)
    clouds = [structures.Pointclouds([random(n, 3) for n in sizes]) for sizes in ((30, 12, 25), (18, 40, 22))]
    cases["icp_clouds"] = (*clouds, None, 100, 1e-4)
    out: dict[str, Tensor] = {}
    for name, arguments in cases.items():
        found = ops.iterative_closest_point(*arguments)
        Xt = found.Xt if isinstance(found.Xt, Tensor) else found.Xt.points_packed()
        out[f"{name}_counts"] = torch.tensor([int(found.converged), len(found.t_history)])
        parts = {"rmse": found.rmse, "Xt": Xt, "R": found.RTs[0], "T": found.RTs[1], "s": found.RTs[2]}
        out.update({f"{name}_{field}": value for field, value in parts.items()})
    return out


if __name__ == "__main__":
    import pytorch3d.ops
    import pytorch3d.renderer
    import pytorch3d.structures

    recorded = answers(pytorch3d.ops, pytorch3d.renderer, pytorch3d.structures)
    arrays = {name: t.numpy() for name, t in recorded.items()}
    np.savez_compressed(Path(__file__).with_name("alignment.npz"), **arrays)
