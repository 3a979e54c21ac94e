"""Points, rays and boxes against meshes: the point-mesh losses, closest points, signed distances, hits, overlaps.

Where a function is PyTorch3D's too it is written once and runs on either package: the names are the same.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rivals import DEVICE, OURS, THREADS, Case, Functions, rival, speed_test
from torch import Tensor

from recon_engine.ops.point_mesh import closest_points_on_mesh, ray_mesh_intersection, signed_distance
from recon_engine.transforms import random_rotations
from recon_engine.utils import ico_sphere

# Small enough for no triangle of these meshes to be below it: both packages then compute the same.
NO_LIMIT = 1e-12


def _module(package: str, name: str) -> Any:
    return importlib.import_module(f"{package}.{name}")


def _both(make: Callable[[str], Callable[[], Any]]) -> Functions:
    return {package: make(package) for package in (OURS, "pytorch3d") if rival(package)}


@functools.cache
def _sphere(faces: int) -> tuple[Tensor, Tensor]:
    """The first faces of the smallest ico_sphere that has as many."""
    sphere = next(s for s in map(ico_sphere, range(9)) if len(s.faces_packed()) >= faces)
    return sphere.verts_packed().to(DEVICE), sphere.faces_packed()[:faces].to(DEVICE)


def _points(count: int) -> Tensor:
    """Near the sphere, as points of a scan are near a fitted mesh."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    return (directions * (1 + 0.05 * torch.randn(count, 1, generator=generator))).to(DEVICE)


def _loss(points: int, faces: int, edges: bool) -> Functions:
    """Forward and backward of both directions, as in point_mesh_face_distance and point_mesh_edge_distance."""
    verts, index = _sphere(faces)
    corners = index[:, :2] if edges else index
    p, v = _points(points).requires_grad_(), verts.clone().requires_grad_()
    zero = torch.zeros(1, dtype=torch.int64, device=DEVICE)

    def make(package: str) -> Callable[[], tuple[Tensor, ...]]:
        module, kind = _module(package, "loss.point_mesh_distance"), "edge" if edges else "face"
        there, back = getattr(module, f"point_{kind}_distance"), getattr(module, f"{kind}_point_distance")
        limit = () if edges else (NO_LIMIT,)

        def call() -> tuple[Tensor, ...]:
            rows = v[corners]
            loss = there(p, zero, rows, zero, points, *limit).mean() + back(p, zero, rows, zero, faces, *limit).mean()
            return loss.detach(), *torch.autograd.grad(loss, (p, v))

        return call

    return _both(make)


def _closest(points: int, faces: int) -> Functions:
    """Distances, with the tree that we always build."""
    verts, index = _sphere(faces)
    p = _points(points)
    functions: Functions = {OURS: lambda: closest_points_on_mesh(p, verts, index).distance}
    if DEVICE.type != "cpu":
        return functions
    if o3d := rival("open3d"):
        functions["open3d"] = lambda: _open3d_closest(o3d, p, verts, index)
    if (trimesh := rival("trimesh")) and rival("rtree") and points <= 5000:
        mesh = trimesh.Trimesh(verts.numpy(), index.numpy(), process=False)
        functions["trimesh"] = lambda: torch.from_numpy(trimesh.proximity.closest_point(mesh, p.numpy())[1]).float()
    return functions


def _open3d_scene(o3d: Any, verts: Tensor, faces: Tensor) -> Any:
    scene = o3d.t.geometry.RaycastingScene(nthreads=THREADS)
    scene.add_triangles(o3d.core.Tensor(verts.numpy()), o3d.core.Tensor(faces.numpy().astype(np.uint32)))
    return scene


def _open3d_closest(o3d: Any, points: Tensor, verts: Tensor, faces: Tensor) -> Tensor:
    scene = _open3d_scene(o3d, verts, faces)
    return torch.from_numpy(scene.compute_distance(o3d.core.Tensor(points.numpy()), nthreads=THREADS).numpy())


def _signed(points: int, faces: int) -> Functions:
    verts, index = _sphere(faces)
    p = _points(points)
    functions: Functions = {OURS: lambda: signed_distance(p, verts, index)}
    if (o3d := rival("open3d")) and DEVICE.type == "cpu":

        def signed() -> Tensor:
            scene = _open3d_scene(o3d, verts, index)
            found = scene.compute_signed_distance(o3d.core.Tensor(p.numpy()), nthreads=THREADS)
            return torch.from_numpy(found.numpy())

        functions["open3d"] = signed
    return functions


def _rays(rays: int, faces: int) -> Functions:
    verts, index = _sphere(faces)
    origins, directions = 0.3 * _points(rays), _points(rays).flip(0).contiguous()
    functions: Functions = {OURS: lambda: ray_mesh_intersection(origins, directions, verts, index).t}
    if (o3d := rival("open3d")) and DEVICE.type == "cpu":

        def cast() -> Tensor:
            both = o3d.core.Tensor(torch.cat([origins, directions], 1).numpy())
            found = _open3d_scene(o3d, verts, index).cast_rays(both, nthreads=THREADS)
            return torch.from_numpy(found["t_hit"].numpy())

        functions["open3d"] = cast
    return functions


def _boxes(N: int, M: int) -> Functions:
    torch.manual_seed(0)
    unit = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1.0]])

    def boxes(n: int) -> Tensor:
        return ((unit - 0.5) * (0.5 + torch.rand(n, 1, 3)) @ random_rotations(n) + torch.rand(n, 1, 3)).to(DEVICE)

    boxes1, boxes2 = boxes(N), boxes(M)

    def make(package: str) -> Callable[[], tuple[Tensor, Tensor]]:
        box3d_overlap = _module(package, "ops").box3d_overlap
        return lambda: tuple(box3d_overlap(boxes1, boxes2, eps=1e-3))

    return _both(make)


def _close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def _close_volumes(ours: Any, theirs: Any) -> None:
    """PyTorch3D drops faces of boxes whose planes are less than 2.5 degrees apart: some of its volumes are off."""
    assert ((ours[0] - theirs[0]).abs() < 1e-3).float().mean() > 0.95


CASES = [
    Case(
        "point_mesh_face forward + backward, 5000 points x 3000 faces",
        lambda: _loss(5000, 3000, False),
        target=150,
        same=_close,
    ),
    Case("point_mesh_edge forward + backward, 5000 points x 3000 edges", lambda: _loss(5000, 3000, True), same=_close),
    Case("closest points on a mesh, 5000 points x 3000 faces", lambda: _closest(5000, 3000), same=_close),
    Case("closest points on a mesh, 100k points x 100k faces", lambda: _closest(100_000, 100_000), same=_close),
    Case("signed distance, 5000 points x 5120 faces", lambda: _signed(5000, 5120), same=_close),
    Case("first hits of rays, 100k rays x 80k faces", lambda: _rays(100_000, 80_000), same=_close),
    Case("box3d_overlap, 64 x 64 boxes", lambda: _boxes(64, 64), target=50, same=_close_volumes),
]

test_speed = speed_test(CASES)
