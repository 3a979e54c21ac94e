"""Marching cubes, the topology of meshes and what is computed on it: losses, graph convolution, voxels to meshes.

Every function here is written once and runs on either package: the names are the same.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from bench_neighbours import _both, _module, _sphere
from rivals import DEVICE, OURS, Case, Functions, rival, speed_test
from torch import Tensor


def _noise(size: int) -> Tensor:
    return torch.rand(1, size, size, size, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def _ball(size: int, radius: float) -> Tensor:
    at = (torch.arange(size, dtype=torch.float32, device=DEVICE) - (size - 1) / 2 - 0.1).square()
    return ((at[:, None, None] + at[:, None] + at).sqrt() - radius)[None].contiguous()


def _marching_cubes(volume: Tensor, isolevel: float) -> Functions:
    def make(package: str) -> Callable[[], tuple[int, int]]:
        marching_cubes = _module(package, "ops.marching_cubes").marching_cubes

        def call() -> tuple[int, int]:
            (verts,), (faces,) = marching_cubes(volume, isolevel)
            return len(verts), len(faces)

        return call

    functions = _both(make)
    if rival("skimage") and DEVICE.type == "cpu":
        measure = importlib.import_module("skimage.measure")
        values = volume[0].numpy()

        def scikit_image() -> tuple[int, int]:
            verts, faces, _, _ = measure.marching_cubes(values, isolevel, method="lorensen")
            return len(verts), len(faces)

        functions["skimage"] = scikit_image
    return functions


def _fresh_topology(level: int) -> Functions:
    verts, faces = _sphere(level)

    def make(package: str) -> Callable[[], tuple[Tensor, Tensor]]:
        Meshes = _module(package, "structures").Meshes

        def call() -> tuple[Tensor, Tensor]:
            # Of faces that are seen again the topology would be known.
            meshes = Meshes(verts=[verts], faces=[faces.clone()])
            return meshes.edges_packed(), meshes.faces_packed_to_edges_packed()

        return call

    return _both(make)


def _losses_of_fresh_meshes(level: int) -> Functions:
    verts, faces = _sphere(level)
    leaf = verts.clone().requires_grad_()

    def make(package: str) -> Callable[[], tuple[Tensor, Tensor]]:
        loss, Meshes = _module(package, "loss"), _module(package, "structures").Meshes

        def step() -> tuple[Tensor, Tensor]:
            meshes = Meshes(verts=[leaf], faces=[faces.clone()])
            total = loss.mesh_laplacian_smoothing(meshes) + loss.mesh_edge_loss(meshes)
            total = total + loss.mesh_normal_consistency(meshes)
            return total.detach(), torch.autograd.grad(total, leaf)[0]

        return step

    return _both(make)


def _loss(level: int, name: str, **options: Any) -> Functions:
    verts, faces = _sphere(level)

    def make(package: str) -> Callable[[], tuple[Tensor, Tensor]]:
        function = getattr(_module(package, "loss"), name)
        meshes = _module(package, "structures").Meshes(verts=[verts], faces=[faces])
        offset = torch.zeros_like(verts, requires_grad=True)

        def step() -> tuple[Tensor, Tensor]:
            value = function(meshes.offset_verts(offset), **options)
            return value.detach(), torch.autograd.grad(value, offset)[0]

        return step

    return _both(make)


def _graph(level: int, channels: int) -> tuple[Tensor, Tensor]:
    verts, faces = _sphere(level)
    edges = _module(OURS, "structures").Meshes([verts], [faces]).edges_packed()
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(verts), channels, generator=generator).to(DEVICE), edges


def _graph_conv(level: int, channels: int) -> Functions:
    features, edges = _graph(level, channels)
    features.requires_grad_()

    def make(package: str) -> Callable[[], tuple[Tensor, Tensor]]:
        torch.manual_seed(0)
        layer = _module(package, "ops").GraphConv(channels, channels).to(DEVICE)

        def step() -> tuple[Tensor, Tensor]:
            out = layer(features, edges)
            return out.detach(), torch.autograd.grad(out.sum(), features)[0]

        return step

    return _both(make)


def _gather_scatter(level: int, channels: int) -> Functions:
    features, edges = _graph(level, channels)

    def make(package: str) -> Callable[[], Tensor]:
        gather_scatter = _module(package, "ops.graph_conv").gather_scatter
        return lambda: gather_scatter(features, edges)

    return _both(make)


def _cubify(batch: int, size: int) -> Functions:
    voxels = torch.rand(batch, size, size, size, generator=torch.Generator().manual_seed(0)).to(DEVICE)

    def make(package: str) -> Callable[[], Tensor]:
        cubify = _module(package, "ops").cubify
        return lambda: cubify(voxels, 0.5).verts_packed()

    return _both(make)


def _taubin(level: int) -> Functions:
    verts, faces = _sphere(level)

    def make(package: str) -> Callable[[], Tensor]:
        meshes = _module(package, "structures").Meshes(verts=[verts], faces=[faces])
        smooth = _module(package, "ops").taubin_smoothing
        return lambda: smooth(meshes).verts_packed()

    return _both(make)


def _close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def _same_counts(ours: Any, theirs: Any) -> None:
    """All cut the same edges of the grid; which triangles fill a cell is a choice where a side can be cut twice."""
    assert abs(ours[0] - theirs[0]) <= 1e-3 * ours[0]
    assert abs(ours[1] - theirs[1]) <= 0.05 * ours[1]


def _mesh_bytes(level: int) -> int:
    verts, faces = _sphere(level)
    return 24 * len(verts) + 24 * len(faces)


CASES = [
    Case(
        "marching_cubes, 100^3 noise",
        lambda: _marching_cubes(_noise(100), 0.5),
        target=40,
        bytes_moved=4 * 100**3 + 3_100_000 * 24 + 1_500_000 * 12,
        same=_same_counts,
        memory=True,
    ),
    Case(
        "marching_cubes, 256^3 ball",
        lambda: _marching_cubes(_ball(256, 80.0), 0.0),
        target=30,
        bytes_moved=4 * 256**3,
        same=_same_counts,
        memory=True,
    ),
    Case(
        "edges of a fresh mesh, ico_sphere(6)",
        lambda: _fresh_topology(6),
        target=15,
        bytes_moved=lambda: _mesh_bytes(6),
        same=_close,
    ),
    Case(
        "Laplacian + edge + normal losses forward + backward of a fresh mesh, ico_sphere(6)",
        lambda: _losses_of_fresh_meshes(6),
        target=15,
        bytes_moved=lambda: 3 * _mesh_bytes(6),
        same=_close,
    ),
    Case(
        "uniform Laplacian loss forward + backward, ico_sphere(6)",
        lambda: _loss(6, "mesh_laplacian_smoothing"),
        target=20,
        bytes_moved=lambda: _mesh_bytes(6),
        same=_close,
    ),
    Case(
        "cotangent Laplacian loss forward + backward, ico_sphere(6), weights constant",
        lambda: _loss(6, "mesh_laplacian_smoothing", method="cot"),
        target=60,
        bytes_moved=lambda: _mesh_bytes(6),
        same=_close,
    ),
    Case(
        "normal consistency loss forward + backward, ico_sphere(6)",
        lambda: _loss(6, "mesh_normal_consistency"),
        target=40,
        bytes_moved=lambda: _mesh_bytes(6),
        same=_close,
    ),
    Case(
        "GraphConv forward + backward, ico_sphere(5), 256 channels",
        lambda: _graph_conv(5, 256),
        target=2,
        bytes_moved=lambda: 4 * 4 * 256 * len(_sphere(5)[0]),
        same=_close,
    ),
    Case(
        "gather_scatter, ico_sphere(6), 16 channels",
        lambda: _gather_scatter(6, 16),
        bytes_moved=lambda: 2 * 4 * 16 * len(_sphere(6)[0]),
        same=_close,
    ),
    Case("cubify, 16 x 32^3 voxels", lambda: _cubify(16, 32), bytes_moved=16 * 32**3 * 4, same=_close, memory=True),
    Case("taubin_smoothing, ico_sphere(5), 10 iterations", lambda: _taubin(5), same=_close),
]

test_speed = speed_test(CASES)
