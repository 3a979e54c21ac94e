from __future__ import annotations

import pytest
import torch

from recon_engine.renderer import (
    FoVOrthographicCameras,
    FoVPerspectiveCameras,
    HardPhongShader,
    MeshRasterizer,
    MeshRenderer,
    OrthographicCameras,
    PerspectiveCameras,
    RasterizationSettings,
    SoftPhongShader,
    SoftSilhouetteShader,
    SplatterPhongShader,
    TexturesVertex,
    look_at_view_transform,
)
from recon_engine.renderer.blending import BlendParams
from recon_engine.renderer.fisheyecameras import FishEyeCameras
from recon_engine.renderer.mesh.shader import HardDepthShader
from recon_engine.renderer.opengl import MeshRasterizerOpenGL, rasterizer_opengl
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere

SETTINGS = RasterizationSettings(image_size=(20, 30))


def spheres(device="cpu", requires_grad=False):
    sphere = ico_sphere(2, device=device)
    verts = [(sphere.verts_packed() * scale).requires_grad_(requires_grad) for scale in (1.0, 0.6)]
    faces = [sphere.faces_packed(), sphere.faces_packed().flip(0)]
    return Meshes(verts, faces, textures=TexturesVertex([torch.rand_like(v) for v in verts]))


def cameras(kind=FoVPerspectiveCameras, device="cpu", **kwargs):
    R, T = look_at_view_transform(2.5, torch.tensor([10.0, 40.0]), torch.tensor([0.0, 70.0]))
    return kind(R=R, T=T, device=device, **kwargs)


@pytest.mark.parametrize("kind", [FoVPerspectiveCameras, FoVOrthographicCameras])
def test_fragments_are_those_of_the_rasterizer(kind, device):
    meshes, views = spheres(device, requires_grad=True), cameras(kind, device)
    got, want = MeshRasterizerOpenGL(views, SETTINGS)(meshes), MeshRasterizer(views, SETTINGS)(meshes)
    assert got.dists is None
    for name in ("pix_to_face", "zbuf", "bary_coords"):
        assert torch.equal(getattr(got, name), getattr(want, name).detach())
        assert not getattr(got, name).requires_grad
    assert got.pix_to_face.shape == (2, 20, 30, 1)
    # Faces are those of the packed batch, where PyTorch3D counts from 0 in each mesh.
    assert (got.pix_to_face[1] >= 320).any()
    assert got.pix_to_face[1][got.pix_to_face[1] >= 0].min() >= 320


def test_the_far_plane_cuts():
    rasterizer = MeshRasterizerOpenGL(cameras(zfar=torch.tensor([1.7, 10.0])), SETTINGS)
    got, want = rasterizer(spheres()), MeshRasterizer(rasterizer.cameras, SETTINGS)(spheres())
    hidden = want.zbuf[0] > 1.7
    assert hidden.any()
    assert torch.equal(got.pix_to_face[0], want.pix_to_face[0].masked_fill(hidden, -1))
    assert (got.zbuf[0][hidden] == -1).all()
    assert (got.bary_coords[0][hidden] == -1).all()
    assert torch.equal(got.zbuf[1], want.zbuf[1])
    # In the call, and not at all for a camera that is given by a matrix.
    assert (rasterizer(spheres(), zfar=0.5).pix_to_face == -1).all()
    K = FoVPerspectiveCameras(zfar=1.7).get_projection_transform().get_matrix().transpose(1, 2).repeat(2, 1, 1)
    assert torch.equal(MeshRasterizerOpenGL(cameras(K=K, zfar=1.0), SETTINGS)(spheres()).zbuf, want.zbuf)


@pytest.mark.parametrize("shader", [HardPhongShader, SplatterPhongShader, HardDepthShader])
def test_shaders_without_distances(shader):
    meshes, views = spheres(), cameras()
    made = shader(cameras=views, blend_params=BlendParams(sigma=0.5))
    got = MeshRenderer(MeshRasterizerOpenGL(views, SETTINGS), made)(meshes)
    torch.testing.assert_close(got, MeshRenderer(MeshRasterizer(views, SETTINGS), made)(meshes), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shader", [SoftPhongShader, SoftSilhouetteShader])
def test_shaders_with_distances_say_what_is_missing(shader):
    views = cameras()
    made = shader() if shader is SoftSilhouetteShader else shader(cameras=views)
    with pytest.raises(ValueError, match=r"Fragments\.dists"):
        MeshRenderer(MeshRasterizerOpenGL(views, SETTINGS), made)(spheres())


def test_settings_and_cameras_in_the_call():
    got = MeshRasterizerOpenGL()(spheres(), cameras=cameras(), raster_settings=SETTINGS)
    assert torch.equal(got.zbuf, MeshRasterizerOpenGL(cameras(), SETTINGS)(spheres()).zbuf)
    rasterizer = MeshRasterizerOpenGL(cameras(), SETTINGS)
    assert rasterizer.to("cpu") is rasterizer
    assert MeshRasterizerOpenGL().to("cpu").cameras is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"faces_per_pixel": 3}, "one face per pixel"),
        ({"cull_backfaces": True}, "cull_backfaces is not used"),
        ({"cull_to_frustum": True}, "cull_to_frustum is not used"),
    ],
)
def test_settings_that_are_not_used(options, message):
    settings = RasterizationSettings(image_size=(20, 30), **options)
    with pytest.warns(UserWarning, match=message):
        rasterizer = MeshRasterizerOpenGL(cameras(), settings)
    with pytest.warns(UserWarning, match=message):
        got = rasterizer(spheres())
    assert torch.equal(got.zbuf, MeshRasterizer(cameras(), SETTINGS)(spheres()).zbuf)


def test_settings_that_are_refused():
    for options, error in (({"z_clip_value": 0.1}, NotImplementedError), ({"perspective_correct": False}, ValueError)):
        settings = RasterizationSettings(**options)
        with pytest.raises(error, match="use MeshRasterizer"):
            MeshRasterizerOpenGL(cameras(), settings)
        with pytest.raises(error, match="use MeshRasterizer"):
            MeshRasterizerOpenGL(cameras())(spheres(), raster_settings=settings)


@pytest.mark.parametrize("kind", [PerspectiveCameras, OrthographicCameras, FishEyeCameras])
def test_cameras_that_are_refused(kind):
    with pytest.raises(ValueError, match="only works with FoVPerspectiveCameras and FoVOrthographicCameras, got "):
        MeshRasterizerOpenGL(kind())(spheres())
    with pytest.raises(ValueError, match="Cameras must be specified"):
        MeshRasterizerOpenGL()(spheres())


@pytest.mark.parametrize("size", [(20, 30), (30, 20), (20, 20)])
def test_what_opengl_is_to_project(size):
    """Projected and divided, x and y from -1 to 1 are the whole picture, to the right and downwards."""
    meshes, views = spheres(), cameras()
    converted = rasterizer_opengl._convert_meshes_to_gl_ndc(meshes, size, views)
    to_clip = views.get_projection_transform()
    xy = to_clip.transform_points(converted.verts_padded())[..., :2]
    height, width = size
    pixels = (1 + xy) * xy.new_tensor([width, height]) / 2
    want = views.transform_points_screen(meshes.verts_padded(), image_size=(size,))[..., :2]
    torch.testing.assert_close(pixels, want, rtol=1e-5, atol=1e-4)
    assert torch.equal(converted.faces_packed(), meshes.faces_packed())
    assert rasterizer_opengl._parse_and_verify_image_size(size) == size
    assert rasterizer_opengl._parse_and_verify_image_size(4096) == (4096, 4096)
