"""Neighbours, chamfer, the regularisers of meshes and samples of points and surfaces: what a fit to points calls often.

Every function here is written once and runs on either package: the names are the same.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from rivals import DEVICE, OURS, THREADS, Case, Functions, Sweep, rival, speed_test
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
    """With the search structures of all rivals built in every call."""
    x, y = (cloud.detach() for cloud in _clouds(1, points))

    def make(package: str) -> Callable[[], Tensor]:
        knn_points = _module(package, "ops").knn_points
        return lambda: knn_points(x, y, K=K).dists

    return _both(make) | _trees(x, y, K, built=False)


def _ready_queries(queries: int, points: int, K: int) -> Functions:
    """Of search structures that are there."""
    x, y = _clouds(1, queries)[0].detach(), _clouds(1, points)[1].detach()
    index = _module(OURS, "ops").NeighborIndex(y)
    return {OURS: lambda: index.query(x, K).dists} | _trees(x, y, K, built=True)


def _trees(x: Tensor, y: Tensor, K: int, built: bool) -> Functions:
    """The rivals that search a tree over one cloud of points; their squared distances (1, P, K)."""
    if DEVICE.type != "cpu":
        return {}
    a, b = x[0].numpy(), y[0].numpy()
    functions: Functions = {}
    for name, tree in (("scipy", "scipy.spatial.cKDTree"), ("pykdtree", "pykdtree.kdtree.KDTree")):
        if not rival(name):
            continue
        module, make = tree.rsplit(".", 1)
        make_tree = getattr(importlib.import_module(module), make)
        options = {"workers": THREADS} if name == "scipy" else {}
        ready = make_tree(b) if built else None

        def query(make_tree: Any = make_tree, options: Any = options, ready: Any = ready) -> Tensor:
            found = (ready or make_tree(b)).query(a, k=K, **options)[0]
            return torch.from_numpy(found).float().square().view(1, len(a), K)

        functions[name] = query
    return functions


def _many_queries(batch: int, queries: int, points: int, K: int) -> Functions:
    x, y = (cloud.detach() for cloud in _clouds(batch, points))
    x = x[:, :queries].contiguous()

    def make(package: str) -> Callable[[], Tensor]:
        knn_points = _module(package, "ops").knn_points
        return lambda: knn_points(x, y, K=K).dists

    return _both(make)


def _features(points: int, D: int, K: int) -> Functions:
    """In many dimensions, where no tree helps."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(1, points, D, generator=generator).to(DEVICE) for _ in range(2))

    def make(package: str) -> Callable[[], Tensor]:
        knn_points = _module(package, "ops").knn_points
        return lambda: knn_points(x, y, K=K).dists

    functions = _both(make)
    if DEVICE.type == "cpu" and (faiss := rival("faiss")):
        faiss.omp_set_num_threads(THREADS)
        index = faiss.IndexFlatL2(D)
        index.add(y[0].numpy())
        functions["faiss"] = lambda: torch.from_numpy(index.search(x[0].numpy(), K)[0])[None]
    return functions


def _balls(batch: int, queries: int, points: int, K: int, radius: float) -> Functions:
    x, y = (cloud.detach() for cloud in _clouds(batch, points))
    x = x[:, :queries].contiguous()

    def make(package: str) -> Callable[[], tuple[Tensor, Tensor]]:
        ball_query = _module(package, "ops").ball_query
        return lambda: ball_query(x, y, K=K, radius=radius, return_nn=False)[:2]

    return _both(make)


def _farthest(points: int, K: int) -> Functions:
    cloud = _clouds(1, points)[0].detach()
    small = points <= 100_000

    def make(package: str) -> Callable[[], Tensor]:
        sample_farthest_points = _module(package, "ops").sample_farthest_points
        return lambda: sample_farthest_points(cloud, K=K)[1]

    functions = _both(make) if small else {OURS: make(OURS)}
    if DEVICE.type == "cpu" and (fpsample := rival("fpsample")):
        array, height = cloud[0].numpy(), 7 if small else 9  # of its tree, as its authors recommend

        def sample() -> Tensor:
            return torch.from_numpy(
                fpsample.bucket_fps_kdline_sampling(array, K, h=height, start_idx=0).astype("int64")
            )

        functions["fpsample"] = lambda: sample()[None]
    return functions


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


