from __future__ import annotations

import ast
import io
import os
import re
import textwrap
import warnings

import numpy as np
import pytest
import torch

from recon_engine.io import load_obj, load_objs_as_meshes, save_obj
from recon_engine.io.obj_io import Faces, Properties

PIL = pytest.importorskip("PIL.Image")

# Every statement and form of corner at once, with comments, CRLF, tabs, a continued line and mixed polygons.
MIXED = (
    "# a comment\r\n"
    "mtllib none.mtl\r\n"
    "o thing\r\n"
    "v 0 0 0\r\n"
    "  v\t1.5 0 -0.25 # indented, with a comment\r\n"
    "v 1e0 1E0 +.5 0.1 0.2 0.3\r\n"
    "v 0. \\\r\n 1 -0.0\r\n"
    "v 12345678901234567890 0.12345678901234567890 -1e-30\r\n"
    "vt 0 0\r\n"
    "vt 1 0 0\r\n"
    "vt 1 1\r\n"
    "vn 0 0 1\r\n"
    "vn 0 1 0\r\n"
    "\r\n"
    "f 1 2 3\r\n"
    "usemtl shiny red metal\r\n"
    "f 1/1 2/2 3/3 4/1\r\n"
    "s off\r\n"
    "f 1//2 2//1 3//2\r\n"
    "usemtl other\r\n"
    "f 1/1/1 2/2/1 3/3/2\r\n"
    "usemtl shiny red metal\r\n"
    "f -1 -2 -3 -4 -5\r\n"
)

FORMS = "Face vertices can only have 3 properties in the forms v, v/vt, v//vn or v/vt/vn"


def write(tmp_path, text: str, name: str = "mesh.obj"):
    path = tmp_path / name
    path.write_bytes(textwrap.dedent(text).encode())
    return path


def load_quietly(f, **options):
    """Without materials there is nothing to warn about."""
    return load_obj(f, load_textures=False, **options)


def load_error(content: bytes) -> str | None:
    """The message of the `ValueError` of loading `content`, None if there is none."""
    try:
        load_quietly(io.BytesIO(content))
    except ValueError as error:
        return str(error)
    return None


def assert_same(ours, theirs) -> None:
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key, value in ours.items():
            assert_same(value, theirs[key])
    elif ours is None or theirs is None:
        assert ours is theirs
    elif isinstance(ours, tuple):
        assert type(ours).__name__ == type(theirs).__name__
        for field, value in zip(ours, theirs, strict=True):
            assert_same(field, value)
    else:
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def test_every_kind_of_statement(tmp_path):
    path = write(tmp_path, MIXED)
    verts, faces, aux = load_quietly(path)
    big = [12345678901234567890.0, 0.12345678901234567890, -1e-30]
    expected = torch.tensor([[0, 0, 0], [1.5, 0, -0.25], [1, 1, 0.5], [0, 1, 0], big])
    assert torch.equal(verts, expected)
    assert torch.signbit(verts[3, 2])
    assert aux.verts_uvs.tolist() == [[0, 0], [1, 0], [1, 1]]
    assert aux.normals.tolist() == [[0, 0, 1], [0, 1, 0]]
    fan = [[4, 3, 2], [4, 2, 1], [4, 1, 0]]
    assert faces.verts_idx.tolist() == [[0, 1, 2], [0, 1, 2], [0, 2, 3], [0, 1, 2], [0, 1, 2], *fan]
    none = [-1, -1, -1]
    assert faces.textures_idx.tolist() == [none, [0, 1, 2], [0, 2, 0], none, [0, 1, 2], none, none, none]
    assert faces.normals_idx.tolist() == [none, none, none, [1, 0, 1], [0, 0, 1], none, none, none]
    assert faces.materials_idx.tolist() == [-1, 0, 0, 0, 1, 0, 0, 0]
    assert aux[2:] == (None, None, None)
    assert isinstance(faces, Faces)
    assert isinstance(aux, Properties)


