"""Rasterisation in plain torch, every pixel against every face: the specification of the rasterising ops."""

from __future__ import annotations

import torch
from torch import Tensor

_EPSILON = 1e-8


def pixel_centers(size: int, other: int, like: Tensor) -> Tensor:
    """(size,) NDC coordinates of the pixel centres of an image side, descending: +x is left and +y is up."""
    span = 2.0 * max(size / other, 1.0)
    step = torch.arange(size - 1, -1, -1, dtype=like.dtype, device=like.device)
    return -span / 2 + (span * step + span / 2) / size


def rasterize_reference(
    verts: Tensor,
    faces: Tensor,
    first: Tensor,
    count: Tensor,
    neighbors: Tensor | None,
    image_size: tuple[int, int],
    blur_radius: float,
    faces_per_pixel: int,
    perspective_correct: bool,
    clip_barycentric_coords: bool,
    cull_backfaces: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `recon_engine.ops.rasterize_faces`. Memory: pixels times faces of a mesh."""
    H, W = image_size
    K = faces_per_pixel
    y, x = torch.meshgrid(pixel_centers(H, W, verts), pixel_centers(W, H, verts), indexing="ij")
    images = []
    for n in range(len(first)):
        start = int(first[n])
        face = verts[faces[start : start + int(count[n])]]
        z, bary, dist, hit = _every_face(
            face, x[..., None], y[..., None], blur_radius, perspective_correct, clip_barycentric_coords, cull_backfaces
        )
        if neighbors is not None and face.shape[0]:
            hit = _nearer_halves(hit, dist, neighbors[start : start + face.shape[0]] - start)
        # A stable sort keeps faces of equal depth in ascending order.
        depth = torch.where(hit, z, torch.inf)
        order = depth.detach().sort(dim=-1, stable=True).indices[..., :K]
        found = hit.gather(-1, order)
        pad = (0, K - order.shape[-1])

        def pick(values: Tensor, found: Tensor = found, order: Tensor = order, pad: tuple[int, int] = pad) -> Tensor:
            return torch.nn.functional.pad(torch.where(found, values.gather(-1, order), -1), pad, value=-1)

        weights = torch.stack([pick(w) for w in bary], -1)
        faces_hit = torch.nn.functional.pad(torch.where(found, order + start, -1), pad, value=-1)
        images.append((faces_hit, pick(z), weights, pick(dist)))
    if not images:
        empty = verts.new_zeros(0, H, W, K)
        return empty.long(), empty, verts.new_zeros(0, H, W, K, 3), empty
    pix_to_face, zbuf, weights, dists = (torch.stack(parts) for parts in zip(*images))
    return pix_to_face, zbuf, weights, dists


def _at_least(x: Tensor, bound: float) -> Tensor:
    """`x.clamp(min=bound)` whose gradient at the bound is 1 with every torch: some versions give 1 there, others 0."""
    return torch.where(x < bound, bound, x)


def _every_face(
    face: Tensor, x: Tensor, y: Tensor, blur_radius: float, perspective: bool, clip: bool, cull: bool
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
    """Depth, barycentric coordinates, signed distance (H, W, F) of each face at each pixel, and whether it is hit."""

    def edge(px: Tensor, py: Tensor, ax: Tensor, ay: Tensor, bx: Tensor, by: Tensor) -> Tensor:
        return (px - ax) * (by - ay) - (py - ay) * (bx - ax)

    usable = _usable(face.detach(), cull)
    # Any other triangle in place of what is not usable: nothing of it counts, and no NaN comes back from it.
    harmless = face.new_tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    face = torch.where(usable[:, None, None], face, harmless)
    (x0, y0, z0), (x1, y1, z1), (x2, y2, z2) = (face[:, c].unbind(-1) for c in range(3))
    area = edge(x2, y2, x0, y0, x1, y1) + _EPSILON
    edges = edge(x, y, x1, y1, x2, y2), edge(x, y, x2, y2, x0, y0), edge(x, y, x0, y0, x1, y1)
    w0, w1, w2 = (e / area for e in edges)
    if perspective:
        # Only the ratios of the depths matter: where the product of two would overflow, their unit is the largest.
        deepest = face[..., 2].detach().amax(-1)
        s0, s1, s2 = (z * torch.where(deepest > 1e15, 1 / deepest, 1.0) for z in (z0, z1, z2))
        t0, t1, t2 = w0 * s1 * s2, w1 * s0 * s2, w2 * s0 * s1
        total = _at_least(t0 + t1 + t2, _EPSILON)
        w0, w1, w2 = t0 / total, t1 / total, t2 / total
    inside = (w0 > 0) & (w1 > 0) & (w2 > 0)
    if clip:
        w0, w1, w2 = _at_least(w0, 0.0), _at_least(w1, 0.0), _at_least(w2, 0.0)
        total = _at_least(w0 + w1 + w2, 1e-5)
        w0, w1, w2 = w0 / total, w1 / total, w2 / total
    z = w0 * z0 + w1 * z1 + w2 * z2

    def to_segment(ax: Tensor, ay: Tensor, bx: Tensor, by: Tensor) -> Tensor:
        ex, ey = bx - ax, by - ay
        length = ex * ex + ey * ey
        tiny = length <= _EPSILON
        t = _at_least((ex * (x - ax) + ey * (y - ay)) / torch.where(tiny, 1.0, length), 0.0)
        t = torch.where(t > 1, 1.0, t)
        t = torch.where(tiny, 1.0, t)
        return (x - ax - t * ex) ** 2 + (y - ay - t * ey) ** 2

    d01, d02, d12 = to_segment(x0, y0, x1, y1), to_segment(x0, y0, x2, y2), to_segment(x1, y1, x2, y2)
    # Where two edges tie, the gradient goes to the first of 01, 02, 12 and not to both.
    dist = torch.where((d01 <= d02) & (d01 <= d12), d01, torch.where(d02 <= d12, d02, d12))
    reach = blur_radius**0.5
    lo, hi = face[..., :2].amin(1) - reach, face[..., :2].amax(1) + reach
    in_box = (x >= lo[:, 0]) & (x <= hi[:, 0]) & (y >= lo[:, 1]) & (y <= hi[:, 1])
    hit = usable & in_box & (inside | (dist < blur_radius)) & (z >= 0)
    return z, (w0, w1, w2), torch.where(inside, -dist, dist), hit


def _usable(face: Tensor, cull: bool) -> Tensor:
    """Which of the faces (F, 3, 3) take part: in front of the camera, with an area, not too large to be measured."""
    a, b, c = face[..., :2].unbind(1)
    facing = (a - b)[:, 0] * (c - b)[:, 1] - (a - b)[:, 1] * (c - b)[:, 0]
    lengths = ((b - a) ** 2).sum(-1) + ((c - a) ** 2).sum(-1) + ((c - b) ** 2).sum(-1)
    usable = (face[..., 2].amin(-1) >= _EPSILON) & (facing.abs() > _EPSILON) & lengths.isfinite()
    return usable & (facing >= 0) if cull else usable


def _nearer_halves(hit: Tensor, dist: Tensor, neighbors: Tensor) -> Tensor:
    """Drops, of two halves that both hit a pixel, the one that is farther away (the later one where they tie)."""
    other = neighbors.clamp(min=0)
    both = hit & hit[..., other] & (neighbors >= 0)
    mine, theirs = dist.abs(), dist.abs()[..., other]
    later = torch.arange(len(neighbors), device=neighbors.device) > other
    return hit & ~(both & ((mine > theirs) | ((mine == theirs) & later)))
