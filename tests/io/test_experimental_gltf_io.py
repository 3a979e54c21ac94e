from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from recon_engine.io import IO
from recon_engine.io.experimental_gltf_io import MeshGlbFormat, _read_header, load_meshes
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere

textures = pytest.importorskip("recon_engine.renderer.mesh.textures")
pytest.importorskip("PIL.Image")
REFERENCE = Path(__file__).parents[1] / "reference"
TRIANGLE = [[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]


@pytest.fixture(scope="module")
def recorder():
    spec = importlib.util.spec_from_file_location("record_gltf", REFERENCE / "record_gltf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def formats():
    formats = IO()
    formats.register_meshes_format(MeshGlbFormat())
    return formats


def loaded(builder):
    """The only mesh of a file."""
    ((_, mesh),) = load_meshes(io.BytesIO(builder.glb()))
    return mesh


def one(builder, primitive, **node):
    builder.node(mesh=builder.mesh(primitive), **node)
    return builder


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, theirs in expected.items():
        ours = found[name]
        assert ours.dtype == theirs.dtype, name
        if theirs.dtype.kind in "US":
            assert ours == theirs, name
        else:
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6, err_msg=name)


def test_everything_is_as_recorded(recorder, tmp_path):
    assert_same(recorder.record("recon_engine", tmp_path), dict(np.load(REFERENCE / "gltf.npz")))


def test_live(recorder, tmp_path):
    pytest.importorskip("pytorch3d.io", exc_type=ImportError)
    assert_same(recorder.record("recon_engine", tmp_path), recorder.record("pytorch3d", tmp_path))


def test_equals_trimesh(recorder, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    (tmp_path / "a.glb").write_bytes(recorder.many())
    expected = trimesh.load(tmp_path / "a.glb", process=False).to_geometry()
    ours = np.concatenate([mesh.verts_packed().numpy() for _, mesh in load_meshes(tmp_path / "a.glb")])
    np.testing.assert_allclose(sorted(ours.tolist()), sorted(expected.vertices.tolist()), atol=1e-6)
    assert sum(len(mesh.faces_packed()) for _, mesh in load_meshes(tmp_path / "a.glb")) == len(expected.faces)


def test_matrices_of_nodes(recorder):
    """Column by column, for column vectors."""
    b = recorder.Builder()
    one(b, {"attributes": {"POSITION": b.accessor(TRIANGLE)}}, matrix=[0, 2, 0, 0, -1, 0, 0, 0, 0, 0, 1, 0, 7, 8, 9, 1])
    assert loaded(b).verts_packed().tolist() == [[7, 8, 9], [7, 10, 9], [6, 8, 9]]


def test_mirrored_meshes_keep_their_outside(recorder):
    b = recorder.Builder()
    one(b, {"attributes": {"POSITION": b.accessor(TRIANGLE)}}, scale=[-1, 1, 1])
    mesh = loaded(b)
    assert mesh.verts_packed().tolist() == [[0, 0, 0], [-1, 0, 0], [0, 1, 0]]
    assert mesh.faces_normals_packed().tolist() == [[0, 0, 1]]


@pytest.mark.parametrize(
    ("mode", "index", "faces"),
    [
        (4, None, [[0, 1, 2], [3, 4, 5]]),
        (5, None, [[0, 1, 2], [1, 3, 2], [2, 3, 4], [3, 5, 4]]),
        (6, None, [[1, 2, 0], [2, 3, 0], [3, 4, 0], [4, 5, 0]]),
        (5, [5, 0, 2, 1], [[5, 0, 2], [0, 1, 2]]),
        (6, [5, 0, 2, 1], [[0, 2, 5], [2, 1, 5]]),
        (5, [1, 2], []),
    ],
)
def test_ways_to_list_triangles(recorder, mode, index, faces):
    b = recorder.Builder()
    primitive = {"attributes": {"POSITION": b.accessor(recorder.wave(6, 3))}, "mode": mode}
    if index:
        primitive["indices"] = b.accessor(index, "B")
    found = loaded(one(b, primitive)).faces_packed()
    assert found.tolist() == faces
    assert found.shape == (len(faces), 3)
    assert found.dtype == torch.int64


def test_points_and_lines_are_left_out(recorder):
    b = recorder.Builder()
    position = b.accessor(TRIANGLE)
    b.node(mesh=b.mesh({"attributes": {"POSITION": position}, "mode": 0}, {"attributes": {"POSITION": position}}))
    with pytest.warns(UserWarning, match="points and lines of mesh None are left out"):
        assert len(load_meshes(io.BytesIO(b.glb()))) == 1


@pytest.mark.parametrize(("kind", "most"), [("B", 255), ("H", 65535)])
def test_colours_of_integers_are_fractions(recorder, kind, most):
    b = recorder.Builder()
    colors = [[0, most, 51], [most, 0, 0], [1, 2, 3]]
    attributes = {"POSITION": b.accessor(TRIANGLE), "COLOR_0": b.accessor(colors, kind, normalized=True)}
    found = loaded(one(b, {"attributes": attributes})).textures.verts_features_packed()
    torch.testing.assert_close(found, torch.tensor(colors, dtype=torch.float32) / most)


def test_positions_of_integers(recorder):
    """KHR_mesh_quantization."""
    b = recorder.Builder()
    b.json["extensionsRequired"] = ["KHR_mesh_quantization"]
    position = b.accessor([[-128, 127, 0], [1, 0, 0], [0, 1, 0]], "b", normalized=True)
    found = loaded(one(b, {"attributes": {"POSITION": position}}, scale=[2, 2, 2])).verts_packed()
    torch.testing.assert_close(found[0], torch.tensor([-2.0, 2.0, 0.0]))


def test_sparse_rows_and_rows_of_zeros(recorder):
    b = recorder.Builder()
    index, values = b.view(bytes([0, 2])), b.view(np.array([[1, 2, 3], [4, 5, 6]], "<f4").tobytes())
    sparse = {
        "count": 2,
        "indices": {"bufferView": index, "componentType": 5121},
        "values": {"bufferView": values},
    }
    zeros = b.accessor(np.zeros((3, 3)), sparse=sparse)
    del b.json["accessors"][zeros]["bufferView"]
    base = b.accessor(np.full((3, 3), 7.0), sparse=sparse)
    for accessor, middle in (zeros, 0), (base, 7):
        b.json["nodes"], b.json["meshes"] = [], []
        found = loaded(one(b, {"attributes": {"POSITION": accessor}})).verts_packed()
        assert found.tolist() == [[1, 2, 3], [middle] * 3, [4, 5, 6]]


def test_materials_without_a_texture(recorder):
    def texture(material, uvs="TEXCOORD_0"):
        b = recorder.Builder()
        b.json["materials"] = [{"pbrMetallicRoughness": {"baseColorFactor": [0.5, 0.25, 1, 0.5]}}, {}]
        primitive = {"attributes": {"POSITION": b.accessor(TRIANGLE), uvs: b.accessor(recorder.wave(3, 2))}}
        return loaded(one(b, {**primitive, **material})).textures

    assert texture({"material": 0}).maps_padded().tolist() == [[[[0.5, 0.25, 1]]]]
    assert texture({"material": 1}).maps_padded().tolist() == [[[[1, 1, 1]]]]
    assert texture({}).maps_padded().tolist() == [[[[1, 1, 1]]]]
    assert texture({}, uvs="TEXCOORD_1") is None


def test_second_set_of_texture_coordinates(recorder):
    b = recorder.Builder()
    image = b.view(recorder.png(2, 3))
    b.json |= {
        "images": [{"bufferView": image}],
        "textures": [{"source": 0}],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0, "texCoord": 1}}}],
    }
    uvs = recorder.wave(3, 2)
    attributes = {"POSITION": b.accessor(TRIANGLE), "TEXCOORD_0": b.accessor(uvs * 0), "TEXCOORD_1": b.accessor(uvs)}
    found = loaded(one(b, {"attributes": attributes, "material": 0})).textures
    np.testing.assert_allclose(found.verts_uvs_padded()[0], uvs * [1, -1] + [0, 1], atol=1e-7)


