from __future__ import annotations

import io
import os
import re
import struct

import numpy as np
import pytest
import torch

from recon_engine.io import IO, load_ply, save_ply
from recon_engine.io._ply_parser import load_ply_raw, read_ply
from recon_engine.io.ply_io import load_ply_mesh
from recon_engine.structures import Meshes

HEADER = """ply
format ascii 1.0
comment made by hand
comment TextureFile some file.png
obj_info anything
element vertex 4
property float x
property double y
property uchar red
property float z
property uchar green
property uchar blue
property float nx
property float ny
property float nz
property list uchar short neighbours
element face 3
property uchar flag
property list uchar int vertex_indices
property list uchar float texcoord
element extra 2
property int number
end_header
"""
VERTS = [[0, 0, 0], [1, 0, 0.5], [1, 1, 0], [0, 1, -1]]
COLORS = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [51, 102, 204]]
NORMALS = [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0.5, 0.5, -0.5]]
NEIGHBOURS = [[1], [], [3, 1, -2], [0, 2]]
POLYGONS = [[0, 1, 2], [0, 1, 2, 3], [3, 2, 1]]
TEXCOORDS = [[0.5, 0.25], [], [1.0]]


def ascii_file() -> bytes:
    rows = []
    for (x, y, z), (r, g, b), n, near in zip(VERTS, COLORS, NORMALS, NEIGHBOURS, strict=True):
        rows.append([x, y, r, z, g, b, *n, len(near), *near])
    for flag, (polygon, uvs) in enumerate(zip(POLYGONS, TEXCOORDS, strict=True)):
        rows.append([flag, len(polygon), *polygon, len(uvs), *uvs])
    rows += [[-7], [8]]
    return (HEADER + "\n".join(" ".join(map(str, row)) for row in rows) + "\n").encode()


def binary_file(order: str) -> bytes:
    name = {"<": "binary_little_endian", ">": "binary_big_endian"}[order]
    body = b""
    for (x, y, z), (r, g, b), n, near in zip(VERTS, COLORS, NORMALS, NEIGHBOURS, strict=True):
        body += struct.pack(f"{order}fdBfBB3fB{len(near)}h", x, y, r, z, g, b, *n, len(near), *near)
    for flag, (polygon, uvs) in enumerate(zip(POLYGONS, TEXCOORDS, strict=True)):
        body += struct.pack(f"{order}BB{len(polygon)}i", flag, len(polygon), *polygon)
        body += struct.pack(f"{order}B{len(uvs)}f", len(uvs), *uvs)
    return HEADER.replace("ascii", name).encode() + body + struct.pack(f"{order}2i", -7, 8)


FILES = {"ascii": ascii_file(), "little": binary_file("<"), "big": binary_file(">")}
FILES["crlf"] = FILES["ascii"].replace(b"\n", b"\r\n")
FILES["cr"] = FILES["ascii"].replace(b"\n", b"\r")
FILES["blank lines"] = FILES["ascii"].replace(b"end_header\n", b"end_header\n\n").replace(b"\n8\n", b"\n\n8\n\n")


def load_error(content: bytes) -> str | None:
    """The message of the `ValueError` of loading `content`, None if there is none."""
    try:
        load_ply(io.BytesIO(content))
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", FILES)
def test_every_property_is_read(kind):
    ply = read_ply(io.BytesIO(FILES[kind]))
    assert ply.comments == ["made by hand", "TextureFile some file.png"]
    assert ply.obj_info == ["anything"]
    assert list(ply.columns) == ["vertex", "face", "extra"]
    near = ply.columns["vertex"]["neighbours"]
    assert near.counts.tolist() == [1, 0, 3, 2]
    assert near.values.tolist() == [1, 3, 1, -2, 0, 2]
    assert near.values.dtype == np.int16
    assert ply.columns["face"]["flag"].tolist() == [0, 1, 2]
    assert ply.columns["face"]["texcoord"].values.tolist() == [0.5, 0.25, 1.0]
    assert ply.columns["extra"]["number"].tolist() == [-7, 8]
    assert ply.columns["vertex"]["y"].dtype == np.float64


