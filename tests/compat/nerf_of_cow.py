"""A neural radiance field is fitted to pictures of a cow. It imports pytorch3d only."""

import sys

import torch
from pytorch3d.renderer import (
    EmissionAbsorptionRaymarcher,
    HarmonicEmbedding,
    ImplicitRenderer,
    MonteCarloRaysampler,
    NDCMultinomialRaysampler,
    RayBundle,
    ray_bundle_to_ray_points,
)
from views_of_cow import chosen, huber, turntable, views_of_cow

path, iterations, size, points, rays_per_image, width, frames = sys.argv[1], *map(int, sys.argv[2:8])
extent = 3.0
torch.manual_seed(1)
cameras, images, silhouettes = views_of_cow(path, torch.linspace(-180.0, 180.0, 40) + 180.0, size)

sampler = MonteCarloRaysampler(
    min_x=-1.0,
    max_x=1.0,
    min_y=-1.0,
    max_y=1.0,
    n_rays_per_image=rays_per_image,
    n_pts_per_ray=points,
    min_depth=0.1,
    max_depth=extent,
)
grid = NDCMultinomialRaysampler(
    image_height=size, image_width=size, n_pts_per_ray=points, min_depth=0.1, max_depth=extent
)
marcher = EmissionAbsorptionRaymarcher()
renderer = ImplicitRenderer(raysampler=sampler, raymarcher=marcher)
renderer_grid = ImplicitRenderer(raysampler=grid, raymarcher=marcher)


class Field(torch.nn.Module):
    def __init__(self, harmonics=60, width=256):
        super().__init__()
        self.embedding = HarmonicEmbedding(harmonics, 0.1, append_input=False)
        waves = harmonics * 2 * 3
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(waves, width),
            torch.nn.Softplus(beta=10.0),
            torch.nn.Linear(width, width),
            torch.nn.Softplus(beta=10.0),
        )
        self.color = torch.nn.Sequential(
            torch.nn.Linear(width + waves, width),
            torch.nn.Softplus(beta=10.0),
            torch.nn.Linear(width, 3),
            torch.nn.Sigmoid(),
        )
        self.density = torch.nn.Sequential(torch.nn.Linear(width, 1), torch.nn.Softplus(beta=10.0))
        self.density[0].bias.data[0] = -1.5

    def forward(self, ray_bundle: RayBundle, **kwargs):
        features = self.mlp(self.embedding(ray_bundle_to_ray_points(ray_bundle)))
        densities = 1 - (-self.density(features)).exp()
        directions = self.embedding(torch.nn.functional.normalize(ray_bundle.directions, dim=-1))
        directions = directions[..., None, :].expand(*features.shape[:-1], directions.shape[-1])
        return densities, self.color(torch.cat((features, directions), dim=-1))

    def in_batches(self, ray_bundle: RayBundle, n_batches: int = 16, **kwargs):
        points = ray_bundle.lengths.shape[-1]
        shape = [*ray_bundle.origins.shape[:-1], points]
        batches = torch.chunk(torch.arange(ray_bundle.origins.shape[:-1].numel()), n_batches)
        parts = [
            self.forward(
                RayBundle(
                    origins=ray_bundle.origins.view(-1, 3)[batch],
                    directions=ray_bundle.directions.view(-1, 3)[batch],
                    lengths=ray_bundle.lengths.view(-1, points)[batch],
                    xys=None,
                )
            )
            for batch in batches
        ]
        return [torch.cat([part[i] for part in parts], dim=0).view(*shape, -1) for i in (0, 1)]


def at_rays(target, xys):
    """The pictures where the rays go through them."""
    count, channels = target.shape[0], target.shape[-1]
    sampled = torch.nn.functional.grid_sample(
        target.permute(0, 3, 1, 2), -xys.view(count, -1, 1, 2), align_corners=True
    )
    return sampled.permute(0, 2, 3, 1).view(count, *xys.shape[1:-1], channels)


field = Field(width=width)
print("parameters", sum(parameter.numel() for parameter in field.parameters()))
optimizer = torch.optim.Adam(field.parameters(), lr=1e-3)
for iteration in range(iterations):
    if iteration == round(iterations * 0.75):
        optimizer = torch.optim.Adam(field.parameters(), lr=1e-4)
    optimizer.zero_grad()
    index = torch.randperm(len(cameras))[:6]
    rendered, rays = renderer(cameras=chosen(cameras, index), volumetric_function=field)
    colors, opacity = rendered.split([3, 1], dim=-1)
    silhouette_error = huber(opacity, at_rays(silhouettes[index, ..., None], rays.xys)).abs().mean()
    color_error = huber(colors, at_rays(images[index], rays.xys)).abs().mean()
    loss = color_error + silhouette_error
    loss.backward()
    optimizer.step()
    if iteration == 0:
        print("rays", rays.origins.shape, rays.lengths.shape, rendered.shape)
    print("loss", loss.item())

with torch.no_grad():
    whole, _ = renderer_grid(cameras=chosen(cameras, [0]), volumetric_function=field.in_batches)
    turned = [
        renderer_grid(cameras=camera, volumetric_function=field.in_batches)[0] for camera in turntable(cameras, frames)
    ]
print("whole", whole.shape)
print("frames", torch.cat(turned).shape)
print("mean", float(torch.cat(turned)[..., :3].mean()))
print("psnr", -10 * float((whole[..., :3].clamp(0.0, 1.0) - images[:1]).square().mean().log10()))
