from __future__ import annotations

import io
import re
import warnings

import numpy as np
import pytest
import torch

from recon_engine.io import IO
from recon_engine.io.off_io import load_off, save_off
from recon_engine.structures import Meshes

CUBE = """off
8 6 1927
# comment
0 0 0
0 0 1

0 1 1
0 1 0 # behind a vertex
1 0 0
1 0 1
1 1 1
1 1 0
4 0 1 2 3
4 7 6 5 4
4 0 4 5 1
4 1 5 6 2
4 2 6 7 3
4 3 7 4 0
"""


def read(text: str):
    return load_off(io.BytesIO(text.encode()))


@pytest.mark.parametrize("start", ["off\n", "OFF ", "OFF", "", "# first\n\noff\n# second\n", "COFF\n"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_cube(start, newline):
    mesh = read((start + CUBE.removeprefix("off\n")).replace("\n", newline))
    assert mesh.verts.shape == (8, 3)
    assert mesh.verts[4].tolist() == [1, 0, 0]
    assert mesh.faces.shape == (12, 3)
    assert mesh.faces[:2].tolist() == [[0, 1, 2], [7, 6, 5]]
    assert mesh.faces[6:8].tolist() == [[0, 2, 3], [7, 5, 4]]
    assert mesh.verts_colors is None
    assert mesh.faces_colors is None


def test_mixed_polygons_and_face_colours():
    mesh = read("OFF\n5 2 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n2 2 2\n3 0 1 2 255 0 51\n4 0 2 3 4 0 102 255\n")
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4]]
    expected = np.array([[255, 0, 51], [0, 102, 255], [0, 102, 255]]) / 255
    np.testing.assert_allclose(mesh.faces_colors, expected, rtol=1e-6)


@pytest.mark.parametrize(("colors", "scale"), [("0 51 255", 255), ("0.0 0.2 1.0", 1), ("0 51 255 102", 255)])
def test_vertex_colours(colors, scale):
    mesh = read(f"OFF\n2 0 0\n0 0 0.5 {colors}\n1 0 0 {colors}\n")
    values = np.array([float(c) for c in colors.split()]) / scale
    np.testing.assert_allclose(mesh.verts_colors, [values, values], rtol=1e-6)
    assert mesh.faces.shape == (0, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Premature end of file"),
        ("off\n", "Premature end of file"),
        ("\0\1", "got binary data"),
        ("OFF BINARY\n", "binary OFF files are not supported"),
        ("off\n8 6\n", "line 2: Invalid counts line: '8 6'"),
        ("off\n8 six 0\n", "line 2: expected a number, got 'six'"),
        ("off\n-1 0 0\n", "line 2: Invalid counts line"),
        ("off\n1.5 0 0\n", "line 2: Invalid counts line"),
        ("off\n2 0 0\n0 0 0\n", "Not enough vertex data. Expected 2 lines, got 1"),
        ("off\n1 1 0\n0 0 0\n", "Not enough face data. Expected 1 lines, got 0"),
        ("off\n2 0 0\n0 0 0\n0 0\n", "line 4: Bad vertex data"),
        ("off\n1 0 0\n0 0 x\n", "line 3: expected a number, got 'x'"),
        ("off\n1 0 0\n0 0 0\n0 0 0\n", "line 4: Extra data at end of file"),
        ("off\n1 1 0\n0 0 0\n2 0 0\n", "line 4: Faces must have at least 3 vertices."),
        ("off\n1 1 0\n0 0 0\n\n4 0 0 0\n", "line 5: A line of face data did not have the specified length."),
        ("off\n1 1 0\n0 0 0\n3 0 0 1\n", "line 4: vertex index 1 is out of range: there are 1 vertices"),
        ("off\n1 1 0\n0 0 0\n3 0 0 -1\n", "line 4: vertex index -1 is out of range"),
        ("off\n1 1 0\n0 0 0\n3 0 0 0 1\n", "line 4: Unexpected number of colors"),
        ("off\n1 2 0\n0 0 0\n3 0 0 0\n3 0 0 0 1 1 1\n", "line 5: Number of colors differs between faces."),
    ],
)
def test_malformed_files_are_named(tmp_path, text, message):
    path = tmp_path / "a.off"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + re.escape(message)):
        load_off(path)


