from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from recon_engine import load
from recon_engine.io import save_obj, save_ply
from recon_engine.renderer import TexturesUV, TexturesVertex
from recon_engine.utils import ico_sphere

QUAD = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


def picture(color, size=(8, 8)):
    """An image of one colour whose upper left quarter is white."""
    Image = pytest.importorskip("PIL.Image")
    texels = np.full((*size, 3), color, np.uint8)
    texels[: size[0] // 2, : size[1] // 2] = 255
    return Image.fromarray(texels)


def shown(mesh, face, weights):
    """The colour of a textured mesh at barycentric coordinates of a face."""
    textures = mesh.textures
    assert isinstance(textures, TexturesUV)
    uv = torch.tensor(weights) @ textures.verts_uvs_list()[0][textures.faces_uvs_list()[0][face]]
    grid = torch.stack([2 * uv[0] - 1, 1 - 2 * uv[1]]).reshape(1, 1, 1, 2)
    image = textures.maps_padded().permute(0, 3, 1, 2)
    return torch.nn.functional.grid_sample(image, grid, align_corners=False).flatten()


def assert_color(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected), atol=0.01, rtol=0)


CENTER = [1 / 3, 1 / 3, 1 / 3]


@pytest.mark.parametrize("suffix", ["off", "stl", "ply", "glb", "obj"])
def test_formats(suffix, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    box = trimesh.creation.box([1, 2, 3])
    box.export(tmp_path / f"box.{suffix}")
    mesh = load(tmp_path / f"box.{suffix}")
    assert mesh.faces_packed().shape == (12, 3)
    corners = mesh.verts_packed()[mesh.faces_packed()]
    torch.testing.assert_close(mesh.get_bounding_boxes()[0, :, 1], torch.tensor([0.5, 1.0, 1.5]))
    torch.testing.assert_close(torch.linalg.det(corners).sum() / 6, torch.tensor(6.0))  # the volume


@pytest.mark.parametrize("suffix", ["ply", "glb", "obj"])
def test_vertex_colours(suffix, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    box = trimesh.creation.box()
    box.visual.vertex_colors = np.tile([255, 0, 51, 255], (len(box.vertices), 1))
    box.export(tmp_path / f"box.{suffix}")
    textures = load(tmp_path / f"box.{suffix}").textures
    assert isinstance(textures, TexturesVertex)
    assert_color(textures.verts_features_packed()[3], [1.0, 0.0, 0.2])


def test_vertex_colours_of_an_off_file(tmp_path):
    (tmp_path / "a.off").write_text("COFF\n3 1 0\n0 0 0 255 0 51\n1 0 0 255 0 51\n0 1 0 255 0 51\n3 0 1 2\n")
    assert_color(load(tmp_path / "a.off").textures.verts_features_packed()[1], [1.0, 0.0, 0.2])


def test_comments_behind_obj_vertices_are_no_colours(tmp_path):
    (tmp_path / "a.obj").write_text("v 0 0 0 # the first one\nv 1 0 0 # the second one\nv 0 1 0 # a third\nf 1 2 3\n")
    assert load(tmp_path / "a.obj").textures is None


def test_materials_of_an_obj_file(tmp_path):
    picture((255, 0, 0)).save(tmp_path / "red.png")
    picture((0, 255, 0), (4, 16)).save(tmp_path / "green.png")
    (tmp_path / "a.mtl").write_text(
        "newmtl red\nKd 1 1 0\nmap_Kd red.png\nnewmtl blue\nKd 0 0 1\nnewmtl green\nmap_Kd green.png\n"
    )
    uvs = "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
    quads = "usemtl blue\nf 1 2 3\nusemtl gone\nf 1 2 3\nusemtl red\nf 1/1 2/2 3/3 4/4\nf 1 2 3\n"
    quads += "usemtl green\nf 1/1 2/2 3/3 4/4\n"
    (tmp_path / "a.obj").write_text("mtllib a.mtl\n" + QUAD + uvs + quads)
    with warnings.catch_warnings(record=True):
        mesh = load(tmp_path / "a.obj")
    clay = [0.80, 0.77, 0.72]
    for face, color in enumerate([[0, 0, 1.0], clay, [1.0, 0, 0], None, [1.0, 1.0, 0], [0, 1.0, 0]]):
        if color is not None:
            assert_color(shown(mesh, face, CENTER), color)
    assert_color(shown(mesh, 3, [0.1, 0.1, 0.8]), [1.0, 1.0, 1.0])  # the upper left corner
    assert_color(shown(mesh, 6, [0.1, 0.1, 0.8]), [1.0, 1.0, 1.0])


def test_images_do_not_mix_at_their_borders(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    for name, color in (("red", (255, 0, 0)), ("green", (0, 255, 0))):
        Image.new("RGB", (4, 4), color).save(tmp_path / f"{name}.png")
    (tmp_path / "a.mtl").write_text("newmtl red\nmap_Kd red.png\nnewmtl green\nmap_Kd green.png\n")
    faces = "usemtl red\nf 1/1 2/2 3/3\nusemtl green\nf 1/1 2/2 3/3\n"
    (tmp_path / "a.obj").write_text("mtllib a.mtl\n" + QUAD + "vt 0 0\nvt 1 0\nvt 1 1\n" + faces)
    mesh = load(tmp_path / "a.obj")
    for face, color in enumerate([[1.0, 0, 0], [0, 1.0, 0]]):
        for corner in np.eye(3, dtype=np.float32).tolist():
            assert_color(shown(mesh, face, corner), color)


def test_textures_repeat(tmp_path):
    picture((255, 0, 0)).save(tmp_path / "red.png")
    (tmp_path / "a.mtl").write_text("newmtl red\nmap_Kd red.png\n")
    # Three repetitions across and two upwards, beginning at (-1, 5).
    uvs = "vt -1 5\nvt 2 5\nvt 2 7\nvt -1 7\n"
    (tmp_path / "a.obj").write_text(f"mtllib a.mtl\n{QUAD}{uvs}usemtl red\nf 1/1 2/2 3/3\nf 1/1 3/3 4/4\n")
    mesh = load(tmp_path / "a.obj")
    for u in np.linspace(0.04, 0.96, 12):
        for v in np.linspace(0.03, 0.97, 9):
            face, weights = (0, [1 - u, u - v, v]) if u > v else (1, [1 - v, u, v - u])
            is_near_edge = min(abs(6 * u - round(6 * u)), abs(4 * v - round(4 * v))) < 0.15
            is_white = 3 * u % 1 < 0.5 and 2 * v % 1 > 0.5
            if not is_near_edge:
                color = [1.0, 1.0, 1.0] if is_white else [1.0, 0.0, 0.0]
                assert_color(shown(mesh, face, np.float32(weights).tolist()), color)


def test_an_image_that_repeats_very_often_stays_small(tmp_path):
    picture((255, 0, 0), (64, 64)).save(tmp_path / "red.png")
    (tmp_path / "a.mtl").write_text("newmtl red\nmap_Kd red.png\n")
    (tmp_path / "a.obj").write_text(f"mtllib a.mtl\n{QUAD}vt 0 0\nvt 1000 0\nvt 1000 1\nusemtl red\nf 1/1 2/2 3/3\n")
    assert load(tmp_path / "a.obj").textures.maps_padded().shape == (1, 64, 4000, 3)


def test_a_missing_texture_is_a_warning(tmp_path):
    (tmp_path / "a.obj").write_text(f"mtllib gone.mtl\n{QUAD}usemtl x\nf 1 2 3\n")
    with pytest.warns(UserWarning, match=r"gone\.mtl"):
        mesh = load(tmp_path / "a.obj")
    assert mesh.textures is None


def test_parts_of_a_scene_become_one_mesh(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    scene = trimesh.Scene()
    image = picture((255, 0, 0))
    for i, factor in enumerate([None, [255, 51, 255, 255]]):
        box = trimesh.creation.box()
        material = trimesh.visual.material.PBRMaterial(baseColorTexture=image, baseColorFactor=factor)
        box.visual = trimesh.visual.TextureVisuals(uv=np.full((8, 2), 0.25), material=material)
        scene.add_geometry(box, transform=trimesh.transformations.translation_matrix([3 * i, 0, 0]))
    plain = trimesh.creation.box()
    plain.visual = trimesh.visual.TextureVisuals(
        material=trimesh.visual.material.PBRMaterial(baseColorFactor=[0, 0, 255, 255])
    )
    scene.add_geometry(plain, transform=trimesh.transformations.translation_matrix([6, 0, 0]))
    colored = trimesh.creation.box()
    colored.visual.vertex_colors = np.tile([0, 255, 255, 255], (8, 1))
    scene.add_geometry(colored, transform=trimesh.transformations.translation_matrix([9, 0, 0]))
    scene.export(tmp_path / "scene.glb")

    mesh = load(tmp_path / "scene.glb")
    assert len(mesh.faces_packed()) == 48
    middle = mesh.verts_packed()[mesh.faces_packed()].mean(1)[:, 0]
    for x, color in ((0, [1.0, 0, 0]), (3, [1.0, 0, 0]), (6, [0, 0, 1.0]), (9, [0, 1.0, 1.0])):
        faces = ((middle - x).abs() < 0.6).nonzero()[:, 0].tolist()
        assert len(faces) == 12
        assert_color(shown(mesh, faces[0], CENTER), color)


@pytest.mark.parametrize("kind", ["vertices", "faces"])
def test_scenes_of_colours_only(kind, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    scene = trimesh.Scene()
    for i, color in enumerate([[255, 0, 0, 255], [0, 0, 255, 255]]):
        box = trimesh.creation.box()
        if kind == "vertices":
            box.visual.vertex_colors = np.tile(color, (8, 1))
        else:
            box.visual = trimesh.visual.TextureVisuals(
                material=trimesh.visual.material.PBRMaterial(baseColorFactor=color)
            )
        scene.add_geometry(box, transform=trimesh.transformations.translation_matrix([3 * i, 0, 0]))
    scene.export(tmp_path / "scene.glb")
    mesh = load(tmp_path / "scene.glb")
    colors = mesh.textures.faces_verts_textures_packed(mesh.faces_packed()).mean(1)
    middle = mesh.verts_packed()[mesh.faces_packed()].mean(1)[:, 0]
    assert_color(colors[middle < 1].mean(0), [1.0, 0.0, 0.0])
    assert_color(colors[middle > 2].mean(0), [0.0, 0.0, 1.0])


def test_bad_files_are_named(tmp_path):
    (tmp_path / "points.obj").write_text("v 0 0 0\nv 1 0 0\n")
    (tmp_path / "broken.obj").write_text("v 0 0\nf 1 2 3\n")
    (tmp_path / "nan.obj").write_text("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (tmp_path / "mesh.xyz1").write_text("")
    for content, message in (
        ("gone.glb", "does not exist"),
        ("points.obj", "2 vertices but no faces"),
        ("broken.obj", "out of range"),
        ("nan.obj", "NaN or infinite"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
            load(tmp_path / content)
        assert content in str(error.value)
    pytest.importorskip("trimesh")
    with pytest.raises(ValueError, match=r"mesh\.xyz1 must end in one of .*glb.*stl"):
        load(tmp_path / "mesh.xyz1")
    for suffix in ("glb", "stl"):
        (tmp_path / f"broken.{suffix}").write_bytes(b"no mesh at all")
        with pytest.raises(ValueError, match=rf"broken\.{suffix}"):
            load(tmp_path / f"broken.{suffix}")


def test_a_missing_trimesh_names_the_pip_line(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "trimesh", None)
    (tmp_path / "a.stl").write_text("solid\n")
    with pytest.raises(ImportError, match=r'trimesh is missing: pip install "recon_engine\[io\]"'):
        load(tmp_path / "a.stl")
    sphere = ico_sphere(1)
    save_obj(str(tmp_path / "a.obj"), sphere.verts_packed(), sphere.faces_packed())
    save_ply(str(tmp_path / "a.ply"), sphere.verts_packed(), sphere.faces_packed())
    for suffix in ("obj", "ply"):  # ours read these
        assert len(load(tmp_path / f"a.{suffix}").faces_packed()) == 80


def test_the_books_meshes(recon_data):
    cow = load(recon_data / "book/chap2/data/cow_mesh/cow.obj")
    assert cow.verts_packed().shape == (2930, 3)
    assert cow.textures.maps_padded().shape == (1, 1024, 2048, 3)  # twice: some faces cross the border of the image
    for name in ("chap1/ply_io/cow.ply", "chap4/data/teapot.obj", "chap3/deform1.ply", "chap2/data/diamond.obj"):
        assert len(load(recon_data / "book" / name).faces_packed())
    with pytest.raises(ValueError, match="239 vertices but no faces"):
        load(recon_data / "book/chap3/pedestrian.ply")
