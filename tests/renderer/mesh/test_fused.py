from __future__ import annotations

import itertools

import pytest
import torch

from recon_engine import ops
from recon_engine.renderer import (
    AmbientLights,
    BlendParams,
    DirectionalLights,
    FoVOrthographicCameras,
    FoVPerspectiveCameras,
    HardFlatShader,
    HardGouraudShader,
    HardPhongShader,
    Materials,
    MeshRasterizer,
    MeshRenderer,
    PerspectiveCameras,
    PointLights,
    RasterizationSettings,
    SoftGouraudShader,
    SoftPhongShader,
    TexturesAtlas,
    TexturesUV,
    TexturesVertex,
    fused,
    look_at_view_transform,
)
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere, torus

DTYPE = torch.float64
SHADERS = [HardFlatShader, HardGouraudShader, HardPhongShader, SoftGouraudShader, SoftPhongShader]
LIGHTS = ["ambient", "directional", "point"]
TEXTURES = ["vertex", "uv", "uv without border", "uv several", "atlas"]
CAMERAS = ["perspective", "orthographic", "screen"]


@pytest.fixture
def calls(monkeypatch):
    """How often the fused op ran."""
    counts = []
    original = ops.render_faces
    monkeypatch.setattr(ops, "render_faces", lambda *args: counts.append(1) or original(*args))
    return counts


class Scene:
    """Two meshes with everything that a picture can have a gradient in."""

    def __init__(self, texture="vertex", light="point", camera="perspective", N=2, dtype=DTYPE, distance=2.7):
        g = torch.Generator().manual_seed(0)

        def leaf(*shape, low=0.0, high=1.0):
            value = low + (high - low) * torch.rand(shape, generator=g, dtype=torch.float64)
            self.leaves.append(value.to(dtype).requires_grad_())
            return self.leaves[-1]

        self.leaves = []
        parts = [ico_sphere(1), torus(0.3, 0.7, 6, 7)][:N]
        verts = [(p.verts_packed().to(dtype) * torch.tensor([1.0, 0.9, 1.1])).requires_grad_() for p in parts]
        self.leaves += verts
        faces = [p.faces_packed() for p in parts]
        counts = [len(f) for f in faces]
        if texture == "vertex":
            textures = TexturesVertex([leaf(len(v), 3) for v in verts])
        elif texture == "atlas":
            textures = TexturesAtlas([leaf(F, 3, 3, 3) for F in counts])
        else:
            uvs = [leaf(30, 2, low=-0.3, high=1.3) for _ in counts]
            faces_uvs = [torch.randint(30, (F, 3), generator=g) for F in counts]
            if texture == "uv several":
                ids = [torch.randint(3, (F,), generator=g) for F in counts]
                textures = TexturesUV([leaf(3, 4, 5, 3) for _ in counts], faces_uvs, uvs, maps_ids=ids)
            elif texture == "uv":
                textures = TexturesUV(leaf(1, 5, 4, 3).expand(N, -1, -1, -1), faces_uvs, uvs)
            else:
                maps = [leaf(5, 4, 3) for _ in counts]
                textures = TexturesUV(maps, faces_uvs, uvs, padding_mode="zeros", align_corners=False)
        self.meshes = Meshes(verts, faces, textures)
        colors = {name: leaf(1, 3) for name in ("ambient_color", "diffuse_color", "specular_color")}
        if light == "ambient":
            self.lights = AmbientLights(ambient_color=colors["ambient_color"])
        elif light == "directional":
            self.lights = DirectionalLights(**colors, direction=leaf(N, 3, low=-1.0))
        else:
            self.lights = PointLights(**colors, location=leaf(N, 3, low=-2.0, high=2.0))
        surface = {name: leaf(1, 3) for name in colors}
        self.materials = Materials(**surface, shininess=leaf(N, low=1.0, high=9.0))
        R, T = look_at_view_transform(
            distance, torch.linspace(10, 50, N, dtype=dtype), torch.linspace(30, 80, N, dtype=dtype)
        )
        T = T.to(dtype).requires_grad_()
        self.leaves.append(T)
        if camera == "perspective":
            self.cameras = FoVPerspectiveCameras(R=R.to(dtype), T=T, znear=1.0)
        elif camera == "orthographic":
            self.cameras = FoVOrthographicCameras(R=R.to(dtype), T=T)
        else:
            size = torch.tensor([[21, 17]])
            focal, point = leaf(1, 2, low=18.0, high=20.0), torch.tensor([[9.0, 10.0]], dtype=dtype)
            self.cameras = PerspectiveCameras(focal, point, R.to(dtype), T, in_ndc=False, image_size=size)

    def render(self, shader, K=4, **options):
        soft = {"blur_radius": 2e-2} if "Soft" in shader.__name__ else {}
        settings = RasterizationSettings(image_size=(21, 17), faces_per_pixel=K, **soft, **options)
        blend = BlendParams(sigma=1e-2, gamma=2e-2, background_color=(0.1, 0.7, 0.3))
        parts = {"cameras": self.cameras, "lights": self.lights, "materials": self.materials, "blend_params": blend}
        return MeshRenderer(MeshRasterizer(self.cameras, settings), shader(**parts))(self.meshes)