@pytest.mark.parametrize("kind", ["path", "str", "bytes", "text file", "binary file", "StringIO", "BytesIO", "cr only"])
def test_sources(tmp_path, kind):
    path = write(tmp_path, MIXED)
    expected = load_quietly(path)
    if kind == "path":
        found = load_quietly(path)
    elif kind in ("str", "bytes"):
        found = load_quietly(str(path) if kind == "str" else os.fsencode(path))
    elif kind == "cr only":
        found = load_quietly(io.StringIO(MIXED.replace("\r\n", "\r")))
    elif kind in ("StringIO", "BytesIO"):
        found = load_quietly(io.StringIO(MIXED) if kind == "StringIO" else io.BytesIO(MIXED.encode()))
    else:
        with open(path, "r" if kind == "text file" else "rb") as opened:
            found = load_quietly(opened)
    assert_same(found, expected)


def test_path_manager_opens_and_finds_files(tmp_path):
    pytest.importorskip("PIL")

    class Elsewhere:
        """Serves remote://NAME from a folder."""

        def local(self, path: str) -> str:
            return str(tmp_path / path.removeprefix("remote://dir/"))

        def open(self, path: str, mode: str = "r"):
            return open(self.local(path), mode)

        def exists(self, path: str) -> bool:
            return os.path.exists(self.local(path))

    verts, faces = torch.rand(3, 3), torch.tensor([[0, 1, 2]])
    image = torch.randint(0, 256, (4, 5, 3)) / 255.0
    save_obj(
        "remote://dir/a.obj", verts, faces, 8, Elsewhere(), verts_uvs=verts[:, :2], faces_uvs=faces, texture_map=image
    )
    assert sorted(os.listdir(tmp_path)) == ["a.mtl", "a.obj", "a.png"]
    loaded, _, aux = load_obj("remote://dir/a.obj", path_manager=Elsewhere())
    torch.testing.assert_close(loaded, verts, rtol=0, atol=1e-8)
    assert torch.equal(aux.texture_images["mesh"], image)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("v 0 0\n", 1, "the vertex does not have 3 values, got 2"),
        ("# x\nv\n", 2, "the vertex does not have 3 values, got 0"),
        ("v 0 0 zero\n", 1, "expected a number in a vertex, got 'zero'"),
        ("v 0 0 1\nv 0 1-2 0\n", 2, "expected a number in a vertex, got '1-2'"),
        ("v 0 0 1.2.3\n", 1, "expected a number in a vertex, got '1.2.3'"),
        ("v 0 . 0\n", 1, "expected a number in a vertex, got '.'"),
        ("vt 0\n", 1, "the texture coordinate does not have 2 values, got 1"),
        ("vn 0 0 1\nvn 1 0\n", 2, "the normal does not have 3 values, got 2"),
        ("v 0 0 0\n" * 3 + "f 1 2\n", 4, "a face needs at least 3 vertices, got 2"),
        ("v 0 0 0\n" * 3 + "f 1 2 4\n", 4, "the v index of corner '4' is out of range: there are 3 'v' lines"),
        ("v 0 0 0\n" * 3 + "f 1 2 -4\n", 4, "the v index of corner '-4' is out of range"),
        ("v 0 0 0\n" * 3 + "\nf 0 1 2\n", 5, "the v index of corner '0' is out of range: indices start at 1"),
        ("v 0 0 0\n" * 3 + "f 1 2 x\n", 4, "expected whole numbers in a face corner, got 'x'"),
        ("v 0 0 0\n" * 3 + "f 1 2 3.5\n", 4, "expected whole numbers in a face corner, got '3.5'"),
        (
            "v 0 0 0\n" * 3 + "f 1/1 2/1 3/1\n",
            4,
            "the vt index of corner '1/1' is out of range: there are 0 'vt' lines",
        ),
        ("v 0 0 0\n" * 3 + "vt 0 0\nf 1/1 2/1 3/x\n", 5, "expected whole numbers in a face corner, got '3/x'"),
        ("v 0 0 0\n" * 3 + "vn 0 0 1\nf 1//1 2//1 3//2\n", 5, "the vn index of corner '3//2' is out of range"),
        (
            "v 0 0 0\n" * 3 + "vt 0 0\nf 1/1 2/1 3\n",
            5,
            "Vertex properties are inconsistent: only some have a vt index",
        ),
        (
            "v 0 0 0\n" * 3 + "f 1/1/1/1 2 3\n",
            4,
            FORMS + ", got '1/1/1/1'",
        ),
        (
            "v 0 0 0\n" * 3 + "f /1 2 3\n",
            4,
            FORMS + ", got '/1'",
        ),
        (
            "v 0 0 0\n" * 3 + "f 1// 2 3\n",
            4,
            FORMS + ", got '1//'",
        ),
        ("v 0 0 0\n" * 3 + "f 1 2 99999999999999999999999\n", 4, "is out of range"),
        ("v 0 0 0\n" * 3 + "f 1 2 -99999999999999999999999\n", 4, "is out of range"),
        ("v 0 0 0\n" * 3 + "f \n", 4, "a face needs at least 3 vertices, got 0"),
        ("v 0 0 0\nusemtl\n", 2, "expected the name of a material after 'usemtl'"),
        ("mtllib \n", 1, "expected the name of a material file after 'mtllib'"),
    ],
)
def test_malformed_lines_are_named(tmp_path, text, line, message):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(f"{path}, line {line}: ") + ".*" + re.escape(message)):
        load_obj(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "the file is empty"), (b" \n\n", "the file is empty"), (b"\x89PNG\r\n\x1a\n\0\0v 0 0 0", "got binary data")],
)
def test_files_that_are_no_obj(tmp_path, content, message):
    path = tmp_path / "mesh.obj"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + message):
        load_obj(path)


