"""Neighbours, chamfer, the regularisers of meshes and samples on surfaces: what a fit to points calls in every step.

Every function here is written once and runs on either package: the names are the same.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from rivals import DEVICE, OURS, THREADS, Case, Functions, rival, speed_test
from torch import Tensor

from recon_engine.utils import ico_sphere


def _module(package: str, name: str) -> Any:
    return importlib.import_module(f"{package}.{name}")


def _both(make: Callable[[str], Callable[[], Any]]) -> Functions:
    return {package: make(package) for package in (OURS, "pytorch3d") if rival(package)}


def _clouds(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(*shape, 3, generator=generator).to(DEVICE) for _ in range(2))
    return x.requires_grad_(), y.requires_grad_()


def _chamfer(batch: int, points: int) -> Functions:
    x, y = _clouds(batch, points)

    def make(package: str) -> Callable[[], tuple[Tensor, ...]]:
        chamfer_distance = _module(package, "loss").chamfer_distance

        def call() -> tuple[Tensor, ...]:
            loss = chamfer_distance(x, y)[0]
            return loss.detach(), *torch.autograd.grad(loss, (x, y))

        return call

    return _both(make)


def _queries(points: int, K: int) -> Functions:
    x, y = (cloud.detach() for cloud in _clouds(1, points))

    def make(package: str) -> Callable[[], Tensor]:
        knn_points = _module(package, "ops").knn_points
        return lambda: knn_points(x, y, K=K).dists

    return _both(make)


def _queries_of_scipy(points: int, build: bool) -> Functions:
    """Both directions of chamfer; `build`: with the trees, that we always build."""
    x, y = (cloud.detach() for cloud in _clouds(1, points))
    nearest_both = _module(OURS, "ops._nearest").nearest_both
    functions: Functions = {OURS: lambda: (lambda out: (out[0][0], out[2][0]))(nearest_both(x, y))}
    if rival("scipy") and DEVICE.type == "cpu":
        cKDTree = importlib.import_module("scipy.spatial").cKDTree
        a, b = (cloud[0].numpy() for cloud in (x, y))
        trees = None if build else (cKDTree(a), cKDTree(b))

        def query() -> tuple[Tensor, ...]:
            tree_a, tree_b = trees or (cKDTree(a), cKDTree(b))
            found = tree_b.query(a, workers=THREADS)[0], tree_a.query(b, workers=THREADS)[0]
            return tuple(torch.from_numpy(dist).float().square() for dist in found)

        functions["scipy"] = query
    return functions


@functools.cache
def _sphere(level: int) -> tuple[Tensor, Tensor]:
    sphere = ico_sphere(level, DEVICE)
    verts = sphere.verts_packed()
    generator = torch.Generator().manual_seed(0)
    return verts + 0.001 * torch.randn(verts.shape, generator=generator).to(DEVICE), sphere.faces_packed()


def _losses(level: int, names: tuple[str, ...]) -> Functions:
    verts, faces = _sphere(level)

    def make(package: str) -> Callable[[], tuple[Tensor, Tensor]]:
        loss = _module(package, "loss")
        functions = {
            "uniform": loss.mesh_laplacian_smoothing,
            "cot": lambda meshes: loss.mesh_laplacian_smoothing(meshes, method="cot"),
            "edge": loss.mesh_edge_loss,
            "normal": loss.mesh_normal_consistency,
        }
        meshes = _module(package, "structures").Meshes(verts=[verts], faces=[faces])
        offset = torch.zeros_like(verts, requires_grad=True)

        def step() -> tuple[Tensor, Tensor]:
            moved = meshes.offset_verts(offset)
            total = sum(functions[name](moved) for name in names)
            return total.detach(), torch.autograd.grad(total, offset)[0]

        return step

    return _both(make)


def _normals(level: int) -> Functions:
    verts, faces = _sphere(level)
    leaf = verts.clone().requires_grad_()

    def make(package: str) -> Callable[[], tuple[Tensor, ...]]:
        mesh_face_areas_normals = _module(package, "ops").mesh_face_areas_normals

        def step() -> tuple[Tensor, ...]:
            areas, _ = mesh_face_areas_normals(leaf, faces)
            return areas.detach(), torch.autograd.grad(areas.sum(), leaf)[0]

        return step

    return _both(make)


def _samples(level: int, count: int) -> Functions:
    verts, faces = _sphere(level)

    def make(package: str) -> Callable[[], tuple[Tensor, ...]]:
        sample_points_from_meshes = _module(package, "ops").sample_points_from_meshes
        meshes = _module(package, "structures").Meshes(verts=[verts], faces=[faces])
        offset = torch.zeros_like(verts, requires_grad=True)

        def step() -> tuple[Tensor, ...]:
            torch.manual_seed(0)
            samples = sample_points_from_meshes(meshes.offset_verts(offset), count)
            return samples.detach(), torch.autograd.grad(samples.square().sum(), offset)[0]

        return step

    return _both(make)


def _close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def _loss_bytes(level: int, passes: int) -> int:
    verts, faces = _sphere(level)
    # Vertices in, gradient out, and the faces once for each loss.
    return passes * (24 * len(verts) + 24 * len(faces))


CASES = [
    Case(
        "chamfer forward + backward, 10k x 10k points",
        lambda: _chamfer(1, 10000),
        target=150,
        bytes_moved=2 * 10000 * (24 + 12),
        same=_close,
    ),
    Case(
        "chamfer forward + backward, 32 x 1000 x 1000 points",
        lambda: _chamfer(32, 1000),
        target=40,
        bytes_moved=2 * 32000 * (24 + 12),
        same=_close,
    ),
    Case("nearest points both ways, 10k x 10k, trees built", lambda: _queries_of_scipy(10000, True), same=_close),
    Case(
        "nearest points both ways, 10k x 10k, queries of ready trees",
        lambda: _queries_of_scipy(10000, False),
        same=_close,
    ),
    Case("knn_points, 10k x 10k, K=1", lambda: _queries(10000, 1), target=150, bytes_moved=10000 * 36, same=_close),
    Case("knn_points, 10k x 10k, K=8", lambda: _queries(10000, 8), bytes_moved=10000 * 120, same=_close),
    Case(
        "Laplacian + edge + normal losses forward + backward, ico_sphere(6), topology shared",
        lambda: _losses(6, ("uniform", "edge", "normal")),
        target=15,
        bytes_moved=lambda: _loss_bytes(6, 3),
        same=_close,
    ),
    Case(
        "the same, ico_sphere(4)",
        lambda: _losses(4, ("uniform", "edge", "normal")),
        bytes_moved=lambda: _loss_bytes(4, 3),
        same=_close,
    ),
    Case(
        "cotangent Laplacian loss forward + backward, ico_sphere(6)",
        lambda: _losses(6, ("cot",)),
        bytes_moved=lambda: _loss_bytes(6, 1),
        same=_close,
    ),
    Case(
        "mesh_face_areas_normals forward + backward, ico_sphere(6)",
        lambda: _normals(6),
        bytes_moved=lambda: _loss_bytes(6, 1),
        same=_close,
    ),
    Case(
        "sample_points_from_meshes forward + backward, ico_sphere(4), 5000 points",
        lambda: _samples(4, 5000),
        bytes_moved=lambda: _loss_bytes(4, 1) + 5000 * 24,
        same=_close,
    ),
]

test_speed = speed_test(CASES)
