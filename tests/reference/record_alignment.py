"""Records what PyTorch3D 0.7.9 answers for alignments of points and cameras into alignment.npz.

Run it with a Python that has PyTorch3D: `python tests/reference/record_alignment.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def answers(ops: Any, renderer: Any) -> dict[str, Tensor]:
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
    return out


if __name__ == "__main__":
    import pytorch3d.ops
    import pytorch3d.renderer

    arrays = {name: t.numpy() for name, t in answers(pytorch3d.ops, pytorch3d.renderer).items()}
    np.savez_compressed(Path(__file__).with_name("alignment.npz"), **arrays)