def test_text_with_data_embedded_or_beside_it(recorder, tmp_path):
    content = recorder.painted()
    size = struct.unpack_from("<I", content, 12)[0]
    scene, binary = json.loads(content[20 : 20 + size]), content[28 + size :]
    expected = [recorder.describe(mesh) for _, mesh in load_meshes(io.BytesIO(content))]

    def check(path):
        found = [recorder.describe(mesh) for _, mesh in load_meshes(path)]
        for ours, theirs in zip(found, expected, strict=True):
            for key in theirs:
                np.testing.assert_array_equal(ours[key], theirs[key])

    uri = "data:application/octet-stream;base64," + base64.b64encode(binary).decode()
    scene["buffers"][0]["uri"] = uri
    (tmp_path / "a.gltf").write_text(json.dumps(scene))
    check(tmp_path / "a.gltf")
    check(str(tmp_path / "a.gltf"))
    (tmp_path / "my data.bin").write_bytes(binary)
    scene["buffers"][0]["uri"] = "my%20data.bin"
    view = scene["bufferViews"][scene["images"][0]["bufferView"]]
    (tmp_path / "i.png").write_bytes(binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]])
    scene["images"][0] = {"uri": "i.png"}
    (tmp_path / "b.gltf").write_text(json.dumps(scene))
    check(tmp_path / "b.gltf")
    for bad, message in (
        ("https://example.org/a.bin", "buffer 0 is at https://example.org/a.bin, where only files"),
        ("data:text/plain,abc", "Unexpected URI type: expected base64, got data:text/plain"),
    ):
        scene["buffers"][0]["uri"] = bad
        (tmp_path / "c.gltf").write_text(json.dumps(scene))
        with pytest.raises(ValueError, match=message):
            load_meshes(tmp_path / "c.gltf")


