"""Comparison with recorded answers of PyTorch3D 0.7.9, where PyTorch3D itself is not installed."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
import torch

from recon_engine.io import load_obj, load_ply, save_obj, save_ply
from recon_engine.io.mtl_io import make_mesh_texture_atlas
from recon_engine.io.off_io import load_off
from recon_engine.ops.subdivide_meshes import SubdivideMeshes
from recon_engine.structures import join_meshes_as_batch
from recon_engine.utils import ico_sphere, torus

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.fixture(scope="module")
def inputs():
    spec = importlib.util.spec_from_file_location("record_io", REFERENCE / "record_io.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recorded():
    return dict(np.load(REFERENCE / "io.npz"))


def assert_same(ours, expected: np.ndarray) -> None:
    ours = np.asarray(ours)
    assert ours.dtype == expected.dtype
    np.testing.assert_array_equal(ours, expected)


def test_obj(inputs, recorded):
    verts, faces, aux = load_obj(io.StringIO(inputs.OBJ), load_textures=False)
    found = {"verts": verts, **faces._asdict(), "normals": aux.normals, "verts_uvs": aux.verts_uvs}
    for name, value in found.items():
        assert_same(value, recorded[f"obj.{name}"])


def test_ply(inputs, recorded):
    verts, faces = load_ply(io.StringIO(inputs.PLY))
    assert_same(verts, recorded["ply.verts"])
    assert_same(faces, recorded["ply.faces"])


def test_off(inputs, recorded):
    mesh = load_off(io.StringIO(inputs.OFF))
    assert_same(mesh.verts, recorded["off.verts"])
    assert_same(mesh.faces, recorded["off.faces"])


def test_atlas(inputs, recorded):
    atlas = make_mesh_texture_atlas(*inputs.atlas_inputs(), 3, "repeat")
    torch.testing.assert_close(atlas, torch.from_numpy(recorded["atlas"]))


def test_shapes(recorded):
    ring = torus(0.3, 1.0, 5, 7)
    split = SubdivideMeshes()(join_meshes_as_batch([ico_sphere(0), ring]))
    for name, mesh in {"sphere": ico_sphere(2), "torus": ring, "split": split}.items():
        torch.testing.assert_close(mesh.verts_packed(), torch.from_numpy(recorded[f"{name}.verts"]), rtol=0, atol=1e-7)
        assert_same(mesh.faces_packed(), recorded[f"{name}.faces"])


def test_saved_bytes(recorded, tmp_path):
    ring = torus(0.3, 1.0, 5, 7)
    verts, faces = ring.verts_packed(), ring.faces_packed()
    save_ply(tmp_path / "ascii", verts, faces, verts, ascii=True)
    save_ply(tmp_path / "binary", verts, faces)
    save_obj(tmp_path / "obj", verts, faces, 4)
    for name, key in [("ascii", "saved ply"), ("binary", "saved binary ply"), ("obj", "saved obj")]:
        assert (tmp_path / name).read_bytes() == recorded[key].tobytes()
