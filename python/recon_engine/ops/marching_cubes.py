"""Marching cubes: the surface where a volume of values crosses a level, as triangles."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from recon_engine._op import Op, empty_output
from recon_engine.ops.marching_cubes_data import EDGE_TO_VERTICES, INDEX, face_table

_WORD = 64  # values that share a word of bits


def marching_cubes(
    vol_batch: Tensor, isolevel: float | None = None, return_local_coords: bool = True
) -> tuple[list[Tensor], list[Tensor]]:
    """The surfaces where volumes of values cross a level.

    Every vertex lies on an edge of the grid, where the values at its ends, interpolated linearly, equal the level; all
    triangles around it share it. So a surface is a manifold, for any values, and closed unless it meets the border of
    the volume. Where a value equals the level, several vertices lie on the same point, and triangles between them have
    no area.

    Args:
        vol_batch: (N, D, H, W) floating-point values at the points of N grids.
        isolevel: the level; None for the mean of the least and the greatest value of each volume, a constant for
            gradients.
        return_local_coords: vertices in [-1, 1], where -1 and 1 are the first and the last value along an axis;
            otherwise in [0, W - 1] x [0, H - 1] x [0, D - 1].

    Returns:
        verts: N tensors (V_n, 3), x, y, z along W, H, D, of the dtype of the volumes.
        faces: N int64 tensors (F_n, 3). Normals (v1 - v0) x (v2 - v0) look to where values are not below the level.
        Both have no rows where the surface is empty.

    Raises:
        ValueError: a shape or dtype that does not fit; on the CPU a value that is NaN, which on CUDA counts as not
            below the level.

    Differentiable in `vol_batch`: the vertices move along their edges. CPU and CUDA, float32 and float64. Repeatable
    bit by bit. Waits for the device once on CUDA. Needs half a byte of memory for each value beyond what it returns.

    References:
        Lorensen and Cline, Marching cubes: a high resolution 3D surface construction algorithm, SIGGRAPH 1987.
    """
    return _surfaces(vol_batch, isolevel, return_local_coords, _cells, _fill)


def marching_cubes_naive(
    vol_batch: Tensor, isolevel: float | None = None, return_local_coords: bool = True
) -> tuple[list[Tensor], list[Tensor]]:
    """`marching_cubes` in plain torch, with the same result: its specification.

    Args:
        vol_batch: as `marching_cubes`.
        isolevel: as `marching_cubes`.
        return_local_coords: as `marching_cubes`.
    """
    return _surfaces(vol_batch, isolevel, return_local_coords, _cells_reference, _fill_reference)


def _surfaces(
    volume: Tensor, isolevel: float | None, local: bool, cells: Callable[..., Any], fill: Callable[..., Any]
) -> tuple[list[Tensor], list[Tensor]]:
    _check(volume)
    N = len(volume)
    if volume.numel() == 0 or min(volume.shape[1:]) < 2:
        faces = volume.new_empty((0, 3), dtype=torch.int64)
        return [volume.new_empty((0, 3)) for _ in range(N)], [faces.clone() for _ in range(N)]
    table = _table(volume.device)
    with torch.no_grad():
        levels = _levels(volume, isolevel)
        below, counts = cells(volume, levels, table)
        offsets = empty_output(counts, (2, counts.shape[1] + 1))
        offsets[:, 0] = 0
        torch.cumsum(counts, 1, out=offsets[:, 1:])
        ends = offsets[:, :: counts.shape[1] // N].tolist()
    verts, faces = fill(volume, levels, table, below, offsets, ends[0][-1], ends[1][-1], local)
    num_verts, num_faces = ([b - a for a, b in pairwise(end)] for end in ends)
    return list(verts.split(num_verts)), list(faces.split(num_faces))


def _check(volume: Tensor) -> None:
    if volume.ndim != 4:
        raise ValueError(f"marching_cubes: vol_batch must have shape (N, D, H, W), got {tuple(volume.shape)}")
    if volume.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"marching_cubes: vol_batch must be float32 or float64, got {volume.dtype}; convert it with .float()"
        )


def _levels(volume: Tensor, isolevel: float | None) -> Tensor:
    """(N,) the level of each volume."""
    if isolevel is not None:
        return volume.new_full((len(volume),), float(isolevel))
    # Over all dimensions this takes all threads, over some of them one.
    ends = [values.aminmax() for values in volume]
    return torch.stack([(end.min + end.max) / 2 for end in ends])


def _table(device: torch.device) -> Tensor:
    return _table_on(str(device))


@cache
def _table_on(device: str) -> Tensor:
    """(256, 16) uint8: the number of triangles of each case, and the edges of their corners."""
    rows = [[len(edges) // 3, *edges, *[0] * (15 - len(edges))] for edges in face_table()]
    return torch.tensor(rows, dtype=torch.uint8, device=device)


# ---- the specification ----
#
# A row of W values is divided into B words of 64. Vertices are numbered word by word; in a word first those on edges in
# x, then in y, then in z.


def _unpack(below: Tensor, W: int) -> Tensor:
    """(N, D, H, W) bool of (N, D, H, B) words."""
    bits = below[..., None] >> torch.arange(_WORD, device=below.device) & 1
    return bits.flatten(3)[..., :W].bool()


def _in_words(values: Tensor) -> Tensor:
    """(N, D, H, B, 64) of (N, D, H, W), filled up with 0."""
    W = values.shape[-1]
    B = -(-W // _WORD)
    return torch.nn.functional.pad(values, (0, B * _WORD - W)).unflatten(-1, (B, _WORD))


def _crossed(below: Tensor) -> Tensor:
    """(N, D, H, W, 3) whether the edge from each value on in x, y, z is crossed."""
    out = below.new_zeros(*below.shape, 3)
    for axis, dim in enumerate((3, 2, 1)):
        n = below.shape[dim] - 1
        out[..., axis].narrow(dim, 0, n).copy_(below.narrow(dim, 0, n) ^ below.narrow(dim, 1, n))
    return out


def _corner(values: Tensor, c: int) -> Tensor:
    """(N, D - 1, H - 1, W - 1) the values at one corner of each cell."""
    x, y, z = c & 1, c >> 1 & 1, c >> 2 & 1
    D, H, W = values.shape[1:4]
    return values[:, z : D - 1 + z, y : H - 1 + y, x : W - 1 + x]


def _cases(below: Tensor) -> Tensor:
    return sum(
        (_corner(below, c).long() << i for i, c in enumerate(INDEX)), start=below.new_zeros((), dtype=torch.int64)
    )


def _cells_reference(volume: Tensor, isolevel: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    below = volume < isolevel[:, None, None, None]
    words = (_in_words(below.long()) << torch.arange(_WORD, device=below.device)).sum(-1)
    verts = _in_words(_crossed(below).sum(-1)).sum(-1)
    triangles = torch.nn.functional.pad(table[_cases(below), 0].long(), (0, 1, 0, 1, 0, 1))
    return words, torch.stack([verts.flatten(), _in_words(triangles).sum(-1).flatten()])


def _cells_outputs(volume: Tensor, isolevel: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    N, D, H, W = volume.shape
    B = (W + _WORD - 1) // _WORD
    return (
        empty_output(volume, (N, D, H, B), torch.int64),
        empty_output(volume, (2, N * D * H * B), torch.int64),
    )


def _fill_reference(
    volume: Tensor,
    isolevel: Tensor,
    table: Tensor,
    below: Tensor,
    offsets: Tensor,
    num_verts: int,
    num_faces: int,
    local: bool,
) -> tuple[Tensor, Tensor]:
    W, H, D = volume.shape[:0:-1]
    inside = _unpack(below, W)
    crossed = torch.stack([_in_words(c) for c in _crossed(inside).unbind(-1)], dim=4)  # N D H B 3 64
    n, z, y, b, axis, bit = crossed.nonzero().unbind(1)
    start = torch.stack([b * _WORD + bit, y, z], dim=1)
    step = torch.eye(3, dtype=torch.int64, device=volume.device)[axis]
    end = start + step
    first, second = (volume[n, p[:, 2], p[:, 1], p[:, 0]] for p in (start, end))
    t = (isolevel[n] - first) / (second - first)
    verts = start.to(volume.dtype) + t[:, None] * step
    if local:
        verts = verts * (2 / (torch.tensor([W, H, D], device=volume.device).to(volume.dtype) - 1)) - 1

    # Numbers within each volume, at the edges' lower ends: N D H W 3.
    ids = crossed.flatten(1).long().cumsum(1).sub(1).reshape(crossed.shape).transpose(4, 5).flatten(3, 4)[:, :, :, :W]
    cases = _cases(inside)
    edge_ids = [_corner(ids, low)[..., (low ^ high).bit_length() - 1] for low, high in EDGE_TO_VERTICES]
    cells = (table[cases, 0] > 0).nonzero(as_tuple=True)
    rows = table[cases[cells]]
    corners = torch.stack([e[cells] for e in edge_ids], dim=1).gather(1, rows[:, 1:].long())
    used = torch.arange(15, device=volume.device) < 3 * rows[:, :1].long()
    return verts, corners[used].reshape(-1, 3)


def _fill_outputs(
    volume: Tensor,
    isolevel: Tensor,
    table: Tensor,
    below: Tensor,
    offsets: Tensor,
    num_verts: int,
    num_faces: int,
    local: bool,
) -> tuple[Tensor, Tensor]:
    return empty_output(volume, (num_verts, 3)), empty_output(volume, (num_faces, 3), torch.int64)


# Bits for the values that are below the level, and the numbers of vertices and triangles of each word of them.
_cells = Op("marching_cubes_cells", _cells_outputs, _cells_reference)

# The vertices and triangles, from the bits and the sums of the numbers.
_fill = Op("marching_cubes_fill", _fill_outputs, _fill_reference, reads=[], constants=["isolevel"])