def results(enabled, shader, *scene, dtype=DTYPE, distance=2.7, **options):
    made = Scene(*scene, dtype=dtype, distance=distance)
    with fused(enabled):
        image = made.render(shader, **options)
    weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    return image.detach(), torch.autograd.grad((image * weights).sum(), made.leaves, allow_unused=True)


def check(*args, rtol=1e-7, atol=1e-9, **options):
    image, grads = results(True, *args, **options)
    expected, expected_grads = results(False, *args, **options)
    assert 0.1 < (expected[..., 3] > 1e-3).double().mean() < 1.0, "nothing to see"
    torch.testing.assert_close(image, expected, rtol=rtol, atol=atol)
    for grad, want in zip(grads, expected_grads, strict=True):
        grad, want = (torch.zeros(()) if g is None else g for g in (grad, want))
        torch.testing.assert_close(grad + torch.zeros_like(want), want + torch.zeros_like(grad), rtol=rtol, atol=atol)


@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("shader", SHADERS)
def test_equals_unfused(shader, light, texture, calls):
    if texture != "vertex" and "Gouraud" in shader.__name__:
        pytest.skip("Gouraud shading is for colours on vertices")
    for N in (1, 2):
        check(shader, texture, light, "perspective", N)
    assert len(calls) == 2


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("shader", SHADERS)
def test_equals_unfused_for_every_camera(shader, camera, calls):
    for K, perspective_correct in itertools.product((1, 30), (None, False)):
        check(shader, "vertex", "point", camera, K=K, perspective_correct=perspective_correct)
    assert len(calls) == 4


@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("shader", SHADERS)
def test_equals_unfused_where_faces_are_cut(shader, texture, calls):
    if texture != "vertex" and "Gouraud" in shader.__name__:
        pytest.skip("Gouraud shading is for colours on vertices")
    check(shader, texture, "point", distance=1.2, K=20)
    assert len(calls) == 1


@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("shader", SHADERS)
def test_never_waits_for_a_device(shader, texture, calls, never_waits):
    if texture != "vertex" and "Gouraud" in shader.__name__:
        pytest.skip("Gouraud shading is for colours on vertices")
    scene = Scene(texture, distance=1.2)
    expected = scene.render(shader)
    with never_waits():
        image = scene.render(shader)
        torch.autograd.grad(image.sum(), scene.leaves, allow_unused=True)
    assert len(calls) == 2
    torch.testing.assert_close(image, expected)


@pytest.mark.parametrize("texture", TEXTURES)
def test_meshes_behind_the_camera(texture, calls):
    """No face is left after clipping."""
    made = Scene(texture, "point")
    made.cameras = FoVPerspectiveCameras(R=made.cameras.R, T=made.cameras.T - torch.tensor([0.0, 0.0, 9.0]))
    image = made.render(HardPhongShader)
    background = torch.tensor([0.1, 0.7, 0.3, 0.0], dtype=DTYPE).expand_as(image)
    torch.testing.assert_close(image, background, rtol=0, atol=1e-7)
    assert len(calls) == 1


