"""Where rays meet triangles, and how often triangles surround points: the ops under `point_mesh`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recon_engine._op import Op


def _ray_reference(
    origins: Tensor, directions: Tensor, triangles: Tensor, t_max: float, any_hit: bool
) -> tuple[Tensor, Tensor]:
    a, b, c = (triangles[None, :, k] - origins[:, None] for k in range(3))  # (R, F, 3)
    d = directions[:, None]
    # The volumes that the ray and each edge span have one sign where it passes inside.
    sides = [(torch.linalg.cross(p, q) * d).sum(-1) for p, q in ((b, c), (c, a), (a, b))]
    inside = torch.stack([s >= 0 for s in sides]).all(0) | torch.stack([s <= 0 for s in sides]).all(0)
    n = torch.linalg.cross(b - a, c - a)
    towards = (n * d).sum(-1)
    t = (n * a).sum(-1) / torch.where(towards == 0, 1, towards)
    t = t.masked_fill(~inside | (towards == 0) | ~(t >= 0) | ~(t <= t_max), torch.inf)
    if t.shape[1] == 0:
        return origins.new_full(t.shape[:1], torch.inf), torch.full(t.shape[:1], -1, device=t.device)
    best, face = t.min(1)
    return best.detach(), face.masked_fill(best == torch.inf, -1)


def _ray_outputs(
    origins: Tensor, directions: Tensor, triangles: Tensor, t_max: float, any_hit: bool
) -> tuple[Tensor, Tensor]:
    rays = origins.shape[0]
    return origins.new_empty(rays), origins.new_empty(rays, dtype=torch.int64)


def _winding_reference(points: Tensor, triangles: Tensor) -> Tensor:
    a, b, c = (
        torch.nn.functional.normalize(triangles[None, :, k] - points[:, None], dim=-1, eps=1e-30).detach()
        for k in range(3)
    )
    sine = (a * torch.linalg.cross(b, c)).sum(-1)
    cosine = 1 + (a * b).sum(-1) + (b * c).sum(-1) + (c * a).sum(-1)
    return torch.atan2(sine, cosine).sum(1) / (2 * math.pi)


def _winding_outputs(points: Tensor, triangles: Tensor) -> Tensor:
    return points.new_empty(points.shape[0])


# The first triangle of each ray: t, infinity where there is none, and its index, -1 where there is none.
ray_mesh = Op("ray_mesh", _ray_outputs, _ray_reference, constants=["origins", "directions", "triangles"])
# The generalised winding number of triangles (F, 3, 3) around points (P, 3).
point_mesh_winding = Op("point_mesh_winding", _winding_outputs, _winding_reference, constants=["points", "triangles"])
