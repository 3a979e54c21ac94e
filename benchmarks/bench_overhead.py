"""Calls on next to nothing, where what is measured is the Python around the kernels.

Scripts that fit one small shape make thousands of such calls. A picture of one pixel costs a kernel nothing; the same
call at 64x64 says what the user waits for. Every function here is written once and runs on either package: the names
are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from bench_neighbours import _both, _module
from rivals import DEVICE, Case, Functions, speed_test
from torch import Tensor

SIGMA = 1e-4
BLUR = math.log(1 / 1e-4 - 1) * SIGMA  # where a face's alpha falls below 1e-4


def _tensor(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, device=DEVICE)


def _triangle() -> tuple[Tensor, Tensor]:
    return _tensor([[-0.5, -0.5, 0.0], [0.5, -0.5, 0.0], [0.0, 0.5, 0.0]]), torch.tensor([[0, 1, 2]], device=DEVICE)


def _tetrahedron() -> tuple[Tensor, Tensor]:
    verts = _tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.1], [0.0, 1.0, 0.2], [0.0, 0.1, 1.0]])
    return verts, torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]], device=DEVICE)


def _points(count: int) -> Tensor:
    return torch.rand(1, count, 3, generator=torch.Generator().manual_seed(0)).to(DEVICE) - 0.5


def _each(make: Callable[[Any], Callable[[], Any]], name: str) -> Functions:
    """`make` with the module of that name of each package."""
    return _both(lambda package: make(_module(package, name)))


# Meshes


def _from_lists(count: int, fresh: bool) -> Functions:
    """The packed form of new meshes; faces that no mesh has had before are checked."""
    verts, faces = ([tensor.clone() for _ in range(count)] for tensor in _tetrahedron())

    def make(structures: Any) -> Callable[[], tuple[Tensor, Tensor]]:
        kept = structures.Meshes(verts, faces)

        def call() -> tuple[Tensor, Tensor]:
            meshes = structures.Meshes(verts, [f.clone() for f in faces] if fresh else kept.faces_list())
            return meshes.verts_packed(), meshes.faces_packed()

        return call

    return _each(make, "structures")


def _from_padded(count: int) -> Functions:
    verts, faces = (tensor.expand(count, -1, -1).contiguous() for tensor in _tetrahedron())

    def make(structures: Any) -> Callable[[], tuple[Tensor, Tensor]]:
        def call() -> tuple[Tensor, Tensor]:
            meshes = structures.Meshes(verts, faces.clone())
            return meshes.verts_packed(), meshes.faces_packed()

        return call

    return _each(make, "structures")


def _on_meshes(count: int, method: Callable[[Any, Any], Any]) -> Functions:
    """`method` of the module `structures` and of meshes that were packed before."""
    verts, faces = ([tensor.clone() for _ in range(count)] for tensor in _tetrahedron())

    def make(structures: Any) -> Callable[[], Any]:
        meshes = structures.Meshes(verts, faces)
        meshes.verts_packed(), meshes.faces_packed()
        return lambda: method(structures, meshes)

    return _each(make, "structures")


def _offset(count: int) -> Functions:
    offsets = torch.full((4 * count, 3), 0.1, device=DEVICE)
    return _on_meshes(count, lambda _, meshes: meshes.offset_verts(offsets).verts_packed())


# Cameras and transforms


def _extrinsics(package: str, count: int) -> tuple[Tensor, Tensor]:
    azimuth = torch.linspace(0.0, 90.0, count, device=DEVICE)
    extrinsics: tuple[Tensor, Tensor] = _module(package, "renderer").look_at_view_transform(
        2.7, 20.0, azimuth, device=DEVICE
    )
    return extrinsics


def _cameras(count: int) -> Functions:
    points = _points(4)[0]

    def make(package: str) -> Callable[[], Tensor]:
        FoVPerspectiveCameras = _module(package, "renderer").FoVPerspectiveCameras
        R, T = _extrinsics(package, count)

        def call() -> Tensor:
            cameras = FoVPerspectiveCameras(R=R, T=T, device=DEVICE)
            projected: Tensor = cameras.get_full_projection_transform().transform_points(points)
            return projected

        return call

    return _both(make)


def _look_at() -> Functions:
    return _each(lambda renderer: lambda: renderer.look_at_view_transform(2.7, 20.0, 30.0, device=DEVICE), "renderer")


def _transform() -> Functions:
    points = _points(4)[0]

    def make(transforms: Any) -> Callable[[], Tensor]:
        def call() -> Tensor:
            turn = transforms.RotateAxisAngle(30.0, "Y", device=DEVICE)
            scale = transforms.Scale(2.0, device=DEVICE)
            moved: Tensor = scale.compose(turn, transforms.Translate(0.1, 0.2, 0.3, device=DEVICE)).transform_points(
                points
            )
            return moved

        return call

    return _each(make, "transforms")


# Pictures


def _viewed(package: str, rasterizer: str, settings: str, **options: Any) -> Any:
    renderer = _module(package, "renderer")
    R, T = _extrinsics(package, 1)
    cameras = renderer.FoVPerspectiveCameras(R=R, T=T, device=DEVICE)
    return getattr(renderer, rasterizer)(cameras, getattr(renderer, settings)(**options))


def _rasterize(size: int) -> Functions:
    verts, faces = _triangle()

    def make(package: str) -> Callable[[], tuple[Tensor, Tensor]]:
        rasterizer = _viewed(package, "MeshRasterizer", "RasterizationSettings", image_size=size)
        meshes = _module(package, "structures").Meshes([verts], [faces])

        def call() -> tuple[Tensor, Tensor]:
            fragments = rasterizer(meshes)
            return fragments.pix_to_face, fragments.zbuf

        return call

    return _both(make)


def _silhouette(size: int, backward: bool) -> Functions:
    """The step of fitting a shape to its outline, from the vertices' offsets and back."""
    verts, faces = _triangle()

    def make(package: str) -> Callable[[], tuple[Tensor, ...]]:
        renderer = _module(package, "renderer")
        options = {"image_size": size, "blur_radius": BLUR, "faces_per_pixel": 50}
        rasterizer = _viewed(package, "MeshRasterizer", "RasterizationSettings", **options)
        render = renderer.MeshRenderer(rasterizer, renderer.SoftSilhouetteShader())
        meshes = _module(package, "structures").Meshes([verts], [faces])
        offset = torch.zeros_like(verts, requires_grad=backward)

        def step() -> tuple[Tensor, ...]:
            image = render(meshes.offset_verts(offset))
            if not backward:
                return (image,)
            return image.detach(), torch.autograd.grad(image[..., 3].sum(), offset)[0]

        return step

    return _both(make)


