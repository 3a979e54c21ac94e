"""Volumes that points vote for with their features."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recon_engine._op import Op, empty_output, reference

if TYPE_CHECKING:
    from recon_engine.structures import Pointclouds, Volumes


def add_pointclouds_to_volumes(
    pointclouds: Pointclouds,
    initial_volumes: Volumes,
    mode: str = "trilinear",
    min_weight: float = 1e-4,
    rescale_features: bool = True,
    _python: bool = False,
) -> Volumes:
    """Volumes to which the points of clouds have added their votes and their features.

    Args:
        pointclouds: N clouds with features, in world coordinates.
        initial_volumes: N volumes; without features they start at 0.
        mode: see `add_points_features_to_volume_densities_features`, as for the other arguments.
        min_weight: the least density that features are divided by in mode "trilinear".
        rescale_features: divide sums of features by densities.
        _python: compute in plain torch.

    Returns:
        New `Volumes` at the same place. The given ones stay as they are.

    Raises:
        ValueError: another number of clouds than volumes, clouds without features, or features that do not fit.

    Differentiable in points (mode "trilinear"), their features, and the initial densities and features.
    """
    if len(initial_volumes) != len(pointclouds):
        raise ValueError(
            "'initial_volumes' and 'pointclouds' have to have the same batch size: "
            f"got {len(initial_volumes)} volumes and {len(pointclouds)} clouds."
        )
    features = pointclouds.features_padded()
    if features is None:
        raise ValueError("'pointclouds' have to have their 'features' defined.")
    points = pointclouds.points_padded()
    counts = pointclouds.num_points_per_cloud()
    volume_features, densities = add_points_features_to_volume_densities_features(
        points_3d=initial_volumes.world_to_local_coords(points),
        points_features=features,
        volume_densities=initial_volumes.densities(),
        volume_features=initial_volumes.features(),
        mode=mode,
        min_weight=min_weight,
        mask=torch.arange(points.shape[1], device=points.device) < counts[:, None],
        grid_sizes=initial_volumes.get_grid_sizes(),
        rescale_features=rescale_features,
        _python=_python,
        align_corners=initial_volumes.get_align_corners(),
    )
    return initial_volumes.update_padded(new_densities=densities, new_features=volume_features)


def add_points_features_to_volume_densities_features(
    points_3d: Tensor,
    points_features: Tensor,
    volume_densities: Tensor,
    volume_features: Tensor | None,
    mode: str = "trilinear",
    min_weight: float = 1e-4,
    mask: Tensor | None = None,
    grid_sizes: Tensor | None = None,
    rescale_features: bool = True,
    _python: bool = False,
    align_corners: bool = True,
) -> tuple[Tensor, Tensor]:
    """Densities and features of volumes, to which points have added their votes and their features.

    A point votes for the 8 voxels around it with the weights w_pv of trilinear interpolation, or for the nearest voxel
    with weight 1. Votes for what lies outside of the grid are lost.

        density_v = initial_v + sum_p w_pv        feature_v = (initial_v + sum_p w_pv f_p) / max(density_v, least)

    Args:
        points_3d: (N, P, 3) points in local coordinates: the volume spans [-1, 1] along x, y and z.
        points_features: (N, P, C).
        volume_densities: (N, 1, D, H, W) votes to start from.
        volume_features: (N, C, D, H, W) sums of features to start from; None for 0.
        mode: "trilinear" or "nearest".
        min_weight: `least` of mode "trilinear"; it is 1 in mode "nearest".
        mask: (N, P), 0 for points that do not count; None: all count.
        grid_sizes: (N, 3) int64, the depth, height and width that each volume uses; None: all of it.
        rescale_features: whether sums of features are divided by densities.
        _python: compute in plain torch.
        align_corners: whether -1 and 1 are the centres of the first and the last voxel, or their outer faces.

    Returns:
        volume_features: (N, C, D, H, W).
        volume_densities: (N, 1, D, H, W). Both are new; the given volumes stay as they are.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, another mode, and on the CPU points that are not
            finite and grids larger than the volume.

    Differentiable in points (mode "trilinear"), their features and the initial volumes. CPU and CUDA, float32 and
    float64. Repeatable bit by bit on the CPU, and on CUDA with `torch.use_deterministic_algorithms(True)`.
    """
    if volume_densities.ndim != 5 or volume_densities.shape[1] != 1:
        raise ValueError(
            "Only one-dimensional densities are allowed: volume_densities must have shape (N, 1, D, H, W), got "
            f"{tuple(volume_densities.shape)}"
        )
    if mode not in ("trilinear", "nearest"):
        raise ValueError(f'No such interpolation mode "{mode}": it must be "trilinear" or "nearest"')
    if volume_features is None:
        N, _, D, H, W = volume_densities.shape
        volume_features = volume_densities.new_zeros(N, points_features.shape[-1], D, H, W)
    trilinear = mode == "trilinear"
    with reference() if _python else contextlib.nullcontext():
        densities, features = _votes(
            points_3d if trilinear else points_3d.detach(),
            points_features,
            volume_densities,
            volume_features,
            grid_sizes,
            None if mask is None else mask != 0,
            trilinear,
            align_corners,
            rescale_features,
            min_weight if trilinear else 1.0,
            1.0,
        )
    return features, densities


def _points_to_volumes(
    points_3d: Tensor,
    points_features: Tensor,
    volume_densities: Tensor,
    volume_features: Tensor,
    grid_sizes: Tensor,
    point_weight: float,
    mask: Tensor,
    align_corners: bool,
    splat: bool,
) -> tuple[Tensor, Tensor]:
    """Adds votes of `point_weight` and features to volumes in place, and returns them."""
    densities, features = _votes(
        points_3d if splat else points_3d.detach(),
        points_features,
        torch.zeros_like(volume_densities),
        torch.zeros_like(volume_features),
        grid_sizes,
        mask != 0,
        splat,
        align_corners,
        False,
        0.0,
        point_weight,
    )
    return volume_densities.add_(densities), volume_features.add_(features)


def _reference(
    points: Tensor,
    features: Tensor,
    volume_densities: Tensor,
    volume_features: Tensor,
    grid_sizes: Tensor | None,
    mask: Tensor | None,
    trilinear: bool,
    align_corners: bool,
    rescale: bool,
    least: float,
    weight: float,
) -> tuple[Tensor, Tensor]:
    N, P, C = features.shape
    full = torch.tensor(volume_densities.shape[2:], device=points.device)
    grids = full.expand(N, 3) if grid_sizes is None else torch.minimum(grid_sizes, full)
    # Voxel coordinates along depth, height and width.
    size = grids[:, None].to(points.dtype)
    unit = 0.5 * (points.flip(-1) + 1)
    at = unit * (size - 1) if align_corners else unit * size - 0.5
    counts = at.isfinite().all(-1) if mask is None else at.isfinite().all(-1) & mask
    at = torch.where(counts[..., None], at, -9.0)
    # Halves are rounded away from zero.
    first = at.detach().floor() if trilinear else at.detach().sign() * (at.detach().abs() + 0.5).floor()
    up = at - first
    # One voxel more, so that there is always one that a point outside can give nothing to.
    V = volume_densities.shape[2:].numel()
    votes, sums = points.new_zeros(N, V + 1), points.new_zeros(N, C, V + 1)
    for corner in torch.cartesian_prod(*[torch.arange(2 if trilinear else 1, device=points.device)] * 3):
        voxel = first + corner
        inside = ((voxel >= 0) & (voxel < size)).all(-1)
        shares = torch.where(corner == 1, up, 1 - up) if trilinear else torch.ones_like(at)
        w = torch.where(inside, weight * shares.prod(-1), 0)
        z, y, x = torch.where(inside[..., None], voxel, 0).long().unbind(-1)
        idx = (z * full[1] + y) * full[2] + x
        votes = votes.scatter_add(1, idx, w)
        sums = sums.scatter_add(2, idx[:, None].expand(N, C, P), w[:, None] * features.mT)
    densities = volume_densities + votes[:, :V].reshape(volume_densities.shape)
    volumes = volume_features + sums[..., :V].reshape(volume_features.shape)
    return densities, volumes / densities.clamp(min=least) if rescale else volumes


def _outputs(
    points: Tensor,
    features: Tensor,
    volume_densities: Tensor,
    volume_features: Tensor,
    grid_sizes: Tensor | None,
    mask: Tensor | None,
    trilinear: bool,
    align_corners: bool,
    rescale: bool,
    least: float,
    weight: float,
) -> tuple[Tensor, Tensor]:
    return empty_output(points, tuple(volume_densities.shape)), empty_output(points, tuple(volume_features.shape))


_votes = Op("points_to_volumes", _outputs, _reference, optional_grads=True)
