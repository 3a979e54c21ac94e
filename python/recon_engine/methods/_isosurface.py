"""The surface of a volume, in the colours that are seen from outside."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from recon_engine.ops.marching_cubes import marching_cubes
from recon_engine.renderer import TexturesVertex
from recon_engine.structures import Meshes, Volumes

from ._surface import largest_part

_SKIN = 0.15  # of the radius of the unit sphere: the surface is where half of the light is lost on so short a way


def surface_of(volumes: Volumes, step: float) -> Meshes | None:
    """The largest connected surface of a volume, by marching cubes.

    A density d is what a ray loses between two samples; over a length it loses 1 - (1 - d)^(length / step). The surface
    is where that is one half for a length of 0.15.

    Args:
        volumes: one volume in the units of a fit, densities (1, 1, D, H, W) and colours (1, 3, D, H, W).
        step: the distance of the samples that the densities belong to.

    Returns:
        One closed mesh whose faces look outwards, with colours on its vertices, in the units of the fit; None where
        nothing is dense enough.
    """
    densities, colors = volumes.densities()[0, 0], volumes.features()
    assert colors is not None
    level = -math.expm1(math.log(0.5) * step / _SKIN)
    # What reaches the border is closed there.
    (verts,), (faces,) = marching_cubes(F.pad(densities, 6 * (1,))[None], level, return_local_coords=False)
    if len(faces) == 0:
        return None
    size = torch.tensor(densities.shape[::-1], device=verts.device)
    local = 2 * (verts - 1) / (size - 1) - 1
    mesh = largest_part(volumes.local_to_world_coords(local[None])[0], faces.flip(1))
    # A voxel below the surface: in front of it nobody has seen a colour.
    below = volumes.world_to_local_coords(mesh.verts_packed()[None]) - 2 / (size - 1) * mesh.verts_normals_packed()
    read = F.grid_sample(colors, below[:, None, None], padding_mode="border", align_corners=True)
    return Meshes(mesh.verts_list(), mesh.faces_list(), TexturesVertex([read[0, :, 0, 0].T]))