@pytest.mark.parametrize("kind", FILES)
def test_mesh(kind):
    mesh = load_ply_mesh(io.BytesIO(FILES[kind]))
    assert mesh.verts.tolist() == VERTS
    assert mesh.verts.dtype == torch.float32
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 1, 2], [0, 2, 3], [3, 2, 1]]
    assert mesh.faces.dtype == torch.int64
    torch.testing.assert_close(mesh.verts_colors, torch.tensor(COLORS) / 255)
    assert mesh.verts_normals.tolist() == NORMALS


@pytest.mark.parametrize("kind", FILES)
def test_elements_in_the_forms_of_pytorch3d(kind):
    ply, elements = load_ply_raw(io.BytesIO(FILES[kind]))
    assert ply.ascii == (kind not in ("little", "big"))
    assert [row[-1].tolist() for row in elements["vertex"]] == NEIGHBOURS
    assert [row[1] for row in elements["vertex"]] == [y for _, y, _ in VERTS]
    assert [row[1].tolist() for row in elements["face"]] == POLYGONS
    (numbers,) = elements["extra"]
    assert numbers.tolist() == [[-7], [8]]


def test_elements_of_one_kind_are_arrays():
    text = "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty double y\nproperty double z\n"
    text += "element face 2\nproperty list uchar int i\nelement none 0\nproperty list uchar int i\nend_header\n"
    _, elements = load_ply_raw(io.StringIO(text + "1 2 3\n4 5 6\n2 7 8\n2 9 1\n"))
    assert [part.tolist() for part in elements["vertex"]] == [[[1], [4]], [[2, 3], [5, 6]]]
    assert elements["face"].tolist() == [[7, 8], [9, 1]]
    assert elements["none"] == []


def test_polygons_of_one_size_give_their_first_triangles_first():
    header = "ply\nformat ascii 1.0\nelement vertex 4\n" + "".join(f"property float {c}\n" for c in "xyz")
    text = header + "element face 2\nproperty list uchar int anything\nend_header\n" + "0 0 0\n" * 4
    _, faces = load_ply(io.StringIO(text + "4 0 1 2 3\n4 3 2 1 0\n"))
    assert faces.tolist() == [[0, 1, 2], [3, 2, 1], [0, 2, 3], [3, 1, 0]]


