from __future__ import annotations

import pytest
import torch

from recon_engine.io import IO
from recon_engine.io.pluggable_formats import MeshFormatInterpreter, endswith
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere


class CountFormat(MeshFormatInterpreter):
    """Keeps only the number of vertices."""

    known_suffixes = (".count",)

    def read(self, path, include_textures, device, path_manager, extra: int = 0, **kwargs):
        if not endswith(path, self.known_suffixes):
            return None
        with path_manager.open(path, "r") as opened:
            count = int(opened.read()) + extra
        return Meshes(verts=[torch.zeros(count, 3, device=device)], faces=[torch.zeros(0, 3, dtype=torch.int64)])

    def save(self, data, path, path_manager, binary, **kwargs):
        if not endswith(path, self.known_suffixes):
            return False
        with path_manager.open(path, "w") as opened:
            opened.write(str(len(data.verts_packed())))
        return True


@pytest.mark.parametrize("ending", [".obj", ".OBJ", ".ply", ".off"])
@pytest.mark.parametrize("as_str", [True, False])
def test_round_trip(tmp_path, ending, as_str):
    path = tmp_path / f"sphere{ending}"
    sphere = ico_sphere(1)
    IO().save_mesh(sphere, str(path) if as_str else path)
    if ending.lower() == ".obj":
        with pytest.warns(UserWarning, match="No mtl file provided"):
            mesh = IO().load_mesh(str(path) if as_str else path)
    else:
        mesh = IO().load_mesh(str(path) if as_str else path)
    torch.testing.assert_close(mesh.verts_packed(), sphere.verts_packed(), rtol=0, atol=1e-6)
    assert torch.equal(mesh.faces_packed(), sphere.faces_packed())


def test_own_format(tmp_path):
    io = IO(include_default_formats=False)
    with pytest.raises(ValueError, match=r"No mesh interpreter found to write to .*a.count. Known endings: none"):
        io.save_mesh(ico_sphere(0), tmp_path / "a.count")
    io = IO()
    io.register_meshes_format(CountFormat())
    io.save_mesh(ico_sphere(0), tmp_path / "a.count")
    assert len(io.load_mesh(tmp_path / "a.count", extra=2).verts_packed()) == 14
    assert io.load_mesh.__self__.mesh_interpreters[0].known_suffixes == (".count",)


def test_format_that_only_reads_declines_to_save(tmp_path):
    class ReadOnly(MeshFormatInterpreter):
        def read(self, path, include_textures, device, path_manager, **kwargs):
            return ico_sphere(0, device) if endswith(path, (".ico",)) else None

    io = IO(include_default_formats=False)
    io.register_meshes_format(ReadOnly())
    assert len(io.load_mesh("any.ico").verts_packed()) == 12
    with pytest.raises(ValueError, match="No mesh interpreter found to write"):
        io.save_mesh(ico_sphere(0), "any.ico")


def test_errors(tmp_path):
    with pytest.raises(ValueError, match=r"No mesh interpreter found to read a.stl. Known endings: .ply, .off, .obj"):
        IO().load_mesh("a.stl")
    with pytest.raises(ValueError, match="Meshes object expected, got int"):
        IO().save_mesh(3, tmp_path / "a.ply")
    with pytest.raises(ValueError, match="Can only save a single mesh, got 2"):
        IO().save_mesh(ico_sphere(0).extend(2), tmp_path / "a.ply")
    with pytest.raises(ValueError, match=r"Invalid interpreter: expected an instance .* got type"):
        IO().register_meshes_format(CountFormat)
    with pytest.raises(FileNotFoundError, match=r"gone\.ply"):
        IO().load_mesh(tmp_path / "gone.ply")
