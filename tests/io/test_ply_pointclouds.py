from __future__ import annotations

import importlib.util
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from recon_engine.io import IO
from recon_engine.io._ply_parser import read_ply
from recon_engine.io.pluggable_formats import PointcloudFormatInterpreter, endswith
from recon_engine.structures import Pointclouds

REFERENCE = Path(__file__).parents[1] / "reference"
OPTIONS = {
    "text": {"binary": False},
    "digits": {"binary": False, "decimal_places": 9},
    "bytes as text": {"binary": False, "colors_as_uint8": True},
    "binary": {},
    "bytes": {"binary": True, "colors_as_uint8": True},
}


@pytest.fixture(scope="module")
def inputs():
    spec = importlib.util.spec_from_file_location("record_io", REFERENCE / "record_io.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recorded():
    return dict(np.load(REFERENCE / "io.npz"))


@pytest.mark.parametrize("name", OPTIONS)
def test_saved_bytes(inputs, recorded, tmp_path, name):
    cloud = Pointclouds(**{field: [value] for field, value in inputs.cloud_fields().items()})
    IO().save_pointcloud(cloud, tmp_path / "a.ply", **OPTIONS[name])
    assert OPTIONS[name] == inputs.CLOUD_OPTIONS[name]
    assert (tmp_path / "a.ply").read_bytes() == recorded[f"saved cloud {name}"].tobytes()


def test_properties_in_any_order(inputs, recorded):
    cloud = IO().load_pointcloud(io.StringIO(inputs.CLOUD))
    assert cloud.points_packed().tolist() == [[0.25, -6, 3], [3.5, 0, 4.75]]
    assert cloud.normals_packed().tolist() == [[1, 0.5, 0.125], [-1, 0, 1]]
    torch.testing.assert_close(cloud.features_packed(), torch.tensor([[4, 1, 255], [51, 2, 0]]) / 255)
    for name in ("points", "features", "normals"):
        found = getattr(cloud, f"{name}_packed")()
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, torch.from_numpy(recorded[f"cloud.{name}"]), rtol=0, atol=0)


@pytest.mark.parametrize("binary", [True, False, None])
@pytest.mark.parametrize("fields", [(), ("features",), ("normals",), ("normals", "features")])
@pytest.mark.parametrize("as_str", [True, False])
def test_round_trip(tmp_path, device, binary, fields, as_str):
    values = {name: [torch.randn(7, 3, device=device)] for name in ("points", *fields)}
    path = str(tmp_path / "a.PLY") if as_str else tmp_path / "a.PLY"
    IO().save_pointcloud(Pointclouds(**values), path, binary=binary, decimal_places=9)
    cloud = IO().load_pointcloud(path, device=device)
    assert isinstance(cloud, Pointclouds)
    assert len(cloud) == 1
    assert cloud.device.type == device.type
    for name in ("points", "features", "normals"):
        found = getattr(cloud, f"{name}_packed")()
        assert (found is None) == (name not in values)
        if found is not None:
            torch.testing.assert_close(found, values[name][0], rtol=0, atol=1e-8 if binary is False else 0)
    assert os.listdir(tmp_path) == ["a.PLY"]


def test_points_with_gradients_and_float64(tmp_path):
    points = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    IO().save_pointcloud(Pointclouds(points=[points]), tmp_path / "a.ply")
    saved = read_ply(tmp_path / "a.ply").columns["vertex"]
    assert (np.stack([saved[axis] for axis in "xyz"], axis=1) == points.detach().numpy()).all()
    assert torch.equal(IO().load_pointcloud(tmp_path / "a.ply").points_packed(), points.detach().float())


def test_colours_as_bytes_are_clamped_and_kept(tmp_path):
    colors = torch.tensor([[-0.5, 0.2, 1.5], [0.0, 1.0, 0.6]])
    IO().save_pointcloud(
        Pointclouds(torch.zeros(1, 2, 3), features=colors[None]), tmp_path / "a.ply", colors_as_uint8=True
    )
    first = (tmp_path / "a.ply").read_bytes()
    cloud = IO().load_pointcloud(tmp_path / "a.ply")
    torch.testing.assert_close(cloud.features_packed(), colors.clamp(0, 1))
    IO().save_pointcloud(cloud, tmp_path / "a.ply", colors_as_uint8=True)
    assert (tmp_path / "a.ply").read_bytes() == first


