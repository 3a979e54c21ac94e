"""Densities and colours of volumes are read along the rays of a file. It imports pytorch3d only."""

import sys

import torch
from pytorch3d.renderer.implicit.renderer import VolumeSampler
from pytorch3d.structures import Volumes

device = torch.device("cpu")
rays = torch.load(sys.argv[1], weights_only=False)["ray_bundle"]
torch.manual_seed(0)
shape = (64, 64, 64)
volumes = Volumes(
    densities=torch.rand(10, 1, *shape, device=device) * 0.1,
    features=torch.rand(10, 3, *shape, device=device),
    voxel_size=0.1,
)
sampler = VolumeSampler(volumes=volumes, sample_mode="bilinear")
densities, features = sampler(rays)
print("densities", densities.shape)
print("features", features.shape)
torch.save({"rays_densities": densities, "rays_features": features}, sys.argv[2])