def test_scenes(recorder):
    b = recorder.Builder()
    primitive = {"attributes": {"POSITION": b.accessor(TRIANGLE)}}
    for name in "abc":
        b.node(mesh=b.mesh(primitive, name=name))
    b.json["nodes"][0]["children"] = [2]
    b.json["scenes"] = [{"nodes": [1]}, {"nodes": [0]}]

    def names():
        return [name for name, _ in load_meshes(io.BytesIO(b.glb()))]

    assert names() == ["b"]
    b.json["scene"] = 1
    assert names() == ["a", "c"]
    del b.json["scene"]
    assert names() == ["b"]
    del b.json["scenes"]
    assert names() == ["a", "b", "c"]


def test_round_trip_of_a_shape(tmp_path, formats, device):
    sphere = ico_sphere(2, device)
    formats.save_mesh(sphere, tmp_path / "a.glb")
    mesh = formats.load_mesh(tmp_path / "a.glb", device=device)
    assert mesh.device.type == device.type
    assert torch.equal(mesh.verts_packed(), sphere.verts_packed())
    assert torch.equal(mesh.faces_packed(), sphere.faces_packed())
    assert mesh.textures is None
    assert os.listdir(tmp_path) == ["a.glb"]
    with open(tmp_path / "a.glb", "rb") as opened:
        assert _read_header(opened) == (2, os.path.getsize(tmp_path / "a.glb"))
    assert _read_header(io.BytesIO(b"solid something")) is None


@pytest.mark.parametrize("channels", [3, 4])
def test_round_trip_of_colours(tmp_path, formats, channels):
    sphere = ico_sphere(1)
    sphere.textures = textures.TexturesVertex(torch.rand(1, 42, channels))
    formats.save_mesh(sphere, tmp_path / "a.glb")
    found = formats.load_mesh(tmp_path / "a.glb").textures
    assert torch.equal(found.verts_features_packed(), sphere.textures.verts_features_packed())
    assert formats.load_mesh(tmp_path / "a.glb", include_textures=False).textures is None
    formats.save_mesh(sphere, tmp_path / "a.glb", include_textures=False)
    assert formats.load_mesh(tmp_path / "a.glb").textures is None


@pytest.mark.parametrize("seams", [True, False])
def test_round_trip_of_an_image(tmp_path, formats, seams):
    """What the mesh shows at each corner is the same, and the mesh that was saved is too."""
    sphere = ico_sphere(1)
    faces = sphere.faces_packed()
    faces_uvs = torch.randint(50, faces.shape) if seams else faces
    uvs, image = torch.rand(1, 50 if seams else 42, 2), (torch.randint(0, 256, (1, 5, 7, 3)) / 255.0).requires_grad_()
    before = uvs.clone()
    sphere.textures = textures.TexturesUV(image, faces_uvs[None], uvs)
    formats.save_mesh(sphere, tmp_path / "a.glb")
    assert torch.equal(uvs, before)
    mesh = formats.load_mesh(tmp_path / "a.glb")
    assert torch.equal(mesh.verts_packed()[mesh.faces_packed()], sphere.verts_packed()[faces])
    found = mesh.textures
    torch.testing.assert_close(found.maps_padded(), image.detach(), rtol=0, atol=1e-7)
    corners = found.verts_uvs_padded()[0][found.faces_uvs_padded()[0]]
    torch.testing.assert_close(corners, uvs[0][faces_uvs], rtol=0, atol=1e-6)
    assert (len(mesh.verts_packed()) == 42) == (not seams)


