"""The position of a camera is found from silhouette and colours of a cow. It imports pytorch3d only."""

import sys
import time

import numpy as np
import torch
from pytorch3d.io import load_objs_as_meshes
from pytorch3d.renderer import (
    BlendParams,
    FoVPerspectiveCameras,
    HardPhongShader,
    MeshRasterizer,
    MeshRenderer,
    PointLights,
    RasterizationSettings,
    SoftPhongShader,
    SoftSilhouetteShader,
    look_at_rotation,
    look_at_view_transform,
)
from torch import nn

device = torch.device("cpu")
size = int(sys.argv[3])
cow = load_objs_as_meshes([sys.argv[1]], device=device)

cameras = FoVPerspectiveCameras(device=device)
lights = PointLights(device=device, location=((2.0, 2.0, -2.0),))
blend_params = BlendParams(sigma=1e-4, gamma=1e-4)
blur_radius = np.log(1.0 / 1e-4 - 1.0) * blend_params.sigma
renderer_silhouette = MeshRenderer(
    rasterizer=MeshRasterizer(
        cameras=cameras,
        raster_settings=RasterizationSettings(image_size=size, blur_radius=blur_radius, faces_per_pixel=100),
    ),
    shader=SoftSilhouetteShader(blend_params=blend_params),
)
renderer_textured = MeshRenderer(
    rasterizer=MeshRasterizer(
        cameras=cameras,
        raster_settings=RasterizationSettings(image_size=size, blur_radius=blur_radius, faces_per_pixel=50),
    ),
    shader=SoftPhongShader(device=device, cameras=cameras, lights=lights),
)
phong_renderer = MeshRenderer(
    rasterizer=MeshRasterizer(
        cameras=cameras,
        raster_settings=RasterizationSettings(image_size=size, blur_radius=0.0, faces_per_pixel=1),
    ),
    shader=HardPhongShader(device=device, cameras=cameras, lights=lights),
)

R, T = look_at_view_transform(3, 50.0, 0.0, device=device)
target_position = -torch.bmm(R, T[:, :, None])[0, :, 0]
image_ref = phong_renderer(meshes_world=cow, R=R, T=T).cpu().numpy()


class Model(nn.Module):
    def __init__(self, meshes, image_ref, weight_silhouette, weight_texture):
        super().__init__()
        self.meshes = meshes
        self.device = meshes.device
        self.weight_silhouette = weight_silhouette
        self.weight_texture = weight_texture
        silhouette = (image_ref[..., :3].max(-1) != 1).astype(np.float32)
        self.register_buffer("silhouette_ref", torch.from_numpy(silhouette))
        self.register_buffer("textured_ref", torch.from_numpy(image_ref[..., :3].astype(np.float32)))
        start = torch.from_numpy(np.array([3.0, 6.9, +2.5], dtype=np.float32))
        self.camera_position = nn.Parameter(start.to(meshes.device))

    def view(self):
        R = look_at_rotation(self.camera_position[None, :], device=self.device)
        return R, -torch.bmm(R.transpose(1, 2), self.camera_position[None, :, None])[:, :, 0]

    def forward(self):
        R, T = self.view()
        silhouette = renderer_silhouette(meshes_world=self.meshes.clone(), R=R, T=T)
        textured = renderer_textured(meshes_world=self.meshes.clone(), R=R, T=T)
        loss_silhouette = torch.sum((silhouette[..., 3] - self.silhouette_ref) ** 2)
        loss_texture = torch.sum((textured[..., :3] - self.textured_ref) ** 2)
        return self.weight_silhouette * loss_silhouette + self.weight_texture * loss_texture


model = Model(meshes=cow, image_ref=image_ref, weight_silhouette=1.0, weight_texture=0.1).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
began = time.process_time(), time.perf_counter()
for _ in range(int(sys.argv[2])):
    optimizer.zero_grad()
    loss = model()
    loss.backward()
    optimizer.step()
    print("loss", loss.item())
    R, T = model.view()
    image = phong_renderer(meshes_world=model.meshes.clone(), R=R, T=T)
    image = image[0, ..., :3].detach().squeeze().cpu().numpy()
    if loss.item() < 800 * (size / 256) ** 2:
        break
print("cpu", time.process_time() - began[0])
print("wall", time.perf_counter() - began[1])
print("distance", (model.camera_position - target_position).norm().item())
