from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from recon_engine.io import load_obj
from recon_engine.io.mtl_io import load_mtl, make_material_atlas, make_mesh_texture_atlas, texel_uvs
from recon_engine.io.utils import encode_png, read_image

PIL = pytest.importorskip("PIL.Image")


def write(tmp_path, text: str, name: str = "a.mtl"):
    path = tmp_path / name
    path.write_text(text)
    return path


def save_image(path, *size: int):
    pixels = torch.randint(0, 256, (*size, 3), dtype=torch.uint8)
    PIL.fromarray(pixels.numpy()).save(path)
    return pixels / 255.0


def test_properties_and_images(tmp_path, device):
    image = save_image(tmp_path / "a picture.png", 5, 7)
    path = write(
        tmp_path,
        "# comment\n\nnewmtl first\n\tKa 0.1 0.2 0.3\nKd 1 0.5 0 # trailing\nKs 0.25\nNs 10\nillum 2\nd 1.0\n"
        "newmtl with spaces\nmap_Kd a picture.png\nnewmtl unused\nKd 1 1 1\n",
    )
    colors, images = load_mtl(
        path, material_names=["with spaces", "first", "gone"], data_dir=str(tmp_path), device=device
    )
    assert list(colors) == ["with spaces", "first"]
    assert colors["with spaces"] == {}
    found = {name: value.tolist() for name, value in colors["first"].items()}
    assert found == {
        "ambient_color": pytest.approx([0.1, 0.2, 0.3]),
        "diffuse_color": [1, 0.5, 0],
        "specular_color": [0.25, 0.25, 0.25],
        "shininess": [10],
    }
    assert list(images) == ["with spaces"]
    assert images["with spaces"].device.type == device.type
    assert torch.equal(images["with spaces"].cpu(), image)


@pytest.mark.parametrize(
    "options", ["-s 2 2 2 -o 0.5", "-clamp on -blendu off", "-mm 0 1 -bm 0.5", "-imfchan r -texres 512 -t 0 0"]
)
def test_options_of_maps_are_skipped(tmp_path, options):
    image = save_image(tmp_path / "1 picture.png", 2, 2)
    path = write(tmp_path, f"newmtl m\nmap_Kd {options} ./1 picture.png\n")
    images = load_mtl(path, material_names=["m"], data_dir=str(tmp_path))[1]
    assert torch.equal(images["m"], image)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_image_modes(tmp_path, mode):
    PIL.new("RGB", (3, 2), (255, 0, 0)).convert(mode).save(tmp_path / "i.png")
    image = read_image(tmp_path / "i.png")
    assert image.shape == (2, 3, 3)
    assert image.dtype == np.float32


def test_png_round_trip_is_exact():
    import io

    values = torch.arange(256, dtype=torch.float32).div(255).reshape(16, 16, 1).expand(-1, -1, 3)
    pixels = np.asarray(PIL.open(io.BytesIO(encode_png(values.numpy()))))
    assert (pixels[..., 0].reshape(-1) == np.arange(256)).all()


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("Kd 1 0 0\n", 1, "expected 'newmtl NAME' before 'Kd'"),
        ("newmtl\n", 1, "expected the name of a material after 'newmtl'"),
        ("newmtl a\n\nKd red\n", 3, "expected 3 numbers after 'Kd', got 'red'"),
        ("newmtl a\nKd 1 2\n", 2, "expected 3 numbers after 'Kd', got '1 2'"),
        ("newmtl a\nNs\n", 2, "expected 1 number after 'Ns', got ''"),
        ("newmtl a\nmap_Kd -clamp on\n", 2, "expected the name of an image file after 'map_Kd'"),
    ],
)
def test_malformed_lines_are_named(tmp_path, text, line, message):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(f"{path}, line {line}: {message}")):
        load_mtl(path, material_names=["a"], data_dir=str(tmp_path))


def test_missing_image_warns_and_broken_image_raises(tmp_path):
    path = write(tmp_path, "newmtl a\nmap_Kd i.png\n")
    with pytest.warns(UserWarning, match=f"Texture file does not exist: {re.escape(str(tmp_path / 'i.png'))}"):
        assert load_mtl(path, material_names=["a"], data_dir=str(tmp_path))[1] == {}
    for content in (b"", b"no image", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"):
        (tmp_path / "i.png").write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(str(tmp_path / "i.png")) + ": expected a readable image"):
            load_mtl(path, material_names=["a"], data_dir=str(tmp_path))


def test_binary_data_is_refused(tmp_path):
    (tmp_path / "a.mtl").write_bytes(b"\0\1\2")
    with pytest.raises(ValueError, match="expected MTL text, got binary data"):
        load_mtl(tmp_path / "a.mtl", material_names=[], data_dir="")


