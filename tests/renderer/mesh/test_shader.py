from __future__ import annotations

import math

import pytest
import torch

from recon_engine.renderer import (
    AmbientLights,
    BlendParams,
    FoVPerspectiveCameras,
    HardFlatShader,
    HardGouraudShader,
    HardPhongShader,
    Materials,
    MeshRasterizer,
    PointLights,
    RasterizationSettings,
    SoftGouraudShader,
    SoftPhongShader,
    SoftSilhouetteShader,
    TexturesAtlas,
    TexturesVertex,
    look_at_view_transform,
)
from recon_engine.renderer.mesh.shader import HardDepthShader, SoftDepthShader, TexturedSoftPhongShader
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere

LIT = (HardPhongShader, SoftPhongShader, HardGouraudShader, SoftGouraudShader, HardFlatShader)


def spheres(n=2):
    mesh = ico_sphere(2).extend(n)
    mesh.textures = TexturesVertex(torch.rand(n, mesh.num_verts_per_mesh()[0], 3))
    return mesh


def cameras(n=2, **options):
    R, T = look_at_view_transform(torch.linspace(2.5, 3.0, n), 0.0, torch.linspace(0.0, 60.0, n))
    return FoVPerspectiveCameras(R=R, T=T, **options)


def rasterize(meshes, cameras, K=3, size=12):
    return MeshRasterizer(cameras, RasterizationSettings(image_size=size, faces_per_pixel=K))(meshes)


@pytest.mark.parametrize("shader", LIT)
def test_batch_equals_its_members(shader):
    """Every mesh keeps its own camera, light and material: PyTorch3D confuses materials of a batch with slots."""
    meshes, cams = spheres(3), cameras(3)
    lights = PointLights(location=torch.randn(3, 3) * 3, diffuse_color=torch.rand(3, 3))
    materials = Materials(torch.rand(3, 3), torch.rand(3, 3), torch.rand(3, 3), shininess=(5.0, 20.0, 60.0))
    params = BlendParams(gamma=1e-2)
    together = shader(cameras=cams, lights=lights, materials=materials, blend_params=params)(
        rasterize(meshes, cams), meshes
    )
    assert together.shape == (3, 12, 12, 4)
    for n in range(3):
        light = PointLights(diffuse_color=lights.diffuse_color[n : n + 1], location=lights.location[n : n + 1])
        keys = ("ambient_color", "diffuse_color", "specular_color", "shininess")
        material = Materials(**{key: getattr(materials, key)[n : n + 1] for key in keys})
        one = shader(cameras=cams[n], lights=light, materials=material, blend_params=params)
        torch.testing.assert_close(together[n : n + 1], one(rasterize(meshes[n], cams[n]), meshes[n]))


@pytest.mark.parametrize("shader", LIT)
def test_ambient_light_shows_the_texture(shader):
    meshes, cams = spheres(), cameras()
    meshes.textures = TexturesVertex(torch.tensor([0.2, 0.4, 0.6]).expand(2, meshes.num_verts_per_mesh()[0], 3))
    fragments = rasterize(meshes, cams)
    image = shader(cameras=cams, lights=AmbientLights())(fragments, meshes)
    seen = fragments.pix_to_face[..., 0] >= 0
    torch.testing.assert_close(image[seen][:, :3], torch.tensor([0.2, 0.4, 0.6]).expand(int(seen.sum()), 3))
    torch.testing.assert_close(image[~seen][:, :3], torch.ones(int((~seen).sum()), 3))


