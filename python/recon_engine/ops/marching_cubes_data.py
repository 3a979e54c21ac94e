"""Which triangles a cell of a grid holds, for each of the 256 ways in which its corners can lie below the surface.

The tables are derived when they are first needed, from two rules:

1. On each side of the cell, every run of neighbouring corners that are below is cut off by one segment. Two cells see
   the same corners on the side they share, and so the same segments: there are no holes, and corners that are not below
   are joined across a side where there is a choice.
2. The segments of a cell form closed loops, which are divided into triangles. No edge of a triangle other than the
   segments lies on a side of the cell, so that no edge belongs to more than two triangles.

Corner `c` of a cell lies at x, y, z = `c & 1, c >> 1 & 1, c >> 2 & 1`. Bit `i` of a case says that corner `INDEX[i]` is
below. Both numberings, of corners and of edges, are those of PyTorch3D.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

# Around the side y = 0, and around the side y = 1.
INDEX = [0, 1, 5, 4, 2, 3, 7, 6]


def _edges() -> list[list[int]]:
    """Around the side y = 0, around the side y = 1, and between the two."""
    rings = INDEX[:4], INDEX[4:]
    around = [sorted((ring[k], ring[(k + 1) % 4])) for ring in rings for k in range(4)]
    return around + [list(pair) for pair in zip(*rings, strict=True)]


# The two corners of each of the 12 edges, the one with the smaller coordinate first.
EDGE_TO_VERTICES = _edges()
_EDGE = {tuple(corners): e for e, corners in enumerate(EDGE_TO_VERTICES)}


def _sides() -> list[list[int]]:
    """The corners of the 6 sides, counter-clockwise seen from outside."""
    sides = []
    for axis in range(3):
        u, v = 1 << (axis + 1) % 3, 1 << (axis + 2) % 3
        sides += [[c | 1 << axis for c in (0, u, u | v, v)], [0, v, u | v, u]]
    return sides


_SIDES = _sides()
_SIDES_OF_EDGE = [{s for s, side in enumerate(_SIDES) if set(edge) <= set(side)} for edge in EDGE_TO_VERTICES]


def _loops(below: set[int]) -> list[list[int]]:
    """The closed loops of crossed edges, so directed that the corners that are below are behind them."""
    following: dict[int, int] = {}
    for side in _SIDES:
        crossed = [
            (_EDGE[min(a, b), max(a, b)], b in below)
            for a, b in pairwise([*side, side[0]])
            if (a in below) != (b in below)
        ]
        for (edge, enters), (other, _) in pairwise([*crossed, *crossed[:1]]):
            if enters:
                following[edge] = other
    loops = []
    while following:
        edge, following_edge = following.popitem()
        loop = [edge]
        while following_edge != edge:
            loop.append(following_edge)
            following_edge = following.pop(following_edge)
        start = loop.index(min(loop))
        loops.append(loop[start:] + loop[:start])
    return sorted(loops)


def _length(a: int, b: int) -> int:
    """The squared distance between the middles of two edges, times 4."""
    middles = ([sum(c >> axis & 1 for c in EDGE_TO_VERTICES[e]) for axis in range(3)] for e in (a, b))
    return sum((p - q) ** 2 for p, q in zip(*middles, strict=True))


def _triangulations(loop: tuple[int, ...]) -> list[tuple[int, list[tuple[int, int, int]]]]:
    """All ways to divide a loop into triangles without a diagonal on a side, with the lengths of their diagonals."""
    if len(loop) < 3:
        return [(0, [])]
    # The triangle at the edge from the last to the first point has any other point as its third corner.
    ways = []
    for k in range(1, len(loop) - 1):
        new = [(loop[0], loop[k])] * (k > 1) + [(loop[k], loop[-1])] * (k < len(loop) - 2)
        if any(_SIDES_OF_EDGE[a] & _SIDES_OF_EDGE[b] for a, b in new):
            continue
        cost = sum(_length(a, b) for a, b in new)
        for left_cost, left in _triangulations(loop[: k + 1]):
            for right_cost, right in _triangulations(loop[k:]):
                triangles = [*left, (loop[0], loop[k], loop[-1]), *right]
                ways.append((cost + left_cost + right_cost, triangles))
    return ways


@cache
def face_table() -> list[list[int]]:
    """For each of the 256 cases the edges of its triangles, three for each; normals look away from what is below."""
    table = []
    for case in range(256):
        loops = _loops({INDEX[i] for i in range(8) if case >> i & 1})
        triangles = [t for loop in loops for t in min(_triangulations(tuple(loop)))[1]]
        table.append([edge for triangle in triangles for edge in triangle])
    return table


def __getattr__(name: str) -> list[list[int]]:
    if name == "FACE_TABLE":
        return face_table()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
