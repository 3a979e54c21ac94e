"""The volume that 3D boxes share, and its part of their union."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from recon_engine._op import Op

# The corners of the six faces of a box, and of two triangles for each of them.
_box_planes = [[0, 1, 2, 3], [3, 2, 6, 7], [0, 1, 5, 4], [0, 3, 7, 4], [1, 2, 6, 5], [4, 5, 6, 7]]
_box_triangles = [
    *([0, 1, 2], [0, 3, 2], [4, 5, 6], [4, 6, 7], [1, 5, 6], [1, 6, 2]),
    *([0, 4, 7], [0, 7, 3], [3, 2, 6], [3, 6, 7], [0, 1, 5], [0, 4, 5]),
]


def box3d_overlap(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-4) -> tuple[Tensor, Tensor]:
    """The volume that each of N boxes shares with each of M boxes, and its part of their union (IoU).

    Exact for boxes in any position, and for convex bodies with six flat faces. Computed in double precision relative to
    the boxes themselves: far from the origin the result is as good as the corners are. The IoU of a box with itself is
    1, and no IoU is above 1.

    Args:
        boxes1: (N, 8, 3) corners; 0, 1, 2, 3 go around one face and 4, 5, 6, 7 around the opposite one, 4 next to 0:
            [0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1].
        boxes2: (M, 8, 3) corners in the same order.
        eps: how far a corner may be from the plane of the other three of its face, and the least area of the halves of
            a face.

    Returns:
        vol: (N, M) shared volumes.
        iou: (N, M) `vol / (vol1 + vol2 - vol)`.
        Of the dtype of the boxes. Not differentiable: going back through them raises a ValueError.

    Raises:
        ValueError: boxes of another shape; "Plane vertices are not coplanar"; "Planes have zero areas".

    CPU and CUDA, float32 and float64. Waits for the device on CUDA, to check the boxes.
    """
    for name, boxes in (("boxes1", boxes1), ("boxes2", boxes2)):
        if boxes.ndim != 3 or boxes.shape[1:] != (8, 3):
            raise ValueError(f"Each box in the batch must be of shape (8, 3): {name} is {tuple(boxes.shape)}")
    for check in (_check_coplanar, _check_nonzero):
        for name, boxes in (("boxes1", boxes1), ("boxes2", boxes2)):
            check(boxes, eps, name)
    vol, iou = _box3d_overlap.apply(boxes1, boxes2)
    return vol, iou


def _check_coplanar(boxes: Tensor, eps: float = 1e-4, name: str = "boxes") -> None:
    """Raises a ValueError unless the four corners of each face lie in one plane, up to `eps`."""
    v0, v1, v2, v3 = boxes.detach().double()[:, _box_planes].unbind(2)
    normal = torch.nn.functional.normalize(torch.linalg.cross(v1 - v0, v2 - v0), dim=-1)
    _raise_unless(((v3 - v0) * normal).sum(-1).abs() < eps, "Plane vertices are not coplanar", "face", name, eps)


def _check_nonzero(boxes: Tensor, eps: float = 1e-4, name: str = "boxes") -> None:
    """Raises a ValueError unless the triangles of all faces have an area of at least `eps`."""
    v0, v1, v2 = boxes.detach().double()[:, _box_triangles].unbind(2)
    areas = 0.5 * torch.linalg.vector_norm(torch.linalg.cross(v1 - v0, v2 - v0), dim=-1)
    _raise_unless(areas >= eps, "Planes have zero areas", "triangle", name, eps)


def _raise_unless(good: Tensor, message: str, part: str, name: str, eps: float) -> None:
    if bool(good.all()):
        return
    box, face = (int(i) for i in (~good).nonzero()[0])
    raise ValueError(
        f"{message}: {part} {face} of {name}[{box}], with eps={eps}. The corners must be finite, in the order of the "
        "documentation of box3d_overlap, and eps must suit the size of the boxes"
    )


class _box3d_overlap(Function):
    @staticmethod
    def forward(ctx: Any, boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
        vol, iou = _overlap(boxes1.detach(), boxes2.detach())
        return vol, iou

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise ValueError("box3d_overlap backward is not supported")


def _reference(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    volumes = [[_shared_volume(a, b) for b in boxes2.detach().double()] for a in boxes1.detach().double()]
    vol = torch.tensor(volumes, dtype=torch.float64).reshape(len(boxes1), len(boxes2))
    own1, own2 = (_own_volumes(boxes.detach().double()) for boxes in (boxes1, boxes2))
    union = own1[:, None] + own2 - vol
    return vol.to(boxes1), (vol / union).to(boxes1)


def _own_volumes(boxes: Tensor) -> Tensor:
    return torch.tensor([_shared_volume(box, box) for box in boxes], dtype=torch.float64)


def _half_spaces(box: Tensor) -> list[tuple[Tensor, Tensor]]:
    center = box.mean(0)
    spaces = []
    for plane in _box_planes:
        corners = box[plane]
        normal = torch.linalg.cross(corners[2] - corners[0], corners[3] - corners[1])
        normal = normal * torch.sign((corners.mean(0) - center) @ normal)
        spaces.append((normal, corners.mean(0) @ normal))
    return spaces


def _shared_volume(a: Tensor, b: Tensor) -> float:
    """By the corners of the common body: all points where three planes meet that no plane has outside."""
    center = 0.5 * (a.mean(0) + b.mean(0))
    spaces = _half_spaces(a - center) + _half_spaces(b - center)
    normals = torch.stack([normal / torch.linalg.vector_norm(normal) for normal, _ in spaces])
    offsets = torch.stack([offset / torch.linalg.vector_norm(normal) for normal, offset in spaces])
    triples = torch.combinations(torch.arange(len(spaces)), 3)
    systems = normals[triples]
    regular = torch.linalg.det(systems).abs() > 1e-9
    points = torch.linalg.solve(systems[regular], offsets[triples][regular])
    inside = (points @ normals.T - offsets <= 1e-9 * (1 + offsets.abs().max())).all(1)
    points = points[inside]
    if len(points) < 4:
        return 0.0
    return _volume_of_hull(points, normals, offsets)


def _volume_of_hull(points: Tensor, normals: Tensor, offsets: Tensor) -> float:
    """Cones from the mean of the corners to each face, each face a fan in the order of angles; planes counted once."""
    middle = points.mean(0)
    volume = 0.0
    seen: list[tuple[Tensor, Tensor]] = []
    for normal, offset in zip(normals, offsets):
        if any(bool(((normal - n).abs() < 1e-9).all()) and bool((offset - o).abs() < 1e-9) for n, o in seen):
            continue
        seen.append((normal, offset))
        face = points[(points @ normal - offset).abs() < 1e-8 * (1 + offsets.abs().max())]
        if len(face) < 3:
            continue
        across = torch.linalg.cross(normal, torch.eye(3, dtype=points.dtype)[normal.abs().argmin()])
        relative = face - face.mean(0)
        order = torch.atan2(relative @ torch.linalg.cross(normal, across), relative @ across).argsort()
        ring = relative[order]
        area = 0.5 * float((torch.linalg.cross(ring, ring.roll(-1, 0)) @ normal).sum().abs())
        area /= float(torch.linalg.vector_norm(normal))
        volume += area * float(offset - middle @ normal) / 3
    return volume


def _outputs(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    shape = boxes1.shape[0], boxes2.shape[0]
    return boxes1.new_empty(shape), boxes1.new_empty(shape)


_overlap = Op("box3d_overlap", _outputs, _reference, constants=["boxes1", "boxes2"])
