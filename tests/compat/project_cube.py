"""The corners of a cube as eight cameras of one batch see them. It imports pytorch3d only."""

import sys

import torch
from pytorch3d.io import load_obj
from pytorch3d.renderer.cameras import PerspectiveCameras
from scipy.spatial.transform import Rotation

verts, _, _ = load_obj(sys.argv[1])
turns = range(-4, 4)
cameras = PerspectiveCameras(
    focal_length=torch.tensor([[1200.0, 300.0]]).repeat(8, 1),
    principal_point=torch.tensor([[512.0, 256.0]]).repeat(8, 1),
    in_ndc=False,
    image_size=torch.tensor([[1024.0, 512.0]]).repeat(8, 1),
    R=torch.from_numpy(Rotation.from_euler("zyx", [[5 * n, n, n] for n in turns], degrees=True).as_matrix()),
    T=torch.FloatTensor([[n, 0, 0] for n in turns]),
)
torch.set_printoptions(threshold=1000)
print("world_to_view_vertices = ", cameras.get_world_to_view_transform().transform_points(verts))
print("world_to_screen_vertices = ", cameras.get_full_projection_transform().transform_points(verts))