def test_every_truncation_loads_or_names_the_file():
    for end in range(len(CUBE) - 2):
        with pytest.raises(ValueError, match="<file object>"):
            read(CUBE[:end])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verts": torch.zeros(2, 4)}, r"Argument 'verts' should either be empty or of shape \(num_verts, 3\)"),
        ({"faces": torch.zeros(3)}, r"Argument 'faces' if present should have shape \(num_faces, 3\)"),
        ({"verts_colors": torch.zeros(3, 2)}, r"verts_colors should have shape \(3, C\) with C 3 or 4"),
        ({"verts_colors": torch.zeros(2, 3)}, "verts_colors should have the same length as verts, 3. Got 2"),
        ({"faces_colors": torch.zeros(1, 3)}, "Cannot have face colors without faces"),
    ],
)
def test_save_shape_error(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        save_off(tmp_path / "a.off", **{"verts": torch.zeros(3, 3), **changes})


@pytest.mark.parametrize("channels", [0, 3, 4])
@pytest.mark.parametrize("of", ["verts", "faces"])
def test_round_trip(tmp_path, channels, of, device):
    textures = pytest.importorskip("recon_engine.renderer.mesh.textures")
    verts, faces = torch.randn(6, 3, device=device), torch.tensor([[0, 1, 2], [3, 4, 5]], device=device)
    colors = torch.rand(6 if of == "verts" else 2, channels, device=device)
    texture = None
    if channels:
        texture = (
            textures.TexturesVertex([colors]) if of == "verts" else textures.TexturesAtlas([colors[:, None, None]])
        )
    IO().save_mesh(Meshes(verts=[verts], faces=[faces], textures=texture), tmp_path / "a.off", decimal_places=8)
    mesh = IO().load_mesh(tmp_path / "a.off", device=device)
    torch.testing.assert_close(mesh.verts_packed(), verts, rtol=0, atol=1e-6)
    assert torch.equal(mesh.faces_packed(), faces)
    if not channels:
        assert mesh.textures is None
    elif of == "verts":
        torch.testing.assert_close(mesh.textures.verts_features_packed(), colors, rtol=0, atol=1e-6)
    else:
        torch.testing.assert_close(mesh.textures.atlas_packed()[:, 0, 0], colors, rtol=0, atol=1e-6)
    assert IO().load_mesh(tmp_path / "a.off", include_textures=False).textures is None


def test_vertex_colours_win(tmp_path):
    pytest.importorskip("recon_engine.renderer.mesh.textures")
    path = tmp_path / "a.off"
    path.write_text("OFF\n3 1 0\n0 0 0 1 1 1\n1 0 0 1 1 1\n0 1 0 1 1 1\n3 0 1 2 9 9 9\n")
    with pytest.warns(UserWarning, match="Faces colors ignored because vertex colors provided too."):
        mesh = IO().load_mesh(path)
    assert mesh.textures.verts_features_packed().shape == (3, 3)


def test_invalid_indices_warn(tmp_path):
    with pytest.warns(UserWarning, match="Faces have invalid indices"):
        save_off(tmp_path / "a.off", verts=torch.zeros(1, 3), faces=torch.tensor([[0, 0, 1]]))


def test_equals_pytorch3d(tmp_path):
    theirs = pytest.importorskip("pytorch3d.io")
    p3d = pytest.importorskip("pytorch3d.structures")
    verts, faces = torch.randn(6, 3), torch.tensor([[0, 1, 2], [3, 4, 5]])
    IO().save_mesh(Meshes(verts=[verts], faces=[faces]), tmp_path / "a.off")
    theirs.IO().save_mesh(p3d.Meshes(verts=[verts], faces=[faces]), tmp_path / "b.off")
    assert (tmp_path / "a.off").read_text() == (tmp_path / "b.off").read_text()
    (tmp_path / "c.off").write_text(CUBE)
    ours = IO().load_mesh(tmp_path / "c.off")
    with warnings.catch_warnings():  # numpy tells PyTorch3D that it skips the comment
        warnings.simplefilter("ignore", UserWarning)
        expected = theirs.IO().load_mesh(tmp_path / "c.off")
    assert torch.equal(ours.verts_packed(), expected.verts_packed())
    assert torch.equal(ours.faces_packed(), expected.faces_packed())
