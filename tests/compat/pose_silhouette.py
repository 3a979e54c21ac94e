"""The position of a camera is found from a silhouette of a teapot. It imports pytorch3d only."""

import sys
import time

import numpy as np
import torch
from pytorch3d.io import load_obj
from pytorch3d.renderer import (
    BlendParams,
    FoVPerspectiveCameras,
    HardPhongShader,
    MeshRasterizer,
    MeshRenderer,
    PointLights,
    RasterizationSettings,
    SoftSilhouetteShader,
    TexturesVertex,
    look_at_rotation,
    look_at_view_transform,
)
from pytorch3d.structures import Meshes
from torch import nn

device = torch.device("cpu")
size = int(sys.argv[3])
verts, faces_idx, _ = load_obj(sys.argv[1])
textures = TexturesVertex(verts_features=torch.ones_like(verts)[None].to(device))
teapot = Meshes(verts=[verts.to(device)], faces=[faces_idx.verts_idx.to(device)], textures=textures)

cameras = FoVPerspectiveCameras(device=device)
blend_params = BlendParams(sigma=1e-4, gamma=1e-4)
soft = RasterizationSettings(
    image_size=size, blur_radius=np.log(1.0 / 1e-4 - 1.0) * blend_params.sigma, faces_per_pixel=100
)
silhouette_renderer = MeshRenderer(
    rasterizer=MeshRasterizer(cameras=cameras, raster_settings=soft),
    shader=SoftSilhouetteShader(blend_params=blend_params),
)
hard = RasterizationSettings(image_size=size, blur_radius=0.0, faces_per_pixel=1)
lights = PointLights(device=device, location=((2.0, 2.0, -2.0),))
phong_renderer = MeshRenderer(
    rasterizer=MeshRasterizer(cameras=cameras, raster_settings=hard),
    shader=HardPhongShader(device=device, cameras=cameras, lights=lights),
)

R, T = look_at_view_transform(3, 50.0, 0.0, device=device)
target_position = -torch.bmm(R, T[:, :, None])[0, :, 0]
image_ref = phong_renderer(meshes_world=teapot, R=R, T=T).cpu().numpy()


class Model(nn.Module):
    def __init__(self, meshes, renderer, image_ref):
        super().__init__()
        self.meshes = meshes
        self.device = meshes.device
        self.renderer = renderer
        image_ref = torch.from_numpy((image_ref[..., :3].max(-1) != 1).astype(np.float32))
        self.register_buffer("image_ref", image_ref)
        start = torch.from_numpy(np.array([3.0, 6.9, +2.5], dtype=np.float32))
        self.camera_position = nn.Parameter(start.to(meshes.device))

    def view(self):
        R = look_at_rotation(self.camera_position[None, :], device=self.device)
        return R, -torch.bmm(R.transpose(1, 2), self.camera_position[None, :, None])[:, :, 0]

    def forward(self):
        R, T = self.view()
        image = self.renderer(meshes_world=self.meshes.clone(), R=R, T=T)
        return torch.sum((image[..., 3] - self.image_ref) ** 2), image


model = Model(meshes=teapot, renderer=silhouette_renderer, image_ref=image_ref).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
began = time.process_time(), time.perf_counter()
for _ in range(int(sys.argv[2])):
    optimizer.zero_grad()
    loss, _ = model()
    loss.backward()
    optimizer.step()
    print("loss", loss.item())
    if loss.item() < 500 * (size / 256) ** 2:
        break
    R, T = model.view()
    image = phong_renderer(meshes_world=model.meshes.clone(), R=R, T=T)
    image = image[0, ..., :3].detach().squeeze().cpu().numpy()
print("cpu", time.process_time() - began[0])
print("wall", time.perf_counter() - began[1])
print("distance", (model.camera_position - target_position).norm().item())
