from __future__ import annotations

import math

import pytest
import torch

from recon_engine.renderer import (
    MeshRasterizer,
    PerspectiveCameras,
    RasterizationSettings,
    join_cameras_as_batch,
    look_at_view_transform,
)
from recon_engine.renderer.fisheyecameras import FishEyeCameras
from recon_engine.utils import ico_sphere

# So small that the radius grows with the angle everywhere.
SCALES = torch.tensor([0.03, 0.015, 0.006, 0.003, 0.001, 0.0004])


def params(n=2, dtype=torch.float64, device="cpu"):
    made = {
        "focal_length": torch.rand(n, 1, dtype=dtype) + 0.5,
        "principal_point": torch.randn(n, 2, dtype=dtype) * 0.1,
        "radial_params": torch.randn(n, 6, dtype=dtype) * SCALES.to(dtype),
        "tangential_params": torch.randn(n, 2, dtype=dtype) * 0.01,
        "thin_prism_params": torch.randn(n, 4, dtype=dtype) * 0.01,
    }
    return {name: value.to(device) for name, value in made.items()}


def formula(values, n, point):
    """The documented equations for one camera and one point, in Python numbers."""
    (f,), (cu, cv) = values["focal_length"][n].tolist(), values["principal_point"][n].tolist()
    p, s = values["tangential_params"][n].tolist(), values["thin_prism_params"][n].tolist()
    a, b = point[0] / point[2], point[1] / point[2]
    r = math.hypot(a, b)
    theta = math.atan(r)
    radius = theta + sum(k * theta ** (2 * i + 3) for i, k in enumerate(values["radial_params"][n].tolist()))
    x, y = radius * a / r, radius * b / r
    rd2 = x * x + y * y
    u = x + (2 * x * x + rd2) * p[0] + 2 * x * y * p[1] + s[0] * rd2 + s[1] * rd2**2
    v = y + (2 * y * y + rd2) * p[1] + 2 * x * y * p[0] + s[2] * rd2 + s[3] * rd2**2
    return [f * u + cu, f * v + cv, 1.0]