@pytest.mark.parametrize("ascii", [True, False])
@pytest.mark.parametrize("normals", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip(tmp_path, ascii, normals, dtype, device):
    verts, faces = torch.randn(20, 3, dtype=dtype, device=device), torch.randint(20, (33, 3), device=device)
    verts_normals = torch.randn(20, 3, dtype=dtype, device=device) if normals else None
    path = tmp_path / "mesh.ply"
    save_ply(path, verts.requires_grad_(), faces, verts_normals, ascii=ascii, decimal_places=20)
    for source in (path, str(path), io.BytesIO(path.read_bytes())):
        verts2, faces2 = load_ply(source)
        assert torch.equal(verts2, verts.detach().float().cpu())
        assert torch.equal(faces2, faces.cpu())
    ply = read_ply(path)
    saved = np.stack([ply.columns["vertex"][name] for name in "xyz"], axis=1)
    assert saved.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    assert (saved == verts.detach().cpu().numpy()).all()
    assert (load_ply_mesh(path).verts_normals is not None) == normals
    assert os.listdir(tmp_path) == ["mesh.ply"]


def test_file_objects():
    buffer = io.BytesIO()
    save_ply(buffer, torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    buffer.seek(0)
    assert load_ply(buffer)[1].tolist() == [[0, 1, 2]]
    assert load_ply(io.StringIO(FILES["ascii"].decode()))[0].shape == (4, 3)


def test_binary_through_a_text_stream_is_refused(tmp_path):
    path = tmp_path / "a.ply"
    for verts in (torch.zeros(1, 3), torch.full((1, 3), 1 / 3)):
        save_ply(path, verts)
        with open(path, encoding="utf-8") as opened, pytest.raises(ValueError, match="using a Text stream"):
            load_ply(opened)


def test_points_without_faces(tmp_path):
    save_ply(tmp_path / "a.ply", torch.ones(2, 3))
    verts, faces = load_ply(tmp_path / "a.ply")
    assert verts.shape == (2, 3)
    assert faces.shape == (0, 3)
    assert faces.dtype == torch.int64
    with pytest.warns(UserWarning, match="Empty 'verts' provided"):
        save_ply(tmp_path / "a.ply", torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    assert load_ply(tmp_path / "a.ply")[0].shape == (0, 3)


def header(vertex: int | str = 1, extra: str = "", format: str = "ascii") -> str:
    return (
        f"ply\nformat {format} 1.0\nelement vertex {vertex}\n"
        f"property float x\nproperty float y\nproperty float z\n{extra}end_header\n"
    )


FACE = "element face 1\nproperty list uchar int vertex_index\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: Invalid file header. Expected 'ply'"),
        ("plywood\n", "line 1: Invalid file header"),
        ("solid x\n", "line 1: Invalid file header"),
        ("ply\nformat ascii 1.0\n", "the file ends inside its header"),
        ("ply\nformat ascii 1.0\nend_header\n", "line 3: No elements found."),
        ("ply\nformat ascii 2.0\nend_header\n", "line 2: Invalid format line."),
        ("ply\nformat ascii 1.0\nformat ascii 1.0\nend_header\n", "line 3: Invalid format line."),
        ("ply\nelement vertex 0\nproperty float x\nend_header\n", "No format line found."),
        ("ply\nformat ascii 1.0\nproperty float x\n", "line 3: Encountered property before any element."),
        ("ply\nformat ascii 1.0\nelement vertex 1\nend_header\n", "line 4: Found an element with no properties."),
        ("ply\nformat ascii 1.0\nelement vertex 1\nelement face 1\n", "line 4: Found an element with no properties."),
        ("ply\nformat ascii 1.0\nnonsense\n", "line 3: Invalid line: 'nonsense'"),
        ("ply\nformat ascii 1.0\nelement vertex\n", "line 3: Invalid line: 'element vertex'"),
        (header("many"), "line 3: Number of items for vertex was not a number."),
        (header(-1), "line 3: expected a count of at least 0 for vertex, got -1"),
        (header(1, "property float x\n"), "line 7: Cannot have two properties called x in vertex."),
        (header(1, "property float\n"), "line 7: Invalid line: 'property float'"),
        (header(1, "property list float int a\n"), "the length of a list must have an integer type"),
        (header(1, "property quad a\n"), "line 7: Invalid datatype: quad"),
        (header(2) + "0 0 0\n", "Not enough data for vertex. Expected 2 lines, got 1"),
        (header(2) + "0 0 0\n0 0\n", "line 9: Inconsistent data for vertex. Expected 3 numbers, got 2"),
        (header(1) + "0 zero 0\n", "line 8: Bad numerical data. Expected a number, got 'zero'"),
        (header(1) + "0 0 0\ncomment x\n", "line 9: Extra data at end of file."),
        (header(1) + "0 0 0\n1\n", "line 9: Extra data at end of file"),
        (
            header(1, FACE) + "0 0 0\n3 0 0\n",
            "line 11: A line of face data did not have the specified length. Too little",
        ),
        (
            header(1, FACE) + "0 0 0\n3 0 0 0 0\n",
            "line 11: A line of face data did not have the specified length. Too much",
        ),
        (header(1, FACE) + "0 0 0\n-1 0 0\n", "line 11: A list length was not a number."),
        (
            header(1, FACE) + "0 0 0\n3 0 0 0.5\n",
            "line 11: Bad numerical data. Expected a whole number of type int for vertex_index, got 0.5",
        ),
        (
            header(1, "property uchar red\n") + "0 0 0 256\n",
            "line 9: Bad numerical data. Expected a whole number of type uchar",
        ),
        (
            header(1, "property uchar red\n") + "0 0 0 nan\n",
            "line 9: Bad numerical data. Expected a whole number of type uchar",
        ),
        (header(1, FACE) + "0 0 0\n2 0 0\n", "face 0: Faces must have at least 3 vertices."),
        (header(1, FACE) + "0 0 0\n3 0 0 1\n", "face 0: has vertex index 1 but there are 1 vertices"),
        (header(1, FACE) + "0 0 0\n3 0 0 -1\n", "face 0: has vertex index -1"),
        (header(1, "element face 1\nproperty int a\n") + "0 0 0\n3\n", "Unexpected form of faces data."),
        ("ply\nformat ascii 1.0\nelement face 0\nproperty list uchar int a\nend_header\n", "no vertex element"),
        ("ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nend_header\n", "Invalid vertices in file."),
    ],
)
def test_malformed_files_are_named(tmp_path, text, message):
    path = tmp_path / "a.ply"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + re.escape(message)):
        load_ply(path)


