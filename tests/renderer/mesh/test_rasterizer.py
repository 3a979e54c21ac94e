from __future__ import annotations

import math

import pytest
import torch

from recon_engine.renderer import (
    FoVOrthographicCameras,
    FoVPerspectiveCameras,
    MeshRasterizer,
    OrthographicCameras,
    PerspectiveCameras,
    RasterizationSettings,
    look_at_view_transform,
)
from recon_engine.renderer.cameras import CamerasBase
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere


def poses(n=2, dtype=torch.float32):
    elev, azim = torch.linspace(0, 40, n, dtype=dtype), torch.linspace(0, 90, n, dtype=dtype)
    return look_at_view_transform(3.0, elev, azim)


def all_cameras(dtype=torch.float32):
    R, T = poses(dtype=dtype)
    size = ((20, 30),)
    return [
        FoVPerspectiveCameras(R=R, T=T),
        FoVOrthographicCameras(R=R, T=T),
        PerspectiveCameras(2.0, R=R, T=T),
        OrthographicCameras(0.7, R=R, T=T),
        PerspectiveCameras(20.0, ((15.0, 10.0),), R, T, in_ndc=False, image_size=size),
        OrthographicCameras(8.0, ((15.0, 10.0),), R, T, in_ndc=False, image_size=size),
    ]


class CurvedCameras(FoVPerspectiveCameras):
    """A camera whose projection is not a matrix."""

    def get_projection_transform(self, **kwargs):
        raise NotImplementedError

    def transform_points(self, points, eps=None, **kwargs):
        view = self.get_world_to_view_transform().transform_points(points)
        return torch.cat((torch.tanh(view[..., :2]), view[..., 2:]), dim=-1)


@pytest.mark.parametrize("which", range(6))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [None, 0.1])
def test_transform_is_ndc_with_depth(which, dtype, eps):
    cameras = all_cameras(dtype)[which]
    meshes = Meshes(torch.rand(2, 5, 3, dtype=dtype), torch.randint(5, (2, 4, 3)))
    got = MeshRasterizer(cameras).transform(meshes, eps=eps).verts_padded()
    view = cameras.get_world_to_view_transform().transform_points(meshes.verts_padded())
    want = torch.cat((cameras.transform_points_ndc(meshes.verts_padded(), eps=eps)[..., :2], view[..., 2:]), dim=-1)
    assert got.dtype == dtype
    torch.testing.assert_close(got, want, atol=2e-6 if dtype == torch.float32 else 1e-12, rtol=0)


def test_transform_of_a_camera_without_matrix():
    R, T = poses()
    meshes = Meshes(torch.rand(2, 5, 3), torch.randint(5, (2, 4, 3)))
    got = MeshRasterizer(CurvedCameras(R=R, T=T)).transform(meshes, eps=1e-3).verts_padded()
    view = FoVPerspectiveCameras(R=R, T=T).get_world_to_view_transform().transform_points(meshes.verts_padded())
    torch.testing.assert_close(got, torch.cat((torch.tanh(view[..., :2]), view[..., 2:]), dim=-1))


def test_one_camera_for_all_meshes_and_ragged_batches():
    R, T = poses(1)
    meshes = Meshes([torch.rand(4, 3), torch.rand(7, 3)], [torch.randint(4, (2, 3)), torch.randint(7, (5, 3))])
    one = MeshRasterizer(FoVPerspectiveCameras(R=R, T=T)).transform(meshes)
    two = MeshRasterizer(FoVPerspectiveCameras(R=R.repeat(2, 1, 1), T=T.repeat(2, 1))).transform(meshes)
    torch.testing.assert_close(one.verts_packed(), two.verts_packed())
    alone = MeshRasterizer(FoVPerspectiveCameras(R=R, T=T)).transform(meshes[1])
    torch.testing.assert_close(one.verts_list()[1], alone.verts_packed())
    assert one.topology() is meshes.topology()


