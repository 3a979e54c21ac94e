"""What was read along rays becomes pictures. It imports pytorch3d only."""

import sys

import torch
from pytorch3d.renderer.implicit.raymarching import EmissionAbsorptionRaymarcher

samples = torch.load(sys.argv[1], weights_only=True)
marcher = EmissionAbsorptionRaymarcher()
images = marcher(rays_densities=samples["rays_densities"], rays_features=samples["rays_features"])
print("images", images.shape)
torch.save(images, sys.argv[2])