@pytest.mark.parametrize("kind", ["ascii", "little", "big"])
def test_every_truncation_names_the_file(kind):
    content = FILES[kind]
    for end in range(len(content) - 2):  # the last two bytes may be the newline or spare digits
        with pytest.raises(ValueError, match="<file object>"):
            load_ply(io.BytesIO(content[:end]))


def test_random_bodies_never_crash():
    generator = np.random.default_rng(0)
    start = FILES["little"].index(b"end_header\n") + len(b"end_header\n")
    for _ in range(200):
        content = bytearray(FILES["little"])
        for _ in range(3):
            content[generator.integers(start, len(content))] = generator.integers(256)
        error = load_error(bytes(content))
        assert error is None or error.startswith("<file object>")


def test_negative_list_length_in_binary():
    text = header(1, "element face 1\nproperty list char int vertex_index\n", "binary_little_endian")
    with pytest.raises(ValueError, match="face 0: expected a list length >= 0, got -1"):
        load_ply(io.BytesIO(text.encode() + b"\0" * 12 + b"\xff"))


def test_huge_counts_do_not_allocate():
    for format in ("ascii", "binary_little_endian"):
        with pytest.raises(ValueError, match="Not enough data for vertex"):
            load_ply(io.BytesIO(header(10**15, FACE, format).encode()))


