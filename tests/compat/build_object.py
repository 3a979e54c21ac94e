"""An object is built from the silhouettes of a mesh, then from cut-outs in files. It imports pytorch3d only."""

import itertools
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pytorch3d.io import load_obj, save_obj
from pytorch3d.loss import mesh_edge_loss, mesh_laplacian_smoothing, mesh_normal_consistency
from pytorch3d.ops import SubdivideMeshes
from pytorch3d.renderer import (
    FoVPerspectiveCameras,
    MeshRasterizer,
    MeshRenderer,
    PointLights,
    RasterizationSettings,
    SoftSilhouetteShader,
    look_at_view_transform,
)
from pytorch3d.structures import Meshes
from pytorch3d.utils import ico_sphere

device = torch.device("cpu")
target_file, folder, shape = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
iterations, size, level, num_views, image_iterations, seed = map(int, sys.argv[4:10])
torch.manual_seed(seed)
weights = {"silhouette": 1.0, "edge": 1.0, "normal": 0.01, "laplacian": 1.0}

settings = RasterizationSettings(image_size=size, blur_radius=np.log(1.0 / 1e-4 - 1.0) * 1e-4, faces_per_pixel=50)
renderer = MeshRenderer(rasterizer=MeshRasterizer(raster_settings=settings), shader=SoftSilhouetteShader())
lights = PointLights(device=device, location=[[0.0, 0.0, -3.0]])


def cameras_at(elevation, azimuth):
    R, T = look_at_view_transform(dist=2.7, elev=elevation, azim=azimuth)
    return [FoVPerspectiveCameras(device=device, R=R[None, i, ...], T=T[None, i, ...]) for i in range(len(azimuth))]


def outlines(mesh, cameras):
    """(N, S, S) silhouettes."""
    with torch.no_grad():
        return torch.cat([renderer(mesh, cameras=camera, lights=lights)[..., 3] for camera in cameras])


def cube():
    """From -0.5 to 0.5, every face split into four again and again."""
    corners = torch.tensor(list(itertools.product((-0.5, 0.5), repeat=3)))
    faces = [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1]]
    faces += [[2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
    mesh = Meshes(verts=[corners], faces=[torch.tensor(faces)]).to(device)
    for _ in range(level):
        mesh = SubdivideMeshes()(mesh)
    return mesh


def deformed(source, silhouettes, cameras, iterations, views_per_iteration, rate):
    deform = torch.full(source.verts_packed().shape, 0.0, device=device, requires_grad=True)
    optimizer = torch.optim.SGD([deform], lr=rate, momentum=0.9)
    for _ in range(iterations):
        optimizer.zero_grad()
        mesh = source.offset_verts(deform)
        loss = {
            "silhouette": torch.tensor(0.0, device=device),
            "edge": mesh_edge_loss(mesh),
            "normal": mesh_normal_consistency(mesh),
            "laplacian": mesh_laplacian_smoothing(mesh, method="uniform"),
        }
        for j in torch.randperm(len(cameras))[:views_per_iteration].tolist():
            alpha = renderer(mesh, cameras=cameras[j], lights=lights)[..., 3]
            loss["silhouette"] += ((alpha - silhouettes[j]) ** 2).mean() / views_per_iteration
        sum(value * weights[name] for name, value in loss.items()).backward()
        optimizer.step()
    return source.offset_verts(deform.detach())


def overlap(mesh, silhouettes, cameras):
    """Mean intersection over union."""
    found, wanted = outlines(mesh, cameras) > 0.5, silhouettes > 0.5
    return float(((found & wanted).sum((1, 2)) / (found | wanted).sum((1, 2))).mean())


def save_cutouts(silhouettes):
    """As pictures with alpha, without the empty rows that all of them have above and below."""
    rows = (silhouettes > 0.01).any(2).any(0).nonzero()
    margin = int(min(rows.min(), size - 1 - rows.max()))
    for i, alpha in enumerate(silhouettes[:, margin : size - margin]):
        pixels = torch.full((*alpha.shape, 4), 200, dtype=torch.uint8)
        pixels[..., 3] = (alpha * 255).round().byte()
        Image.fromarray(pixels.numpy(), "RGBA").resize((2 * size, 2 * (size - 2 * margin))).save(
            folder / f"photo{i:02}.png"
        )


def load_cutouts():
    """(N, S, S): alphas of the pictures, in the middle of a square."""
    alphas = []
    for path in sorted(folder.glob("photo*.png")):
        image = Image.open(path).convert("RGBA")
        side = max(image.size)
        square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        alphas.append(np.asarray(square.resize((size, size)), np.float32)[..., 3] / 255)
    return torch.from_numpy(np.stack(alphas)).to(device)


verts, faces, _ = load_obj(target_file, load_textures=False)
low, high = verts.amin(0), verts.amax(0)
center, scale = (low + high) / 2, float((high - low).max())
target = Meshes(verts=[((verts - center) / scale).to(device)], faces=[faces.verts_idx.to(device)])
cameras = cameras_at(torch.linspace(0, 360, num_views), torch.linspace(-180, 180, num_views))
silhouettes = outlines(target, cameras)
source = cube() if shape == "cube" else ico_sphere(level, device)
print("source", len(source.verts_packed()), len(source.faces_packed()))
print("iou_start", overlap(source, silhouettes, cameras))
began = time.process_time(), time.perf_counter()
model = deformed(source, silhouettes, cameras, iterations, 2, 0.25)
print("cpu", time.process_time() - began[0])
print("wall", time.perf_counter() - began[1])
print("iou", overlap(model, silhouettes, cameras))
save_obj(folder / "final_model.obj", model.verts_packed() * scale + center, model.faces_packed())

if image_iterations:
    azimuth = [-180, -160, -130, -110, -90, -60, -36, -15, 15, 36, 60, 90, 110, 130, 160, 180]
    photo_cameras = cameras_at(torch.zeros(len(azimuth)), torch.tensor(azimuth, dtype=torch.float32))
    save_cutouts(outlines(target, photo_cameras))
    cutouts = load_cutouts()
    verts, faces, _ = load_obj(folder / "final_model.obj", load_textures=False)
    known = Meshes(verts=[(verts - center) / scale], faces=[faces.verts_idx])
    print("photos", len(cutouts), "alpha", float(cutouts.mean()))
    print("iou_photos_start", overlap(known, cutouts, photo_cameras))
    changed = deformed(known, cutouts, photo_cameras, image_iterations, len(photo_cameras), 0.12)
    print("iou_photos", overlap(changed, cutouts, photo_cameras))
    save_obj(folder / "new_model.obj", changed.verts_packed() * scale + center, changed.faces_packed())
