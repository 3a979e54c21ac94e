"""Shapes made by rule: subdivided solids to start fits from and to align, and a building to reconstruct.

They need no file and no network. The building is cut out of a grid of cells whose planes run through the whole model,
so the surface has no T-junctions and is watertight by construction; windows and the door are real recesses.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch

from recon_engine.structures import Meshes

# Labels of cells. An opening in a wall across `axis` is cut out as -(10 axis + label): its back takes that label, every
# other face the label of the solid cell that it bounds.
_AIR, _STONE, _WALL, _ROOF, _GLASS, _DOOR = range(6)
_COLORS = np.array(
    [
        [0.00, 0.00, 0.00],
        [0.58, 0.55, 0.51],  # stone: podium, string courses, parapets
        [0.86, 0.80, 0.70],  # wall
        [0.62, 0.27, 0.21],  # roof
        [0.27, 0.42, 0.56],  # glass
        [0.36, 0.22, 0.13],  # door
    ]
)
_BAY = 0.1  # walls and windows alternate in bays of this width, upwards as well
_RECESS = 0.025  # depth of windows and door
_EAVES = 0.05  # how far the roof reaches beyond the tower's walls, how thick its slab is, and the side of a roof cell
_ROOF_PITCH = 1.2  # rise over run


class _Tier(NamedTuple):
    """One block of the building: its box and what it is made of."""

    x: tuple[float, float]
    y: tuple[float, float]
    z: tuple[float, float]
    label: int


# Each tier steps back from the one below it; the tower stands off-centre so that no view mirrors another.
_TIERS = (
    _Tier((-0.60, 0.60), (0.00, 0.10), (-0.40, 0.40), _STONE),
    _Tier((-0.55, 0.55), (0.10, 0.60), (-0.35, 0.35), _WALL),
    _Tier((-0.40, 0.50), (0.60, 0.90), (-0.25, 0.25), _WALL),
    _Tier((-0.10, 0.40), (0.90, 1.40), (-0.15, 0.15), _WALL),
)
_DOOR_X, _DOOR_Y = (-0.05, 0.05), (0.10, 0.30)  # in the front of the first block, where its middle window would be


def create_cube(level: int = 4, device: torch.device | str | None = None) -> Meshes:
    """The cube from -0.5 to 0.5, every face split into four, `level` times.

    Args:
        level: how often each triangle is split. Level 4 has 1538 vertices and 3072 faces.
        device: where the mesh lives; the CPU when not given.

    Returns:
        One watertight mesh, faces counter-clockwise seen from outside.

    Raises:
        ValueError: `level` is negative.

    Example:
        >>> create_cube(0).verts_packed().shape
        torch.Size([8, 3])
    """
    # Corner number = 4 [x > 0] + 2 [y > 0] + [z > 0].
    corners = [[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    faces = [triangle for a, b, c, d in quads for triangle in ([a, b, c], [a, c, d])]
    return _split("create_cube", corners, faces, level, device)


def octahedron(level: int = 0, device: torch.device | str | None = None) -> Meshes:
    """The octahedron with corners at distance 1, every face split into four, `level` times.

    Args:
        level: how often each triangle is split.
        device: where the mesh lives; the CPU when not given.

    Returns:
        One watertight mesh, faces counter-clockwise seen from outside.

    Raises:
        ValueError: `level` is negative.
    """
    # Corner number = 2 axis + [negative]. Each octant's face goes x, y, z, or backwards where it is a mirror image.
    corners = [[sign * (i == axis) for i in range(3)] for axis in range(3) for sign in (1.0, -1.0)]
    faces = []
    for negative in itertools.product((0, 1), repeat=3):
        face = [2 * axis + negative[axis] for axis in range(3)]
        faces.append(face[::-1] if sum(negative) % 2 else face)
    return _split("octahedron", corners, faces, level, device)


def dodecahedron(level: int = 0, device: torch.device | str | None = None) -> Meshes:
    """The dodecahedron with corners at distance 1, three triangles a side, split into four, `level` times.

    Args:
        level: how often each triangle is split.
        device: where the mesh lives; the CPU when not given.

    Returns:
        One watertight mesh, faces counter-clockwise seen from outside.

    Raises:
        ValueError: `level` is negative.
    """
    golden = (1 + 5**0.5) / 2
    corners = np.array(
        [
            *itertools.product((-1, 1), repeat=3),
            *(np.roll((0, a / golden, b * golden), turn) for turn in range(3) for a in (-1, 1) for b in (-1, 1)),
        ]
    ) / np.sqrt(3)
    faces = []
    for turn, a, b in itertools.product(range(3), (-1, 1), (-1, 1)):
        normal = np.roll((a * golden, b, 0), turn)  # towards a corner of the icosahedron inside
        side = np.argsort(-(corners @ normal))[:5]
        middle = corners[side].mean(0)
        first = corners[side[0]] - middle
        across = np.cross(normal / np.linalg.norm(normal), first)
        angle = np.arctan2((corners[side] - middle) @ across, (corners[side] - middle) @ first)
        ring = side[np.argsort(angle)].tolist()
        faces += [[ring[0], ring[i], ring[i + 1]] for i in (1, 2, 3)]
    return _split("dodecahedron", corners.tolist(), faces, level, device)


def _split(
    name: str, corners: list[list[float]], faces: list[list[int]], level: int, device: torch.device | str | None
) -> Meshes:
    """One mesh, every face split into four, `level` times."""
    from recon_engine.ops.subdivide_meshes import SubdivideMeshes

    if level < 0:
        raise ValueError(f"{name}: level must be 0 or more, got {level}")
    mesh = Meshes(
        verts=[torch.tensor(corners, dtype=torch.float32, device=device)],
        faces=[torch.tensor(faces, dtype=torch.int64, device=device)],
    )
    for _ in range(level):
        mesh = SubdivideMeshes(mesh)(mesh)
    return mesh


def building(colors: bool = False, device: torch.device | str | None = None) -> Meshes:
    """A watertight building: a podium, two blocks and an off-centre tower that step back, under a hipped roof.

    Windows and the door are recesses 0.025 deep. The model is 1.2 wide (x), 0.8 deep (z) and about 1.7 high (y, up);
    the door looks towards +z.

    Args:
        colors: give the mesh a colour for each vertex (`TexturesVertex`).
        device: where the mesh lives; the CPU when not given.

    Returns:
        One mesh of a few thousand faces, manifold, closed, faces counter-clockwise seen from outside.
    """
    xs, ys, zs = _planes()
    label = _fill(xs, ys, zs)
    verts, quads, quad_label = _boundary(label, xs, ys, zs)
    verts = _raise_roof(verts)
    mesh_verts = torch.as_tensor(verts, dtype=torch.float32, device=device)
    mesh_faces = torch.as_tensor(_split_quads(verts, quads), dtype=torch.int64, device=device)
    if not colors:
        return Meshes(verts=[mesh_verts], faces=[mesh_faces])
    from recon_engine.renderer import TexturesVertex

    vertex_label = np.zeros(len(verts), dtype=np.int64)
    np.maximum.at(vertex_label, quads, quad_label[:, None])
    vertex_rgb = torch.as_tensor(_COLORS[vertex_label], dtype=torch.float32, device=device)
    return Meshes(verts=[mesh_verts], faces=[mesh_faces], textures=TexturesVertex([vertex_rgb]))


def _openings(low: float, high: float) -> list[tuple[float, float]]:
    """The bays of [low, high] that are open: every second one, so that a wall stands at both ends."""
    count = round((high - low) / _BAY) // 2
    return [(low + (2 * i + 1) * _BAY, low + (2 * i + 2) * _BAY) for i in range(count)]


def _recesses(side: tuple[float, float]) -> list[tuple[float, float]]:
    """The two layers of a block, behind its low and its high face, that windows are cut out of."""
    return [(side[0], side[0] + _RECESS), (side[1] - _RECESS, side[1])]


def _eaves() -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]]:
    """The slab under the roof: the tower's plan grown by the eaves."""
    tower = _TIERS[-1]
    (x0, x1), (z0, z1), top = tower.x, tower.z, tower.y[1]
    return (x0 - _EAVES, x1 + _EAVES), (top, top + _EAVES), (z0 - _EAVES, z1 + _EAVES)