def test_camera_count_must_fit():
    R, T = poses(2)
    meshes = Meshes(torch.rand(3, 5, 3), torch.randint(5, (3, 4, 3)))
    with pytest.raises(ValueError, match=r"Wrong number \(2\) of cameras for 3 meshes"):
        MeshRasterizer(FoVPerspectiveCameras(R=R, T=T))(meshes)
    with pytest.raises(ValueError, match="same batch dimension; got 1, 3"):
        MeshRasterizer(FoVPerspectiveCameras())(meshes, T=torch.zeros(3, 3))
    with pytest.raises(ValueError, match="Cameras must be specified"):
        MeshRasterizer()(meshes)


def test_gradcheck():
    R, T = (value[:1] for value in poses(dtype=torch.float64))
    verts = torch.rand(1, 4, 3, dtype=torch.float64)
    faces = torch.randint(4, (1, 2, 3))

    def project(verts, R, T):
        return MeshRasterizer(FoVPerspectiveCameras(R=R, T=T)).transform(Meshes(verts, faces)).verts_padded()

    assert torch.autograd.gradcheck(project, tuple(leaf.requires_grad_() for leaf in (verts, R, T)))


def test_vertex_at_the_camera_gives_no_nan():
    """A vertex of depth exactly 0 has no projection: its face is cut or dropped, and gradients stay finite."""
    verts = torch.tensor([[[0.3, 0.2, 0.0], [0.5, -0.5, 2.0], [-0.5, -0.5, 2.0], [0.0, 0.5, 2.0]]], requires_grad=True)
    meshes = Meshes(verts, torch.tensor([[[0, 1, 2], [1, 2, 3]]]))
    for znear in (1.0, None):
        cameras = FoVPerspectiveCameras(znear=1.0) if znear else PerspectiveCameras(1.7)
        settings = RasterizationSettings(image_size=16, faces_per_pixel=2, blur_radius=0.01)
        fragments = MeshRasterizer(cameras, settings)(meshes)
        (grad,) = torch.autograd.grad(fragments.zbuf.sum() + fragments.dists.sum(), verts)
        assert grad.isfinite().all()
        assert (fragments.pix_to_face == 1).any()
        if znear:
            # Where a plane cuts the face, its part in front of the plane is seen.
            assert (fragments.pix_to_face == 0).any()


def test_defaults_follow_the_camera():
    R, T = poses(1)
    perspective = MeshRasterizer(FoVPerspectiveCameras(znear=0.6, R=R, T=T))
    assert perspective.inferred()[:2] == (True, False)
    assert perspective.inferred().z_clip_value == pytest.approx(0.3)
    assert perspective.inferred(raster_settings=RasterizationSettings(blur_radius=0.1))[:2] == (True, True)
    assert MeshRasterizer(FoVOrthographicCameras(R=R, T=T)).inferred() == (False, False, None)
    assert MeshRasterizer(PerspectiveCameras(R=R, T=T)).inferred() == (True, False, None)
    fixed = RasterizationSettings(perspective_correct=False, clip_barycentric_coords=True, z_clip_value=0.2)
    assert perspective.inferred(raster_settings=fixed) == (False, True, 0.2)


def test_fragments_detach_and_dtype():
    mesh = ico_sphere(1)
    verts = mesh.verts_packed().double().requires_grad_()
    mesh = Meshes([verts], [mesh.faces_packed()])
    R, T = poses(1)
    settings = RasterizationSettings(image_size=(10, 14), faces_per_pixel=3)
    fragments = MeshRasterizer(FoVPerspectiveCameras(R=R, T=T), settings)(mesh)
    assert fragments.zbuf.dtype == torch.float64
    assert fragments.bary_coords.shape == (1, 10, 14, 3, 3)
    assert fragments.zbuf.requires_grad
    detached = fragments.detach()
    assert not any(t.requires_grad for t in (detached.zbuf, detached.bary_coords, detached.dists))
    with pytest.raises(AttributeError):
        fragments.zbuf = None


