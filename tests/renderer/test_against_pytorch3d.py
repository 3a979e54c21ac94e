"""Every renderer computation of `tests/reference/renderer_scenes.py` against PyTorch3D, recorded and live."""

from __future__ import annotations

import pytest

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
# PyTorch3D's gradients that finite differences refute: it lets none through one of the two points where a face is cut
# (tests/renderer/mesh/test_clip.py), and that of face normals is wrong in z (tests/renderer/mesh/test_shader.py).
WRONG_GRADIENTS = {
    "renders/near_plane": ("grad0", "grad1"),
    "renders/flat_uv": ("grad0", "grad1"),
    "shaders/HardFlatShader": ("grad0",),
}


def test_every_scene_is_compared(scenes):
    assert set(scenes.all_scenes()) == {*POINTWISE, *(f"renders/{name}" for name in RENDERS)}


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