def test_a_mesh_is_read_as_its_vertices(tmp_path):
    from recon_engine.utils import ico_sphere

    IO().save_mesh(ico_sphere(1), tmp_path / "a.ply")
    assert torch.equal(IO().load_pointcloud(tmp_path / "a.ply").points_packed(), ico_sphere(1).verts_packed())


def test_no_points(tmp_path):
    with pytest.warns(UserWarning, match="Empty 'verts' provided"):
        IO().save_pointcloud(Pointclouds([torch.zeros(0, 3)]), tmp_path / "a.ply")
    cloud = IO().load_pointcloud(tmp_path / "a.ply")
    assert len(cloud) == 1
    assert cloud.points_list()[0].shape == (0, 3)


class TextFormat(PointcloudFormatInterpreter):
    """A point for each line."""

    known_suffixes = (".xyz",)

    def read(self, path, device, path_manager, scale: float = 1.0, **kwargs):
        if not endswith(path, self.known_suffixes):
            return None
        with path_manager.open(path, "r") as opened:
            points = torch.from_numpy(np.loadtxt(opened, ndmin=2, dtype=np.float32))
        return Pointclouds([points.to(device) * scale])

    def save(self, data, path, path_manager, binary, **kwargs):
        if not endswith(path, self.known_suffixes):
            return False
        with path_manager.open(path, "w") as opened:
            np.savetxt(opened, data.points_packed().numpy())
        return True


def test_own_format(tmp_path):
    formats = IO()
    formats.register_pointcloud_format(TextFormat())
    points = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    formats.save_pointcloud(Pointclouds([points]), tmp_path / "a.xyz")
    assert torch.equal(formats.load_pointcloud(tmp_path / "a.xyz", scale=2.0).points_packed(), 2 * points)
    formats.save_pointcloud(Pointclouds([points]), tmp_path / "a.ply")
    assert torch.equal(formats.load_pointcloud(tmp_path / "a.ply").points_packed(), points)


def test_a_format_that_overrides_nothing_declines(tmp_path):
    formats = IO(include_default_formats=False)
    formats.register_pointcloud_format(PointcloudFormatInterpreter())
    with pytest.raises(ValueError, match="No point cloud interpreter found to read"):
        formats.load_pointcloud(tmp_path / "a.ply")
    with pytest.raises(ValueError, match="No point cloud interpreter found to write"):
        formats.save_pointcloud(Pointclouds(torch.zeros(1, 2, 3)), tmp_path / "a.ply")


def test_errors(tmp_path):
    cloud, path = Pointclouds(torch.zeros(1, 2, 3), features=torch.zeros(1, 2, 4)), tmp_path / "a.ply"
    with pytest.raises(ValueError, match=r"a\.ply: PLY has 3 colours for each point, the cloud has 4 features"):
        IO().save_pointcloud(cloud, path)
    with pytest.raises(ValueError, match="Pointclouds object expected, got int"):
        IO().save_pointcloud(3, path)
    with pytest.raises(ValueError, match="Can only save a single point cloud, got 2"):
        IO().save_pointcloud(cloud.extend(2), path)
    with pytest.raises(ValueError, match=r"No point cloud interpreter found to read a.xyz. Known endings: .ply"):
        IO().load_pointcloud("a.xyz")
    with pytest.raises(ValueError, match=r"found to write to a.xyz. Known endings: .ply"):
        IO().save_pointcloud(Pointclouds(torch.zeros(1, 2, 3)), "a.xyz")
    with pytest.raises(ValueError, match=r"Invalid interpreter: expected an instance .* got type"):
        IO().register_pointcloud_format(TextFormat)
    assert os.listdir(tmp_path) == []


def test_saved_bytes_equal_pytorch3d(inputs, tmp_path):
    theirs = pytest.importorskip("pytorch3d.io", exc_type=ImportError)
    structures = pytest.importorskip("pytorch3d.structures", exc_type=ImportError)
    fields = {name: [torch.rand_like(value)] for name, value in inputs.cloud_fields().items()}
    for options in OPTIONS.values():
        IO().save_pointcloud(Pointclouds(**fields), tmp_path / "a.ply", **options)
        theirs.IO().save_pointcloud(structures.Pointclouds(**fields), tmp_path / "b.ply", **options)
        assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()
