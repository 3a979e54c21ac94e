"""A volume is fitted to pictures of a cow. It imports pytorch3d only."""

import sys

import torch
from pytorch3d.renderer import EmissionAbsorptionRaymarcher, NDCGridRaysampler, VolumeRenderer
from pytorch3d.structures import Volumes
from views_of_cow import chosen, huber, turntable, views_of_cow

path, iterations, size, resolution, points, count = sys.argv[1], *map(int, sys.argv[2:7])
extent = 3.0
torch.manual_seed(0)
cameras, images, silhouettes = views_of_cow(path, torch.linspace(-180.0, 180.0, 40) + 180.0, size)

sampler = NDCGridRaysampler(image_width=size, image_height=size, n_pts_per_ray=points, min_depth=0.1, max_depth=extent)
renderer = VolumeRenderer(raysampler=sampler, raymarcher=EmissionAbsorptionRaymarcher())


class VolumeModel(torch.nn.Module):
    def __init__(self, renderer, volume_size, voxel_size):
        super().__init__()
        self.log_densities = torch.nn.Parameter(-4.0 * torch.ones(1, *volume_size))
        self.log_colors = torch.nn.Parameter(torch.zeros(3, *volume_size))
        self._voxel_size = voxel_size
        self._renderer = renderer

    def forward(self, cameras):
        count = cameras.R.shape[0]
        volumes = Volumes(
            densities=torch.sigmoid(self.log_densities)[None].expand(count, *self.log_densities.shape),
            features=torch.sigmoid(self.log_colors)[None].expand(count, *self.log_colors.shape),
            voxel_size=self._voxel_size,
        )
        return self._renderer(cameras=cameras, volumes=volumes)[0]


model = VolumeModel(renderer, volume_size=[resolution] * 3, voxel_size=extent / resolution)
optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
for iteration in range(iterations):
    if iteration == round(iterations * 0.75):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    optimizer.zero_grad()
    index = torch.randperm(len(cameras))[:10]
    colors, opacity = model(chosen(cameras, index)).split([3, 1], dim=-1)
    silhouette_error = huber(opacity[..., 0], silhouettes[index]).abs().mean()
    color_error = huber(colors, images[index]).abs().mean()
    loss = color_error + silhouette_error
    loss.backward()
    optimizer.step()
    print("loss", loss.item())

held_out, expected, _ = views_of_cow(path, torch.tensor([14.0, 97.0, 190.0, 271.0]), size)
with torch.no_grad():
    rendered = model(held_out)
    frames = torch.cat([model(camera)[..., :3].clamp(0.0, 1.0) for camera in turntable(cameras, count)])
print("rendered", rendered.shape)
print("frames", frames.shape)
print("mean", float(frames.mean()))
print("psnr", -10 * float((rendered[..., :3].clamp(0.0, 1.0) - expected).square().mean().log10()))