def test_every_truncation_loads_or_names_the_line(tmp_path):
    """A file cut anywhere gives a `ValueError` with its name, or what was complete; never another error."""
    content = MIXED.encode()
    errors = [load_error(content[:end]) for end in range(1, len(content))]
    assert None in errors
    refused = [error for error in errors if error is not None]
    assert refused
    assert all(error.startswith("<file object>, line ") for error in refused)


def test_random_bytes_never_crash():
    generator = np.random.default_rng(0)
    alphabet = np.frombuffer(b"vtnf 0123456789/-+.e\n\\#\r\tx", dtype=np.uint8)
    for _ in range(300):
        content = alphabet[generator.integers(len(alphabet), size=60)].tobytes()
        error = load_error(b"v 0 0 0\n" * 9 + content)
        assert error is None or error.startswith("<file object>, line ")


def test_nan_and_infinity_load_without_warning(tmp_path):
    verts, _, _ = load_quietly(write(tmp_path, "v nan inf -inf\nv NaN 1 2\n"))
    assert torch.isnan(verts[:, 0]).all()
    assert verts[0, 1:].tolist() == [float("inf"), float("-inf")]


def test_comments_only_give_an_empty_mesh(tmp_path):
    verts, faces, aux = load_quietly(write(tmp_path, "# nothing\n"))
    assert verts.shape == (0, 3)
    assert [tuple(index.shape) for index in faces] == [(0, 3), (0, 3), (0, 3), (0,)]
    assert faces.verts_idx.dtype == torch.int64
    assert aux.normals is None


def test_relative_indices_count_from_the_line_of_the_face(tmp_path):
    text = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvn 0 0 1\nf -3//-1 -2//-1 -1//-1\nv 5 0 0\nv 6 0 0\nv 5 1 0\nvn 1 0 0\n"
    _, faces, _ = load_quietly(write(tmp_path, text + "f -3//-1 -2//-1 -1//-1\n"))
    assert faces.verts_idx.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert faces.normals_idx.tolist() == [[0, 0, 0], [1, 1, 1]]


