from __future__ import annotations

import numpy as np
import pytest
import torch

import recon_engine
from recon_engine.quick import load, render
from recon_engine.renderer import TexturesUV, TexturesVertex
from recon_engine.utils import ico_sphere, torus


def test_a_picture_with_no_options_shows_all_of_the_mesh():
    mesh = torus(0.3, 0.8, 12, 24).scale_verts(100.0).offset_verts(torch.tensor([500.0, 0.0, -30.0]))
    image = render(mesh)
    assert image.shape == (512, 512, 4)
    shown = image[..., 3] > 0.5
    rows, columns = (shown.any(i).nonzero()[:, 0] for i in (1, 0))
    assert min(rows[0], columns[0], 511 - rows[-1], 511 - columns[-1]) > 0
    assert max(rows[-1] - rows[0], columns[-1] - columns[0]) > 350
    assert 0 <= image.min() <= image.max() <= 1
    assert image[..., :3][shown].std() > 0.02


@pytest.mark.parametrize(("size", "shape"), [(40, (40, 40)), ((30, 60), (30, 60)), ((60, 30), (60, 30))])
@pytest.mark.parametrize("shader", ["phong", "flat"])
def test_sizes_and_shaders(size, shape, shader):
    alpha = render(ico_sphere(2), size=size, shader=shader)[..., 3]
    assert alpha.shape == shape
    border = torch.cat((alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]))
    assert border.max() == 0
    assert alpha.sum() > 0.5 * min(shape) ** 2


def test_gradient_in_the_vertices():
    sphere = ico_sphere(2)
    verts = sphere.verts_packed().clone().requires_grad_()
    image = render((verts, sphere.faces_packed()), size=48)
    (grad,) = torch.autograd.grad(image[..., :3].sum(), verts)
    assert torch.isfinite(grad).all()
    assert grad.abs().max() > 1e-3


def test_load_keeps_colours_and_texture(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    Image = pytest.importorskip("PIL.Image")
    box = trimesh.creation.box()
    colored = box.copy()
    colored.visual.vertex_colors = np.tile([255, 0, 51, 255], (len(box.vertices), 1))
    colored.export(tmp_path / "colored.ply")
    mesh = recon_engine.load(tmp_path / "colored.ply")
    assert isinstance(mesh.textures, TexturesVertex)
    torch.testing.assert_close(mesh.textures.verts_features_packed()[0], torch.tensor([1.0, 0.0, 0.2]))

    picture = Image.fromarray(np.full((4, 4, 3), (0, 255, 0), np.uint8))
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=picture)
    box.visual = trimesh.visual.TextureVisuals(uv=np.full((len(box.vertices), 2), 0.5), material=material)
    box.export(tmp_path / "textured.glb")
    mesh = recon_engine.load(tmp_path / "textured.glb")
    assert isinstance(mesh.textures, TexturesUV)
    image = recon_engine.render(tmp_path / "textured.glb", size=32)
    red, green, _ = image[16, 16, :3]
    assert green > 0.3 > 2 * red


def test_bad_input_is_named(tmp_path):
    (tmp_path / "points.obj").write_text("v 0 0 0\nv 1 0 0\n")
    with pytest.raises(FileNotFoundError, match=r"gone\.glb does not exist"):
        load(tmp_path / "gone.glb")
    with pytest.raises(ValueError, match="2 vertices but no faces"):
        load(tmp_path / "points.obj")
    with pytest.raises(ValueError, match="mesh must be one mesh with faces, got 2"):
        render(ico_sphere(1).extend(2))
    with pytest.raises(ValueError, match="a Meshes, a path"):
        render(3)
    with pytest.raises(ValueError, match="shader must be one of phong, flat, gouraud, unlit, silhouette, depth, got 'oil'"):
        render(ico_sphere(1), shader="oil")
    with pytest.raises(ValueError, match="size must be 1 or more"):
        render(ico_sphere(1), size=0)
    with pytest.raises(ValueError, match="distance must be above 0"):
        render(ico_sphere(1), distance=-1.0)