def _planes() -> tuple[np.ndarray, ...]:
    """Sorted coordinates of the grid planes along x, y and z: every box, opening and recess begins and ends on one."""
    planes: tuple[list[float], ...] = ([], list(_DOOR_Y), [])
    for tier in _TIERS:
        for axis, side in enumerate(tier[:3]):
            planes[axis].extend(side)
            if tier.label == _WALL:
                planes[axis].extend(value for opening in _openings(*side) for value in opening)
            if tier.label == _WALL and axis != 1:
                planes[axis].extend(value for recess in _recesses(side) for value in recess)
    for axis, (low, high) in enumerate(_eaves()):
        planes[axis].extend((low, high) if axis == 1 else np.arange(low, high + 1e-9, _EAVES))
    return tuple(np.unique(np.round(side, 6)) for side in planes)


def _fill(xs: np.ndarray, ys: np.ndarray, zs: np.ndarray) -> np.ndarray:
    """The label of every cell of the grid, air where nothing is."""
    centres = [(planes[1:] + planes[:-1]) / 2 for planes in (xs, ys, zs)]
    label = np.full([len(centre) for centre in centres], _AIR)

    def cells(*box: tuple[float, float]) -> tuple[np.ndarray, ...]:
        return np.ix_(*((c > low) & (c < high) for c, (low, high) in zip(centres, box, strict=True)))

    for tier in _TIERS:
        label[cells(tier.x, tier.y, tier.z)] = tier.label
    label[cells(*_eaves())] = _ROOF
    for tier in (tier for tier in _TIERS if tier.label == _WALL):
        for y in _openings(*tier.y):
            for x, z in itertools.product(_openings(*tier.x), _recesses(tier.z)):
                label[cells(x, y, z)] = -(20 + _GLASS)
            for x, z in itertools.product(_recesses(tier.x), _openings(*tier.z)):
                label[cells(x, y, z)] = -_GLASS
    label[cells(_DOOR_X, _DOOR_Y, _recesses(_TIERS[1].z)[1])] = -(20 + _DOOR)
    return label


