"""The coarse half of PyTorch3D's rasterisers: which faces or points may touch each bin of an image.

Our rasterisers need no such lists; these are for programs that ask for them.
"""

from __future__ import annotations

import torch
from torch import Tensor

_NEAREST_DEPTH = 1e-8


@torch.no_grad()
def rasterize_meshes_coarse(
    face_verts: Tensor,
    mesh_to_face_first_idx: Tensor,
    num_faces_per_mesh: Tensor,
    image_size: tuple[int, int],
    blur_radius: float,
    bin_size: int,
    max_faces_per_bin: int,
) -> Tensor:
    """(N, BH, BW, M) int32 faces that may touch each bin, ascending, -1 where there are no more."""
    if face_verts.ndim != 3 or face_verts.shape[1:] != (3, 3):
        raise RuntimeError(f"face_verts must have dimensions (num_faces, 3, 3), got {tuple(face_verts.shape)}")
    low, high = face_verts.amin(1), face_verts.amax(1)
    reach = torch.tensor(blur_radius, dtype=face_verts.dtype, device=face_verts.device).sqrt()
    shown = low[:, 2] >= _NEAREST_DEPTH
    boxes = torch.stack([low[:, :2] - reach, high[:, :2] + reach], 1)
    return _bins(
        "faces", boxes, shown, mesh_to_face_first_idx, num_faces_per_mesh, image_size, bin_size, max_faces_per_bin, True
    )


@torch.no_grad()
def rasterize_points_coarse(
    points: Tensor,
    cloud_to_packed_first_idx: Tensor,
    num_points_per_cloud: Tensor,
    image_size: tuple[int, int],
    radius: Tensor,
    bin_size: int,
    max_points_per_bin: int,
) -> Tensor:
    """(N, BH, BW, M) int32 points that may touch each bin, ascending, -1 where there are no more."""
    boxes = torch.stack([points[:, :2] - radius[:, None], points[:, :2] + radius[:, None]], 1)
    return _bins(
        "points",
        boxes,
        points[:, 2] >= 0,
        cloud_to_packed_first_idx,
        num_points_per_cloud,
        image_size,
        bin_size,
        max_points_per_bin,
        False,
    )


def _bins(
    what: str,
    boxes: Tensor,
    shown: Tensor,
    first: Tensor,
    count: Tensor,
    image_size: tuple[int, int],
    bin_size: int,
    most: int,
    half_open: bool,
) -> Tensor:
    """Entries of a bin are those whose box (2, 2), x and y of its low and its high corner, overlaps it."""
    edges_y, edges_x = (_edges(*sides, bin_size, boxes) for sides in (image_size, image_size[::-1]))
    BH, BW = len(edges_y) - 1, len(edges_x) - 1
    bins = torch.full((len(first), BH, BW, most), -1, dtype=torch.int32, device=boxes.device)
    for n, (start, size) in enumerate(zip(first.tolist(), count.tolist())):
        low, high = boxes[start : start + size].unbind(1)
        on_x, on_y = (
            (low[:, axis] <= edges[1:, None])
            & ((edges[:-1, None] < high[:, axis]) if half_open else (edges[:-1, None] <= high[:, axis]))
            for axis, edges in enumerate((edges_x, edges_y))
        )
        on_y = on_y & shown[start : start + size]
        for row in range(BH):
            hit = on_y[row] & on_x  # BW x size
            if int(hit.sum(1).max()) > most:
                raise RuntimeError(f"Got too many {what} per bin: more than {most}; choose smaller bins")
            column, entry = hit.nonzero(as_tuple=True)
            slot = (hit.cumsum(1) - 1)[column, entry]
            bins[n, row, column, slot] = (entry + start).int()
    return bins


def _edges(size: int, other: int, bin_size: int, like: Tensor) -> Tensor:
    """NDC coordinates of the borders between bins along one side of the image, from -1 up."""
    span = 2.0 * max(size / other, 1.0)
    count = 1 + (size - 1) // bin_size
    width = torch.full((count + 1,), span / size * bin_size, dtype=like.dtype, device=like.device)
    width[0] = -1.0
    return width.cumsum(0)
