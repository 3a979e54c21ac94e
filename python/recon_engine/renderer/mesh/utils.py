"""Barycentric and depth helpers, and the packing of rectangles that joins texture images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


def _clip_barycentric_coordinates(bary: Tensor) -> Tensor:
    """Set negative barycentric coordinates (..., 3) to zero and renormalise; padding of (-1, -1, -1) stays."""
    if bary.shape[-1] != 3:
        raise ValueError(f"Expected barycentric coords to have last dim = 3; got {tuple(bary.shape)}")
    is_padding = (bary == -1).all(dim=-1, keepdim=True)
    clipped = bary.clamp(min=0.0)
    clipped = clipped / clipped.sum(dim=-1, keepdim=True).clamp(min=1e-5)
    return clipped.masked_fill(is_padding, -1.0)


def _interpolate_zbuf(pix_to_face: Tensor, barycentric_coords: Tensor, meshes: Any) -> Tensor:
    """The depth (N, H, W, K) of the faces at pixels from their vertices; -1 where there is no face."""
    from recon_engine.ops.interp_face_attrs import interpolate_face_attributes

    corner_depths = meshes.verts_packed()[meshes.faces_packed()][..., 2:]
    zbuf = interpolate_face_attributes(pix_to_face, barycentric_coords, corner_depths)[..., 0]
    return torch.where(pix_to_face < 0, -1.0, zbuf)


class Rectangle(NamedTuple):
    """A rectangle to place; those with one identifier share a place."""

    xsize: int
    ysize: int
    identifier: int


class PackedRectangle(NamedTuple):
    """Where a rectangle lies."""

    x: int
    y: int
    flipped: bool
    """Whether its sides are swapped."""
    is_first: bool
    """Whether it is the first with its identifier."""


class PackedRectangles(NamedTuple):
    """The places of all rectangles and the sides of the box around them."""

    total_size: tuple[int, int]
    locations: list[PackedRectangle]


class _Strip(NamedTuple):
    """The heights [bottom, top) of the box, free to the right of x = used."""

    bottom: int
    top: int
    used: int


class _Item(NamedTuple):
    """A rectangle in the queue. The order of the fields is that of the queue: the longest comes first."""

    size: tuple[int, int]
    position: int
    flipped: bool


def _place_beside(item: _Item, strips: list[_Strip], width: int) -> PackedRectangle | None:
    """Place a rectangle at the right of the first run of strips that has room, and update the strips in place."""
    x_size, y_size = item.size
    start = 0
    for end, strip in enumerate(strips):
        if strip.used > width - x_size:
            start = end + 1
            continue
        bottom = strips[start].bottom
        if strip.top - bottom < y_size:
            continue
        x = max(other.used for other in strips[start : end + 1])
        top = bottom + y_size
        rest = [strip._replace(bottom=top)] if strip.top > top else []
        strips[start : end + 1] = [_Strip(bottom, top, x + x_size), *rest]
        return PackedRectangle(x, bottom, item.flipped, True)
    return None


def pack_rectangles(sizes: Sequence[tuple[int, int]]) -> PackedRectangles:
    """Place rectangles without overlap in a box, flipping them where it helps.

    The longest rectangle lies along x and gives the width of the box; each next one goes beside the rectangles already
    placed if it fits there in either orientation, and on top of them otherwise.

    Args:
        sizes: the (x, y) sizes of at least two rectangles.

    Returns:
        the size of the box and the places in the order of `sizes`.
    """
    if len(sizes) < 2:
        raise ValueError(f"Cannot pack less than two boxes; got {len(sizes)}")
    queue = sorted(_Item((max(size), min(size)), i, size[0] < size[1]) for i, size in enumerate(sizes))
    width = queue[-1].size[0]
    strips: list[_Strip] = []
    places: dict[int, PackedRectangle] = {}
    for item in reversed(queue):
        turned = item._replace(size=item.size[::-1], flipped=not item.flipped)
        # The first two rectangles always lie on top of each other.
        place = None
        if len(places) > 1:
            place = _place_beside(item, strips, width) or _place_beside(turned, strips, width)
        if place is None:
            bottom = strips[-1].top if strips else 0
            strips.append(_Strip(bottom, bottom + item.size[1], item.size[0]))
            place = PackedRectangle(0, bottom, item.flipped, True)
        places[item.position] = place
    return PackedRectangles((width, strips[-1].top), [places[i] for i in range(len(sizes))])


def pack_unique_rectangles(rectangles: Sequence[Rectangle]) -> PackedRectangles:
    """Place rectangles as `pack_rectangles` does, those with one identifier only once.

    Args:
        rectangles: at least two rectangles.

    Returns:
        the size of the box and a place for each rectangle; `is_first` marks the first with its identifier.
    """
    if len(rectangles) < 2:
        raise ValueError(f"Cannot pack less than two boxes; got {len(rectangles)}")
    order: dict[int, int] = {}
    sizes: list[tuple[int, int]] = []
    is_first = []
    for rectangle in rectangles:
        is_first.append(rectangle.identifier not in order)
        if is_first[-1]:
            order[rectangle.identifier] = len(sizes)
            sizes.append((rectangle.xsize, rectangle.ysize))
    if len(sizes) == 1:
        packed = PackedRectangles(sizes[0], [PackedRectangle(0, 0, False, True)])
    else:
        packed = pack_rectangles(sizes)
    places = [packed.locations[order[rectangle.identifier]] for rectangle in rectangles]
    return PackedRectangles(
        packed.total_size, [place._replace(is_first=first) for place, first in zip(places, is_first, strict=True)]
    )
