"""A network that gives the density and the colour of every point in space."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recon_engine.renderer import HarmonicEmbedding, RayBundle, ray_bundle_to_ray_points
from recon_engine.structures import Volumes

_SHARPNESS = 10.0  # beta of the softplus functions
_START_DENSITY = -1.5  # bias of the density: at the start space is nearly empty
_POINTS_AT_ONCE = 1 << 18  # evaluated together when nothing is learnt: bounds the memory


class RadianceField(torch.nn.Module):
    """A small network for one scene.

    Position and direction enter as sines and cosines (`HarmonicEmbedding`). Two layers make features of the position;
    one more makes the density `1 - exp(-softplus(.))` of them, and two make the colour of them and the direction.
    Activations are softplus with beta = 10, the colour is a sigmoid.

    Args:
        harmonics: frequencies of the embedding.
        omega: the lowest of them.
        hidden: width of the layers.

    References:
        Mildenhall et al., NeRF, ECCV 2020; the network is smaller than theirs.
    """

    def __init__(self, harmonics: int = 60, omega: float = 0.1, hidden: int = 256) -> None:
        super().__init__()
        self.embedding = HarmonicEmbedding(harmonics, omega, append_input=False)
        waves = self.embedding.get_output_dim(3)
        self.trunk = torch.nn.ModuleList([torch.nn.Linear(waves, hidden), torch.nn.Linear(hidden, hidden)])
        self.density = torch.nn.Linear(hidden, 1)
        torch.nn.init.constant_(self.density.bias, _START_DENSITY)
        # One layer on features and direction together, split where they meet: a ray's samples share its direction, so
        # that part is computed once for a ray.
        self.color_of_features = torch.nn.Linear(hidden, hidden)
        self.color_of_direction = torch.nn.Linear(waves, hidden, bias=False)
        self.color = torch.nn.Linear(hidden, 3)

    def forward(self, ray_bundle: RayBundle, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Density and colour of the samples of rays; a volumetric function for `ImplicitRenderer`.

        Args:
            ray_bundle: (..., 3) origins and directions, (..., S) lengths.
            **kwargs: ignored.

        Returns:
            densities (..., S, 1) and colours (..., S, 3), from 0 to 1. Differentiable.
        """
        features = self.embedding(ray_bundle_to_ray_points(ray_bundle))
        for layer in self.trunk:
            features = F.softplus(layer(features), _SHARPNESS)
        densities = -torch.expm1(-F.softplus(self.density(features), _SHARPNESS))
        directions = self.embedding(F.normalize(ray_bundle.directions, dim=-1))
        mixed = self.color_of_features(features) + self.color_of_direction(directions)[..., None, :]
        return densities, self.color(F.softplus(mixed, _SHARPNESS)).sigmoid()

    def on_grid(self, points: int, extent: float = 1.05) -> Volumes:
        """Densities and colours at the points of a grid around the unit sphere, seen from outside; without gradients.

        Args:
            points: along each side.
            extent: half of a side.
        """
        axis = torch.linspace(-extent, extent, points, device=self.density.weight.device)
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        places = torch.stack([x, y, z], -1)
        with torch.no_grad():
            samples = self.in_chunks(RayBundle(places, -places, torch.zeros_like(x)[..., None], places[..., :2]))
        densities, colors = (sample[..., 0, :].permute(3, 0, 1, 2)[None] for sample in samples)
        return Volumes(densities, colors, voxel_size=2 * extent / (points - 1))

    def in_chunks(self, ray_bundle: RayBundle, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The same as `forward`, some rays at a time: for whole pictures, without gradients."""
        shape = ray_bundle.lengths.shape
        rays = _POINTS_AT_ONCE // shape[-1] or 1
        flat = [field.reshape(-1, field.shape[-1]).split(rays) for field in ray_bundle]
        densities, colors = zip(*(self(RayBundle(*chunk)) for chunk in zip(*flat, strict=True)), strict=True)
        return torch.cat(densities).reshape(*shape, 1), torch.cat(colors).reshape(*shape, 3)
