"""The rasteriser: as an op, through the renderer, and in the loop that reconstructs an object from its silhouettes.

Every function here is written once and runs on either package: the names are the same.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any

import torch
from rivals import DEVICE, OURS, Case, Functions, rival, speed_test
from torch import Tensor

from recon_engine.utils import ico_sphere

SIZE = 256
BLUR = math.log(1 / 1e-4 - 1) * 1e-4  # where a face's alpha falls below 1e-4
SIGMA = 1e-4


def _both(make: Callable[[str], Callable[[], Any]]) -> Functions:
    return {package: make(package) for package in (OURS, "pytorch3d") if rival(package)}


def _module(package: str, name: str) -> Any:
    return importlib.import_module(f"{package}.{name}")


def _meshes(package: str, verts: Tensor, faces: Tensor) -> Any:
    return _module(package, "structures").Meshes(verts=[verts], faces=[faces])


def _cameras(package: str) -> Any:
    renderer = _module(package, "renderer")
    R, T = renderer.look_at_view_transform(2.7, 20.0, 30.0)
    return renderer.FoVPerspectiveCameras(R=R, T=T, device=DEVICE)


def _rasterizer(package: str, size: int = SIZE, **options: Any) -> Any:
    renderer = _module(package, "renderer")
    raster_settings = renderer.RasterizationSettings(image_size=size, **options)
    return renderer.MeshRasterizer(cameras=_cameras(package), raster_settings=raster_settings)


@functools.cache
def _sphere(level: int = 4) -> tuple[Tensor, Tensor]:
    mesh = ico_sphere(level, DEVICE)
    return mesh.verts_packed(), mesh.faces_packed()


@functools.cache
def _sphere_ndc(level: int = 4) -> Tensor:
    """The sphere's vertices as the rasteriser gets them."""
    return _rasterizer(OURS).transform(_meshes(OURS, *_sphere(level))).verts_packed()


def _op(
    package: str, verts: Tensor, blur_radius: float, faces_per_pixel: int, level: int = 4, size: int = SIZE
) -> tuple[Tensor, ...]:
    rasterize_meshes = _module(package, "renderer.mesh.rasterize_meshes").rasterize_meshes
    meshes = _meshes(package, verts, _sphere(level)[1])
    return rasterize_meshes(meshes, size, blur_radius, faces_per_pixel, bin_size=0)


def _forward(blur_radius: float, faces_per_pixel: int, level: int = 4, size: int = SIZE) -> Functions:
    return _both(lambda package: lambda: _op(package, _sphere_ndc(level), blur_radius, faces_per_pixel, level, size))


def _backward(faces_per_pixel: int) -> Functions:
    def make(package: str) -> Callable[[], Tensor]:
        verts = _sphere_ndc().clone().requires_grad_()
        pix_to_face, *outputs = _op(package, verts, 0.0, faces_per_pixel)
        generator = torch.Generator().manual_seed(0)
        grads = [torch.randn(o.shape, generator=generator).to(o) for o in outputs]
        grads = [torch.where((pix_to_face >= 0).view(*pix_to_face.shape, *[1] * (g.ndim - 4)), g, 0) for g in grads]
        return lambda: torch.autograd.grad(outputs, verts, grads, retain_graph=True)[0]

    return _both(make)


def _hits() -> tuple[int, str]:
    return int((_op(OURS, _sphere_ndc(), 0.0, 8)[0] >= 0).sum()), "hit"


def _through_rasterizer(level: int = 4, size: int = SIZE) -> Functions:
    def make(package: str) -> Callable[[], Any]:
        rasterizer = _rasterizer(package, size, faces_per_pixel=8, bin_size=0)
        meshes = _meshes(package, *_sphere(level))
        return lambda: rasterizer(meshes)

    return _both(make)


def _silhouette() -> Functions:
    def make(package: str) -> Callable[[], tuple[Tensor, Tensor]]:
        renderer = _module(package, "renderer")
        blend = renderer.BlendParams(sigma=SIGMA)
        rasterizer = _rasterizer(package, blur_radius=BLUR, faces_per_pixel=50, bin_size=0)
        render = renderer.MeshRenderer(rasterizer, renderer.SoftSilhouetteShader(blend_params=blend))
        verts, faces = _sphere()
        offset = torch.zeros_like(verts, requires_grad=True)
        meshes = _meshes(package, verts, faces)

        def call() -> tuple[Tensor, Tensor]:
            alpha = render(meshes.offset_verts(offset))[..., 3]
            return alpha.detach(), torch.autograd.grad(alpha.square().mean(), offset)[0]

        return call

    return _both(make)


