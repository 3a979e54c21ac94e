"""Checks what `Pointclouds` is built from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._rows import Layout, Rows


def points_rows(points: Any) -> Rows:
    """The points of new clouds, with empty ones in shape (0, 3).

    Args:
        points: list of (P_n, 3) tensors or a padded (N, P, 3) tensor.

    Raises:
        ValueError: for anything that is not a batch of point clouds.
    """
    if isinstance(points, Tensor):
        if points.ndim != 3 or points.shape[2] != 3:
            raise ValueError(f"Points tensor has incorrect dimensions: expected (N, P, 3), got {tuple(points.shape)}.")
        N, P, _ = points.shape
        return Rows(Layout([P] * N, points.device), 3, padded=points)
    if not isinstance(points, list):
        raise ValueError(
            "Points must be either a list or a tensor with shape (batch_size, P, 3) where P is the maximum number of "
            f"points in a cloud: got {type(points).__name__}."
        )
    clouds = []
    for n, cloud in enumerate(points):
        if not isinstance(cloud, Tensor):
            raise ValueError(f"Pointclouds: points[{n}] must be a tensor, got {type(cloud).__name__}.")
        if cloud.device != points[0].device:
            raise ValueError(
                "All points must be on the same device: "
                f"points[0] is on {points[0].device}, points[{n}] on {cloud.device}."
            )
        if cloud.numel() == 0 and cloud.shape != (0, 3):
            cloud = cloud.new_zeros((0, 3))
        if cloud.ndim != 2 or cloud.shape[1] != 3:
            raise ValueError(
                f"Clouds in list must be of shape Px3 or empty: points[{n}] has shape {tuple(cloud.shape)}."
            )
        clouds.append(cloud)
    device = clouds[0].device if clouds else torch.device("cpu")
    return Rows(Layout([len(cloud) for cloud in clouds], device), 3, as_list=clouds)


def auxiliary_rows(values: Any, layout: Layout) -> Rows | None:
    """Normals or features of new clouds, None when there are none.

    Args:
        values: list of (P_n, C) tensors, in which clouds without points may have None, or a padded (N, P, C) tensor.
        layout: the numbers of points.

    Raises:
        ValueError: when they do not match the points.
    """
    if values is None or len(layout) == 0:
        return None
    if isinstance(values, list):
        return _auxiliary_list(values, layout)
    if not isinstance(values, Tensor):
        raise ValueError(
            "Auxiliary input must be either a list or a tensor with shape (batch_size, P, C) where P is the maximum "
            f"number of points in a cloud: got {type(values).__name__}."
        )
    if values.ndim != 3:
        raise ValueError(f"Auxiliary input tensor has incorrect dimensions: got {tuple(values.shape)}.")
    if len(values) != len(layout):
        raise ValueError(f"Points and inputs must be the same length: got {len(layout)} and {len(values)} clouds.")
    if values.shape[1] != layout.largest:
        raise ValueError(
            "Inputs tensor must have the right maximum number of points in each cloud: "
            f"expected {layout.largest}, got {values.shape[1]}."
        )
    _check_device(values, layout)
    return Rows(layout, values.shape[2], padded=values)


def pickled_rows(state: dict[str, Any]) -> tuple[Rows, Rows | None, Rows | None]:
    """The points, normals and features of clouds that PyTorch3D pickled.

    Args:
        state: their `__dict__`.
    """
    layout: Layout | None = None
    found: list[Rows | None] = []
    for field in ("_points", "_normals", "_features"):
        as_list, padded = state[f"{field}_list"], state[f"{field}_padded"]
        # Each form was pickled with a gradient of its own: one of them is what the others come from.
        given = as_list is None and padded is not None
        if given:
            as_list = [cloud[:count] for cloud, count in zip(padded, state["_num_points_per_cloud"].tolist())]
        rows = points_rows(as_list) if layout is None else auxiliary_rows(as_list, layout)
        if rows is not None:
            layout = rows.layout
            if given:
                rows.list_form, rows.padded_form = None, padded
        found.append(rows)
    points, normals, features = found
    assert points is not None
    return points, normals, features


def _auxiliary_list(values: list[Any], layout: Layout) -> Rows | None:
    if len(values) != len(layout):
        raise ValueError(
            f"Points and auxiliary input must be the same length: got {len(layout)} and {len(values)} clouds."
        )
    described: Tensor | None = None
    for n, (rows, count) in enumerate(zip(values, layout.counts, strict=True)):
        if count == 0 and (rows is None or rows.ndim != 2):
            continue
        if not isinstance(rows, Tensor) or len(rows) != count:
            got = len(rows) if isinstance(rows, Tensor) else type(rows).__name__
            raise ValueError(
                f"A cloud has mismatched numbers of points and inputs: cloud {n} has {count} points, got {got}."
            )
        if rows.ndim != 2:
            raise ValueError(f"A cloud auxiliary input must be of shape PxC or empty: got {tuple(rows.shape)}.")
        if described is not None and rows.shape[1] != described.shape[1]:
            raise ValueError(
                f"The clouds must have the same number of channels: got {described.shape[1]} and {rows.shape[1]}."
            )
        _check_device(rows, layout)
        described = rows if described is None else described
    if described is None:
        return None
    # Nothing at a cloud without points may be written as None or as an empty tensor of any shape.
    nothing = described.new_zeros((0, described.shape[1]))
    as_list = [rows if rows is not None and rows.ndim == 2 else nothing for rows in values]
    return Rows(layout, described.shape[1], as_list=as_list)


def _check_device(values: Tensor, layout: Layout) -> None:
    if values.device != layout.device:
        raise ValueError(
            "All auxiliary inputs must be on the same device as the points: "
            f"got {values.device}, the points are on {layout.device}."
        )
