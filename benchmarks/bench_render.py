"""Whole pictures through MeshRenderer: shaded, textured, and with all their gradients.

Every function here is written once and runs on either package: the names are the same.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rivals import DEVICE, OURS, Case, Functions, Sweep, rival, speed_test
from torch import Tensor

from recon_engine.utils import ico_sphere

SIGMA = 1e-4
BLUR = math.log(1 / 1e-4 - 1) * SIGMA  # where a face's alpha falls below 1e-4


def _module(package: str, name: str) -> Any:
    return importlib.import_module(f"{package}.{name}")


def _renderer(package: str, shader: str, **settings: Any) -> Any:
    renderer = _module(package, "renderer")
    R, T = renderer.look_at_view_transform(2.7, 20.0, 30.0)
    cameras = renderer.FoVPerspectiveCameras(R=R, T=T, device=DEVICE)
    rasterizer = renderer.MeshRasterizer(cameras, renderer.RasterizationSettings(bin_size=0, **settings))
    lights = renderer.PointLights(location=[[1.0, 2.0, 3.0]], device=DEVICE)
    return renderer.MeshRenderer(rasterizer, getattr(renderer, shader)(cameras=cameras, lights=lights, device=DEVICE))


@functools.cache
def _sphere(level: int) -> tuple[Tensor, Tensor]:
    mesh = ico_sphere(level, DEVICE)
    return mesh.verts_packed(), mesh.faces_packed()


def _textured_sphere(package: str, level: int, colors: Tensor) -> Any:
    verts, faces = _sphere(level)
    textures = _module(package, "renderer").TexturesVertex(colors[None])
    return _module(package, "structures").Meshes([verts], [faces], textures)


def _both(make: Callable[[str], Callable[[], Any]]) -> Functions:
    return {package: make(package) for package in (OURS, "pytorch3d") if rival(package)}


def _soft_phong(size: int, level: int = 4, faces_per_pixel: int = 50, batch: int = 1) -> Functions:
    """The step of fitting a mesh and its colours to pictures: everything from the vertices' offsets and back."""

    def make(package: str) -> Callable[[], tuple[Tensor, ...]]:
        settings = {"image_size": size, "blur_radius": BLUR, "faces_per_pixel": faces_per_pixel}
        render = _renderer(package, "SoftPhongShader", **settings)
        verts = _sphere(level)[0]
        offset = torch.zeros_like(verts, requires_grad=True)
        colors = torch.full_like(verts, 0.5, requires_grad=True)

        def step() -> tuple[Tensor, ...]:
            mesh = _textured_sphere(package, level, colors).offset_verts(offset)
            image = render(mesh.extend(batch) if batch > 1 else mesh)
            return (image.detach(), *torch.autograd.grad(image[..., :3].square().mean(), [offset, colors]))

        return step

    return _both(make)


def _hard_phong(size: int, level: int) -> Functions:
    def make(package: str) -> Callable[[], Tensor]:
        render = _renderer(package, "HardPhongShader", image_size=size)
        mesh = _textured_sphere(package, level, torch.full_like(_sphere(level)[0], 0.5))
        return lambda: render(mesh)

    return _both(make)


def _cow() -> Functions:
    folder = os.environ.get("RECON_DATA")
    if not folder:
        pytest.skip("RECON_DATA is not set: it names the folder with the book's meshes")
    path = Path(folder) / "book/chap2/data/cow_mesh/cow.obj"

    def make(package: str) -> Callable[[], Tensor]:
        render = _renderer(package, "HardPhongShader", image_size=512)
        mesh = _module(package, "io").load_objs_as_meshes([path], device=DEVICE)
        return lambda: render(mesh)

    return _both(make)


def _million() -> Functions:
    mesh = _textured_sphere(OURS, 8, torch.rand(len(_sphere(8)[0]), 3, device=DEVICE))
    render = _renderer(OURS, "HardPhongShader", image_size=1024)
    return {OURS: lambda: render(mesh)}


def _close_pictures(ours: Tensor, theirs: Tensor) -> None:
    """The two packages' cameras round differently: a pixel on an edge may go either way."""
    assert ((ours - theirs).abs() > 1e-3).float().mean() < 1e-3


def _close(ours: Any, theirs: Any) -> None:
    """Gradients agree but for faces seen edge-on, where PyTorch3D divides by a clamped number (docs/parity.md)."""
    _close_pictures(ours[0], theirs[0])
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        assert ((a - b).abs() > 1e-3 * a.abs().mean()).float().mean() < 0.05


CASES = [
    Case(
        "soft Phong, vertex colours, forward + backward, ico_sphere(4), 128x128, K=50",
        lambda: _soft_phong(128),
        target=300,
        same=_close,
    ),
    Case(
        "soft Phong, vertex colours, forward + backward, ico_sphere(4), 256x256, K=50",
        lambda: _soft_phong(256),
        same=_close,
        memory=True,
    ),
    Case("hard Phong, UV texture, forward, cow, 512x512", _cow, target=200, same=_close_pictures),
    Case("hard Phong, vertex colours, forward, 1.3 million faces, 1024x1024", _million),
]

SWEEPS = [
    Sweep(
        "hard Phong, 256x256",
        "faces",
        (3, 4, 5, 6, 7, 8),
        lambda level: _hard_phong(256, level),
        shown=lambda level: 20 * 4**level,
    ),
    Sweep(
        "hard Phong, 5120 faces",
        "pixels",
        (64, 128, 256, 512, 1024, 2048),
        lambda size: _hard_phong(size, 4),
        shown=lambda size: size * size,
    ),
    Sweep(
        "soft Phong forward + backward, 128x128, 5120 faces",
        "faces per pixel",
        (1, 5, 10, 25, 50, 100, 200),
        lambda K: _soft_phong(128, faces_per_pixel=K),
    ),
    Sweep(
        "soft Phong forward + backward, 64x64, 1280 faces, K=50",
        "meshes of a batch",
        (1, 2, 4, 8, 16, 32, 64),
        lambda batch: _soft_phong(64, 3, batch=batch),
    ),
]

test_speed = speed_test(CASES)
