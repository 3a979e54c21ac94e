"""Records what PyTorch3D 0.7.9 answers for `recon_engine.io`, `.utils` and `SubdivideMeshes` into io.npz.

Run it with a Python that has PyTorch3D: `python tests/reference/record_io.py`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

OBJ = """# statements that PyTorch3D reads as the format says
v 0.1 -0.25 3
v 1 0.5 1e-3
v 1 1 0.123456789
v 0 1 0 0.5 0.5 0.5
v -1.5 2.5 0
vt 0.1 0.2
vt 0.9 0.3 0
vt 0.5 0.75
vn 0 0 1
vn 0.6 0.8 0
f 1 2 3
usemtl red
f 1/1 2/2 3/3 4/1
f 1//2 2//1 3//2
usemtl blue
f 5/1/1 -4/-2/1 3/3/2
usemtl red
f -1 -2 -3 -4 -5
"""
PLY = """ply
format ascii 1.0
element vertex 5
property float x
property uchar tag
property double y
property float z
element face 3
property list uchar int vertex_indices
end_header
0.1 7 0.3 -1
1 8 0 0.125
1 9 1 1e-5
0 10 1 2
3.75 11 -2 1
3 0 1 2
5 0 1 2 3 4
4 4 3 2 1
"""
OFF = "OFF\n4 2 0\n0 0 0.5\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n4 3 2 1 0\n"


def atlas_inputs() -> tuple[dict[str, Any], dict[str, Any], Any, Any, Any]:
    """Colours, images, material of each face, and texture coordinates of a mesh with three materials."""
    steps = torch.arange(7 * 5 * 3, dtype=torch.float32).reshape(7, 5, 3)
    images = {"a": (steps * 0.37).sin().abs(), "b": (steps * 0.11).cos().abs()}
    colors = {"a": {}, "b": {}, "c": {"diffuse_color": torch.tensor([0.25, 0.5, 0.75])}}
    uvs = (torch.arange(20, dtype=torch.float32) * 1.7).sin().abs().reshape(10, 2)
    faces_uvs = torch.arange(24).reshape(8, 3) * 7 % 10
    return colors, images, np.array(["", "a", "b", "c"] * 2), faces_uvs, uvs


CLOUD = """ply
format ascii 1.0
element vertex 2
property uchar green
property float x
property double z
property uchar red
property float ny
property float y
property float nz
property uchar blue
property float nx
property uchar alpha
end_header
1 0.25 3 4 0.5 -6 0.125 255 1 9
2 3.5 4.75 51 0 0 1 0 -1 8
"""
CLOUD_OPTIONS: dict[str, dict[str, Any]] = {
    "text": {"binary": False},
    "digits": {"binary": False, "decimal_places": 9},
    "bytes as text": {"binary": False, "colors_as_uint8": True},
    "binary": {},
    "bytes": {"binary": True, "colors_as_uint8": True},
}


def cloud_fields() -> dict[str, torch.Tensor]:
    """Points, colours and normals of 12 points."""
    steps = torch.arange(36, dtype=torch.float32).reshape(12, 3)
    return {"points": (steps * 1.3).sin() * 4, "features": steps / 36, "normals": (steps * 0.7).cos()}


def record() -> dict[str, np.ndarray]:
    """Everything that is compared, by name."""
    from pytorch3d.io import IO, load_obj, load_ply, save_obj, save_ply
    from pytorch3d.io.mtl_io import make_mesh_texture_atlas
    from pytorch3d.io.off_io import _load_off_stream
    from pytorch3d.ops import SubdivideMeshes
    from pytorch3d.structures import Pointclouds, join_meshes_as_batch
    from pytorch3d.utils import ico_sphere, torus

    verts, faces, aux = load_obj(io.StringIO(OBJ), load_textures=False)
    found = {"obj.verts": verts, **{f"obj.{name}": value for name, value in faces._asdict().items()}}
    found.update({"obj.normals": aux.normals, "obj.verts_uvs": aux.verts_uvs})
    found["ply.verts"], found["ply.faces"] = load_ply(io.StringIO(PLY))
    off = _load_off_stream(io.BytesIO(OFF.encode()))
    found.update({"off.verts": off["verts"], "off.faces": off["faces"]})
    found["atlas"] = make_mesh_texture_atlas(*atlas_inputs(), 3, "repeat")

    sphere, ring = ico_sphere(2), torus(0.3, 1.0, 5, 7)
    found.update({"sphere.verts": sphere.verts_packed(), "sphere.faces": sphere.faces_packed()})
    found.update({"torus.verts": ring.verts_packed(), "torus.faces": ring.faces_packed()})
    split = SubdivideMeshes()(join_meshes_as_batch([ico_sphere(0), ring]))
    found.update({"split.verts": split.verts_packed(), "split.faces": split.faces_packed()})

    ascii_ply = io.BytesIO()
    save_ply(ascii_ply, ring.verts_packed(), ring.faces_packed(), ring.verts_packed(), ascii=True)
    found["saved ply"] = np.frombuffer(ascii_ply.getvalue(), dtype=np.uint8)
    binary_ply = io.BytesIO()
    save_ply(binary_ply, ring.verts_packed(), ring.faces_packed())
    found["saved binary ply"] = np.frombuffer(binary_ply.getvalue(), dtype=np.uint8)
    fields = {name: [value] for name, value in cloud_fields().items()}
    path = Path(__file__).with_name("recorded.ply")
    for name, options in CLOUD_OPTIONS.items():
        IO().save_pointcloud(Pointclouds(**fields), path, **options)
        found[f"saved cloud {name}"] = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    path.write_text(CLOUD)
    cloud = IO().load_pointcloud(path)
    found |= {f"cloud.{name}": getattr(cloud, f"{name}_packed")() for name in fields}
    path.unlink()
    path = Path(__file__).with_name("recorded.obj")
    save_obj(path, ring.verts_packed(), ring.faces_packed(), 4)
    found["saved obj"] = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    path.unlink()
    return {name: np.asarray(value) for name, value in found.items()}


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("io.npz"), **record())