@pytest.mark.parametrize("shader", LIT)
def test_gradcheck(shader):
    """In vertices, through normals, lights and texture: PyTorch3D's gradient of face normals is wrong."""
    verts = torch.tensor([[-1.0, -1, 0.2], [1, -1, 0], [0, 1, -0.3], [0.3, 0.2, 1]], dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2], [0, 3, 1], [1, 3, 2]])
    features = torch.rand(1, 4, 3, dtype=torch.float64)
    shade = shader(cameras=cameras(1), materials=Materials(shininess=2.0), blend_params=BlendParams(1e-2, 0.5))
    meshes = Meshes([verts], [faces], textures=TexturesVertex(features))
    fragments = rasterize(meshes, cameras(1), K=2, size=5)
    seen = fragments.pix_to_face[..., 0] >= 0
    assert seen.any()

    def image(verts, features):
        return shade(fragments, Meshes([verts], [faces], textures=TexturesVertex(features)))[seen]

    assert torch.autograd.gradcheck(image, (verts.requires_grad_(), features.requires_grad_()))


def test_depth_shaders():
    meshes, cams = spheres(), cameras(zfar=torch.tensor([7.0, 9.0]))
    fragments = rasterize(meshes, cams, K=2)
    seen = fragments.pix_to_face[..., 0] >= 0
    hard = HardDepthShader(cameras=cams)(fragments, meshes)[..., 0]
    assert torch.equal(hard[seen], fragments.zbuf[..., 0][seen])
    assert torch.equal(hard[~seen], torch.tensor([7.0, 9.0])[:, None, None].expand_as(hard)[~seen])
    soft = SoftDepthShader(cameras=cams, blend_params=BlendParams(sigma=1e-9))(fragments, meshes)[..., 0]
    torch.testing.assert_close(soft, hard)
    assert HardDepthShader(cameras=cams)(fragments, meshes, zfar=3.0)[..., 0][~seen].unique().tolist() == [3.0]
    without = type(fragments)(fragments.pix_to_face, fragments.zbuf, fragments.bary_coords, None)
    with pytest.raises(ValueError, match=r"SoftDepthShader requires Fragments\.dists"):
        SoftDepthShader(cameras=cams)(without, meshes)


def test_blend_params_in_the_call():
    meshes, cams = spheres(), cameras()
    fragments = rasterize(meshes, cams)
    blue = BlendParams(background_color=(0.0, 0.0, 1.0))
    for shader in LIT:
        image = shader(cameras=cams)(fragments, meshes, blend_params=blue)
        torch.testing.assert_close(image[0, 0, 0, :3], torch.tensor([0.0, 0.0, 1.0]))
    wide = SoftSilhouetteShader()(fragments, meshes, blend_params=BlendParams(sigma=1.0))
    assert wide[..., 3].max() < 0.9


def test_missing_pieces():
    meshes, cams = spheres(), cameras()
    fragments = rasterize(meshes, cams)
    for shader in (*LIT, HardDepthShader, SoftDepthShader):
        with pytest.raises(ValueError, match="Cameras must be specified"):
            shader()(fragments, meshes)
    bare = ico_sphere(2).extend(2)
    for shader in (HardPhongShader, SoftPhongShader, HardFlatShader):
        with pytest.raises(ValueError, match="does not have textures"):
            shader(cameras=cams)(fragments, bare)
    atlas = ico_sphere(2).extend(2)
    atlas.textures = TexturesAtlas(torch.rand(2, atlas.num_faces_per_mesh()[0], 2, 2, 3))
    with pytest.raises(ValueError, match="must be an instance of TexturesVertex"):
        HardGouraudShader(cameras=cams)(fragments, atlas)
    with pytest.raises(ValueError, match="lights must be a batch of 1, or of 2 like the meshes, got a batch of 3"):
        HardPhongShader(cameras=cams, lights=PointLights(location=torch.rand(3, 3)))(fragments, meshes)
    with pytest.raises(ValueError, match="sigma must be positive, got nan"):
        SoftSilhouetteShader(BlendParams(sigma=math.nan)).sigma()


def test_former_name():
    with pytest.warns(PendingDeprecationWarning, match="use SoftPhongShader"):
        assert type(TexturedSoftPhongShader(cameras=cameras())) is SoftPhongShader


def test_to(device):
    shader = HardPhongShader(cameras=cameras())
    assert shader.to(device) is shader
    for name in ("cameras", "lights", "materials"):
        assert getattr(shader, name).device.type == device.type