def _phong(size: int) -> Functions:
    verts, faces = _triangle()
    colors = torch.full((1, 3, 3), 0.5, device=DEVICE)

    def make(package: str) -> Callable[[], Tensor]:
        renderer = _module(package, "renderer")
        rasterizer = _viewed(package, "MeshRasterizer", "RasterizationSettings", image_size=size)
        lights = renderer.PointLights(location=[[0.0, 1.0, 3.0]], device=DEVICE)
        shader = renderer.HardPhongShader(device=DEVICE, cameras=rasterizer.cameras, lights=lights)
        render = renderer.MeshRenderer(rasterizer, shader)
        meshes = _module(package, "structures").Meshes([verts], [faces], renderer.TexturesVertex(colors))
        return lambda: render(meshes)

    return _both(make)


def _point_picture(size: int, rendered: bool) -> Functions:
    points, colors = _points(3), torch.rand(1, 3, 3, generator=torch.Generator().manual_seed(1)).to(DEVICE)

    def make(package: str) -> Callable[[], Tensor]:
        renderer = _module(package, "renderer")
        options = {"image_size": size, "radius": 0.1, "points_per_pixel": 3}
        rasterizer = _viewed(package, "PointsRasterizer", "PointsRasterizationSettings", **options)
        clouds = _module(package, "structures").Pointclouds(points, features=colors)
        render = renderer.PointsRenderer(rasterizer, renderer.AlphaCompositor())
        return (lambda: render(clouds)) if rendered else (lambda: rasterizer(clouds).zbuf)

    return _both(make)


def _sample_vertex_colors() -> Functions:
    verts, faces = _triangle()
    colors = torch.rand(1, 3, 3, generator=torch.Generator().manual_seed(1)).to(DEVICE)

    def make(package: str) -> Callable[[], Tensor]:
        textures = _module(package, "renderer").TexturesVertex(colors)
        meshes = _module(package, "structures").Meshes([verts], [faces], textures)
        fragments = _viewed(package, "MeshRasterizer", "RasterizationSettings", image_size=8)(meshes)
        return lambda: meshes.sample_textures(fragments)

    return _both(make)


# Neighbours and losses


def _knn() -> Functions:
    x, y = _points(4), _points(4) + 0.1
    return _each(lambda ops: lambda: ops.knn_points(x, y, K=2).dists, "ops")


def _chamfer() -> Functions:
    x, y = _points(4).requires_grad_(), _points(4) + 0.1

    def make(loss: Any) -> Callable[[], tuple[Tensor, Tensor]]:
        def call() -> tuple[Tensor, Tensor]:
            value = loss.chamfer_distance(x, y)[0]
            return value.detach(), torch.autograd.grad(value, x)[0]

        return call

    return _each(make, "loss")


