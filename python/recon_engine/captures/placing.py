"""Where the object of a capture is: the sphere around its visual hull, and which way is up."""

from __future__ import annotations

import torch
from torch import Tensor

from .folder import Capture

_SIDE = 56  # cells along each side of the box that is carved
_TOLERATED = 0.05  # of the pictures, whose silhouettes a point may miss: masks have flaws
_ROOM = 1.5  # of the first box, around what the silhouettes suggest


def object_sphere(capture: Capture) -> tuple[Tensor, float]:
    """Centre (3,) float64 and radius of a sphere around the object, in the capture's world.

    An upright box around the place that the silhouettes' middles point at is carved: what lies outside a silhouette is
    not object. The sphere holds what is left.

    Raises:
        ValueError: the cameras look past each other, or nothing is left.
    """
    middle, reach = _first_guess(capture)
    turn = upright(capture)
    middle = turn @ middle
    low, high = middle - _ROOM * reach, middle + _ROOM * reach
    for _ in range(2):
        step = (high - low) / _SIDE
        cells = torch.stack(
            torch.meshgrid(
                *(low[i] + step[i] * (torch.arange(_SIDE, dtype=torch.float64) + 0.5) for i in range(3)), indexing="ij"
            ),
            -1,
        ).reshape(-1, 3)
        hull = cells[_is_inside(capture, cells @ turn)]
        if not len(hull):
            raise ValueError(
                f"{capture.where}: no place lies inside the silhouettes of all {len(capture.names)} pictures: expected "
                "the cameras of these pictures, got others, or angles that are far off"
            )
        low, high = hull.amin(0) - step, hull.amax(0) + step
    center = (low + high) / 2
    return center @ turn, float((hull - center).norm(dim=1).max() + step.norm() / 2)


def upright(capture: Capture) -> Tensor:
    """(3, 3) float64 rotation Q with x_world = x Q, for which +y is up in x.

    Where the format does not say what is up, it is the direction that the pictures' horizontal sides are most at right
    angles to.
    """
    if capture.up is not None:
        up = torch.tensor(capture.up, dtype=torch.float64)
    else:
        across, upwards = capture.R[..., 0], capture.R[..., 1].mean(0)
        spread, directions = torch.linalg.eigh(across.T @ across / len(across))
        up = directions[:, 0] if float(spread[1]) > 0.02 else upwards
        up = up * (1.0 if float(up @ upwards) >= 0 else -1.0)
        up = up / up.norm().clamp(min=1e-12)
    y = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    if float(up @ y) < -1 + 1e-9:
        return torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    # The shortest turn from y to up: 1 + [v] + [v]^2 / (1 + c), with v = y x up and c = y . up.
    x, _, z = torch.linalg.cross(y, up).tolist()
    v = torch.tensor([[0.0, -z, 0.0], [z, 0.0, -x], [0.0, x, 0.0]], dtype=torch.float64)
    return (torch.eye(3, dtype=torch.float64) + v + v @ v / (1 + up @ y)).T


def _first_guess(capture: Capture) -> tuple[Tensor, float]:
    """The point nearest to the rays through the silhouettes' middles, and how far the silhouettes reach from it."""
    inside = capture.rgba[..., 3] > 0.5
    pixel = torch.arange(inside.shape[1], dtype=torch.float64) + 0.5
    count = inside.sum((1, 2)).clamp(min=1)
    middle = torch.stack([(inside.sum(1) * pixel).sum(1), (inside.sum(2) * pixel).sum(1)], 1) / count[:, None]
    toward = torch.cat([-(middle - capture.principal) / capture.focal, torch.ones(len(middle), 1)], 1).double()
    toward = torch.einsum("nij,nj->ni", capture.R, toward / toward.norm(dim=1, keepdim=True))
    eye = -torch.einsum("nij,nj->ni", capture.R, capture.T)
    off = torch.eye(3, dtype=torch.float64) - toward[:, :, None] * toward[:, None, :]
    system = off.sum(0)
    if float(torch.linalg.eigvalsh(system)[0]) < 1e-4 * len(eye):
        raise ValueError(f"{capture.where}: expected cameras that see the object from different sides, got one side")
    point = torch.linalg.solve(system, torch.einsum("nij,nj->i", off, eye))
    depth = (torch.einsum("j,njk->nk", point, capture.R) + capture.T)[:, 2]
    if int((depth <= 0).sum()) > _TOLERATED * len(depth):
        name = capture.names[int(depth.argmin())]
        raise ValueError(f"{capture.where}: expected cameras that look at the object, got {name} with it behind")
    # Half the longer side of the silhouette's box, at the point's depth.
    sides = torch.stack([inside.any(1).sum(1), inside.any(2).sum(1)], 1) / capture.focal
    reach = (sides.amax(1) / 2 * depth).median()
    return point, float(reach)


def _is_inside(capture: Capture, points: Tensor) -> Tensor:
    """Which points (P, 3) all silhouettes hold, but a few; where a picture does not reach it holds everything."""
    misses = torch.zeros(len(points), dtype=torch.int64)
    size = capture.rgba.shape[1]
    for R, T, focal, principal, rgba in zip(
        capture.R, capture.T, capture.focal, capture.principal, capture.rgba, strict=True
    ):
        view = points @ R + T
        depth = view[:, 2:].clamp(min=1e-12)
        x, y = (principal - focal * view[:, :2] / depth).floor().long().unbind(1)
        is_shown = (view[:, 2] > 0) & (x >= 0) & (x < size) & (y >= 0) & (y < size)
        inside = rgba[..., 3] > 0.5
        misses += is_shown & ~inside[y.clamp(0, size - 1), x.clamp(0, size - 1)]
    return misses <= int(_TOLERATED * len(capture.names))