def test_nan_loads_without_warning():
    verts, _ = load_ply(io.StringIO(header(1) + "nan inf -inf\n"))
    assert str(verts.tolist()) == "[[nan, inf, -inf]]"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verts": torch.zeros(2, 4)}, r"Argument 'verts' should either be empty or of shape \(num_verts, 3\)"),
        ({"faces": torch.zeros(3)}, r"Argument 'faces' should either be empty or of shape \(num_faces, 3\)"),
        ({"verts_normals": torch.zeros(4, 3)}, r"Argument 'verts_normals' should .* Got \(4, 3\) with 3 verts"),
    ],
)
def test_save_shape_error(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        save_ply(tmp_path / "a.ply", **{"verts": torch.zeros(3, 3), **changes})
    assert os.listdir(tmp_path) == []


def test_save_warns_about_indices(tmp_path):
    with pytest.warns(UserWarning, match="Faces have invalid indices"):
        save_ply(tmp_path / "a.ply", torch.zeros(2, 3), torch.tensor([[0, 1, 2]]))


@pytest.mark.parametrize("binary", [True, False, None])
@pytest.mark.parametrize("as_uint8", [True, False])
def test_mesh_with_colours_and_normals(tmp_path, binary, as_uint8, device):
    textures = pytest.importorskip("recon_engine.renderer.mesh.textures")
    verts, faces = torch.randn(6, 3, device=device), torch.tensor([[0, 1, 2], [3, 4, 5]], device=device)
    colors = torch.randint(0, 256, (6, 3), device=device) / 255.0
    normals = torch.nn.functional.normalize(torch.randn(6, 3, device=device), dim=1)
    mesh = Meshes(verts=[verts], faces=[faces], textures=textures.TexturesVertex([colors]), verts_normals=[normals])
    path = tmp_path / "a.ply"
    IO().save_mesh(mesh, path, binary=binary, colors_as_uint8=as_uint8, decimal_places=9)
    assert (b"property uchar red" in path.read_bytes()) == as_uint8
    loaded = IO().load_mesh(path, device=device)
    assert loaded.device.type == device.type
    torch.testing.assert_close(loaded.textures.verts_features_packed(), colors, rtol=0, atol=1e-6)
    torch.testing.assert_close(loaded.verts_normals_packed(), normals)
    assert IO().load_mesh(path, include_textures=False).textures is None
    IO().save_mesh(mesh, path, include_textures=False)
    assert b"red" not in path.read_bytes()
    assert mesh.textures is not None


def test_texture_image(tmp_path):
    textures = pytest.importorskip("recon_engine.renderer.mesh.textures")
    pil = pytest.importorskip("PIL.Image")
    text = header(3, "property float texture_u\nproperty float texture_v\n" + FACE)
    text = text.replace("element vertex", "comment TextureFile an image.png\nelement vertex")
    path = tmp_path / "a.ply"
    path.write_text(text + "0 0 0 0 0\n1 0 0 1 0\n0 1 0 0.5 1\n3 0 1 2\n")
    with pytest.warns(UserWarning, match="Texture file does not exist: .*an image.png"):
        assert IO().load_mesh(path).textures is None
    pil.new("RGB", (3, 2), (255, 0, 51)).save(tmp_path / "an image.png")
    texture = IO().load_mesh(path).textures
    assert isinstance(texture, textures.TexturesUV)
    torch.testing.assert_close(texture.maps_padded(), torch.tensor([1.0, 0, 0.2]).expand(1, 2, 3, 3))
    assert texture.verts_uvs_padded()[0].tolist() == [[0, 0], [1, 0], [0.5, 1]]


def test_real_files(recon_data):
    folder = recon_data / "book" / "chap1" / "ply_io"
    for name, counts in [
        ("cube", (8, 12)),
        ("parallel_plane_mono", (8, 4)),
        ("parallel_plane_color", (8, 4)),
        ("cow", (2903, 5804)),
    ]:
        verts, faces = load_ply(folder / f"{name}.ply")
        assert (len(verts), len(faces)) == counts
    assert load_ply_mesh(folder / "parallel_plane_color.ply").verts_colors.max() == 1


@pytest.mark.parametrize("ascii", [True, False])
def test_bytes_equal_pytorch3d(tmp_path, ascii):
    theirs = pytest.importorskip("pytorch3d.io")
    verts, faces, normals = torch.randn(20, 3), torch.randint(20, (33, 3)), torch.randn(20, 3)
    for options in ({}, {"decimal_places": 3}, {"verts_normals": normals}):
        save_ply(tmp_path / "a.ply", verts, faces, ascii=ascii, **options)
        theirs.save_ply(tmp_path / "b.ply", verts, faces, ascii=ascii, **options)
        assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()


def test_equals_pytorch3d_on_real_meshes(recon_data):
    theirs = pytest.importorskip("pytorch3d.io")
    paths = sorted((recon_data / "book").rglob("*.ply"))
    assert paths
    for path in paths:
        for ours, expected in zip(load_ply(path), theirs.load_ply(path), strict=True):
            assert torch.equal(ours, expected)