def _build_iteration() -> Functions:
    """One step of `recon build` as it starts by default: two views, four losses, gradients, optimiser."""
    from recon_engine.methods.build import Views, mesh_settings, normalize, silhouettes
    from recon_engine.methods.shapes import building, create_cube

    options = mesh_settings()
    target, _ = normalize(building(), "building")
    start = create_cube(options.level)
    views = Views(torch.tensor([20.0, 40.0]), torch.tensor([-60.0, 100.0]), options.distance, 24.0)
    targets = silhouettes(target, views, options).to(DEVICE)
    R, T = views.rotation_translation(DEVICE)

    def make(package: str) -> Callable[[], Tensor]:
        loss, renderer = _module(package, "loss"), _module(package, "renderer")
        raster_settings = renderer.RasterizationSettings(
            image_size=options.image_size, blur_radius=options.blur_radius, faces_per_pixel=options.faces_per_pixel
        )
        shader = renderer.SoftSilhouetteShader(blend_params=renderer.BlendParams(sigma=options.sigma))
        render = renderer.MeshRenderer(renderer.MeshRasterizer(raster_settings=raster_settings), shader)
        cube = _meshes(package, start.verts_packed().to(DEVICE), start.faces_packed().to(DEVICE))
        copies = cube.extend(len(views))
        offset = torch.zeros_like(cube.verts_packed(), requires_grad=True)
        optimizer = torch.optim.SGD([offset], lr=options.learning_rate, momentum=options.momentum)

        def step() -> Tensor:
            with torch.no_grad():
                offset.zero_()  # every call is the same step
            mesh = cube.offset_verts(offset)
            cameras = renderer.FoVPerspectiveCameras(R=R, T=T, fov=views.fov, device=DEVICE)
            alpha = render(copies.offset_verts(offset.repeat(len(views), 1)), cameras=cameras)[..., 3]
            total = (
                (alpha - targets).square().mean()
                + loss.mesh_edge_loss(mesh)
                + 0.01 * loss.mesh_normal_consistency(mesh)
                + loss.mesh_laplacian_smoothing(mesh, method="uniform")
            )
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            return total.detach()

        return step

    return _both(make)


def _equal(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(tuple(ours), tuple(theirs), rtol=0, atol=0)


def _close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def _close_sums(ours: Any, theirs: Any) -> None:
    """Sums of hundreds of float32 terms in another order."""
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


def _almost_all_pixels(ours: Any, theirs: Any) -> None:
    """The two packages' cameras round differently: a pixel on an edge may go either way."""
    assert (ours.pix_to_face != theirs.pix_to_face).float().mean() < 1e-3


def _output_bytes(faces_per_pixel: int, size: int = SIZE) -> int:
    return 28 * size * size * faces_per_pixel  # int64 face, depth, three weights, distance


CASES = [
    Case(
        "rasterize_meshes forward, ico_sphere(4), 256x256, K=8",
        lambda: _forward(0.0, 8),
        target=600,
        bytes_moved=_output_bytes(8),
        same=_equal,
    ),
    Case(
        "the same through MeshRasterizer",
        _through_rasterizer,
        target=300,
        bytes_moved=_output_bytes(8),
        same=_almost_all_pixels,
    ),
    Case(
        "rasterize_meshes forward, ico_sphere(5), 512x512, K=8",
        lambda: _forward(0.0, 8, 5, 512),
        target=2000,
        bytes_moved=_output_bytes(8, 512),
        same=_equal,
    ),
    Case(
        "the same sphere and image through MeshRasterizer",
        lambda: _through_rasterizer(5, 512),
        target=1200,
        bytes_moved=_output_bytes(8, 512),
        same=_almost_all_pixels,
    ),
    Case(
        "rasterize_meshes forward, ico_sphere(4), 256x256, K=50, blur 9.2e-4",
        lambda: _forward(BLUR, 50),
        target=80,
        bytes_moved=_output_bytes(50),
        same=_equal,
    ),
    Case(
        "rasterize_meshes backward, ico_sphere(4), 256x256, K=8",
        lambda: _backward(8),
        target=1000,
        bytes_moved=_output_bytes(8),
        same=_close_sums,
        count=_hits,
    ),
    Case(
        "soft silhouette through MeshRenderer, forward + backward, 256x256, K=50",
        _silhouette,
        target=400,
        bytes_moved=lambda: 32 * SIZE * SIZE + 48 * len(_sphere()[0]) + 24 * len(_sphere()[1]),
        same=_close,
        memory=True,
    ),
    Case("one iteration of `recon build` at its defaults", _build_iteration, target=200, same=_close),
]

test_speed = speed_test(CASES)
