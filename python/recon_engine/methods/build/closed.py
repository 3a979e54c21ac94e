"""Whether a surface is closed, what it encloses, and a closed surface without self-intersections around the same."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recon_engine.ops import closest_points_on_mesh, signed_distance, winding_number
from recon_engine.ops.marching_cubes import marching_cubes
from recon_engine.structures import Meshes

from .._surface import largest_part

_CELLS = 96  # of the grid, along the longest side
_COARSE = 4  # cells along a side of a block whose points may be judged by one of them
_NEAREST = 0.05  # a grid point is at least so many cells from the surface: no slivers, no vertices on one another


def is_watertight(mesh: Meshes) -> bool:
    """Whether every edge of one mesh has two faces, which run along it in opposite directions."""
    faces = mesh.faces_packed()
    start, end = faces.flatten(), faces.roll(-1, 1).flatten()
    if len(faces) == 0 or bool((start == end).any()):
        return False
    count = len(mesh.verts_packed())
    along, against = (start * count + end).sort().values, (end * count + start).sort().values
    return torch.equal(along, against) and not bool((along[1:] == along[:-1]).any())


def enclosed_volume(mesh: Meshes) -> float:
    """The volume inside one closed mesh; below 0 where its faces look inwards."""
    verts = mesh.verts_packed().double()
    a, b, c = (verts - verts.mean(0))[mesh.faces_packed()].unbind(1)
    return float((a * b.cross(c, dim=1)).sum()) / 6


def outward(mesh: Meshes) -> Meshes:
    """A mesh whose faces look outwards, if it is closed: silhouettes do not tell it from one that is inside out."""
    if not is_watertight(mesh) or enclosed_volume(mesh) >= 0:
        return mesh
    return Meshes(verts=[mesh.verts_packed()], faces=[mesh.faces_packed().flip(1)])


def reclosed(mesh: Meshes, cells: int = _CELLS) -> Meshes:
    """A closed surface without self-intersections around what a mesh encloses, its largest part.

    Inside is where the mesh winds around a point (Jacobson et al., Robust inside-outside segmentation using generalized
    winding numbers, SIGGRAPH 2013): overlaps and parts that are inside out count, and holes are closed. The surface is
    where the signed distance, sampled on a grid, is zero.

    Args:
        mesh: one mesh with an extent.
        cells: of the grid along the longest side of the mesh. What is thinner than a cell may be lost.

    Raises:
        ValueError: the mesh encloses nothing that the grid sees.
    """
    verts, faces = mesh.verts_packed(), mesh.faces_packed()
    used = verts[faces.unique()]
    low, high = used.amin(0), used.amax(0)
    side = float((high - low).max()) / cells
    # Two cells beyond the mesh on either side, so that the surface meets no border, in whole blocks.
    blocks = [-(-(round(float(extent) / side) + 5) // _COARSE) for extent in high - low]
    distance = _signed_distance(verts, faces, low - 2 * side, side, blocks)
    (closed,), (triangles,) = marching_cubes(distance[None], 0.0, return_local_coords=False)
    if len(triangles) == 0:
        raise ValueError(f"the mesh encloses nothing as thick as a cell of {side:.3g}: no surface is left")
    return largest_part(low - 2 * side + closed * side, triangles)


def _signed_distance(verts: Tensor, faces: Tensor, low: Tensor, side: float, blocks: list[int]) -> Tensor:
    """(D, H, W) distances to a mesh, negative inside, at points of a grid; far from it only the sign is right.

    Args:
        verts: (V, 3).
        faces: (F, 3).
        low: (3,) x, y, z of the first point.
        side: of a cell.
        blocks: of `_COARSE` points along x, y and z.
    """
    ticks = [torch.arange(count, device=low.device) for count in blocks]
    corner = torch.stack(torch.meshgrid(*ticks, indexing="ij"), -1).reshape(-1, 3) * _COARSE
    middle = low + (corner + (_COARSE - 1) / 2) * side
    reach = math.sqrt(3) * (_COARSE - 1) / 2 * side
    far = closest_points_on_mesh(middle, verts, faces).distance
    # The surface is farther than a cell from all points of a block: they are on the same side, and so are neighbours.
    is_far = far > reach + side
    inside = winding_number(middle[is_far], verts, faces).abs() > 0.5
    values = far.new_empty((len(corner), _COARSE**3))
    values[is_far] = torch.where(inside, -side, side)[:, None]
    within = torch.stack(torch.meshgrid(*[torch.arange(_COARSE, device=low.device)] * 3, indexing="ij"), -1)
    points = low + (corner[~is_far][:, None] + within.reshape(-1, 3)) * side
    near = signed_distance(points.reshape(-1, 3), verts, faces)
    least = torch.where(near < 0, -_NEAREST, _NEAREST) * side
    values[~is_far] = torch.where(near.abs() < _NEAREST * side, least, near).reshape(-1, _COARSE**3)
    X, Y, Z = blocks
    grid = values.reshape(X, Y, Z, _COARSE, _COARSE, _COARSE).permute(2, 5, 1, 4, 0, 3)
    return grid.reshape(Z * _COARSE, Y * _COARSE, X * _COARSE)
