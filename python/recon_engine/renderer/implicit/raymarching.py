"""From densities and features of the samples along rays to what the rays show."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from recon_engine._compile import can_look

_ROUNDED = 1e-6  # trilinear weights sum to one but for this much


class EmissionAbsorptionRaymarcher(torch.nn.Module):
    """Shows the features of samples, dimmed by what lies in front of them.

    A sample of density a hides that share of what is behind it and shows its own features to the same share: with the
    samples of a ray in order, `w_i = a_i prod_{j <= i - surface_thickness} (1 + eps - a_j)` is the weight of sample i,
    and a ray shows `sum_i w_i f_i`.

    Args:
        surface_thickness: how many samples, its own counted as the first, do not dim a sample. With 0, a sample of
            density 1 hides itself.

    References:
        Max, Optical models for direct volume rendering, IEEE TVCG 1995; Mildenhall et al., NeRF, ECCV 2020.
    """

    def __init__(self, surface_thickness: int = 1) -> None:
        super().__init__()
        if surface_thickness < 0:
            raise ValueError(f"surface_thickness must be 0 or more samples, got {surface_thickness}")
        self.surface_thickness = surface_thickness

    def forward(self, rays_densities: Tensor, rays_features: Tensor, eps: float = 1e-10, **kwargs: Any) -> Tensor:
        """What each ray shows.

        Args:
            rays_densities: (..., S, 1) from 0 to 1.
            rays_features: (..., S, C).
            eps: keeps opaque samples from hiding all behind them, which would leave that without gradients.
            **kwargs: ignored.

        Returns:
            (..., C + 1): the features of each ray and, last, its opacity `1 - prod_i (1 - a_i)`. Differentiable.

        Raises:
            ValueError: for inputs that are not tensors of these shapes.

        Warns:
            UserWarning: where densities are below 0 or above 1.
        """
        _check_raymarcher_inputs(rays_densities, rays_features)
        _check_density_bounds(rays_densities)
        return _march(rays_densities, rays_features, eps, self.surface_thickness)


class AbsorptionOnlyRaymarcher(torch.nn.Module):
    """Shows how much light a ray loses: `1 - prod_i (1 - a_i)` for samples of density a_i."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, rays_densities: Tensor, **kwargs: Any) -> Tensor | None:
        """The opacity of each ray.

        Args:
            rays_densities: (..., S, 1) from 0 to 1.
            **kwargs: ignored.

        Returns:
            (..., 1) from 0 to 1. Differentiable.

        Raises:
            ValueError: unless `rays_densities` is a tensor of this shape.

        Warns:
            UserWarning: where densities are below 0 or above 1.
        """
        _check_raymarcher_inputs(rays_densities, None, features_can_be_none=True)
        _check_density_bounds(rays_densities)
        return _march(rays_densities, rays_densities.detach()[..., :0], 0.0, 1)


def ray_deltas(rays_lengths: Tensor, rays_directions: Tensor, last: float = 1e10) -> Tensor:
    """How far the samples of rays lie from the next ones.

    Args:
        rays_lengths: (..., S) in ascending order.
        rays_directions: (..., 3), of any norm.
        last: the distance from the last sample on, before it is multiplied by the norm.

    Returns:
        (..., S) the distances in the world. Differentiable.
    """
    steps = torch.nn.functional.pad(rays_lengths.diff(dim=-1), (0, 1), value=last)[..., : rays_lengths.shape[-1]]
    return steps * rays_directions.norm(dim=-1, keepdim=True)


def march_density_delta(
    rays_densities: Tensor, rays_deltas: Tensor, rays_features: Tensor, eps: float = 1e-10
) -> Tensor:
    """What rays show through a medium: densities are per unit of length, as NeRF has them, and not opacities.

    `a_i = 1 - exp(-max(density_i, 0) delta_i)` is the opacity of what lies between sample i and the next, and
    `sum_i a_i prod_{j < i} (1 - a_j + eps) f_i` is what a ray shows.

    Args:
        rays_densities: (..., S) or (..., S, 1), of any sign.
        rays_deltas: (..., S) distances to the next samples; see `ray_deltas`.
        rays_features: (..., S, C).
        eps: as in `EmissionAbsorptionRaymarcher`.

    Returns:
        (..., C + 1): the features of each ray and, last, its opacity `1 - prod_i (1 - a_i)`. Differentiable.

    Raises:
        ValueError: for inputs that are not tensors of these shapes.

    References:
        Mildenhall et al., NeRF, ECCV 2020, equation 3; Niemeyer and Geiger, GIRAFFE, CVPR 2021, section 3.3.
    """
    if isinstance(rays_densities, Tensor) and rays_densities.ndim == rays_deltas.ndim:
        rays_densities = rays_densities[..., None]
    _check_raymarcher_inputs(rays_densities, rays_features)
    if rays_deltas.shape != rays_densities.shape[:-1]:
        raise ValueError(
            "rays_deltas must have one number for each density, got shapes "
            f"{tuple(rays_deltas.shape)} and {tuple(rays_densities.shape)}"
        )
    opacities = -torch.expm1(-rays_densities.relu() * rays_deltas[..., None])
    return _march(opacities, rays_features, eps, 1)


def _march(densities: Tensor, features: Tensor, eps: float, shift: int) -> Tensor:
    from recon_engine.ops._march_rays import march_rays

    dtype = torch.promote_types(densities.dtype, features.dtype)
    *rays, S, C = features.shape
    R = densities.shape[:-2].numel()
    out = march_rays(densities.to(dtype).reshape(R, S), features.to(dtype).reshape(R, S, C), eps, shift)
    return out.reshape(*rays, C + 1)


def _check_density_bounds(rays_densities: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> None:
    """Warns where densities lie outside of `bounds` by more than an interpolation between them is rounded."""
    if rays_densities.numel() == 0 or not can_look(rays_densities):
        return
    low, high = rays_densities.detach().aminmax()
    if bool((low < bounds[0] - _ROUNDED) | (high > bounds[1] + _ROUNDED)):
        warnings.warn(
            f"One or more elements of rays_densities are outside of valid range {bounds}: they lie between "
            f"{low.item():g} and {high.item():g}; a sigmoid or `1 - exp(-x)` makes densities of any numbers x >= 0",
            stacklevel=3,
        )


def _check_raymarcher_inputs(
    rays_densities: Tensor, rays_features: Tensor | None, *, features_can_be_none: bool = False
) -> None:
    """Raises ValueError unless densities are (..., S, 1) and features, where there must be some, (..., S, C)."""
    if not isinstance(rays_densities, Tensor):
        raise ValueError(f"rays_densities must be a tensor, got {type(rays_densities).__name__}")
    if rays_densities.ndim < 2 or rays_densities.shape[-1] != 1:
        raise ValueError(
            "rays_densities must have shape (..., points per ray, 1), one number for each point; got "
            f"{tuple(rays_densities.shape)}"
        )
    if rays_features is None and features_can_be_none:
        return
    if not isinstance(rays_features, Tensor):
        raise ValueError(f"rays_features must be a tensor, got {type(rays_features).__name__}")
    if rays_features.shape[:-1] != rays_densities.shape[:-1]:
        raise ValueError(
            "rays_features must have the shape of rays_densities but for the last dimension; got "
            f"{tuple(rays_features.shape)} and {tuple(rays_densities.shape)}"
        )