def test_matches_the_equations():
    values = params()
    points = torch.randn(5, 3, dtype=torch.float64) + torch.tensor([0, 0, 3.0])
    expected = [[formula(values, n, point) for point in points.tolist()] for n in range(2)]
    out = FishEyeCameras(**values).transform_points(points)
    torch.testing.assert_close(out, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unprojection_inverts_projection(dtype, device):
    """The centre of the image too, where PyTorch3D gives NaN."""
    cameras = FishEyeCameras(**params(dtype=dtype), device=device)
    points = torch.cat((torch.zeros(1, 2), 2 * torch.randn(40, 2))).to(dtype)
    points = torch.cat((points, torch.ones(41, 1, dtype=dtype)), dim=-1).to(device)
    back = cameras.unproject_points(cameras.transform_points(points))
    assert back.dtype == dtype
    tol = 1e-3 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(back, points.expand(2, 41, 3), rtol=tol, atol=tol)


def test_unprojection_ends_in_world_coordinates():
    R, T = look_at_view_transform(torch.tensor([2.0, 3.0], dtype=torch.float64), 20.0, 50.0)
    R, T = R.double(), T.double()
    cameras = FishEyeCameras(**params(), R=R, T=T, world_coordinates=True)
    view = torch.tensor([[0.3, -0.2, 1.0], [0.0, 0.5, 1.0]], dtype=torch.float64)
    world = cameras.get_world_to_view_transform().inverse().transform_points(view)
    projected = cameras.transform_points(world)
    torch.testing.assert_close(cameras.unproject_points(projected), world)
    torch.testing.assert_close(cameras.unproject_points(projected, world_coordinates=False), view.expand(2, 2, 3))


def test_beyond_the_field_of_view():
    cameras = FishEyeCameras(focal_length=torch.ones(1, 1, dtype=torch.float64))
    xy = torch.tensor([[5.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    out = cameras.unproject_points(xy)
    assert out[0, 0].item() == pytest.approx(math.tan(0.999 * math.pi / 2))
    assert torch.autograd.grad(out.sum(), xy)[0].isfinite().all()


def test_without_distortion_it_is_a_pinhole():
    focal, center = torch.tensor([[1.3]]), torch.tensor([[0.2, 0.1]])
    off = {"use_radial": False, "use_tangential": False, "use_thin_prism": False}
    points = torch.randn(7, 3) + torch.tensor([0, 0, 4.0])
    expected = PerspectiveCameras(focal, center).transform_points(points)[:, :2]
    torch.testing.assert_close(FishEyeCameras(focal, center, **off).transform_points(points)[:, :2], expected)


def test_gradcheck():
    values = params()
    points = torch.cat((torch.zeros(1, 2), torch.randn(3, 2)), 0)
    points = torch.cat((points, torch.tensor([[1.0], [2.0], [0.5], [-1.5]])), dim=-1).double()

    def project(points, *params):
        return FishEyeCameras(*params).transform_points(points)

    def unproject(xy, *params):
        return FishEyeCameras(*params).unproject_points(xy)

    leaves = [points.requires_grad_(), *(value.requires_grad_() for value in values.values())]
    assert torch.autograd.gradcheck(project, leaves)
    xy = FishEyeCameras(**values).transform_points(points)[0].detach().requires_grad_()
    assert torch.autograd.gradcheck(unproject, [xy, *leaves[1:]])


def test_batches_and_shapes():
    values = params()
    cameras = FishEyeCameras(**values)
    points = torch.randn(2, 1, 3, dtype=torch.float64) + torch.tensor([0, 0, 3.0])
    out = cameras.transform_points(points)
    assert out.shape == (2, 1, 3)
    for n in range(2):
        torch.testing.assert_close(cameras[n].transform_points(points[n]), out[n])
        torch.testing.assert_close(cameras.transform_points(points[n])[n], out[n])
    assert cameras.unproject_points(out[0]).shape == (2, 1, 3)
    assert cameras[0].transform_points(points[0]).shape == (1, 3)
    assert cameras[0].transform_points(points.expand(2, 5, 3)).shape == (2, 5, 3)
    assert cameras.transform_points(points[:1].expand(1, 5, 3)).shape == (2, 5, 3)


def test_indexing_joining_and_cloning_keep_the_lens(device):
    """PyTorch3D forgets the focal length and `use_thin_prism` in all but clone."""
    values = params(3, dtype=torch.float32)
    cameras = FishEyeCameras(**values, use_thin_prism=False, image_size=((20, 30),), device=device)
    points = torch.randn(3, 4, 3, device=device) + 3
    expected = cameras.transform_points(points)
    torch.testing.assert_close(cameras.clone().transform_points(points), expected)
    torch.testing.assert_close(cameras[[2, 0]].transform_points(points[[2, 0]]), expected[[2, 0]])
    torch.testing.assert_close(join_cameras_as_batch([cameras[0], cameras[[1, 2]]]).transform_points(points), expected)
    assert vars(cameras).keys() == vars(cameras[0]).keys()
    assert cameras.transform_points_screen(points).shape == (3, 4, 3)


def test_any_number_of_radial_parameters():
    point = torch.tensor([[1.0, 0.0, 1.0]])
    for count in (1, 2, 8):
        cameras = FishEyeCameras(radial_params=torch.full((1, count), 0.1))
        theta = math.pi / 4
        expected = theta + sum(0.1 * theta ** (2 * i + 3) for i in range(count))
        assert cameras.transform_points(point)[0, 0].item() == pytest.approx(expected, abs=1e-6)


def test_rasterizer_sees_what_a_pinhole_sees():
    R, T = look_at_view_transform(2.7, 0.0, 0.0)
    off = {"use_radial": False, "use_tangential": False, "use_thin_prism": False}
    fisheye = FishEyeCameras(R=R, T=T, world_coordinates=True, **off)
    settings = RasterizationSettings(image_size=24)
    meshes = ico_sphere(1).extend(2)
    seen = MeshRasterizer(fisheye, settings)(meshes).pix_to_face
    assert torch.equal(seen, MeshRasterizer(PerspectiveCameras(R=R, T=T), settings)(meshes).pix_to_face)
    distorted = MeshRasterizer(FishEyeCameras(R=R, T=T, world_coordinates=True), settings)(meshes).pix_to_face
    assert 0 < (distorted >= 0).sum() < (seen >= 0).sum()


def test_points_beside_the_camera():
    point = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    out = FishEyeCameras().transform_points(point, eps=1e-6)
    assert out[0, 0].item() == pytest.approx(math.pi / 2, abs=1e-4)
    assert torch.autograd.grad(out.sum(), point)[0].isfinite().all()


def test_bad_input():
    cameras = FishEyeCameras(**params())
    for shape in ((3, 3, 1), (3, 4, 3), (3,), (1, 1, 1, 3)):
        with pytest.raises(ValueError, match="Expected points of shape"):
            cameras.transform_points(torch.rand(shape))
        with pytest.raises(ValueError, match="Expected xy_depth of shape"):
            cameras.unproject_points(torch.rand(shape))
    with pytest.raises(ValueError, match=r"tangential_params must have shape \(N, 2\); got \(1, 3\)"):
        FishEyeCameras(tangential_params=torch.zeros(1, 3))
    with pytest.raises(ValueError, match="focal_length must be a tensor"):
        FishEyeCameras(focal_length=1.0)
    with pytest.raises(ValueError, match="Image_size provided has invalid values"):
        FishEyeCameras(image_size=((0, 5),))
    with pytest.raises(ValueError, match="non-broadcastable"):
        FishEyeCameras(focal_length=torch.ones(2, 1), radial_params=torch.zeros(3, 6))
    with pytest.raises(NotImplementedError):
        cameras.get_projection_transform()
