"""Rays through the pixels of ten cameras are written to a file. It imports pytorch3d only."""

import sys

import torch
from pytorch3d.renderer import FoVPerspectiveCameras, NDCGridRaysampler, PointLights, look_at_view_transform

device = torch.device("cpu")
count = 10
elevation = torch.linspace(0, 0, count)
azimuth = torch.linspace(-180.0, 180.0, count) + 180.0
lights = PointLights(device=device, location=[[0.0, 0.0, -3.0]])
R, T = look_at_view_transform(dist=2.7, elev=elevation, azim=azimuth)
cameras = FoVPerspectiveCameras(device=device, R=R, T=T)

sampler = NDCGridRaysampler(image_width=64, image_height=64, n_pts_per_ray=50, min_depth=0.1, max_depth=3.0)
rays = sampler(cameras)
print("origins", rays.origins.shape)
print("directions", rays.directions.shape)
print("lengths", rays.lengths.shape)
print("xys", rays.xys.shape)
torch.save({"ray_bundle": rays}, sys.argv[1])
