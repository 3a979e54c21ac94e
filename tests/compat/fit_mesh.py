"""A program as PyTorch3D's users write it: a sphere is fitted to a mesh. It imports pytorch3d only."""

import os
import sys
import time

import torch
from pytorch3d.io import load_obj, save_obj
from pytorch3d.loss import (
    chamfer_distance,
    mesh_edge_loss,
    mesh_laplacian_smoothing,
    mesh_normal_consistency,
)
from pytorch3d.ops import sample_points_from_meshes
from pytorch3d.structures import Meshes
from pytorch3d.utils import ico_sphere

device = torch.device("cpu")
target_file, result_file = sys.argv[1], sys.argv[2]
iterations, level, samples, seed = map(int, sys.argv[3:7])
torch.manual_seed(seed)
verts, faces, aux = load_obj(target_file, load_textures=False)
faces_idx = faces.verts_idx.to(device)
verts = verts.to(device)
center = verts.mean(0)
verts = verts - center
scale = max(verts.abs().max(0)[0])
verts = verts / scale
target = Meshes(verts=[verts], faces=[faces_idx])
source = ico_sphere(level, device)

deform = torch.full(source.verts_packed().shape, 0.0, device=device, requires_grad=True)
optimizer = torch.optim.SGD([deform], lr=1.0, momentum=0.9)
weights = {"chamfer": 1.0, "edge": 1.0, "normal": 0.01, "laplacian": 0.1}
began = time.process_time(), time.perf_counter()

for i in range(iterations):
    optimizer.zero_grad()
    new_source = source.offset_verts(deform)
    sample_target = sample_points_from_meshes(target, samples)
    sample_source = sample_points_from_meshes(new_source, samples)
    loss_chamfer, _ = chamfer_distance(sample_target, sample_source)
    losses = {
        "chamfer": loss_chamfer,
        "edge": mesh_edge_loss(new_source),
        "normal": mesh_normal_consistency(new_source),
        "laplacian": mesh_laplacian_smoothing(new_source, method="uniform"),
    }
    loss = sum(losses[name] * weight for name, weight in weights.items())
    if i in (0, iterations - 1):
        print(f"step {loss_chamfer.item():.6f}")
    loss.backward()
    optimizer.step()
print("cpu", time.process_time() - began[0])
print("wall", time.perf_counter() - began[1])

with torch.no_grad():
    dense, _ = chamfer_distance(*(sample_points_from_meshes(mesh, 20000) for mesh in (target, new_source)))
print("chamfer", dense.item())
final_verts, final_faces = new_source.get_mesh_verts_faces(0)
final_verts = final_verts * scale + center
save_obj(os.path.join(result_file), final_verts, final_faces)
