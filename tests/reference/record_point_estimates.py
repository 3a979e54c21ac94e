"""Records what PyTorch3D 0.7.9 answers for normals of point clouds and poses of cameras into point_estimates.npz.

Run it with a Python that has PyTorch3D: `python tests/reference/record_point_estimates.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

NEIGHBORHOOD = 12


def surfaces() -> list[Tensor]:
    """Points (P, 3) of two curved surfaces whose neighbourhoods are longer one way than the other, float32."""
    generator = torch.Generator().manual_seed(5)
    clouds = []
    for count in (60, 45):
        u, v = torch.rand(2, count, generator=generator)
        clouds.append(torch.stack((3 * u, v, 0.4 * u * u - 0.3 * v * v + 0.2 * u * v), -1) + 5)
    return clouds


def normal_answers(ops: Any, structures: Any) -> dict[str, Tensor]:
    """Curvatures, frames, normals and the gradient of curvatures, for a tensor and for `Pointclouds`."""
    clouds = surfaces()
    inputs = {"tensor": clouds[0][None].requires_grad_(), "clouds": structures.Pointclouds(clouds)}
    out: dict[str, Tensor] = {}
    for name, points in inputs.items():
        curvatures, frames = ops.estimate_pointcloud_local_coord_frames(points, NEIGHBORHOOD)
        normals = ops.estimate_pointcloud_normals(points, NEIGHBORHOOD)
        parts = {"curvatures": curvatures, "frames": frames, "normals": normals}
        if name == "clouds":
            valid = torch.arange(60) < torch.tensor([[60], [45]])
            parts = {field: value[valid] for field, value in parts.items()}
        out.update({f"{name}_{field}": value.detach() for field, value in parts.items()})
    weights = torch.tensor([3.0, 1.0, -0.5])
    curvatures, _ = ops.estimate_pointcloud_local_coord_frames(inputs["tensor"], NEIGHBORHOOD)
    (out["tensor_gradient"],) = torch.autograd.grad((curvatures * weights).sum(), inputs["tensor"])
    return out


def views(noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Points (N, P, 3), where they are seen (N, P, 2), and weights 0 or 1 of which the first ones are wrong."""
    generator = torch.Generator().manual_seed(7)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x = random(6, 25, 3)
    R = torch.linalg.qr(random(6, 3, 3))[0]
    R = R * torch.linalg.det(R)[:, None, None]
    moved = x @ R + torch.cat((0.3 * random(6, 1, 2), 6 + random(6, 1, 1).abs()), -1)
    y = moved[..., :2] / moved[..., 2:] + noise * random(6, 25, 2)
    weights = torch.ones(6, 25, dtype=torch.float64)
    weights[:, :5] = 0
    y[:, :5] += 10
    return x, y, weights


def pose_answers(ops: Any) -> dict[str, Tensor]:
    """Poses from exact views, and the error that is left with noisy ones."""
    out: dict[str, Tensor] = {}
    for noise in (0.0, 0.01, 0.05):
        x, y, weights = views(noise)
        for skip in (False, True):
            for name, arguments in {"all": (x[:, 5:], y[:, 5:], None), "weighted": (x, y, weights)}.items():
                found = ops.efficient_pnp(*arguments, skip_quadratic_eq=skip)
                key = f"pose_{noise}_{int(skip)}_{name}"
                if noise == 0:
                    out.update({f"{key}_{field}": getattr(found, field) for field in ("x_cam", "R", "T")})
                out[f"{key}_err_2d"] = found.err_2d
    return out


if __name__ == "__main__":
    import pytorch3d.ops
    import pytorch3d.structures

    recorded = {**normal_answers(pytorch3d.ops, pytorch3d.structures), **pose_answers(pytorch3d.ops)}
    arrays = {name: t.numpy() for name, t in recorded.items()}
    np.savez_compressed(Path(__file__).with_name("point_estimates.npz"), **arrays)