def test_autocast_projects_in_float32():
    mesh = ico_sphere(2)
    R, T = poses(1)
    rasterizer = MeshRasterizer(FoVPerspectiveCameras(R=R, T=T), RasterizationSettings(image_size=16))
    want = rasterizer(mesh)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = rasterizer(mesh)
    assert torch.equal(got.pix_to_face, want.pix_to_face)
    assert torch.equal(got.zbuf, want.zbuf)


def test_camera_parameters_and_settings_in_the_call():
    mesh = ico_sphere(1)
    R, T = poses(1)
    rasterizer = MeshRasterizer(FoVPerspectiveCameras(), RasterizationSettings(image_size=8))
    got = rasterizer(mesh, R=R, T=T, raster_settings=RasterizationSettings(image_size=12))
    want = MeshRasterizer(FoVPerspectiveCameras(R=R, T=T), RasterizationSettings(image_size=12))(mesh)
    assert torch.equal(got.zbuf, want.zbuf)
    other = rasterizer(mesh, cameras=FoVPerspectiveCameras(R=R, T=T), raster_settings=RasterizationSettings(12))
    assert torch.equal(other.zbuf, want.zbuf)


def test_bad_settings_reach_the_user():
    mesh, cameras = ico_sphere(0), FoVPerspectiveCameras(T=torch.tensor([[0.0, 0.0, 3.0]]))
    for settings, message in (
        (RasterizationSettings(image_size=0), "greater than 0"),
        (RasterizationSettings(blur_radius=math.nan), "blur_radius must be"),
        (RasterizationSettings(faces_per_pixel=0), "faces_per_pixel must be"),
        (RasterizationSettings(z_clip_value=math.nan), "z_clip_value must be"),
        (RasterizationSettings(image_size=100, bin_size=1), "bin_size too small"),
    ):
        with pytest.raises(ValueError, match=message):
            MeshRasterizer(cameras, settings)(mesh)


def test_to(device):
    rasterizer = MeshRasterizer(FoVPerspectiveCameras())
    assert rasterizer.to(device) is rasterizer
    assert rasterizer.cameras.R.device.type == device.type
    assert MeshRasterizer().to(device).cameras is None
    assert isinstance(rasterizer.cameras, CamerasBase)


@pytest.mark.parametrize("which", range(6))
def test_never_waits_for_a_device(which, never_waits):
    """Forward and backward, with and without faces that are cut, on the path that CUDA takes."""
    cameras = all_cameras()[which]
    sphere, other = ico_sphere(2), ico_sphere(1)
    verts = [sphere.verts_packed().clone().requires_grad_(), (other.verts_packed() * 2.7).requires_grad_()]
    meshes = Meshes(verts, [sphere.faces_packed(), other.faces_packed()])
    settings = RasterizationSettings(image_size=(20, 30), faces_per_pixel=3, blur_radius=1e-3)
    rasterizer = MeshRasterizer(cameras, settings)

    def run():
        out = rasterizer(Meshes(verts, meshes.faces_list()))
        grads = torch.autograd.grad(out.zbuf.sum() + out.bary_coords.sin().sum() + out.dists.sum(), verts)
        return out.pix_to_face, out.zbuf.detach(), out.bary_coords.detach(), out.dists.detach(), *grads

    expected = run()
    with never_waits():
        got = run()
    assert torch.equal(got[0], expected[0])
    for mine, theirs in zip(got[1:], expected[1:], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_what_waits_is_noticed(never_waits):
    values = torch.tensor([1.0, -1.0])
    waits = (
        lambda: values.sum().item(),
        lambda: bool(values.any()),
        lambda: values[values > 0],
        lambda: values.nonzero(),
        lambda: torch.tensor([1.0]),
        lambda: values.repeat_interleave(torch.ones_like(values).long()),
    )
    for wait in waits:
        with never_waits(), pytest.raises(AssertionError, match="waits for a device"):
            wait()
