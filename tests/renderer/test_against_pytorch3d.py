"""Every renderer computation of `tests/reference/renderer_scenes.py` against PyTorch3D, recorded and live."""

from __future__ import annotations

import pytest
import torch

from recon_engine.renderer import fused

CAMERAS = (
    "fov_perspective",
    "fov_radians",
    "fov_orthographic",
    "perspective",
    "orthographic",
    "perspective_screen",
    "orthographic_screen",
)
FISHEYE = ("rtp", "rt", "rp", "tp", "r", "none")
TEXTURES = ("vertex", "atlas", "uv", "uv_corners", "uv_nearest", "uv_list", "uv_several")
SHADERS = (
    "HardPhongShader",
    "SoftPhongShader",
    "HardGouraudShader",
    "SoftGouraudShader",
    "HardFlatShader",
    "HardDepthShader",
    "SoftDepthShader",
)
RENDERS = (
    *("phong", "soft_phong", "silhouette", "silhouette_wide", "orthographic", "flat_uv", "near_plane", "culled"),
    "splatter",
)
POINTWISE = (
    *(f"cameras/{kind}" for kind in CAMERAS),
    *(f"fisheye/{which}" for which in FISHEYE),
    *("look_at", "lighting", "blending", "splatter/edge", "splatter/layers"),
    *(f"textures/{kind}" for kind in TEXTURES),
    *(f"shaders/{name}" for name in SHADERS),
)
IMAGES = tuple(
    f"images_{shader}/{texture}/{camera}"
    for shader, textures in {
        **dict.fromkeys(
            ("HardPhongShader", "SoftPhongShader", "HardFlatShader", "SplatterPhongShader"),
            ("vertex", "uv", "uv_several", "atlas"),
        ),
        **dict.fromkeys(("HardGouraudShader", "SoftGouraudShader"), ("vertex",)),
        **dict.fromkeys(("SoftSilhouetteShader", "HardDepthShader", "SoftDepthShader"), ("none",)),
    }.items()
    for texture in textures
    for camera in (*(kind for kind in CAMERAS if kind != "fov_radians"), "fisheye")
    if (shader, camera) != ("SplatterPhongShader", "fisheye")
)
# PyTorch3D's gradients that finite differences refute: it lets none through one of the two points where a face is cut
# (tests/renderer/mesh/test_clip.py), and that of face normals is wrong in z (tests/renderer/mesh/test_shader.py).
WRONG_GRADIENTS = {
    "renders/near_plane": ("grad0", "grad1"),
    "renders/flat_uv": ("grad0", "grad1"),
    "shaders/HardFlatShader": ("grad0",),
    **{name: ("grad0",) for name in IMAGES if "HardFlatShader" in name},
}


def test_every_scene_is_compared(scenes):
    assert set(scenes.all_scenes()) == {*POINTWISE, *(f"renders/{name}" for name in RENDERS), *IMAGES}


@pytest.mark.parametrize("name", POINTWISE)
def test_recorded(assert_scene_equal, name):
    assert_scene_equal(name, skip=WRONG_GRADIENTS.get(name, ()))


@pytest.mark.parametrize("name", POINTWISE)
def test_live(assert_scene_equal, live, name):
    assert_scene_equal(name, live(name), skip=WRONG_GRADIENTS.get(name, ()))


@pytest.mark.parametrize("name", [f"renders/{name}" for name in RENDERS])
def test_recorded_render(assert_scene_equal, name):
    # Vertices are projected with other roundings, which sigma = 1e-4 magnifies at edges.
    assert_scene_equal(name, tol=3e-5, skip=WRONG_GRADIENTS.get(name, ()))


@pytest.mark.parametrize("name", [f"renders/{name}" for name in RENDERS])
def test_live_render(assert_scene_equal, live, name):
    assert_scene_equal(name, live(name), tol=3e-5, skip=WRONG_GRADIENTS.get(name, ()))


@pytest.mark.parametrize("name", [f"renders/{name}" for name in RENDERS if name != "splatter"])
def test_render_on_the_path_of_cuda(assert_scene_equal, as_on_cuda, name):
    with as_on_cuda():
        assert_scene_equal(name, tol=3e-5, skip=WRONG_GRADIENTS.get(name, ()))


# Every shader with every texture and camera. sigma magnifies roundings of the projection.
IMAGE_TOLERANCE = {"tol": 3e-5, "gradient_tol": 2e-4}


@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "fragments"])
@pytest.mark.parametrize("name", IMAGES)
def test_recorded_image(assert_scene_equal, name, is_fused):
    with fused(is_fused):
        assert_scene_equal(name, skip=WRONG_GRADIENTS.get(name, ()), **IMAGE_TOLERANCE)


@pytest.mark.parametrize("name", IMAGES)
def test_live_image(assert_scene_equal, live, name):
    assert_scene_equal(name, live(name), skip=WRONG_GRADIENTS.get(name, ()), **IMAGE_TOLERANCE)


@pytest.mark.parametrize("name", [name for name in IMAGES if name.endswith("/fov_perspective")])
def test_image_on_the_path_of_cuda(assert_scene_equal, as_on_cuda, name):
    with as_on_cuda():
        assert_scene_equal(name, skip=WRONG_GRADIENTS.get(name, ()), **IMAGE_TOLERANCE)


def test_splatting_with_a_fisheye_camera(scenes, recon):
    """PyTorch3D asks the camera for a matrix, which it has not."""
    hard, splatted = (
        scenes.image_scene(recon, shader, "vertex", "fisheye")["image"]
        for shader in ("HardPhongShader", "SplatterPhongShader")
    )
    assert splatted.isfinite().all()
    inside = -torch.nn.functional.max_pool2d(-hard[..., 3], 3, 1, 1) == 1
    assert inside.any()
    assert (splatted - hard)[inside].abs().mean() < 0.1
    assert torch.equal(splatted[..., 3] > 0, torch.nn.functional.max_pool2d(hard[..., 3], 3, 1, 1) > 0)
