"""A sphere is fitted to the points of a scanner, with three weightings of the losses. It imports pytorch3d only."""

import sys
import time

import torch
from pytorch3d.io import load_ply, save_ply
from pytorch3d.loss import (
    chamfer_distance,
    mesh_edge_loss,
    mesh_laplacian_smoothing,
    mesh_normal_consistency,
)
from pytorch3d.ops import sample_points_from_meshes
from pytorch3d.utils import ico_sphere

device = torch.device("cpu")
cloud_file, result_file, weighting, iterations, seed = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
torch.manual_seed(seed)
w_chamfer, w_edge, w_normal, w_laplacian = {
    "deform1": (1.0, 1.0, 0.01, 0.1),
    "deform2": (1.0, 0.0, 0.0, 0.0),
    "deform3": (1.0, 1.0, 0.0, 0.0),
}[weighting]

verts, faces = load_ply(cloud_file)
print("cloud", tuple(verts.shape), faces.numel())
center = verts.mean(0)
verts = verts - center
scale = max(verts.abs().max(0)[0])
verts = (verts / scale)[None]

src_mesh = ico_sphere(4, device)
deform_verts = torch.full(src_mesh.verts_packed().shape, 0.0, device=device, requires_grad=True)
optimizer = torch.optim.SGD([deform_verts], lr=1.0, momentum=0.9)
began = time.process_time(), time.perf_counter()
for _ in range(iterations):
    optimizer.zero_grad()
    new_src_mesh = src_mesh.offset_verts(deform_verts)
    sample_src = sample_points_from_meshes(new_src_mesh, verts.shape[1])
    loss_chamfer, _ = chamfer_distance(verts, sample_src)
    loss_edge = mesh_edge_loss(new_src_mesh)
    loss_normal = mesh_normal_consistency(new_src_mesh)
    loss_laplacian = mesh_laplacian_smoothing(new_src_mesh, method="uniform")
    loss = loss_chamfer * w_chamfer + loss_edge * w_edge + loss_normal * w_normal + loss_laplacian * w_laplacian
    loss.backward()
    optimizer.step()
print("cpu", time.process_time() - began[0])
print("wall", time.perf_counter() - began[1])

with torch.no_grad():
    dense, _ = chamfer_distance(verts, sample_points_from_meshes(new_src_mesh, 20000))
    print("chamfer", dense.item())
    print("edge", mesh_edge_loss(new_src_mesh).item())
    print("roughness", mesh_normal_consistency(new_src_mesh).item())
final_verts, final_faces = new_src_mesh.get_mesh_verts_faces(0)
save_ply(result_file, final_verts.detach() * scale + center, final_faces, ascii=True)
