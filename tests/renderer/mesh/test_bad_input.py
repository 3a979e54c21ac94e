"""What does not fit together is refused with an error that names it; what is legal but unusual has a defined result."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from recon_engine.renderer import (
    AmbientLights,
    BlendParams,
    DirectionalLights,
    FoVPerspectiveCameras,
    HardFlatShader,
    HardGouraudShader,
    HardPhongShader,
    Materials,
    MeshRasterizer,
    MeshRenderer,
    PointLights,
    RasterizationSettings,
    SoftGouraudShader,
    SoftPhongShader,
    SplatterPhongShader,
    TexturesAtlas,
    TexturesUV,
    TexturesVertex,
    fused,
    look_at_view_transform,
)
from recon_engine.renderer.mesh.rasterize_meshes import rasterize_meshes
from recon_engine.renderer.mesh.shader import HardDepthShader, SoftDepthShader
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere

LIT = (HardPhongShader, SoftPhongShader, HardFlatShader, HardGouraudShader, SoftGouraudShader, SplatterPhongShader)
PIXELWISE = (HardPhongShader, SoftPhongShader, HardFlatShader, SplatterPhongShader)
HALF = BlendParams(sigma=0.5)


def cameras(n=1, **kwargs):
    elev, azim = torch.linspace(0, 40, n), torch.linspace(0, 90, n)
    R, T = look_at_view_transform(2.5, elev, azim)
    return FoVPerspectiveCameras(R=R, T=T, **kwargs)


def meshes(n=2, channels=3, dtype=torch.float32):
    sphere = ico_sphere(1)
    verts = sphere.verts_packed().to(dtype)
    features = torch.rand(n, len(verts), channels, dtype=dtype)
    return Meshes([verts] * n, [sphere.faces_packed()] * n, textures=TexturesVertex(features))


def render(batch, shader=HardPhongShader, settings=None, params=HALF, **kwargs):
    made = shader(cameras=cameras(), blend_params=params)
    settings = RasterizationSettings(image_size=12) if settings is None else settings
    return MeshRenderer(MeshRasterizer(cameras(), settings), made)(batch, **kwargs)


@pytest.mark.parametrize("shader", LIT)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lights", PointLights(location=torch.rand(3, 3))),
        ("lights", DirectionalLights(direction=torch.rand(3, 3))),
        ("lights", AmbientLights(ambient_color=torch.rand(3, 3))),
        ("materials", Materials(shininess=torch.ones(3))),
    ],
)
def test_batches_that_do_not_match(shader, name, value):
    for n in (1, 2):
        message = f"{name} must be a batch of 1, or of {n} like the meshes, got a batch of 3: give one for all"
        with pytest.raises(ValueError, match=message):
            render(meshes(n), shader, **{name: value})


@pytest.mark.parametrize("shader", LIT)
def test_cameras_that_do_not_match(shader):
    with pytest.raises(ValueError, match=r"Wrong number \(3\) of cameras for 2 meshes: .* meshes.extend\(N\)"):
        render(meshes(2), shader, cameras=cameras(3))
    # One mesh is not repeated for N cameras, as with PyTorch3D: extend says that it should be.
    with pytest.raises(ValueError, match=r"Wrong number \(3\) of cameras for 1 meshes"):
        render(meshes(1), shader, cameras=cameras(3))
    fragments = MeshRasterizer(cameras(), RasterizationSettings(image_size=12))(meshes(2))
    with pytest.raises(ValueError, match="cameras must be a batch of 1, or of 2 like the meshes, got a batch of 3"):
        shader(cameras=cameras(3), blend_params=HALF)(fragments, meshes(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PointLights(location=(0, 1, 2)), r"location to have shape \(N, 3\); got \(3,\): use location\[None\]"),
        (lambda: PointLights(location=None), r"Expected location to be numbers of shape \(N, 3\); got None"),
        (lambda: DirectionalLights(direction=((0, 1),)), r"Expected direction to have shape \(N, 3\); got \(1, 2\)"),
        (lambda: AmbientLights(ambient_color=(1, 1, 1)), r"ambient_color to have shape \(N, C\); got \(3,\)"),
        (lambda: AmbientLights(ambient_color="red"), r"ambient_color to be numbers of shape \(N, C\); got 'red'"),
        (lambda: Materials(specular_color=(1, 1, 1)), r"specular_color to have shape \(N, 3\); got \(3,\)"),
        (lambda: Materials(diffuse_color=torch.ones(1, 4)), r"diffuse_color to have shape \(N, 3\); got \(1, 4\)"),
        (lambda: Materials(shininess="high"), "shininess should be a number or have shape .*; got 'high'"),
        (lambda: Materials(shininess=torch.ones(2, 3)), r"shininess should have shape \(N\); got \(2, 3\)"),
    ],
)
def test_lights_and_materials(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["lights", "materials"])
def test_none_in_a_call(name):
    with pytest.raises(ValueError, match=f"{name} must not be None: leave the keyword out"):
        render(meshes(), **{name: None})


@pytest.mark.parametrize("shader", LIT)
def test_parts_on_another_device(shader):
    batch = meshes()
    for name, value in (("lights", PointLights()), ("materials", Materials())):
        message = f"{name} must be on the device of the meshes, cpu, got meta: use {name}.to"
        with pytest.raises(ValueError, match=message):
            render(batch, shader, **{name: value.to("meta")})
    with pytest.raises(
        ValueError, match=r"cameras must be on the device of the meshes, cpu, got meta: use cameras\.to"
    ):
        MeshRasterizer(cameras().to("meta"))(batch)
    if shader in PIXELWISE:
        batch.textures.to("meta")
        with fused(False), pytest.raises(ValueError, match="textures must be on the device of the meshes, cpu, got me"):
            render(batch, shader)


@pytest.mark.parametrize("shader", LIT)
def test_channels_that_do_not_match(shader):
    with pytest.raises(ValueError, match=r"got 4 in textures, 3 in lights, 3 in materials: for C channels use Ambient"):
        render(meshes(channels=4), shader)
    lights = AmbientLights(ambient_color=torch.ones(1, 4))
    with pytest.raises(ValueError, match="got 4 in textures, 4 in lights, 3 in materials"):
        render(meshes(channels=4), shader, lights=lights)
    materials = Materials(*(torch.ones(1, 4) for _ in range(3)))
    with pytest.raises(ValueError, match=r"background_color must have 4 channels like the colors; got shape \(3,\)"):
        render(meshes(channels=4), shader, lights=lights, materials=materials)
    four = HALF._replace(background_color=torch.ones(4))
    image = render(meshes(channels=4), shader, params=four, lights=lights, materials=materials)
    assert image.shape == (2, 12, 12, 5)


@pytest.mark.parametrize("shader", PIXELWISE)
def test_missing_texture(shader):
    bare = ico_sphere(1)
    with pytest.raises(ValueError, match=f"does not have textures, which {shader.__name__} needs: pass for example"):
        render(bare, shader)


@pytest.mark.parametrize("shader", [HardGouraudShader, SoftGouraudShader])
def test_gouraud_without_colours_of_vertices(shader):
    atlas = ico_sphere(1)
    with pytest.raises(ValueError, match="must be an instance of TexturesVertex; got <class 'NoneType'>"):
        render(atlas, shader)
    atlas.textures = TexturesAtlas(torch.rand(1, len(atlas.faces_packed()), 2, 2, 3))
    with pytest.raises(ValueError, match="must be an instance of TexturesVertex"):
        render(atlas, shader)


def test_depth_of_the_far_plane():
    fragments = MeshRasterizer(cameras(), RasterizationSettings(image_size=12))(meshes())
    for shader in (HardDepthShader, SoftDepthShader):
        with pytest.raises(ValueError, match="zfar must be one number or one for each of the 2 images, got 3"):
            shader(cameras=cameras())(fragments, meshes(), zfar=torch.ones(3))


@pytest.mark.parametrize("shader", [shader for shader in LIT if shader is not SplatterPhongShader])
def test_dtypes_may_be_mixed(shader):
    """The wider one counts, with the numbers of the narrower ones."""
    batch = meshes(1, dtype=torch.float64)
    lights = PointLights(location=torch.tensor([[0.0, 2.0, 2.0]]))
    image = render(batch, shader, lights=lights)
    assert image.dtype == torch.float64
    single = Meshes([batch.verts_packed().float()], batch.faces_list(), batch.textures)
    torch.testing.assert_close(render(single, shader, lights=lights).double(), image, rtol=0, atol=2e-5)


def test_splatting_wants_cameras_of_the_dtype_of_the_vertices():
    with pytest.raises(ValueError, match=r"points are torch.float64 .* but the transform is torch.float32"):
        render(meshes(1, dtype=torch.float64), SplatterPhongShader)


# Textures

FACES = torch.tensor([[0, 1, 2], [2, 1, 3]])


def uv(maps=None, faces_uvs=None, verts_uvs=None, **options):
    return TexturesUV(
        torch.rand(1, 4, 4, 3) if maps is None else maps,
        FACES[None] if faces_uvs is None else faces_uvs,
        torch.rand(1, 4, 2) if verts_uvs is None else verts_uvs,
        **options,
    )


def with_value(shape, place, value):
    tensor = torch.rand(shape)
    tensor[place] = value
    return tensor


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "make", "shape", "place"),
    [
        ("maps", lambda x: uv(maps=x), (1, 4, 4, 3), (0, 2, 1, 2)),
        ("maps", lambda x: uv(maps=list(x)), (1, 4, 4, 3), (0, 2, 1, 2)),
        ("verts_uvs", lambda x: uv(verts_uvs=x), (1, 4, 2), (0, 3, 1)),
        ("verts_features", TexturesVertex, (2, 4, 3), (1, 3, 0)),
        ("verts_features", lambda x: TexturesVertex(list(x)), (2, 4, 3), (1, 3, 0)),
        ("atlas", TexturesAtlas, (1, 2, 3, 3, 3), (0, 1, 2, 0, 1)),
        ("atlas", lambda x: TexturesAtlas(list(x)), (1, 2, 3, 3, 3), (0, 1, 2, 0, 1)),
    ],
)
def test_values_that_are_not_finite(name, make, shape, place, value):
    message = rf"{name} must be finite, got {value} at \[{', '.join(map(str, place))}\] \(1 in all\)"
    with pytest.raises(ValueError, match=message):
        make(with_value(shape, place, value))


def test_finite_values_whose_sum_is_not():
    huge = torch.full((1, 4, 3), 3e38)
    assert torch.equal(TexturesVertex(huge).verts_features_padded(), huge)


def test_textures_elsewhere_and_in_gradients_are_not_looked_at(never_waits):
    """A look at values on another device would wait for it; a checked texture stays as cheap as the unchecked one."""
    meta = torch.empty(1, 4, 3, device="meta")
    assert TexturesVertex(meta).device.type == "meta"
    checked = TexturesVertex(torch.rand(2, 4, 3))
    with never_waits():
        assert len(checked[0].verts_features_list()) == 1
        assert checked.extend(2).verts_features_padded().shape == (4, 4, 3)
        assert len(checked.join_batch([checked]).verts_features_list()) == 4


def test_uv_outside_of_the_map_is_padding():
    maps = torch.rand(1, 4, 4, 3)
    for where, corner in ((9.0, maps[0, 0, 3]), (-9.0, maps[0, 3, 0])):
        texture = uv(maps, verts_uvs=torch.full((1, 4, 2), where))
        torch.testing.assert_close(texture.sample_textures(PIXEL)[0, 0, 0, 0], corner)
    zeros = uv(maps, verts_uvs=torch.full((1, 4, 2), 9.0), padding_mode="zeros")
    assert (zeros.sample_textures(PIXEL) == 0).all()


PIXEL = SimpleNamespace(
    pix_to_face=torch.zeros(1, 1, 1, 1, dtype=torch.int64), bary_coords=torch.ones(1, 1, 1, 1, 3) / 3
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"faces_uvs": FACES[None] + 1}, r"faces_uvs must index the 4 verts_uvs of mesh 0, got 1 to 4"),
        ({"faces_uvs": FACES[None] - 2}, r"faces_uvs must index the 4 verts_uvs of mesh 0, got -2 to 1"),
        ({"faces_uvs": [FACES - 2]}, r"faces_uvs must index the 4 verts_uvs of mesh 0, got -2 to 1"),
        ({"faces_uvs": FACES[None].float()}, r"faces_uvs must be int64, got torch.float32: use faces_uvs.long\(\)"),
        (
            {"maps": torch.rand(1, 2, 4, 4, 3), "maps_ids": torch.tensor([[0, 2]])},
            "maps_ids must index the 2 maps of mesh 0, got 0 to 2",
        ),
    ],
)
def test_indices_are_checked_where_they_are_used(options, message):
    """As in PyTorch3D, a texture that shows nothing may hold any; and what is made of it is no better."""
    texture = uv(**options)
    for one in (texture, texture[0], texture.extend(2), texture.clone(), texture.join_batch([])):
        with pytest.raises(ValueError, match=message):
            one.sample_textures(PIXEL)
        with pytest.raises(ValueError, match=message):
            one.faces_verts_textures_packed()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding_mode": "edge"}, "padding_mode must be one of zeros, border, reflection, got 'edge'"),
        ({"sampling_mode": "bicubic"}, "sampling_mode must be one of bilinear, nearest, got 'bicubic'"),
        ({"maps": torch.rand(2, 4, 4, 3)}, "maps and faces_uvs must have the same batch dimension: 2 and 1"),
    ],
)
def test_uv_textures_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        uv(**options)


def test_faces_without_uv_coordinates_are_minus_one():
    """Files may have such faces, and padding consists of them."""
    some = torch.cat((FACES, torch.full((1, 3), -1)))
    for faces_uvs in (some[None], [some]):
        assert uv(faces_uvs=faces_uvs).faces_uvs_padded().shape == (1, 3, 3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_bytes_of_a_picture(dtype):
    """They may be stored and saved; what shows them says how to make colours of them."""
    verts = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [-1, 1, 0], [1, 1, 0]])
    for texture in (
        uv(maps=torch.ones(1, 4, 4, 3, dtype=dtype)),
        TexturesAtlas(torch.ones(1, 2, 2, 2, 3, dtype=dtype)),
        TexturesVertex(torch.ones(1, 4, 3, dtype=dtype)),
    ):
        with pytest.raises(
            ValueError, match=r"must be floating point to be sampled, got .*int.*: use \.float\(\) / 255"
        ):
            render(Meshes([verts], [FACES], texture))


# Settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "Image sizes must be greater than 0; got 0"),
        ({"image_size": (5, 0)}, r"Image sizes must be greater than 0; got \(5, 0\)"),
        ({"image_size": "large"}, "Image sizes must be integers; got 'large'"),
        ({"blur_radius": "wide"}, r"blur_radius must be a number, got 'wide' \(str\)"),
        ({"blur_radius": None}, r"blur_radius must be a number, got None \(NoneType\)"),
        ({"blur_radius": torch.rand(2)}, "blur_radius must be a number, got tensor"),
        ({"faces_per_pixel": "all"}, r"faces_per_pixel must be a number, got 'all' \(str\)"),
        ({"faces_per_pixel": None}, r"faces_per_pixel must be a number, got None"),
        ({"faces_per_pixel": True}, "faces_per_pixel must be an integer >= 1, got True"),
        ({"bin_size": "auto"}, r"bin_size must be a number, got 'auto' \(str\)"),
        ({"bin_size": 1.5}, r"bin_size must be None or an integer >= 0, got 1.5"),
        ({"max_faces_per_bin": "many"}, r"max_faces_per_bin must be a number, got 'many' \(str\)"),
        ({"z_clip_value": "near"}, r"z_clip_value must be a number, got 'near' \(str\)"),
        ({"z_clip_value": torch.rand(2)}, r"z_clip_value must be one number, got a tensor of shape \(2,\)"),
    ],
)
def test_settings(options, message):
    with pytest.raises(ValueError, match=message):
        MeshRasterizer(cameras(), RasterizationSettings(**options))(meshes())
    with pytest.raises(ValueError, match=message):
        rasterize_meshes(meshes(), **{"image_size": 8, **options})


def test_settings_of_another_kind():
    with pytest.raises(ValueError, match="raster_settings must be RasterizationSettings, got dict without image_size"):
        MeshRasterizer(cameras(), {"image_size": 64})
    with pytest.raises(ValueError, match="raster_settings must be RasterizationSettings, got int without image_size"):
        MeshRasterizer(cameras())(meshes(), raster_settings=64)
    with pytest.raises(ValueError, match="cameras must be cameras such as FoVPerspectiveCameras, got Rasterization"):
        MeshRasterizer(RasterizationSettings())(meshes())
