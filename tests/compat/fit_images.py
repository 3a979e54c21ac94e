"""A program as PyTorch3D's users write it: shape and colours are fitted to pictures, or with
--silhouettes the shape alone. It imports pytorch3d only."""

import sys
import time

import numpy as np
import torch
from pytorch3d.io import load_objs_as_meshes
from pytorch3d.loss import mesh_edge_loss, mesh_laplacian_smoothing, mesh_normal_consistency
from pytorch3d.renderer import (
    BlendParams,
    FoVPerspectiveCameras,
    MeshRasterizer,
    MeshRenderer,
    PointLights,
    RasterizationSettings,
    SoftPhongShader,
    SoftSilhouetteShader,
    TexturesVertex,
    look_at_view_transform,
)
from pytorch3d.renderer.mesh.textures import TexturesVertex as SameTexturesVertex
from pytorch3d.structures import Meshes
from pytorch3d.utils import ico_sphere

assert TexturesVertex is SameTexturesVertex
device = torch.device("cpu")
with_colors = "--silhouettes" not in sys.argv
arguments = [argument for argument in sys.argv[1:] if argument != "--silhouettes"]
iterations, size, num_views, level, seed = map(int, arguments[:5])
torch.manual_seed(seed)
np.random.seed(seed)  # noqa: NPY002
num_views_per_iteration = 2

if len(arguments) > 5:
    target_mesh = load_objs_as_meshes([arguments[5]], device=device)
    verts = target_mesh.verts_packed()
    N = verts.shape[0]
    center = verts.mean(0)
    scale = max((verts - center).abs().max(0)[0])
    target_mesh.offset_verts_(-center.expand(N, 3))
    target_mesh.scale_verts_(1.0 / float(scale))
else:
    # A red ellipsoid.
    ball = ico_sphere(2, device)
    target_verts = ball.verts_packed() * torch.tensor([0.6, 0.9, 0.7])
    red = torch.tensor([0.9, 0.2, 0.1]).expand(1, len(target_verts), 3)
    target_mesh = Meshes(verts=[target_verts], faces=[ball.faces_packed()], textures=TexturesVertex(verts_features=red))

elev = torch.linspace(0, 360, num_views)
azim = torch.linspace(-180, 180, num_views)
R, T = look_at_view_transform(dist=2.7, elev=elev, azim=azim)
cameras = FoVPerspectiveCameras(device=device, R=R, T=T)
camera = FoVPerspectiveCameras(device=device, R=R[None, 1, ...], T=T[None, 1, ...])
lights = PointLights(device=device, location=[[0.0, 0.0, -3.0]])

hard = RasterizationSettings(image_size=size, blur_radius=0.0, faces_per_pixel=1)
renderer = MeshRenderer(
    rasterizer=MeshRasterizer(cameras=camera, raster_settings=hard),
    shader=SoftPhongShader(device=device, cameras=camera, lights=lights),
)
target_images = renderer(target_mesh.extend(num_views), cameras=cameras, lights=lights)
target_rgb = [target_images[i, ..., :3] for i in range(num_views)]
target_cameras = [FoVPerspectiveCameras(device=device, R=R[None, i, ...], T=T[None, i, ...]) for i in range(num_views)]

sigma = 1e-4
soft = RasterizationSettings(
    image_size=size, blur_radius=np.log(1.0 / 1e-4 - 1.0) * sigma, faces_per_pixel=50, perspective_correct=False
)
renderer_silhouette = MeshRenderer(
    rasterizer=MeshRasterizer(cameras=camera, raster_settings=soft),
    shader=SoftSilhouetteShader(blend_params=BlendParams(sigma=sigma, gamma=1e-4)),
)
silhouettes = renderer_silhouette(target_mesh.extend(num_views), cameras=cameras, lights=lights)
target_silhouette = [silhouettes[i, ..., 3] for i in range(num_views)]
renderer_textured = MeshRenderer(
    rasterizer=MeshRasterizer(cameras=camera, raster_settings=soft),
    shader=SoftPhongShader(device=device, cameras=camera, lights=lights),
)

src_mesh = ico_sphere(level, device)
verts_shape = src_mesh.verts_packed().shape
deform_verts = torch.full(verts_shape, 0.0, device=device, requires_grad=True)
sphere_verts_rgb = torch.full([1, verts_shape[0], 3], 0.5, device=device, requires_grad=True)
optimizer = torch.optim.SGD([deform_verts, sphere_verts_rgb], lr=1.0, momentum=0.9)
weights = {"rgb": 1.0, "silhouette": 1.0, "edge": 1.0, "normal": 0.01, "laplacian": 1.0}
began = time.process_time(), time.perf_counter()

for i in range(iterations):
    optimizer.zero_grad()
    new_src_mesh = src_mesh.offset_verts(deform_verts)
    new_src_mesh.textures = TexturesVertex(verts_features=sphere_verts_rgb)
    loss = {"rgb": torch.tensor(0.0), "silhouette": torch.tensor(0.0)}
    loss["edge"] = mesh_edge_loss(new_src_mesh)
    loss["normal"] = mesh_normal_consistency(new_src_mesh)
    loss["laplacian"] = mesh_laplacian_smoothing(new_src_mesh, method="uniform")
    for j in np.random.permutation(num_views).tolist()[:num_views_per_iteration]:  # noqa: NPY002
        render = renderer_textured if with_colors else renderer_silhouette
        images = render(new_src_mesh, cameras=target_cameras[j], lights=lights)
        loss["silhouette"] += ((images[..., 3] - target_silhouette[j]) ** 2).mean() / num_views_per_iteration
        if with_colors:
            loss["rgb"] += ((images[..., :3] - target_rgb[j]) ** 2).mean() / num_views_per_iteration
    sum_loss = torch.tensor(0.0, device=device)
    for k, value in loss.items():
        sum_loss += value * weights[k]
    if i in (0, iterations - 1):
        print(f"images {(loss['rgb'] + loss['silhouette']).item():.6f}")
    sum_loss.backward()
    optimizer.step()
print("cpu", time.process_time() - began[0])
print("wall", time.perf_counter() - began[1])

# From where no picture was taken.
R, T = look_at_view_transform(dist=2.7, elev=torch.full((8,), 20.0), azim=torch.linspace(0, 315, 8) + 9.0)
held_out = FoVPerspectiveCameras(device=device, R=R, T=T)
with torch.no_grad():
    pictures = [renderer(mesh.extend(8), cameras=held_out, lights=lights) for mesh in (new_src_mesh, target_mesh)]
    difference = (pictures[0][..., :3] - pictures[1][..., :3]).square().mean()
    found, wanted = (picture[..., 3] > 0.5 for picture in pictures)
print("psnr", -10 * float(difference.log10()))
print("iou", float((found & wanted).sum() / (found | wanted).sum()))
