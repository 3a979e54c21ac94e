"""Rays, what is sampled along them, and images made of it."""

from __future__ import annotations

from .harmonic_embedding import HarmonicEmbedding
from .occupancy import OccupancyGrid
from .raymarching import AbsorptionOnlyRaymarcher, EmissionAbsorptionRaymarcher, march_density_delta, ray_deltas
from .raysampling import (
    GridRaysampler,
    MonteCarloRaysampler,
    MultinomialRaysampler,
    NDCGridRaysampler,
    NDCMultinomialRaysampler,
)
from .renderer import ImplicitRenderer, VolumeRenderer, VolumeSampler
from .utils import (
    HeterogeneousRayBundle,
    RayBundle,
    ray_bundle_to_ray_points,
    ray_bundle_variables_to_ray_points,
)

__all__ = [
    "AbsorptionOnlyRaymarcher",
    "EmissionAbsorptionRaymarcher",
    "GridRaysampler",
    "HarmonicEmbedding",
    "HeterogeneousRayBundle",
    "ImplicitRenderer",
    "MonteCarloRaysampler",
    "MultinomialRaysampler",
    "NDCGridRaysampler",
    "NDCMultinomialRaysampler",
    "OccupancyGrid",
    "RayBundle",
    "VolumeRenderer",
    "VolumeSampler",
    "march_density_delta",
    "ray_bundle_to_ray_points",
    "ray_bundle_variables_to_ray_points",
    "ray_deltas",
]