def test_missing_materials_warn(tmp_path):
    path = write(tmp_path, "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    with pytest.warns(UserWarning, match="No mtl file provided"):
        assert load_obj(path)[2].material_colors is None
    path = write(tmp_path, "mtllib gone.mtl\nv 0 0 0\n")
    with pytest.warns(UserWarning, match=f"Mtl file does not exist: {re.escape(str(tmp_path / 'gone.mtl'))}"):
        assert load_obj(path)[2].texture_images is None


def test_bad_texture_wrap(tmp_path):
    with pytest.raises(ValueError, match=r"texture_wrap must be one of \['repeat', 'clamp'\] or None, got mirror"):
        load_obj(write(tmp_path, "v 0 0 0\n"), texture_wrap="mirror")


def test_several_material_files(tmp_path):
    write(tmp_path, "newmtl a\nKd 1 0 0\nnewmtl b\nKd 0 1 0\n", "one.mtl")
    write(tmp_path, "newmtl b\nKd 0 0 1\nnewmtl c d\nKd 0.5\n", "two.mtl")
    body = "v 0 0 0\nv 1 0 0\nv 0 1 0\n" + "".join(f"usemtl {m}\nf 1 2 3\n" for m in ("c d", "b", "a"))
    for head in ("mtllib one.mtl\nmtllib two.mtl\n", "mtllib one.mtl two.mtl\n"):
        _, faces, aux = load_obj(write(tmp_path, head + body))
        colors = {name: m["diffuse_color"].tolist() for name, m in aux.material_colors.items()}
        assert colors == {"c d": [0.5, 0.5, 0.5], "b": [0, 1, 0], "a": [1, 0, 0]}
        assert list(colors) == ["c d", "b", "a"]
        assert faces.materials_idx.tolist() == [0, 1, 2]


@pytest.fixture
def random_mesh():
    verts = torch.randn(30, 3)
    faces = torch.randint(30, (50, 3))
    return verts, faces


def test_round_trip(tmp_path, random_mesh, device):
    verts, faces = (t.to(device) for t in random_mesh)
    normals, normals_idx = torch.randn(7, 3, device=device), torch.randint(7, (50, 3), device=device)
    uvs, uvs_idx = torch.rand(11, 2, device=device), torch.randint(11, (50, 3), device=device)
    image = (torch.randint(0, 256, (6, 9, 3)) / 255.0).to(device)
    path = tmp_path / "mesh.obj"
    save_obj(
        path,
        verts.double().requires_grad_(),
        faces,
        decimal_places=9,
        normals=normals,
        faces_normals_idx=normals_idx,
        verts_uvs=uvs,
        faces_uvs=uvs_idx,
        texture_map=image,
    )
    verts2, faces2, aux = load_obj(path, device=device)
    assert verts2.device.type == device.type
    torch.testing.assert_close(verts2, verts, rtol=0, atol=1e-6)
    torch.testing.assert_close(aux.normals, normals, rtol=0, atol=1e-6)
    torch.testing.assert_close(aux.verts_uvs, uvs, rtol=0, atol=1e-6)
    assert torch.equal(faces2.verts_idx, faces)
    assert torch.equal(faces2.normals_idx, normals_idx)
    assert torch.equal(faces2.textures_idx, uvs_idx)
    assert torch.equal(aux.texture_images["mesh"], image)
    assert sorted(os.listdir(tmp_path)) == ["mesh.mtl", "mesh.obj", "mesh.png"]


def test_saved_text(tmp_path):
    path = tmp_path / "mesh.obj"
    save_obj(path, torch.tensor([[0.5, 1, -2], [0, 0, 0.125], [1, 2, 3]]), torch.tensor([[0, 1, 2]]), 2)
    assert path.read_text() == "v 0.50 1.00 -2.00\nv 0.00 0.00 0.12\nv 1.00 2.00 3.00\nf 1 2 3"
    buffer = io.StringIO()
    save_obj(buffer, torch.zeros(1, 3), torch.zeros(0, 3, dtype=torch.int64))
    assert buffer.getvalue() == "v 0.000000 0.000000 0.000000\n"


def test_saved_texture_is_clamped(tmp_path):
    one = torch.zeros(1, 3, dtype=torch.int64)
    image = torch.tensor([-0.5, 2.0, float("nan")]).expand(2, 2, 3)
    save_obj(tmp_path / "a.obj", torch.zeros(1, 3), one, verts_uvs=torch.zeros(1, 2), faces_uvs=one, texture_map=image)
    assert np.asarray(PIL.open(tmp_path / "a.png"))[0, 0].tolist() == [0, 255, 0]


def test_save_warns_as_pytorch3d(tmp_path):
    path = tmp_path / "mesh.obj"
    with pytest.warns(UserWarning, match="Faces have invalid indices"):
        save_obj(path, torch.zeros(2, 3), torch.tensor([[0, 1, 2]]))
    with pytest.raises(ValueError, match="out of range"):
        load_quietly(path)
    with pytest.warns(UserWarning, match="Empty 'verts' and 'faces' arguments provided"):
        save_obj(path, torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    assert load_quietly(path)[0].shape == (0, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verts": torch.zeros(2, 4)}, r"'verts' should either be empty or of shape \(num_verts, 3\). Got \(2, 4\)"),
        ({"verts": [[0.0, 0, 0]]}, "'verts' must be a tensor of shape"),
        ({"faces": torch.zeros(3, dtype=torch.int64)}, r"'faces' should either be empty or of shape \(num_faces, 3\)"),
        ({"normals": torch.zeros(2, 3)}, "'normals' and 'faces_normals_idx' must both be None or neither."),
        (
            {"normals": torch.zeros(2, 3), "faces_normals_idx": torch.zeros(4, 3, dtype=torch.int64)},
            "'faces_normals_idx' must have one row for each of the 1 faces, got 4",
        ),
        ({"verts_uvs": torch.zeros(2, 3)}, r"'verts_uvs' should either be empty or of shape \(num_uvs, 2\)"),
        ({"texture_map": torch.zeros(2, 3)}, r"'texture_map' must have shape \(H, W, 3\), got \(2, 3\)"),
    ],
)
def test_save_shape_error(tmp_path, changes, message):
    arguments = {"verts": torch.zeros(3, 3), "faces": torch.zeros(1, 3, dtype=torch.int64), **changes}
    with pytest.raises((ValueError, TypeError), match=message):
        save_obj(tmp_path / "mesh.obj", **arguments)
    assert os.listdir(tmp_path) == []


def test_load_objs_as_meshes(tmp_path, device):
    textures = pytest.importorskip("recon_engine.renderer.mesh.textures")
    verts, faces = torch.rand(4, 3), torch.tensor([[0, 1, 2], [0, 2, 3]])
    uvs, image = torch.rand(4, 2), torch.randint(0, 256, (4, 6, 3)) / 255.0
    save_obj(tmp_path / "textured.obj", verts, faces, 8, verts_uvs=uvs, faces_uvs=faces, texture_map=image)
    save_obj(tmp_path / "plain.obj", verts[:3], faces[:1], 8)

    mesh = load_objs_as_meshes([tmp_path / "textured.obj"], device=device)
    assert mesh.device.type == device.type
    assert isinstance(mesh.textures, textures.TexturesUV)
    assert torch.equal(mesh.textures.maps_padded().cpu()[0], image)
    assert torch.equal(mesh.textures.faces_uvs_padded().cpu()[0], faces)

    pair = load_objs_as_meshes([tmp_path / "textured.obj"] * 2, create_texture_atlas=True, texture_atlas_size=3)
    assert isinstance(pair.textures, textures.TexturesAtlas)
    assert pair.textures.atlas_padded().shape == (2, 2, 3, 3, 3)

    with pytest.warns(UserWarning, match="No mtl file provided"):
        plain = load_objs_as_meshes([tmp_path / "plain.obj"])
    assert plain.textures is None
    assert torch.equal(plain.faces_packed(), faces[:1])
    with pytest.raises(ValueError, match="at least one file"):
        load_objs_as_meshes([])
    with pytest.raises(TypeError, match="put it in a list"):
        load_objs_as_meshes(str(tmp_path / "plain.obj"))


def printed_tensor(text: str, name: str) -> torch.Tensor:
    """The tensor that a printed output shows behind `name=`, `name = ` or `name: `."""
    start = re.search(rf"{name}\s*[=:]\s*tensor\(", text).end()
    return torch.tensor(ast.literal_eval(text[start : text.index(")", start)]))


@pytest.mark.parametrize(("mesh", "output"), [("cube.obj", "obj_example1"), ("cube_texture.obj", "obj_example2")])
def test_equals_the_outputs_printed_in_the_book(recon_data, mesh, output):
    folder = recon_data / "book" / "chap1" / "obj_io"
    text = (folder / f"{output}_output.txt").read_text()
    verts, faces, aux = load_obj(folder / mesh)
    torch.testing.assert_close(verts, printed_tensor(text, "vertices"), rtol=0, atol=5e-5)
    for name in Faces._fields:
        assert torch.equal(getattr(faces, name), printed_tensor(text, name))
    for material in aux.material_colors.values():
        assert len(material) == 4
        for name, value in material.items():
            torch.testing.assert_close(value, printed_tensor(text, f"'{name}'"), rtol=0, atol=5e-5)
    if mesh == "cube_texture.obj":
        torch.testing.assert_close(aux.verts_uvs, printed_tensor(text, "verts_uvs"), rtol=0, atol=5e-5)
        torch.testing.assert_close(aux.normals, printed_tensor(text, "normals"), rtol=0, atol=5e-5)
        image = aux.texture_images["Skin"]
        assert image.shape == (250, 250, 3)
        first_pixel = re.search(r"'Skin': tensor\(\[\[(\[[^]]*\])", text).group(1)
        torch.testing.assert_close(image[0, 0], torch.tensor(ast.literal_eval(first_pixel)), rtol=0, atol=2 / 255)


def test_equals_pytorch3d_on_real_meshes(recon_data):
    theirs = pytest.importorskip("pytorch3d.io")
    meshes = ["chap2/data/cow_mesh/cow.obj", "chap4/data/teapot.obj", "chap2/data/diamond.obj", "chap1/obj_io/cube.obj"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for name in meshes:
            for wrap in ("clamp", None):
                options = {"create_texture_atlas": True, "texture_wrap": wrap}
                assert_same(
                    load_obj(recon_data / "book" / name, **options),
                    theirs.load_obj(recon_data / "book" / name, **options),
                )


def test_text_equals_pytorch3d(tmp_path, random_mesh):
    theirs = pytest.importorskip("pytorch3d.io")
    verts, faces = random_mesh
    normals = {"normals": torch.randn(7, 3), "faces_normals_idx": torch.randint(7, (50, 3))}
    texture = {
        "verts_uvs": torch.rand(11, 2),
        "faces_uvs": torch.randint(11, (50, 3)),
        "texture_map": torch.zeros(2, 3, 3),
    }
    ours_path, theirs_path = tmp_path / "ours" / "mesh.obj", tmp_path / "theirs" / "mesh.obj"
    ours_path.parent.mkdir()
    theirs_path.parent.mkdir()
    for options in ({}, {"decimal_places": 3}, normals, texture, {**normals, **texture}):
        save_obj(ours_path, verts, faces, **options)
        theirs.save_obj(theirs_path, verts, faces, **options)
        for suffix in [".obj", ".mtl"] if "texture_map" in options else [".obj"]:
            assert ours_path.with_suffix(suffix).read_bytes() == theirs_path.with_suffix(suffix).read_bytes()
