from __future__ import annotations

import math

import pytest
import torch

from recon_engine import ops
from recon_engine.renderer import (
    BlendParams,
    FoVOrthographicCameras,
    FoVPerspectiveCameras,
    HardPhongShader,
    MeshRasterizer,
    MeshRenderer,
    MeshRendererWithFragments,
    RasterizationSettings,
    SoftSilhouetteShader,
    TexturesVertex,
    fused,
    look_at_view_transform,
)
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere, torus


@pytest.fixture
def calls(monkeypatch):
    """How often each op ran."""
    counts = {"soft_silhouette": 0, "render_faces": 0, "rasterize_faces": 0}
    for name in counts:
        original = getattr(ops, name)

        def counted(*args, _name=name, _original=original):
            counts[_name] += 1
            return _original(*args)

        monkeypatch.setattr(ops, name, counted)
    return counts


def meshes(dtype=torch.float32):
    parts = [ico_sphere(2), torus(0.3, 0.7, 8, 12)]
    verts = [part.verts_packed().to(dtype).requires_grad_() for part in parts]
    return Meshes(verts, [part.faces_packed() for part in parts]), verts


def silhouette(cameras=None, size=24, sigma=1e-4, **options):
    if cameras is None:
        R, T = look_at_view_transform(2.7, torch.tensor([10.0, 50.0]), torch.tensor([0.0, 70.0]))
        cameras = FoVPerspectiveCameras(R=R, T=T)
    blur = math.log(1e4 - 1) * sigma
    settings = RasterizationSettings(image_size=size, **{"blur_radius": blur, "faces_per_pixel": 10, **options})
    return MeshRenderer(MeshRasterizer(cameras, settings), SoftSilhouetteShader(BlendParams(sigma=sigma)))


@pytest.mark.parametrize("size", [24, (16, 30), (30, 16)])
@pytest.mark.parametrize("options", [{}, {"faces_per_pixel": 1}, {"cull_backfaces": True}, {"blur_radius": 0.0}])
def test_fused_silhouette_equals_unfused(calls, size, options):
    renderer = silhouette(size=size, **options)
    cotangent = torch.randn(2, *((size, size) if isinstance(size, int) else size))
    results = []
    for enabled in (True, False):
        batch, verts = meshes()
        with fused(enabled):
            image = renderer(batch)
        results.append((image, *torch.autograd.grad((image[..., 3] * cotangent).sum(), verts)))
    assert calls == {"soft_silhouette": 1, "render_faces": 0, "rasterize_faces": 1}
    assert results[0][0].shape == (2, *cotangent.shape[1:], 4)
    assert (results[0][0][..., :3] == 1).all()
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5 * max(1.0, float(want.detach().abs().max())), rtol=0)


def test_fused_silhouette_in_float64_and_orthographic(calls):
    R, T = look_at_view_transform(2.7, 30.0, 20.0)
    renderer = silhouette(FoVOrthographicCameras(R=R, T=T, max_x=1.5, min_x=-1.5, max_y=1.5, min_y=-1.5))
    batch, _ = meshes(torch.float64)
    images = []
    for enabled in (True, False):
        with fused(enabled):
            images.append(renderer(batch))
    assert calls["soft_silhouette"] == 1
    assert images[0].dtype == torch.float64
    torch.testing.assert_close(*images, atol=1e-10, rtol=0)


def test_silhouette_gradcheck():
    """The gradient in the vertices, through camera, rasteriser and blending."""
    verts = torch.tensor([[[-0.6, -0.5, 0.1], [0.7, -0.4, 0.0], [0.1, 0.6, -0.2]]], dtype=torch.float64)
    R, T = look_at_view_transform(2.7, torch.tensor([10.0], dtype=torch.float64), 20.0)
    renderer = silhouette(FoVPerspectiveCameras(R=R, T=T), size=6, sigma=1e-2, faces_per_pixel=2)
    faces = torch.tensor([[[0, 1, 2]]])
    assert torch.autograd.gradcheck(lambda v: renderer(Meshes(v, faces))[..., 3], verts.requires_grad_())


