"""Steps of a fit through torch.compile, with its default backend. What is timed is a step; compiling it is not.

Every function here is written once and runs on either package: the names are the same. Ours is one graph
(`fullgraph=True`); where PyTorch3D's is cut is counted.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any

import torch
from rivals import COMPILED, DEVICE, OURS, UNCOMPILED, Case, Functions, rival, speed_test
from torch import Tensor

from recon_engine.utils import ico_sphere, torus

SIGMA = 1e-4
BLUR = math.log(1 / 1e-4 - 1) * SIGMA  # where a face's alpha falls below 1e-4

Loss = Callable[[Tensor], Tensor]


def _module(package: str, name: str) -> Any:
    return importlib.import_module(f"{package}.{name}")


def _sphere(package: str, level: int) -> Any:
    sphere = ico_sphere(level, DEVICE)
    return _module(package, "structures").Meshes([sphere.verts_packed()], [sphere.faces_packed()])


@functools.cache
def _target(points: int) -> Tensor:
    verts = torus(0.3, 0.7, 64, 128, DEVICE).verts_packed()
    return verts[torch.randperm(len(verts), generator=torch.Generator().manual_seed(0))[:points]][None]


def _chamfer(package: str, level: int, points: int) -> Loss:
    """Points drawn from a mesh that approaches a cloud, and what keeps the mesh smooth."""
    mesh, target = _sphere(package, level), _target(points)
    losses, sample = _module(package, "loss"), _module(package, "ops").sample_points_from_meshes

    def loss(offset: Tensor) -> Tensor:
        moved = mesh.offset_verts(offset)
        distance, _ = losses.chamfer_distance(sample(moved, points), target)
        smooth = losses.mesh_edge_loss(moved) + 0.01 * losses.mesh_normal_consistency(moved)
        return distance + smooth + 0.1 * losses.mesh_laplacian_smoothing(moved)

    return loss


def _silhouette(package: str, level: int, size: int, faces_per_pixel: int) -> Loss:
    renderer, mesh = _module(package, "renderer"), _sphere(package, level)
    R, T = renderer.look_at_view_transform(2.7, 20.0, 30.0)
    settings = renderer.RasterizationSettings(
        image_size=size, blur_radius=BLUR, faces_per_pixel=faces_per_pixel, bin_size=0
    )
    rasterizer = renderer.MeshRasterizer(renderer.FoVPerspectiveCameras(R=R, T=T, device=DEVICE), settings)
    render = renderer.MeshRenderer(rasterizer, renderer.SoftSilhouetteShader(renderer.BlendParams(sigma=SIGMA)))

    def loss(offset: Tensor) -> Tensor:
        return (render(mesh.offset_verts(offset))[..., 3] - 0.5).square().mean()

    return loss


def _step(loss: Loss, offset: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
    def step() -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        value = loss(offset)
        return value.detach(), torch.autograd.grad(value, offset)[0]

    return step


def _steps(make: Callable[[str], Loss], level: int) -> Functions:
    """The step of either package, compiled and not."""
    functions: Functions = {}
    for package in (OURS, "pytorch3d"):
        if not rival(package):
            continue
        loss, offset = make(package), torch.zeros_like(ico_sphere(level, DEVICE).verts_packed(), requires_grad=True)
        torch._dynamo.reset()
        breaks = torch._dynamo.explain(loss)(offset).graph_break_count
        compiled = _step(torch.compile(loss, fullgraph=package == OURS), offset)
        for _ in range(3):  # traced and compiled before anything is timed
            compiled()
        compiled.notes = {"graph_breaks": breaks}  # type: ignore[attr-defined]
        names = (OURS, UNCOMPILED) if package == OURS else (COMPILED, package)
        functions |= dict(zip(names, (compiled, _step(loss, offset)), strict=True))
    return functions


def _same_pictures(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-3, atol=1e-5)


def _similar(ours: Any, theirs: Any) -> None:
    """Compiled functions draw other random numbers."""
    torch.testing.assert_close(ours[0], theirs[0], rtol=0.1, atol=0)


CASES = [
    Case(
        "chamfer of 5000 samples and three regularisers, forward + backward, ico_sphere(4)",
        lambda: _steps(lambda package: _chamfer(package, 4, 5000), 4),
        same=_similar,
    ),
    Case(
        "soft silhouette, forward + backward, ico_sphere(4), 64x64, K=20",
        lambda: _steps(lambda package: _silhouette(package, 4, 64, 20), 4),
        same=_same_pictures,
    ),
]

test_speed = speed_test(CASES)
