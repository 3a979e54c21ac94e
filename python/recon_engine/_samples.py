"""Small sample inputs for every op: `recon doctor` and the tests that run over all ops take them from here."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recon_engine import _op

Maker = Callable[[Callable[..., Tensor]], tuple[Any, ...]]
_makers: dict[str, Maker] = {}


def all_ops() -> dict[str, _op.Op]:
    """Every op by name: all modules of `recon_engine.ops` are imported, since an op registers where it is defined."""
    package = importlib.import_module("recon_engine.ops")
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
    return _op.ops()


def sample_inputs(name: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    """The arguments of one small call of the op `name`, the same in every run.

    Args:
        name: the op's name.
        device: where the tensors lie.
        dtype: of the floating-point tensors.

    Raises:
        KeyError: if the op has no sample here.
    """
    if name not in _makers:
        raise KeyError(f"the op {name} has no sample inputs: add a function @_sample for it to {__file__}")
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    return tuple(_move(a, device, dtype) for a in _makers[name](random))


def _move(a: Any, device: torch.device | str, dtype: torch.dtype) -> Any:
    if not isinstance(a, Tensor):
        return a
    return a.to(device, dtype) if a.is_floating_point() else a.to(device)


def _sample(maker: Maker) -> Maker:
    _makers[maker.__name__] = maker
    return maker


@_sample
def sigmoid_alpha_blend(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return random(2, 5, 7, 6) * 2 - 1, (random(2, 5, 7, 6) * 10).long() - 1, 0.5


@_sample
def softmax_blend(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    shape = (2, 4, 3, 5)
    pix_to_face = (random(*shape) * 10).long() - 1
    planes = torch.tensor([[1.0, 5.0], [0.5, 9.0]], dtype=torch.float64)
    return random(*shape, 3), pix_to_face, random(*shape) + 1, random(*shape) - 0.5, planes, random(3), 0.5, 0.2


@_sample
def interpolate_face_attributes(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return (random(2, 5, 7, 4) * 8).long() - 3, random(2, 5, 7, 4, 3), random(5, 3, 7)


def _two_meshes(random: Callable[..., Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Vertices in front of the camera, faces, and the first face and number of faces of each mesh."""
    verts = torch.cat([random(12, 2) * 2 - 1, random(12, 1) + 1], 1)
    faces = torch.stack([torch.arange(12).roll(shift) for shift in (0, 1, 5)], 1)
    return verts, faces, torch.tensor([0, 7]), torch.tensor([7, 5])


