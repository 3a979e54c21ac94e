"""Normals and principal directions of the surfaces that point clouds were taken from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recon_engine._precision import full_precision
from recon_engine.common.workaround import symeig3x3
from recon_engine.ops._nearest import nearest
from recon_engine.ops.utils import check_finite, convert_pointclouds_to_tensor

if TYPE_CHECKING:
    from recon_engine.structures import Pointclouds


@full_precision
def estimate_pointcloud_normals(
    pointclouds: Tensor | Pointclouds,
    neighborhood_size: int = 50,
    disambiguate_directions: bool = True,
    *,
    use_symeig_workaround: bool = True,
) -> Tensor:
    """A unit normal at each point: the direction in which its neighbourhood is thinnest.

    Args:
        pointclouds: (N, P, 3) points, or `Pointclouds` of N clouds.
        neighborhood_size: K, how many nearest points count, the point itself included.
        disambiguate_directions: turn each normal to the side on which most of the neighbours lie, so that normals of
            neighbours agree where the surface is curved. Otherwise their signs are arbitrary.
        use_symeig_workaround: use the closed form for eigenvectors instead of `torch.linalg.eigh`.

    Returns:
        (N, P, 3) normals, padded for `Pointclouds`; 0 in the padding.

    Raises:
        ValueError: points that are not 3D or not finite, or a cloud with no more than K points.

    Differentiable in the points; see `estimate_pointcloud_local_coord_frames`. CPU and CUDA, float32 and float64.
    """
    _, frames = estimate_pointcloud_local_coord_frames(
        pointclouds, neighborhood_size, disambiguate_directions, use_symeig_workaround=use_symeig_workaround
    )
    return frames[..., 0]


@full_precision
def estimate_pointcloud_local_coord_frames(
    pointclouds: Tensor | Pointclouds,
    neighborhood_size: int = 50,
    disambiguate_directions: bool = True,
    *,
    use_symeig_workaround: bool = True,
) -> tuple[Tensor, Tensor]:
    """The principal directions of the neighbourhood of each point, and how far it spreads along them.

    They are the eigenvectors and eigenvalues of the covariance of the K nearest points.

    Args:
        pointclouds: (N, P, 3) points, or `Pointclouds` of N clouds.
        neighborhood_size: K, how many nearest points count, the point itself included.
        disambiguate_directions: turn the first and the last direction to the side on which most of the neighbours lie;
            the second one is then their cross product. Otherwise signs are arbitrary.
        use_symeig_workaround: use the closed form for eigenvectors instead of `torch.linalg.eigh`.

    Returns:
        curvatures: (N, P, 3) eigenvalues, ascending.
        local_coord_frames: (N, P, 3, 3) unit vectors in the columns; the first one is the normal.
        Padded for `Pointclouds`; 0 in the padding.

    Raises:
        ValueError: points that are not 3D or not finite, or a cloud with no more than K points.

    Differentiable in the points. With the closed form gradients are finite for every cloud; where two eigenvalues
    coincide to rounding, the directions in their plane are arbitrary and have no gradient.

    References:
        Tombari, Salti, Di Stefano: Unique Signatures of Histograms for Local Surface Description, ECCV 2010.
    """
    points, num_points = convert_pointclouds_to_tensor(pointclouds)
    if points.ndim != 3 or points.shape[2] != 3:
        raise ValueError(f"The pointclouds argument has to be of shape (minibatch, N, 3), got {tuple(points.shape)}.")
    if bool((num_points <= neighborhood_size).any()):
        raise ValueError(
            "The neighborhood_size argument has to be smaller than the size of each of the point clouds: "
            f"got neighborhood_size={neighborhood_size} and a cloud of {int(num_points.min())} points."
        )
    check_finite("estimate_pointcloud_local_coord_frames", "pointclouds", points)
    is_point = torch.arange(points.shape[1], device=points.device) < num_points[:, None]
    # Coordinates around the middle of each cloud keep their digits when the cloud is far from the origin.
    middle = points.masked_fill(~is_point[..., None], 0).sum(1, keepdim=True) / num_points[:, None, None]
    points = points - middle
    differences = _neighbors(points, num_points, neighborhood_size) - points[:, :, None]
    # Neighbourhoods of size one have covariances, and gradients, that neither overflow nor vanish.
    size = differences.detach().abs().amax((2, 3)).clamp(min=1e6 * torch.finfo(points.dtype).tiny)
    covariances = _covariances(differences / size[..., None, None])
    # In the padding any matrix will do that has a gradient: one with three eigenvalues.
    distinct = torch.diag(torch.arange(1, 4, dtype=points.dtype, device=points.device))
    covariances = torch.where(is_point[..., None, None], covariances, distinct)
    curvatures, frames = _eigen(covariances) if use_symeig_workaround else torch.linalg.eigh(covariances)
    curvatures = curvatures * size.square()[..., None]
    if disambiguate_directions:
        frames = _with_signs(frames, differences)
    return curvatures * is_point[..., None], frames * is_point[..., None, None]


def _neighbors(points: Tensor, num_points: Tensor, K: int) -> Tensor:
    """The K nearest points (N, P, K, 3) of each point, itself included."""
    N, P, _ = points.shape
    idx = nearest(points.detach(), points.detach(), num_points, num_points, K=K)[1]
    rows = idx + torch.arange(N, device=points.device)[:, None, None] * P
    return points.reshape(N * P, 3).index_select(0, rows.reshape(-1)).reshape(N, P, K, 3)


def _covariances(differences: Tensor) -> Tensor:
    """The covariances (..., 3, 3) of points (..., K, 3)."""
    centred = differences - differences.mean(-2, keepdim=True)
    return centred.mT @ centred / differences.shape[-2]


def _eigen(covariances: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = symeig3x3(covariances)
    assert vectors is not None
    return values, vectors


def _with_signs(frames: Tensor, differences: Tensor) -> Tensor:
    """Frames whose first and last directions have as many neighbours on their positive side as behind, or more.

    The middle direction is the cross product of the first and the last.

    Args:
        frames: (N, P, 3, 3) directions in the columns.
        differences: (N, P, K, 3) from the point to its neighbours.
    """
    outer = frames[..., ::2]
    with torch.no_grad():
        positive = (differences @ outer > 0).sum(2)
        signs = torch.where(2 * positive < differences.shape[2], -1.0, 1.0).to(frames.dtype)
    normal, last = (outer * signs[:, :, None]).unbind(-1)
    return torch.stack((normal, torch.linalg.cross(normal, last), last), dim=-1)
