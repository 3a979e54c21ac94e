"""Triangles to rasterise, and PyTorch3D's rasteriser called on them: for the tests and for `record_raster.py`."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor

OPTIONS = list(
    itertools.product((False, True), repeat=3)
)  # perspective_correct, clip_barycentric_coords, cull_backfaces


class Scene(NamedTuple):
    """The tensors that say what to draw."""

    verts: Tensor
    faces: Tensor
    first: Tensor
    count: Tensor
    neighbors: Tensor | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Scene:
        """The scene on `device`, its vertices of `dtype`."""
        indices = (None if t is None else t.to(device) for t in self[1:])
        return Scene(self.verts.to(device, dtype), *indices)  # type: ignore[arg-type]


def soup(counts: tuple[int, ...] = (30,), size: float = 0.5, seed: int = 0, near: float = 0.5) -> Scene:
    """Triangles without common vertices, `size` across, all over the image and a little beyond it."""
    g = torch.Generator().manual_seed(seed)
    F = sum(counts)
    middle = torch.rand(F, 1, 2, generator=g) * 2.4 - 1.2
    xy = middle + (torch.rand(F, 3, 2, generator=g) - 0.5) * 2 * size
    verts = torch.cat([xy, near + 2 * torch.rand(F, 3, 1, generator=g)], -1).view(-1, 3)
    count = torch.tensor(counts, dtype=torch.int64)
    return Scene(verts, torch.arange(3 * F).view(F, 3), count.cumsum(0) - count, count)


def regular(F: int = 40, size: float = 0.3, seed: int = 0) -> Scene:
    """Equilateral triangles far away, turned any way: pixels near them lie in front of the horizon of their plane."""
    g = torch.Generator().manual_seed(seed)
    angles = torch.rand(F, 1, generator=g) * 6.28 + torch.tensor([0.0, 1.0, 2.0]) * torch.pi * 2 / 3
    radius = size * (0.5 + torch.rand(F, 1, 1, generator=g)) * (torch.rand(F, 1, 1, generator=g) - 0.5).sign()
    xy = torch.rand(F, 1, 2, generator=g) * 2.4 - 1.2 + radius * torch.stack([angles.cos(), angles.sin()], -1)
    xy[: F // 2] = xy[: F // 2].flip(1)  # half of them clockwise
    verts = torch.cat([xy, 20 + 2 * torch.rand(F, 3, 1, generator=g)], -1).view(-1, 3)
    return Scene(verts, torch.arange(3 * F).view(F, 3), torch.tensor([0]), torch.tensor([F]))


def needles(corner: int, F: int = 60, seed: int = 0) -> Scene:
    """Triangles whose short edge, some units in the last place long, lies opposite to `corner`."""
    g = torch.Generator().manual_seed(seed)
    base, tip = torch.rand(2, F, 2, generator=g) * 2 - 1
    short = torch.randint(-4, 5, (F, 2), generator=g) * 2.0**-24
    xy = torch.stack([tip, base, base + short], 1).roll(corner, 1)
    verts = torch.cat([xy, 1 + torch.rand(F, 3, 1, generator=g)], -1).view(-1, 3)
    return Scene(verts, torch.arange(3 * F).view(F, 3), torch.tensor([0]), torch.tensor([F]))


def sphere(level: int = 2) -> Scene:
    """A unit sphere seen from distance 3, turned so that no edge runs through pixel centres."""
    from recon_engine.utils import ico_sphere

    mesh = ico_sphere(level)
    turn = torch.linalg.matrix_exp(torch.tensor([[0.0, -0.3, 0.7], [0.3, 0.0, -0.5], [-0.7, 0.5, 0.0]]))
    verts = mesh.verts_packed() @ turn + torch.tensor([0.013, -0.027, 3.0])
    faces = mesh.faces_packed()
    return Scene(verts / torch.tensor([1.1, 1.1, 1.0]), faces, torch.tensor([0]), torch.tensor([len(faces)]))


def with_neighbors(scene: Scene, seed: int = 0, symmetric: bool = True) -> Scene:
    """The scene with about half of its faces taken for halves of others."""
    g = torch.Generator().manual_seed(seed)
    neighbors = torch.full((len(scene.faces),), -1)
    for first, count in zip(scene.first.tolist(), scene.count.tolist()):
        order = first + torch.randperm(count, generator=g)
        half = order[: count // 4 * 2]
        neighbors[half] = half.view(-1, 2).flip(-1).flatten() if symmetric else half.roll(1)
    return scene._replace(neighbors=neighbors)


def duplicated(scene: Scene) -> Scene:
    """One mesh with every face three times: depths tie exactly."""
    F = len(scene.faces)
    return Scene(scene.verts, scene.faces.repeat(3, 1), torch.tensor([0]), torch.tensor([3 * F]))


def pytorch3d_forward(
    scene: Scene, image_size: tuple[int, int], blur_radius: float, K: int, options: tuple[bool, bool, bool]
) -> tuple[Tensor, ...]:
    """The answer of PyTorch3D's CPU kernel: pix_to_face, zbuf, bary, dists."""
    from pytorch3d import _C

    neighbors = torch.full((len(scene.faces),), -1) if scene.neighbors is None else scene.neighbors
    # Its last arguments are bin_size and max_faces_per_bin: 0 means the exact rasteriser.
    result: tuple[Tensor, ...] = _C.rasterize_meshes(
        scene.verts[scene.faces], scene.first, scene.count, neighbors, image_size, blur_radius, K, 0, 0, *options
    )
    return result


def pytorch3d_backward(scene: Scene, pix_to_face: Tensor, grads: list[Tensor], options: tuple[bool, bool, bool]) -> Any:
    """PyTorch3D's gradients in the vertices from those of zbuf, bary and dists."""
    from pytorch3d import _C

    by_face = _C.rasterize_meshes_backward(scene.verts[scene.faces], pix_to_face, *grads, *options[:2])
    return torch.zeros_like(scene.verts).index_add_(0, scene.faces.flatten(), by_face.reshape(-1, 3))


def output_grads(fragments: tuple[Tensor, ...] | list[Tensor]) -> list[Tensor]:
    """Random gradients of zbuf, bary and dists."""
    g = torch.Generator().manual_seed(9)
    return [torch.randn(f.shape, generator=g).to(f) for f in fragments[1:]]