@_sample
def rasterize_faces(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return *_two_meshes(random), None, 9, 7, 0.02, 3, True, True, False


@_sample
def soft_silhouette(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return *_two_meshes(random), 9, 7, 0.02, 4, 0.01, False, False, False


@_sample
def render_faces(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    verts, faces, first, count = _two_meshes(random)
    lights = torch.cat([random(2, 9), random(2, 6) * 4 - 2, 1 + 5 * random(2, 1)], 1)
    planes = torch.tensor([[0.5, 3.0], [0.1, 4.0]], dtype=torch.float64)
    tables = (random(12, 6) - 0.5, random(12, 3, 2), random(2, 4, 3, 3), torch.arange(12) % 2)
    geometry, look = (9, 7, 0.02, 4, True, True, False), ("point", "image", "border", False, True, False)
    return verts, faces, first, count, None, *tables, lights, planes, random(3), *geometry, *look, 0.02, 0.1


@_sample
def nearest(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return random(2, 9, 3), random(2, 11, 3), torch.tensor([9, 6]), torch.tensor([7, 11]), None, False, 2


@_sample
def ball_query(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return random(2, 9, 3), random(2, 11, 3), torch.tensor([9, 6]), torch.tensor([7, 11]), 3, 0.6


@_sample
def sample_farthest_points(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return random(3, 9, 3), torch.tensor([9, 0, 6]), torch.tensor([4, 2, 9]), torch.tensor([5, 0, 2]), 9


@_sample
def nearest_both(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return random(2, 9, 3), random(2, 11, 3), torch.tensor([9, 6]), torch.tensor([7, 11]), False


def _strip(random: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """The vertices and faces of two strips of three and two triangles."""
    return random(9, 3), torch.tensor([[0, 1, 2], [2, 1, 3], [2, 3, 4], [5, 6, 7], [8, 7, 6]])


@_sample
def face_areas_normals(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return _strip(random)


@_sample
def project_points(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    matrix = random(1, 4, 4) + torch.eye(4, dtype=torch.float64)
    return random(2, 5, 3), random(2, 3, 3), random(2, 3) + 1, matrix, 0.1


@_sample
def surface_points(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return *_strip(random), torch.tensor([0, 4, 4, 1]), random(4, 3)


@_sample
def packed_to_padded(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return random(7, 2), torch.tensor([0, 3, 3]), 4


@_sample
def padded_to_packed(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return random(3, 4, 2), torch.tensor([0, 3, 3]), 7


def _rows(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Offsets and entries of a list of lists."""
    counts = torch.tensor([0, *map(len, rows)])
    return counts.cumsum(0), torch.tensor([entry for row in rows for entry in row])


def _strip_neighbors() -> tuple[Tensor, Tensor]:
    return _rows([[1, 2], [0, 2, 3], [0, 1, 3, 4], [1, 2, 4], [2, 3], [6, 7], [5, 7, 8], [5, 6, 8], [6, 7]])


def _strip_corners() -> tuple[Tensor, Tensor]:
    """For each vertex the corners 3 * f + k at it."""
    return _rows([[0], [1, 4], [2, 3, 6], [5, 7], [8], [9], [10, 14], [11, 13], [12]])


_STRIP_SEGMENTS = torch.tensor([0, 5, 9])
_STRIP_MESH = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1])


@_sample
def edge_loss(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return _strip(random)[0], *_strip_neighbors(), _STRIP_SEGMENTS, _STRIP_MESH, 0.3, True


@_sample
def uniform_laplacian_loss(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return _strip(random)[0], *_strip_neighbors(), _STRIP_SEGMENTS, _STRIP_MESH, True


@_sample
def normal_consistency_loss(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    across = _rows([[2], [0, 4], [2], [9], [7]])  # the faces of the second strip run against each other
    return *_strip(random), *across, *_strip_corners(), torch.tensor([0, 3, 5]), _STRIP_MESH, True


@_sample
def cot_laplacian_loss(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    # Edges 01 02 12 13 23 24 34, then 56 57 67 68 78; half-edge k * 5 + f is opposite to corner k of face f.
    edge_at = torch.tensor([0, 1, 0, 2, 3, 1, 2, 4, 5, 3, 4, 6, 5, 6, 7, 8, 7, 9, 10, 8, 9, 11, 10, 11])
    half_edges = _rows([[10], [5], [0, 11], [1], [6, 12], [7], [2], [13], [8], [3, 4], [9], [14]])
    neighbors = (*_strip_neighbors(), edge_at, *half_edges)
    return *_strip(random), *neighbors, *_strip_corners(), _STRIP_SEGMENTS, _STRIP_MESH, True, True, True


def _volumes(random: Callable[..., Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Two volumes, their levels and the table of cases."""
    from recon_engine.ops.marching_cubes import _table

    return random(2, 3, 4, 70), torch.tensor([0.5, 0.3], dtype=torch.float64), _table(torch.device("cpu"))


@_sample
def marching_cubes_cells(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return _volumes(random)


@_sample
def marching_cubes_fill(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    from recon_engine.ops.marching_cubes import _cells_reference

    inputs = _volumes(random)
    below, counts = _cells_reference(*inputs)
    offsets = torch.nn.functional.pad(counts.cumsum(1), (1, 0))
    return *inputs, below, offsets, *offsets[:, -1].tolist(), True


@_sample
def gather_rows(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return random(4, 3), *_rows([[1, 2], [], [0, 0, 3], [1]]), *_rows([[2, 2], [0, 3], [0], [2]])


def _clouds_and_triangles(random: Callable[..., Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two clouds of nine and two points, two meshes of four and three triangles."""
    return random(11, 3), torch.tensor([0, 9]), random(7, 3, 3), torch.tensor([0, 4])


@_sample
def point_mesh(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return *_clouds_and_triangles(random), True, 0.02


@_sample
def point_mesh_winding(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    points, _, triangles, _ = _clouds_and_triangles(random)
    return points, triangles


@_sample
def ray_mesh(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    origins, _, triangles, _ = _clouds_and_triangles(random)
    return origins, random(11, 3) - 0.5, triangles, 5.0, False


@_sample
def box3d_overlap(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    corners = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]])
    turns = torch.linalg.qr(random(5, 3, 3) - 0.5).Q
    boxes = (corners.double() - 0.5) * (0.5 + random(5, 1, 3)) @ turns + random(5, 1, 3)
    return boxes[:3], boxes[1:]


@_sample
def rasterize_points(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    points = random(14, 3) * 2 - 1 + torch.tensor([0.0, 0.0, 0.9], dtype=torch.float64)
    return points, torch.tensor([0, 9]), torch.tensor([9, 5]), random(14) * 0.5, 6, 9, 3


@_sample
def render_points(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    discs = rasterize_points(random)[:4]
    return *discs, 0.1 + random(14), random(14, 19), 6, 9, 3, "alpha", "cone", 1.5


@_sample
def composite(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return (random(2, 5, 21) * 10).int() - 1, random(2, 5, 21), random(9, 70), "alpha", True


@_sample
def march_rays(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return random(37, 11), random(37, 11, 3), 1e-3, 2


@_sample
def sample_pdf(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    return random(5, 38).cumsum(1), random(5, 37), random(5, 13), 1e-5


@_sample
def points_to_volumes(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    volumes = random(2, 1, 4, 3, 5), random(2, 3, 4, 3, 5)
    grids, mask = torch.tensor([[4, 3, 5], [3, 2, 5]]), random(2, 17) > 0.2
    return random(2, 17, 3) * 2.6 - 1.3, random(2, 17, 3), *volumes, grids, mask, True, False, True, 0.6, 0.7


@_sample
def march_volume(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    rays = random(2, 9, 3) * 2 - 1, random(2, 9, 3) - 0.5, random(18, 7).cumsum(1) * 0.3
    return random(2, 3, 4, 5), random(2, 2, 3, 4, 5), *rays, 1e-3, 0.0, 2, "bilinear", "zeros", True


@_sample
def render_spheres(random: Callable[..., Tensor]) -> tuple[Any, ...]:
    points = (random(2, 9, 3) - 0.5) * 2 + torch.tensor([0.0, 0.0, 5.0], dtype=torch.float64)
    radii = random(2, 9) * 0.5 + 0.2
    radii[:, :2] = 0.01  # smaller than a pixel
    camera = torch.tensor([[0.1, 0, 0], [-0.4, 0.3, 1], [0.1, 0.01, 0], [0.01, -0.1, 0]], dtype=torch.float64)
    camera = torch.cat([camera[:2] + 0.05 * random(2, 2, 3), camera[2:].expand(2, 2, 3)], 1)
    order = ((points - camera[:, :1]).norm(dim=2) - radii).argsort(dim=1)
    offset = torch.tensor([[0, 0], [1, -1]], dtype=torch.int32)
    numbers = (7, 9, 0.5, 1.5, 8.0, 0.2, False, False, 5, False, 3, True)
    return points, radii, random(2, 9, 5), random(2, 9) * 0.9 + 0.1, camera, random(5), order, offset, *numbers