def test_saved_files_are_read_by_trimesh(tmp_path, formats):
    trimesh = pytest.importorskip("trimesh")
    sphere = ico_sphere(1)
    sphere.textures = textures.TexturesUV(torch.rand(1, 4, 4, 3), sphere.faces_padded(), torch.rand(1, 42, 2))
    formats.save_mesh(sphere, tmp_path / "a.glb")
    (read,) = trimesh.load(tmp_path / "a.glb", process=False).geometry.values()
    np.testing.assert_allclose(read.vertices, sphere.verts_packed())
    assert (read.faces == sphere.faces_packed().numpy()).all()
    np.testing.assert_allclose(read.visual.uv, sphere.textures.verts_uvs_padded()[0], atol=1e-6)
    assert read.visual.material.baseColorTexture.size == (4, 4)


def test_trimesh_writes_what_is_read(tmp_path, formats):
    trimesh = pytest.importorskip("trimesh")
    box = trimesh.creation.box(extents=(1, 2, 3))
    box.visual.vertex_colors = np.random.default_rng(0).integers(0, 256, (8, 4))
    box.export(tmp_path / "a.glb")
    mesh = formats.load_mesh(tmp_path / "a.glb")
    np.testing.assert_allclose(mesh.verts_packed()[mesh.faces_packed()], box.triangles, atol=1e-6)
    np.testing.assert_allclose(mesh.textures.verts_features_packed() * 255, box.visual.vertex_colors, atol=1e-3)


@pytest.mark.parametrize("count", [65535, 65536, 70000])
def test_many_vertices(tmp_path, formats, count):
    verts, faces = torch.rand(count, 3), torch.tensor([[0, 1, count - 1], [count - 1, count - 2, count - 3]])
    formats.save_mesh(Meshes([verts], [faces]), tmp_path / "a.glb")
    assert torch.equal(formats.load_mesh(tmp_path / "a.glb").faces_packed(), faces)


def test_parts_start_at_multiples_of_four(tmp_path, formats):
    mesh = Meshes([torch.rand(3, 3)], [torch.tensor([[0, 1, 2]])], textures.TexturesVertex(torch.rand(1, 3, 3)))
    formats.save_mesh(mesh, tmp_path / "a.glb")
    content = (tmp_path / "a.glb").read_bytes()
    size = struct.unpack_from("<I", content, 12)[0]
    scene = json.loads(content[20 : 20 + size])
    assert len(content) % 4 == size % 4 == 0
    assert all(view["byteOffset"] % 4 == 0 for view in scene["bufferViews"])
    assert scene["accessors"][1] == {
        "bufferView": 1,
        "componentType": 5123,
        "count": 3,
        "type": "SCALAR",
        "min": [0],
        "max": [2],
    }
    assert "materials" not in scene


def test_textures_that_cannot_be_saved(tmp_path, formats):
    sphere = ico_sphere(0)
    atlas = textures.TexturesAtlas(torch.rand(1, 20, 2, 2, 3))
    for texture in atlas, textures.TexturesVertex(torch.rand(1, 12, 2)):
        sphere.textures = texture
        with pytest.warns(UserWarning, match="Texture will not be saved: expected 3 or 4 colors for each vertex"):
            formats.save_mesh(sphere, tmp_path / "a.glb")
        assert formats.load_mesh(tmp_path / "a.glb").textures is None


