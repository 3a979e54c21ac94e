"""Pictures and silhouettes of a cow from all around. It imports pytorch3d only."""

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
    SoftSilhouetteShader,
    look_at_view_transform,
)
from pytorch3d.transforms import so3_exp_map


def views_of_cow(path, azimuth, size):
    """Cameras, pictures (N, S, S, 3) on black and silhouettes (N, S, S)."""
    device = torch.device("cpu")
    mesh = load_objs_as_meshes([path], device=device)
    verts = mesh.verts_packed()
    center = verts.mean(0)
    mesh.offset_verts_(-center.expand(len(verts), 3))
    mesh.scale_verts_(1.0 / float((verts - center).abs().max()))

    R, T = look_at_view_transform(dist=2.7, elev=torch.zeros(len(azimuth)), azim=azimuth)
    cameras = FoVPerspectiveCameras(device=device, R=R, T=T)
    lights = PointLights(device=device, location=[[0.0, 0.0, -3.0]])
    meshes = mesh.extend(len(azimuth))
    sharp = RasterizationSettings(image_size=size, blur_radius=0.0, faces_per_pixel=1)
    blend = BlendParams(sigma=1e-4, gamma=1e-4, background_color=(0.0, 0.0, 0.0))
    paint = MeshRenderer(
        rasterizer=MeshRasterizer(cameras=cameras, raster_settings=sharp),
        shader=HardPhongShader(device=device, cameras=cameras, lights=lights, blend_params=blend),
    )
    soft = RasterizationSettings(image_size=size, blur_radius=np.log(1.0 / 1e-4 - 1.0) * 1e-4, faces_per_pixel=50)
    outline = MeshRenderer(
        rasterizer=MeshRasterizer(cameras=cameras, raster_settings=soft), shader=SoftSilhouetteShader()
    )
    images = paint(meshes, cameras=cameras, lights=lights)[..., :3]
    silhouettes = (outline(meshes, cameras=cameras, lights=lights)[..., 3] > 1e-4).float()
    return cameras, images, silhouettes


def chosen(cameras, index):
    """A batch of some of the cameras."""
    return FoVPerspectiveCameras(
        R=cameras.R[index],
        T=cameras.T[index],
        znear=cameras.znear[index],
        zfar=cameras.zfar[index],
        aspect_ratio=cameras.aspect_ratio[index],
        fov=cameras.fov[index],
        device=cameras.device,
    )


def turntable(cameras, count):
    """Cameras with the lens of the first one, once around the object."""
    log_rotations = torch.zeros(count, 3, device=cameras.device)
    log_rotations[:, 1] = torch.linspace(0, 2 * 3.14, count, device=cameras.device)
    translations = torch.tensor([[0.0, 0.0, 2.7]], device=cameras.device)
    return [
        FoVPerspectiveCameras(
            R=R[None],
            T=translations,
            znear=cameras.znear[0],
            zfar=cameras.zfar[0],
            aspect_ratio=cameras.aspect_ratio[0],
            fov=cameras.fov[0],
            device=cameras.device,
        )
        for R in so3_exp_map(log_rotations)
    ]


def huber(x, y, scaling=0.1):
    """A loss that large differences do not dominate."""
    squared = (x - y) ** 2
    return ((1 + squared / scaling**2).clamp(1e-4).sqrt() - 1) * float(scaling)
