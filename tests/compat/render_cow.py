"""Six pictures of a textured cow under different lights and materials. It imports pytorch3d only."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from pytorch3d.io import load_objs_as_meshes
from pytorch3d.renderer import (
    FoVPerspectiveCameras,
    Materials,
    MeshRasterizer,
    MeshRenderer,
    PerspectiveCameras,
    PointLights,
    RasterizationSettings,
    look_at_view_transform,
)
from pytorch3d.renderer.mesh.shader import HardPhongShader

device = torch.device("cpu")
out = Path(sys.argv[2])
mesh = load_objs_as_meshes([sys.argv[1]], device=device)

R, T = look_at_view_transform(2.7, 0, 180)
cameras = PerspectiveCameras(device=device, R=R, T=T)
lights = PointLights(device=device, location=[[0.0, 0.0, -3.0]])
raster_settings = RasterizationSettings(image_size=512, blur_radius=0.0, faces_per_pixel=1)
renderer = MeshRenderer(
    rasterizer=MeshRasterizer(cameras=cameras, raster_settings=raster_settings),
    shader=HardPhongShader(device=device, cameras=cameras, lights=lights),
)


def save(name, images):
    plt.figure(figsize=(10, 10))
    plt.imshow(images[0, ..., :3].cpu().numpy())
    plt.axis("off")
    plt.savefig(out / f"{name}.png")
    plt.close()


save("light_at_front", renderer(mesh))

lights.location = torch.tensor([0.0, 0.0, +1.0], device=device)[None]
save("light_at_back", renderer(mesh, lights=lights))

green = [[0.0, 1.0, 0.0]]
materials = Materials(device=device, specular_color=green, shininess=10.0, ambient_color=((0.01, 0.01, 0.01),))
save("dark", renderer(mesh, lights=lights, materials=materials))

R, T = look_at_view_transform(dist=2.7, elev=10, azim=-150)
cameras = FoVPerspectiveCameras(device=device, R=R, T=T)
lights.location = torch.tensor([[2.0, 2.0, -2.0]], device=device)
for name, specular_color, shininess in [
    ("green", green, 10.0),
    ("red", [[1.0, 0.0, 0.0]], 20.0),
    ("blue", [[0.0, 0.0, 1.0]], 0.0),
]:
    materials = Materials(device=device, specular_color=specular_color, shininess=shininess)
    save(name, renderer(mesh, lights=lights, materials=materials, cameras=cameras))