def test_material_without_usemtl(tmp_path):
    write(tmp_path, "newmtl only\nKd 1 0 0\n")
    obj = tmp_path / "a.obj"
    obj.write_text("mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    _, faces, aux = load_obj(obj, create_texture_atlas=True, texture_atlas_size=2)
    assert faces.materials_idx.tolist() == [0]
    assert list(aux.material_colors) == ["only"]
    assert torch.equal(aux.texture_atlas, torch.tensor([1.0, 0, 0]).expand(1, 2, 2, 3))
    write(tmp_path, "newmtl one\nnewmtl two\n")
    with pytest.raises(ValueError, match="Multiple materials but no usemtl declarations in the obj file"):
        load_obj(obj)


def test_texels_are_centroids_of_equal_triangles():
    corners = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])  # w0 along u, w1 along v
    uvs = texel_uvs(corners, 2)[0]
    expected = torch.tensor([[[1, 1], [4, 1]], [[1, 4], [2, 2]]]) / 6
    torch.testing.assert_close(uvs, expected)
    # For every size the texels are inside the triangle and their mean is its centroid.
    for R in (1, 3, 4, 7):
        uvs = texel_uvs(corners.double(), R)
        assert uvs.min() > 0
        assert uvs.sum(-1).max() < 1
        torch.testing.assert_close(uvs.mean((0, 1, 2)), torch.full((2,), 1 / 3, dtype=torch.float64))


def test_atlas_of_a_linear_image_is_linear():
    H, W = 9, 5
    v, u = torch.meshgrid(torch.linspace(0, 1, H), torch.linspace(0, 1, W), indexing="ij")
    image = torch.stack([u, v, u + v], dim=-1)
    corners = torch.rand(6, 3, 2)
    uvs = texel_uvs(corners, 3)
    expected = torch.cat([uvs, uvs.sum(-1, keepdim=True)], dim=-1)
    torch.testing.assert_close(make_material_atlas(image, corners, 3), expected)


def atlas(uvs, wrap, image=None, names=("m",), faces=((0, 1, 2),), size=4):
    H, W = 33, 65
    v, u = torch.meshgrid(torch.linspace(1, 0, H), torch.linspace(0, 1, W), indexing="ij")
    image = torch.stack([u, v, torch.zeros_like(u)], dim=-1) if image is None else image
    return make_mesh_texture_atlas(
        {"m": {"diffuse_color": torch.tensor([0.0, 0.0, 1.0])}}, {"m": image}, np.array(names), torch.tensor(faces),
        torch.tensor(uvs), size, wrap,
    )  # fmt: skip


def test_repeat_wraps_each_texel():
    inside = [[0.1, 0.1], [0.9, 0.2], [0.3, 0.8]]
    shifted = [[u + 2, v - 3] for u, v in inside]
    with pytest.warns(UserWarning, match="Texture UV coordinates outside the range"):
        moved = atlas(shifted, "repeat")
    torch.testing.assert_close(moved, atlas(inside, "repeat"), rtol=0, atol=1e-5)
    with pytest.warns(UserWarning, match="outside the range"):
        crossing = atlas([[0.9, 0.5], [1.1, 0.5], [1.0, 0.6]], "repeat")
    # The face lies beside the border u = 1: no texel may come from the middle of the image.
    assert ((crossing[..., 0] > 0.85) | (crossing[..., 0] < 0.15)).all()


def test_clamp_and_none():
    outside = [[1.5, 0.5], [2.5, 0.5], [2.0, 0.9]]
    assert torch.equal(atlas(outside, "clamp")[..., 0], torch.ones(1, 4, 4))
    assert torch.equal(atlas(outside, None)[..., 0], torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="texture_wrap must be one of"):
        atlas(outside, "mirror")


def test_faces_without_material_or_coordinates():
    uvs = [[0.1, 0.1], [0.9, 0.2], [0.3, 0.8]]
    found = atlas(uvs, "repeat", names=("", "m", "m"), faces=((0, 1, 2), (-1, -1, -1), (0, 1, 2)))
    assert torch.equal(found[0], torch.ones(4, 4, 3))
    assert torch.equal(found[1], torch.tensor([0.0, 0, 1]).expand(4, 4, 3))
    assert torch.equal(found[2], atlas(uvs, "repeat")[0])


def test_atlas_gradcheck():
    image = torch.rand(4, 5, 3, dtype=torch.float64, requires_grad=True)
    corners = torch.rand(2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda i, c: make_material_atlas(i, c, 2), (image, corners))


def test_equals_pytorch3d():
    theirs = pytest.importorskip("pytorch3d.io.mtl_io")
    faces, verts_uvs = torch.randint(20, (40, 3)), torch.rand(20, 2)
    images = {"a": torch.rand(8, 6, 3), "b": torch.rand(5, 9, 4)}
    colors = {"a": {}, "b": {}, "c": {"diffuse_color": torch.rand(3)}}
    names = np.array(["", "a", "b", "c"])[torch.randint(4, (40,)).numpy()]
    for wrap in ("repeat", "clamp", None):
        arguments = (colors, images, names, faces, verts_uvs, 4, wrap)
        torch.testing.assert_close(make_mesh_texture_atlas(*arguments), theirs.make_mesh_texture_atlas(*arguments))