def _mesh_losses(fresh: bool) -> Functions:
    """Of meshes whose topology is known from the last step, or of new ones."""
    verts, faces = _tetrahedron()

    def make(package: str) -> Callable[[], tuple[Tensor, Tensor]]:
        loss, Meshes = _module(package, "loss"), _module(package, "structures").Meshes
        kept = Meshes([verts], [faces])
        offset = torch.zeros_like(verts, requires_grad=True)

        def step() -> tuple[Tensor, Tensor]:
            meshes = (Meshes([verts], [faces.clone()]) if fresh else kept).offset_verts(offset)
            total = loss.mesh_laplacian_smoothing(meshes) + loss.mesh_edge_loss(meshes)
            total = total + loss.mesh_normal_consistency(meshes)
            return total.detach(), torch.autograd.grad(total, offset)[0]

        return step

    return _both(make)


def _close(ours: Any, theirs: Any) -> None:
    if isinstance(ours, Tensor):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        return
    for a, b in zip(ours, theirs, strict=True):
        _close(a, b)


def _case(name: str, make: Callable[[], Functions], target: float | None = None, compared: bool = True) -> Case:
    return Case(name, make, target=target, same=_close if compared else None)


CASES = [
    _case("Meshes of lists, packed, 1 tetrahedron, new faces", lambda: _from_lists(1, True)),
    _case("Meshes of lists, packed, 1 tetrahedron, faces seen before", lambda: _from_lists(1, False)),
    _case("Meshes of lists, packed, 64 tetrahedra, new faces", lambda: _from_lists(64, True)),
    _case("Meshes of padded tensors, packed, 64 tetrahedra, new faces", lambda: _from_padded(64)),
    _case("offset_verts and verts_packed, 1 tetrahedron", lambda: _offset(1)),
    _case("offset_verts and verts_packed, 64 tetrahedra", lambda: _offset(64)),
    _case("Meshes.clone, 64 tetrahedra", lambda: _on_meshes(64, lambda _, meshes: meshes.clone()), compared=False),
    _case(
        "Meshes.to(device), nothing to move",
        lambda: _on_meshes(64, lambda _, meshes: meshes.to(DEVICE)),
        compared=False,
    ),
    _case(
        "extend(64) and verts_packed, 1 tetrahedron",
        lambda: _on_meshes(1, lambda _, meshes: meshes.extend(64).verts_packed()),
    ),
    _case(
        "join_meshes_as_batch of 64 and verts_packed",
        lambda: _on_meshes(1, lambda module, meshes: module.join_meshes_as_batch([meshes] * 64).verts_packed()),
    ),
    _case("FoVPerspectiveCameras, full projection of 4 points, 1 camera", lambda: _cameras(1)),
    _case("FoVPerspectiveCameras, full projection of 4 points, 64 cameras", lambda: _cameras(64)),
    _case("look_at_view_transform, 1 camera", _look_at),
    _case("Transform3d, three parts made, composed and applied to 4 points", _transform),
    _case("MeshRasterizer, 1 triangle, 64x64", lambda: _rasterize(64), target=5),
    _case("MeshRasterizer, 1 triangle, 1x1", lambda: _rasterize(1)),
    _case("soft silhouette, 1 triangle, 64x64, K=50, forward", lambda: _silhouette(64, False), target=5),
    _case("soft silhouette, 1 triangle, 64x64, K=50, forward + backward", lambda: _silhouette(64, True), target=5),
    _case("soft silhouette, 1 triangle, 1x1, K=50, forward + backward", lambda: _silhouette(1, True)),
    _case("hard Phong, 1 triangle, 64x64, vertex colours", lambda: _phong(64), target=5),
    _case("TexturesVertex sampled at 8x8 fragments", _sample_vertex_colors),
    _case("PointsRasterizer, 3 points, 64x64, K=3", lambda: _point_picture(64, False), target=5),
    _case("PointsRenderer, 3 points, 64x64, K=3, alpha", lambda: _point_picture(64, True), target=5),
    _case("PointsRenderer, 3 points, 1x1, K=3, alpha", lambda: _point_picture(1, True)),
    _case("knn_points, 4 x 4 points, K=2", _knn),
    _case("chamfer_distance, 4 x 4 points, forward + backward", _chamfer),
    _case("Laplacian, edge and normal losses of a new tetrahedron, forward + backward", lambda: _mesh_losses(True)),
    _case("Laplacian, edge and normal losses of a moved tetrahedron, forward + backward", lambda: _mesh_losses(False)),
]

test_speed = speed_test(CASES)