def test_equals_unfused_in_single_precision():
    for shader, texture in itertools.product((HardPhongShader, SoftPhongShader), ("vertex", "uv")):
        check(shader, texture, "point", dtype=torch.float32, rtol=2e-3, atol=2e-3)


def test_gradcheck():
    """The gradient in vertices, colours, light and camera, through everything from the world to the picture."""
    verts = torch.tensor([[[-0.6, -0.5, 0.1], [0.7, -0.4, 0.0], [0.1, 0.6, -0.2], [0.8, 0.7, 0.6]]], dtype=DTYPE)
    faces = torch.tensor([[[0, 1, 2], [1, 3, 2]]])
    R, T = look_at_view_transform(2.7, 10.0, 20.0)

    def render(verts, colors, location, T):
        cameras = FoVPerspectiveCameras(R=R.to(DTYPE), T=T)
        lights = PointLights(location=location, ambient_color=torch.full((1, 3), 0.5, dtype=DTYPE))
        settings = RasterizationSettings(image_size=6, blur_radius=5e-2, faces_per_pixel=2)
        shader = SoftPhongShader(
            cameras=cameras,
            lights=PointLights(
                location=location,
                ambient_color=lights.ambient_color,
                diffuse_color=lights.ambient_color,
                specular_color=lights.ambient_color,
            ),
            materials=Materials(*(torch.ones(1, 3, dtype=DTYPE),) * 3, shininess=torch.tensor([4.0], dtype=DTYPE)),
            blend_params=BlendParams(sigma=1e-2, gamma=1.0),
        )
        return MeshRenderer(MeshRasterizer(cameras, settings), shader)(Meshes(verts, faces, TexturesVertex(colors)))

    colors = torch.rand(1, 4, 3, generator=torch.Generator().manual_seed(0), dtype=DTYPE)
    location = torch.tensor([[0.5, 1.0, -2.0]], dtype=DTYPE)
    inputs = [t.requires_grad_() for t in (verts, colors, location, T.to(DTYPE))]
    assert torch.autograd.gradcheck(render, inputs, atol=1e-5)


def test_what_only_fragments_can_show_is_rendered_unfused(calls):
    scene = Scene(light="ambient")
    five = [torch.rand(len(v), 5, dtype=DTYPE) for v in scene.meshes.verts_list()]
    scene.meshes.textures = TexturesVertex(five)
    ones = torch.ones(1, 5, dtype=DTYPE)
    scene.lights, scene.materials = AmbientLights(ambient_color=ones), Materials(ones, ones, ones)
    settings = RasterizationSettings(image_size=8)
    parts = {"cameras": scene.cameras, "lights": scene.lights, "materials": scene.materials}
    shader = HardPhongShader(**parts, blend_params=BlendParams(background_color=(0.0,) * 5))
    assert MeshRenderer(MeshRasterizer(scene.cameras, settings), shader)(scene.meshes).shape == (2, 8, 8, 6)

    class OwnLights(PointLights):
        pass

    scene = Scene()
    scene.lights = OwnLights(location=scene.lights.location, ambient_color=scene.lights.ambient_color)
    assert scene.render(SoftPhongShader).shape == (2, 21, 17, 4)
    assert not calls


def test_gradient_of_the_background(calls):
    background = torch.tensor([0.2, 0.5, 0.9], dtype=DTYPE, requires_grad=True)
    scene = Scene()
    settings = RasterizationSettings(image_size=9)
    shader = SoftPhongShader(
        cameras=scene.cameras,
        lights=scene.lights,
        materials=scene.materials,
        blend_params=BlendParams(background_color=background),
    )
    MeshRenderer(MeshRasterizer(scene.cameras, settings), shader)(scene.meshes)[..., :3].sum().backward()
    assert background.grad.min() > 1.0
    assert not calls