def test_meshes_that_cannot_be_saved(tmp_path, formats):
    nothing = Meshes([torch.rand(3, 3)], [torch.zeros(0, 3, dtype=torch.int64)])
    with pytest.raises(ValueError, match=r"a\.glb: invalid mesh to save, .* got 1 with 3 vertices and 0 faces"):
        formats.save_mesh(nothing, tmp_path / "a.glb")
    with pytest.raises(ValueError, match="expected finite vertices, got infinity or NaN"):
        formats.save_mesh(ico_sphere(0).scale_verts(float("nan")), tmp_path / "a.glb")
    assert os.listdir(tmp_path) == []
    assert not MeshGlbFormat().save(nothing, "a.obj", None, None)
    assert MeshGlbFormat().read("a.obj", True, "cpu", None) is None
    with pytest.raises(ValueError, match=r"No mesh interpreter found to read a\.glb"):
        IO().load_mesh("a.glb")


def test_textures_of_different_kinds(recorder, tmp_path, formats):
    (tmp_path / "a.glb").write_bytes(recorder.many())
    with pytest.raises(ValueError, match=r"textures of different kinds \(TexturesUV, TexturesVertex, none\)"):
        formats.load_mesh(tmp_path / "a.glb")
    b = recorder.Builder()
    b.node()
    (tmp_path / "a.glb").write_bytes(b.glb())
    with pytest.raises(ValueError, match=r"a\.glb: expected meshes in the default scene, found none"):
        formats.load_mesh(tmp_path / "a.glb")


def broken(recorder, change):
    b = recorder.Builder()
    one(b, {"attributes": {"POSITION": b.accessor(TRIANGLE)}, "indices": b.accessor([0, 1, 2], "H")})
    change(b.json)
    return b.glb()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f["nodes"][0].update(children=[0]), "node 0 is among its own descendants"),
        (lambda f: f["nodes"][0].update(children=[5]), "refers to number 5 of nodes, of which there are 1"),
        (lambda f: f["nodes"][0].update(mesh=2), "refers to number 2 of meshes, of which there are 1"),
        (lambda f: f["accessors"][0].update(count=4), "Buffer did not have enough data for the accessor: 4 rows"),
        (lambda f: f["accessors"][0].update(count=10**12), "Buffer did not have enough data for the accessor"),
        (lambda f: f["accessors"][0].update(byteOffset=-4), "Buffer did not have enough data for the accessor"),
        (lambda f: f["accessors"][1].update(count=2), "expected three indices for each triangle, got 2 in all"),
        (lambda f: f["accessors"][0].update(count=2), "a face has vertex index 2 but there are 2 vertices"),
        (lambda f: f["accessors"][0].pop("type"), "malformed glTF, KeyError 'type'"),
        (lambda f: f["accessors"][0].update(type="MAT9"), "malformed glTF, KeyError 'MAT9'"),
        (lambda f: f["bufferViews"][0].update(byteLength=10**6), "Not enough binary data for the buffer"),
        (
            lambda f: f["bufferViews"][0].update(byteStride=4),
            "Items should not overlap. Rows of 12 bytes",
        ),
        (lambda f: f["bufferViews"][0].update(buffer=1), "refers to number 1 of buffers, of which there are 1"),
        (lambda f: f.update(extensionsRequired=["KHR_draco_mesh_compression"]), "needs the extension KHR_draco"),
    ],
)
def test_malformed_files_are_named(recorder, change, message):
    with pytest.raises(ValueError, match=f"<file object>: .*{message}"):
        load_meshes(io.BytesIO(broken(recorder, change)))


def test_malformed_containers(recorder):
    content = recorder.painted()
    for bad, message in (
        (content[:8], "the file ends inside its header"),
        (content[:4] + struct.pack("<I", 1) + content[8:], "Unsupported version. Expected glTF 2, got 1"),
        (content[:100], "a chunk of .* bytes ends after 80"),
        (content[:12], "Missing json header"),
        (b"solid something", "expected a glTF file, got text that is not JSON"),
    ):
        with pytest.raises(ValueError, match=message):
            load_meshes(io.BytesIO(bad))


def test_truncated_and_random_files_never_crash(recorder):
    content = recorder.painted()
    generator = np.random.default_rng(0)
    for _ in range(150):
        changed = bytearray(content)
        for _ in range(3):
            changed[generator.integers(len(changed))] = generator.integers(256)
        try:
            load_meshes(io.BytesIO(bytes(changed)), include_textures=False)
        except ValueError as error:
            assert str(error).startswith("<file object>")  # noqa: PT017
