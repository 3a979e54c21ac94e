"""Bundles of rays, and the points along them."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from torch import Tensor


class RayBundle(NamedTuple):
    """Rays in world coordinates, with the places along them that are sampled.

    Attributes:
        origins: (..., 3) where the rays start.
        directions: (..., 3) what they advance by in a unit of length; of any norm.
        lengths: (..., S) how far along its ray each sample lies.
        xys: (..., 2) the point of the image that each ray goes through.
    """

    origins: Tensor
    directions: Tensor
    lengths: Tensor
    xys: Tensor


@dataclasses.dataclass
class HeterogeneousRayBundle:
    """Rays of several cameras, in unequal numbers: those of one camera follow each other along the first dimension.

    Attributes:
        origins: (R, ..., 3), as in `RayBundle`.
        directions: (R, ..., 3).
        lengths: (R, ..., S).
        xys: (R, ..., 2).
        camera_ids: (N,) int64, the different cameras that the rays belong to.
        camera_counts: (N,) int64, how many rays belong to each; they sum to R.
    """

    origins: Tensor
    directions: Tensor
    lengths: Tensor
    xys: Tensor
    camera_ids: Tensor | None = None
    camera_counts: Tensor | None = None


def ray_bundle_to_ray_points(ray_bundle: RayBundle | HeterogeneousRayBundle) -> Tensor:
    """The sampled points of a bundle of rays.

    Args:
        ray_bundle: anything with `origins` (..., 3), `directions` (..., 3) and `lengths` (..., S).

    Returns:
        (..., S, 3): origin + length * direction. Differentiable.
    """
    return ray_bundle_variables_to_ray_points(ray_bundle.origins, ray_bundle.directions, ray_bundle.lengths)


def ray_bundle_variables_to_ray_points(rays_origins: Tensor, rays_directions: Tensor, rays_lengths: Tensor) -> Tensor:
    """The sampled points of rays.

    Args:
        rays_origins: (..., 3).
        rays_directions: (..., 3), of any norm.
        rays_lengths: (..., S).

    Returns:
        (..., S, 3): origin + length * direction. Differentiable.
    """
    return rays_origins[..., None, :] + rays_lengths[..., None] * rays_directions[..., None, :]


def _validate_ray_bundle_variables(rays_origins: Tensor, rays_directions: Tensor, rays_lengths: Tensor) -> None:
    """Raises ValueError unless the tensors are (N, ..., 3), (N, ..., 3) and (N, ..., S), with at least 3 dimensions."""
    shapes = [tuple(rays.shape) for rays in (rays_origins, rays_directions, rays_lengths)]
    names = "rays_origins, rays_directions and rays_lengths"
    if len({len(shape) for shape in shapes}) > 1 or len(shapes[0]) < 3:
        raise ValueError(f"{names} must have the same number of dimensions, at least 3; got shapes {shapes}")
    if len({shape[:-1] for shape in shapes}) > 1:
        raise ValueError(f"{names} may differ only in their last dimension; got shapes {shapes}")
    if shapes[0][-1] != 3 or shapes[1][-1] != 3:
        raise ValueError(f"the last dimension of rays_origins and rays_directions must be 3; got shapes {shapes[:2]}")
