from __future__ import annotations

import pytest
import torch

from recon_engine.renderer import (
    FoVPerspectiveCameras,
    Materials,
    MeshRasterizer,
    PointLights,
    RasterizationSettings,
    TexturesVertex,
    look_at_view_transform,
    phong_shading,
)
from recon_engine.renderer.mesh import shading
from recon_engine.utils import ico_sphere


@pytest.mark.parametrize("is_batched", [False, True])
def test_lighting_shown_fragments_only_changes_nothing(is_batched, monkeypatch):
    """A small sphere: most fragments show no face. Shininess 0 gives a highlight where there is no face, too."""
    N = 2 if is_batched else 1
    R, T = look_at_view_transform(3.0, 20.0, torch.tensor([0.0, 70.0])[:N])
    cameras = FoVPerspectiveCameras(R=R, T=T)
    lights = PointLights(
        location=torch.tensor([[1.0, 2.0, 3.0], [-2.0, 0.5, 1.0]])[:N], ambient_color=((0.2, 0.3, 0.4),)
    )
    materials = Materials(shininess=torch.tensor([0.0, 5.0])[:N], specular_color=((0.1, 0.9, 0.5),))
    settings = RasterizationSettings(image_size=24, blur_radius=1e-3, faces_per_pixel=6)

    def shaded(sparse: float) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(0)
        monkeypatch.setattr(shading, "_SPARSE", sparse)
        sphere = ico_sphere(2)
        offset = torch.zeros_like(sphere.verts_packed(), requires_grad=True)
        meshes = sphere.offset_verts(offset).scale_verts(0.5).extend(N)
        meshes.textures = TexturesVertex(torch.rand(N, len(offset), 3))
        fragments = MeshRasterizer(cameras, settings)(meshes)
        assert 0.01 < (fragments.pix_to_face >= 0).float().mean() < 0.5
        texels = meshes.sample_textures(fragments) + 0.1
        colors = phong_shading(meshes, fragments, lights, cameras, materials, texels)
        return colors, *torch.autograd.grad(colors.square().sum(), offset)

    (colors, grad), (dense_colors, dense_grad) = shaded(1.0), shaded(0.0)
    assert torch.equal(colors, dense_colors)
    torch.testing.assert_close(grad, dense_grad, rtol=1e-4, atol=1e-4)
