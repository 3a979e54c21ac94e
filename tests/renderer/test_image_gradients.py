"""Derivatives of whole renderings in float64 against finite differences: vertices, texture, light and camera."""

from __future__ import annotations

import pytest
import torch

from recon_engine.renderer import fused

CAMERAS = ("fov_perspective", "perspective_screen", "orthographic", "fisheye")
# Splatting defines gradients of an image that has none, so that differences say nothing about them.
TEXTURES = {
    **dict.fromkeys(("HardPhongShader", "SoftPhongShader", "HardFlatShader"), ("vertex", "uv", "uv_several", "atlas")),
    **dict.fromkeys(("HardGouraudShader", "SoftGouraudShader"), ("vertex",)),
    **dict.fromkeys(("SoftSilhouetteShader", "HardDepthShader", "SoftDepthShader"), ("none",)),
}
CASES = [(shader, texture) for shader, textures in TEXTURES.items() for texture in textures]


def in_double(tensor):
    return tensor.double() if tensor.is_floating_point() else tensor


def scene(scenes, lib, shader, texture, camera):
    """A function from vertices, texels, place of the light and of the camera to a number, and where to begin."""
    verts, faces = scenes.torus()
    textures, leaf = scenes.image_texture(lib, texture, len(verts), len(faces))
    soft = shader.startswith("Soft")
    settings = lib.renderer.RasterizationSettings((24, 20), 0.002 if soft else 0.0, faces_per_pixel=4 if soft else 1)
    params = lib.renderer.BlendParams(sigma=2e-4, gamma=1e-2, background_color=(0.1, 0.2, 0.3))
    start = [verts, torch.zeros(0) if leaf is None else leaf.detach(), torch.tensor([[1.0, 2.0, 2.0]])]
    start = [tensor.double() for tensor in (*start, scenes.image_camera(lib, camera).T)]

    def loss(verts, texels, light, T):
        cameras = scenes.image_camera(lib, camera)
        for name, value in vars(cameras).copy().items():
            if isinstance(value, torch.Tensor):
                setattr(cameras, name, in_double(value))
        cameras.T = T
        shown = None
        if textures is not None:
            shown = textures.detach()._map_tensors(lambda t: texels if t.shape == texels.shape else in_double(t))
        meshes = lib.structures.Meshes([verts], [faces], textures=shown)
        lights = lib.renderer.PointLights(location=light)
        parts = {} if shader == "SoftSilhouetteShader" else {"cameras": cameras, "lights": lights}
        made = getattr(lib.shader, shader)(blend_params=params, **parts)
        image = lib.renderer.MeshRenderer(lib.renderer.MeshRasterizer(cameras, settings), made)(meshes)
        return (image * scenes.uniform(51, *image.shape).double()).sum()

    return loss, start


@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "fragments"])
@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize(("shader", "texture"), CASES)
def test_matches_finite_differences(scenes, recon, shader, texture, camera, is_fused):
    loss, start = scene(scenes, recon, shader, texture, camera)
    eps = 1e-6
    with fused(is_fused):
        leaves = [tensor.clone().requires_grad_() for tensor in start]
        grads = torch.autograd.grad(loss(*leaves), leaves, allow_unused=True)
        for index, grad in enumerate(grads):
            if grad is None or not grad.numel():
                continue
            step = torch.randn_like(start[index])
            moved = [
                loss(*(tensor + sign * eps * step if i == index else tensor for i, tensor in enumerate(start)))
                for sign in (1, -1)
            ]
            difference = (moved[0] - moved[1]) / (2 * eps)
            torch.testing.assert_close((grad * step).sum(), difference, rtol=1e-4, atol=1e-5)
    assert grads[0].abs().sum() > 0
    assert shader.endswith("DepthShader") or shader == "SoftSilhouetteShader" or grads[1].abs().sum() > 0