def _spread(points: int) -> Callable[[Tensor, Tensor], None]:
    """Samples are as good as others if the distances that they were chosen for are."""

    def same(ours: Tensor, theirs: Tensor) -> None:
        cloud = _clouds(1, points)[0].detach()[0]
        apart = [torch.cdist(cloud[idx[0, -64:]], cloud[idx[0, :-64]]).amin() for idx in (ours, theirs)]
        torch.testing.assert_close(apart[0], apart[1], rtol=0.02, atol=0)

    return same


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
    Case(
        "chamfer forward + backward, 100k x 100k points",
        lambda: _chamfer(1, 100_000),
        target=1000,
        bytes_moved=2 * 100_000 * (24 + 12),
        same=_close,
    ),
    Case("knn_points, 2k x 2k, K=1", lambda: _queries(2000, 1), target=45, bytes_moved=2000 * 36, same=_close),
    Case("knn_points, 8k x 8k, K=1", lambda: _queries(8000, 1), target=110, bytes_moved=8000 * 36, same=_close),
    Case("knn_points, 10k x 10k, K=1", lambda: _queries(10000, 1), target=150, bytes_moved=10000 * 36, same=_close),
    Case("knn_points, 10k x 10k, K=8", lambda: _queries(10000, 8), bytes_moved=10000 * 120, same=_close),
    Case("knn_points, 10k x 10k, K=500", lambda: _queries(10000, 500), bytes_moved=10000 * 6024, same=_close),
    Case(
        "knn_points, 100k x 100k, K=1",
        lambda: _queries(100_000, 1),
        target=1000,
        bytes_moved=100_000 * 36,
        same=_close,
    ),
    Case(
        "knn_points, 100k x 100k, K=16",
        lambda: _queries(100_000, 16),
        target=300,
        bytes_moved=100_000 * 216,
        same=_close,
    ),
    Case(
        "knn_points, 32 x 256 x 512, K=24",
        lambda: _many_queries(32, 256, 512, 24),
        target=15,
        bytes_moved=32 * 256 * 300 + 32 * 512 * 12,
        same=_close,
    ),
    Case(
        "knn_points, 5k x 5k in 16 dimensions, K=8",
        lambda: _features(5000, 16, 8),
        bytes_moved=5000 * (2 * 64 + 96),
        same=_close,
    ),
    Case(
        "NeighborIndex.query, 10k of 1M points, K=8",
        lambda: _ready_queries(10_000, 1_000_000, 8),
        bytes_moved=10_000 * 108,
        same=_close,
    ),
    Case(
        "ball_query, 32 x 256 x 512, K=24, radius 0.2",
        lambda: _balls(32, 256, 512, 24, 0.2),
        target=20,
        bytes_moved=32 * 256 * 300 + 32 * 512 * 12,
        same=_close,
    ),
    Case(
        "ball_query, 10k x 100k, K=32, radius 0.05",
        lambda: _balls(1, 10_000, 100_000, 32, 0.05),
        bytes_moved=10_000 * 396 + 100_000 * 12,
        same=_close,
    ),
    Case(
        "sample_farthest_points, 1024 of 16384",
        lambda: _farthest(16384, 1024),
        target=15,
        bytes_moved=16384 * 12 + 1024 * 8,
        same=_spread(16384),
    ),
    Case(
        "sample_farthest_points, 4096 of 1M",
        lambda: _farthest(1_000_000, 4096),
        bytes_moved=1_000_000 * 12 + 4096 * 8,
        same=_spread(1_000_000),
    ),
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

SWEEPS = [
    Sweep(
        "knn_points, K=1, as many queries as points",
        "points",
        (300, 1000, 3000, 10_000, 30_000, 100_000, 1_000_000),
        lambda points: _queries(points, 1),
    ),
    Sweep("knn_points, 10k x 10k", "K", (1, 4, 16, 64, 256, 1024), lambda K: _queries(10_000, K)),
    Sweep(
        "knn_points, 256 x 512 points, K=24",
        "batch",
        (1, 4, 16, 64, 256),
        lambda batch: _many_queries(batch, 256, 512, 24),
    ),
    Sweep(
        "chamfer forward + backward",
        "points",
        (300, 1000, 3000, 10_000, 30_000, 100_000, 1_000_000),
        lambda points: _chamfer(1, points),
    ),
    Sweep("sample_farthest_points of 16384", "samples", (64, 256, 1024, 4096), lambda K: _farthest(16384, K)),
]

test_speed = speed_test(CASES)