def test_fused_silhouette_of_cut_faces(calls):
    R, T = look_at_view_transform(1.0, 10.0, 20.0)
    renderer = silhouette(FoVPerspectiveCameras(R=R, T=T, znear=0.5))
    results = []
    for enabled in (True, False):
        batch, verts = meshes()
        with fused(enabled):
            image = renderer(batch)
        results.append((image, *torch.autograd.grad((image[..., 3] * torch.linspace(0, 1, 24)).sum(), verts)))
    assert calls == {"soft_silhouette": 0, "render_faces": 1, "rasterize_faces": 1}
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4 * max(1.0, float(want.detach().abs().max())), rtol=0)


def test_own_classes_and_hooks_are_rendered_unfused(calls):
    class OwnShader(SoftSilhouetteShader):
        def forward(self, fragments, meshes, **kwargs):
            return super().forward(fragments, meshes, **kwargs) * 0.5

    class OwnRasterizer(MeshRasterizer):
        pass

    plain, (batch, _) = silhouette(), meshes()
    renderer = MeshRenderer(plain.rasterizer, OwnShader(plain.shader.blend_params))
    torch.testing.assert_close(renderer(batch), 0.5 * plain(batch), atol=1e-5, rtol=0)
    MeshRenderer(OwnRasterizer(plain.rasterizer.cameras, plain.rasterizer.raster_settings), plain.shader)(batch)
    seen = []
    plain.rasterizer.register_forward_hook(lambda module, args, fragments: seen.append(fragments))
    plain(batch)
    assert len(seen) == 1
    assert calls == {"soft_silhouette": 1, "render_faces": 0, "rasterize_faces": 3}


def test_switch():
    renderer, (batch, _) = silhouette(), meshes()
    from recon_engine.renderer.mesh.renderer import is_fused

    assert is_fused()
    with fused(False):
        assert not is_fused()
        with fused(True):
            assert is_fused()
        assert not is_fused()
    assert is_fused()
    fused(False)
    try:
        assert not is_fused()
        assert renderer(batch).shape == (2, 24, 24, 4)
    finally:
        fused(True)


def test_settings_in_the_call():
    renderer, (batch, _) = silhouette(), meshes()
    settings = RasterizationSettings(image_size=10, faces_per_pixel=4, blur_radius=0.01)
    images = []
    for enabled in (True, False):
        with fused(enabled):
            images.append(renderer(batch, raster_settings=settings, blend_params=BlendParams(sigma=1e-2)))
    assert images[0].shape == (2, 10, 10, 4)
    torch.testing.assert_close(*images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("enabled", [True, False])
def test_bad_input(enabled):
    batch, _ = meshes()
    R, T = look_at_view_transform(2.7, torch.zeros(3), 0.0)
    three = FoVPerspectiveCameras(R=R, T=T)
    with fused(enabled):
        for renderer, message in (
            (silhouette(three), r"Wrong number \(3\) of cameras for 2 meshes"),
            (silhouette(size=(4, 4, 4)), "tuple/list"),
            (silhouette(faces_per_pixel=0), "faces_per_pixel must be an integer >= 1"),
            (silhouette(blur_radius=math.nan), "blur_radius must be a finite number"),
            (silhouette(size=100, bin_size=1), "bin_size too small"),
            (silhouette(sigma=-1.0, blur_radius=0.0), r"BlendParams\.sigma must be positive"),
            (MeshRenderer(MeshRasterizer(), SoftSilhouetteShader()), "Cameras must be specified"),
        ):
            with pytest.raises(ValueError, match=message):
                renderer(batch)


def test_renderer_with_fragments():
    batch, _ = meshes()
    batch.textures = TexturesVertex([torch.rand(len(v), 3) for v in batch.verts_list()])
    plain = silhouette()
    shader = HardPhongShader(cameras=plain.rasterizer.cameras)
    image, fragments = MeshRendererWithFragments(plain.rasterizer, shader)(batch)
    torch.testing.assert_close(MeshRenderer(plain.rasterizer, shader)(batch), image)
    assert fragments.zbuf.shape == (2, 24, 24, 10)
    assert torch.equal(image[..., 3] == 1, fragments.pix_to_face[..., 0] >= 0)


def test_to(device):
    renderer = MeshRenderer(MeshRasterizer(FoVPerspectiveCameras()), HardPhongShader())
    assert renderer.to(device) is renderer
    assert renderer.rasterizer.cameras.device.type == renderer.shader.lights.device.type == device.type
