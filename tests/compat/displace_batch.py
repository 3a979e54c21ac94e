"""Three meshes of unequal sizes in one batch: how far were their noisy copies moved? It imports pytorch3d only."""

import sys

import torch
from pytorch3d.io import load_objs_as_meshes
from pytorch3d.loss import chamfer_distance
from pytorch3d.ops import sample_points_from_meshes
from pytorch3d.structures.meshes import join_meshes_as_batch

torch.manual_seed(0)
meshes = join_meshes_as_batch([load_objs_as_meshes([path]) for path in sys.argv[1:]], include_textures=False)
print(
    "list", [tuple(verts.shape) for verts in meshes.verts_list()], [tuple(faces.shape) for faces in meshes.faces_list()]
)
print("padded", tuple(meshes.verts_padded().shape), tuple(meshes.faces_padded().shape))
print("packed", tuple(meshes.verts_packed().shape), tuple(meshes.faces_packed().shape))

motion = torch.as_tensor([3, 4, 5])[None]
noise = 0.1**0.5 * torch.randn(meshes.verts_packed().shape) + motion
moved = meshes.clone().offset_verts(noise).detach()

estimate = torch.zeros(motion.shape, requires_grad=True)
optimizer = torch.optim.SGD([estimate], lr=0.1, momentum=0.9)
for _ in range(200):
    optimizer.zero_grad()
    current = meshes.offset_verts(estimate.repeat(meshes.verts_packed().shape[0], 1))
    loss, _ = chamfer_distance(sample_points_from_meshes(current, 5000), sample_points_from_meshes(moved, 5000))
    loss.backward()
    optimizer.step()
print("estimate", *estimate[0].tolist())