def _boundary(
    label: np.ndarray, xs: np.ndarray, ys: np.ndarray, zs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quads between solid cells (label > 0) and empty ones (air or an opening).

    Returns:
        verts (V, 3), quads (Q, 4) counter-clockwise seen from the empty side, their labels (Q,).
    """
    padded = np.pad(label, 1)
    corner = np.arange((padded.shape[0] + 1) * (padded.shape[1] + 1) * (padded.shape[2] + 1))
    corner = corner.reshape([size + 1 for size in padded.shape])
    quads, labels = [], []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3  # axis x u x v is right-handed
        before, after = (np.take(padded, range(s, padded.shape[axis] - 1 + s), axis) for s in (0, 1))
        for solid, empty, towards in ((before, after, 1), (after, before, -1)):
            cells = np.argwhere((solid > 0) & (empty <= 0))
            steps = [(0, 0), (1, 0), (1, 1), (0, 1)][::towards]
            rows = []
            for du, dv in steps:
                at = cells.copy()
                at[:, axis] += 1
                at[:, u] += du
                at[:, v] += dv
                rows.append(corner[tuple(at.T)])
            quads.append(np.stack(rows, 1))
            where = tuple(cells.T)
            opening_axis, opening_label = np.divmod(-empty[where], 10)
            is_back = (empty[where] < 0) & (opening_axis == axis)
            labels.append(np.where(is_back, opening_label, solid[where]))
    used, quad = np.unique(np.concatenate(quads), return_inverse=True)
    index = np.stack(np.unravel_index(used, corner.shape), 1) - 1
    verts = np.stack([xs[index[:, 0]], ys[index[:, 1]], zs[index[:, 2]]], 1)
    return verts, quad.reshape(-1, 4), np.concatenate(labels)


def _raise_roof(verts: np.ndarray) -> np.ndarray:
    """Lift the top of the eaves' slab into a hipped roof: height = pitch x distance to the nearest eave."""
    (x0, x1), (_, top), (z0, z1) = _eaves()
    x, y, z = verts.T
    inset = np.minimum.reduce([x - x0, x1 - x, z - z0, z1 - z])
    return np.stack([x, np.where(np.isclose(y, top), y + _ROOF_PITCH * inset, y), z], 1)


def _split_quads(verts: np.ndarray, quads: np.ndarray) -> np.ndarray:
    """Two triangles from every quad, cut along the higher diagonal so that the roof's hips and ridge stay sharp."""
    height = verts[quads, 1]
    along_02 = height[:, 0] + height[:, 2] >= height[:, 1] + height[:, 3]
    order = np.where(along_02[:, None], [0, 1, 2, 0, 2, 3], [1, 2, 3, 1, 3, 0])
    return np.take_along_axis(quads, order, 1).reshape(-1, 3)
