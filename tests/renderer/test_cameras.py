from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from recon_engine.renderer import MeshRasterizer, RasterizationSettings
from recon_engine.renderer import cameras as camera_module
from recon_engine.renderer.cameras import (
    CamerasBase,
    FoVOrthographicCameras,
    FoVPerspectiveCameras,
    OrthographicCameras,
    PerspectiveCameras,
    get_ndc_to_screen_transform,
    get_screen_to_ndc_transform,
    get_world_to_view_transform,
    look_at_rotation,
    look_at_view_transform,
    try_get_projection_transform,
)
from recon_engine.utils import ico_sphere


def pose(n=3, dtype=torch.float32):
    elev, azim = torch.linspace(-50, 60, n, dtype=dtype), torch.linspace(0, 300, n, dtype=dtype)
    return look_at_view_transform(3.0, elev, azim)


def all_cameras(dtype=torch.float32):
    R, T = pose(dtype=dtype)
    size = ((30, 50),)
    return [
        FoVPerspectiveCameras(fov=50.0, R=R, T=T),
        FoVOrthographicCameras(max_x=2.0, R=R, T=T),
        PerspectiveCameras(1.5, ((0.1, -0.2),), R, T),
        OrthographicCameras(1.5, ((0.1, -0.2),), R, T),
        PerspectiveCameras(40.0, ((24.0, 16.0),), R, T, in_ndc=False, image_size=size),
        OrthographicCameras(12.0, ((24.0, 16.0),), R, T, in_ndc=False, image_size=size),
    ]


def test_needs_no_compiled_module():
    code = "import sys; sys.modules['recon_engine._C'] = None; import recon_engine.renderer.cameras as c; "
    code += "print(c.FoVPerspectiveCameras().get_camera_center().tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("[[0.0, 0.0, 0.0]]", "[[-0.0, -0.0, -0.0]]")


@pytest.mark.parametrize("which", range(6))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unprojection_inverts_projection(which, dtype):
    cameras = all_cameras(dtype)[which]
    points = 0.5 * torch.randn(3, 9, 3, dtype=dtype)
    view = cameras.get_world_to_view_transform().transform_points(points)
    projected = cameras.transform_points(points)
    assert projected.dtype == dtype
    xy_depth = torch.cat((projected[..., :2], view[..., 2:]), dim=-1)
    tol = {"atol": 2e-5 if dtype == torch.float32 else 1e-9, "rtol": 0}
    torch.testing.assert_close(cameras.unproject_points(xy_depth), points, **tol)
    torch.testing.assert_close(cameras.unproject_points(xy_depth, world_coordinates=False), view, **tol)


@pytest.mark.parametrize("which", [0, 1])
def test_unprojection_of_scaled_depth_and_of_points_without_batch(which):
    cameras = all_cameras()[which]
    points = 0.5 * torch.randn(3, 9, 3)
    scaled = cameras.transform_points(points)
    torch.testing.assert_close(cameras.unproject_points(scaled, scaled_depth_input=True), points, atol=1e-4, rtol=0)
    one = cameras[0]
    view = one.get_world_to_view_transform().transform_points(points[0])
    flat = torch.cat((one.transform_points(points[0])[:, :2], view[:, 2:]), dim=-1)
    torch.testing.assert_close(one.unproject_points(flat).view(-1, 3), points[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("size", [(30, 30), (30, 50), (50, 30)])
def test_screen_is_pixels_from_the_top_left(size):
    H, W = size
    cameras = FoVPerspectiveCameras()
    short = min(H, W)
    corner = torch.tensor([[[W / short, H / short, 1.0], [-W / short, -H / short, 1.0], [0.0, 0.0, 1.0]]])
    screen = get_ndc_to_screen_transform(cameras, with_xyflip=True, image_size=(H, W)).transform_points(corner)
    expected = torch.tensor([[[0.0, 0.0, 1.0], [W, H, 1.0], [W / 2, H / 2, 1.0]]])
    torch.testing.assert_close(screen, expected)
    back = get_screen_to_ndc_transform(cameras, with_xyflip=True, image_size=(H, W)).transform_points(screen)
    torch.testing.assert_close(back, corner)


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (40, 24)])
def test_pixel_cameras_agree_with_ndc_cameras(size):
    H, W = size
    R, T = pose()
    short = min(H, W)
    in_ndc = PerspectiveCameras(1.4, ((0.2, -0.1),), R, T, image_size=(size,))
    focal, point = 1.4 * short / 2, (W / 2 - 0.2 * short / 2, H / 2 + 0.1 * short / 2)
    in_pixels = PerspectiveCameras(focal, (point,), R, T, in_ndc=False, image_size=(size,))
    points = 0.5 * torch.randn(3, 9, 3)
    torch.testing.assert_close(in_pixels.transform_points_ndc(points), in_ndc.transform_points_ndc(points))
    torch.testing.assert_close(
        in_pixels.transform_points_screen(points), in_ndc.transform_points_screen(points), atol=1e-4, rtol=0
    )
    # x_screen = focal x / z + point with +X right and +Y down, the convention of OpenCV.
    view = in_ndc.get_world_to_view_transform().transform_points(points)
    expected = -focal * view[..., :2] / view[..., 2:] + torch.tensor(point)
    torch.testing.assert_close(in_pixels.transform_points_screen(points)[..., :2], expected, atol=1e-4, rtol=0)


def test_image_size_can_be_given_in_the_call():
    cameras = FoVPerspectiveCameras()
    points = torch.tensor([[[0.0, 0.0, 2.0]]])
    assert cameras.transform_points_screen(points, image_size=((20, 40),))[0, 0, :2].tolist() == [20.0, 10.0]
    with pytest.raises(ValueError, match=r"image_size=\(height, width\) needs to be specified"):
        cameras.transform_points_screen(points)
    with pytest.raises(ValueError, match="image_size must be"):
        cameras.transform_points_screen(points, image_size=(1, 2, 3))
    with pytest.raises(ValueError, match="image_size has 2 rows for 1 cameras"):
        cameras.transform_points_screen(points, image_size=torch.ones(2, 2))


def test_calibration_matrix_replaces_parameters():
    R, T = pose()
    for cameras in all_cameras():
        K = cameras.get_projection_transform().get_matrix().transpose(1, 2)
        other = type(cameras)(K=K, R=R, T=T)
        points = torch.randn(3, 4, 3)
        torch.testing.assert_close(
            other.get_full_projection_transform().transform_points(points), cameras.transform_points(points)
        )
        with pytest.raises(ValueError, match=r"Expected K to have shape of \(3, 4, 4\); got \(1, 4, 4\)"):
            cameras.get_projection_transform(K=K[:1])


def test_parameters_in_the_call_override_and_extrinsics_stay():
    cameras = FoVPerspectiveCameras()
    R, T = pose(1)
    points = torch.randn(1, 4, 3)
    got = cameras.transform_points(points, R=R, T=T, fov=torch.tensor([40.0]))
    torch.testing.assert_close(got, FoVPerspectiveCameras(fov=40.0, R=R, T=T).transform_points(points))
    assert cameras.R is R
    assert cameras.T is T


def test_camera_center():
    R, T = pose()
    center = PerspectiveCameras(R=R, T=T).get_camera_center()
    torch.testing.assert_close(
        get_world_to_view_transform(R, T).transform_points(center[:, None]), torch.zeros(3, 1, 3), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("kind", [FoVPerspectiveCameras, PerspectiveCameras])
def test_gradcheck(kind):
    points = torch.randn(1, 3, 3, dtype=torch.float64) * 0.3
    R, T = (value[:1] for value in pose(dtype=torch.float64))

    def project(R, T, value):
        name = "fov" if kind is FoVPerspectiveCameras else "focal_length"
        return kind(R=R, T=T, **{name: value}).transform_points(points)

    value = torch.tensor([1.2], dtype=torch.float64)
    assert torch.autograd.gradcheck(project, tuple(x.requires_grad_() for x in (R, T, value)))


def test_indexing_and_clone():
    for cameras in all_cameras():
        points = torch.randn(3, 4, 3)
        whole = cameras.transform_points(points)
        for index, rows in (
            (1, [1]),
            ([2, 0], [2, 0]),
            (torch.tensor([True, False, True]), [0, 2]),
            (torch.tensor([1, 1]), [1, 1]),
            (-1, [2]),
        ):
            chosen = cameras[index]
            assert type(chosen) is type(cameras)
            torch.testing.assert_close(chosen.transform_points(points[rows]), whole[rows])
        copy = cameras.clone()
        torch.testing.assert_close(copy.transform_points(points), whole)
        assert copy.R.data_ptr() != cameras.R.data_ptr()
    with pytest.raises(IndexError, match="Index 3 is out of bounds"):
        cameras[3]
    with pytest.raises(ValueError, match="Boolean index of shape"):
        cameras[torch.tensor([True])]
    for bad in ("0", [True], 1.0, torch.zeros(2)):
        with pytest.raises(ValueError, match="Invalid index type"):
            cameras[bad]


def test_bad_parameters():
    with pytest.raises(ValueError, match="non-broadcastable"):
        FoVPerspectiveCameras(R=torch.eye(3).expand(2, 3, 3), T=torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"Expected T to have shape \(N, 3\)"):
        get_world_to_view_transform(T=torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"Expected R to have shape \(N, 3, 3\)"):
        get_world_to_view_transform(R=torch.eye(3))
    with pytest.raises(ValueError, match="same batch dimension; got 1, 2"):
        get_world_to_view_transform(T=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="Image_size provided has invalid values"):
        PerspectiveCameras(image_size=((0, 5),))
    with pytest.raises(NotImplementedError, match="CamerasBase defines no projection transform"):
        CamerasBase().get_projection_transform()
    assert try_get_projection_transform(CamerasBase(), {}) is None


def test_look_at_faces_the_target():
    R, T = look_at_view_transform(eye=((1.0, 2.0, 3.0),), at=((0.5, 0.0, -1.0),))
    view = get_world_to_view_transform(R, T).transform_points(torch.tensor([[[0.5, 0.0, -1.0], [0.5, 1.0, -1.0]]]))
    distance = math.dist((1, 2, 3), (0.5, 0, -1))
    torch.testing.assert_close(view[0, 0], torch.tensor([0.0, 0.0, distance]), atol=1e-6, rtol=0)
    assert view[0, 1, 0].abs() < 1e-6
    assert view[0, 1, 1] > 0.5


@pytest.mark.parametrize("eye", [(0.0, 2.0, 0.0), (0.0, -2.0, 0.0)])
def test_look_at_is_a_rotation_when_up_is_parallel(eye):
    R = look_at_rotation((eye,))
    torch.testing.assert_close(R @ R.transpose(1, 2), torch.eye(3)[None])
    torch.testing.assert_close(torch.det(R), torch.ones(1))
    # The limit of ever steeper views from azimuth 0.
    steep, _ = look_at_view_transform(2.0, math.copysign(89.9, eye[1]), 0.0)
    torch.testing.assert_close(R, steep, atol=2e-3, rtol=0)
    along_x = look_at_rotation(((3.0, 0.0, 0.0),), up=((1.0, 0.0, 0.0),))
    torch.testing.assert_close(along_x @ along_x.transpose(1, 2), torch.eye(3)[None])


def test_look_at_errors():
    with pytest.raises(ValueError, match=r"Expected arg up to have shape \(N, 3\)"):
        look_at_rotation(((1.0, 0.0, 0.0),), up=((1.0, 0.0),))
    with pytest.raises(ValueError, match="non-broadcastable"):
        look_at_view_transform(dist=torch.ones(2), elev=torch.ones(3))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("OpenGLPerspectiveCameras", "FoVPerspectiveCameras"),
        ("OpenGLOrthographicCameras", "FoVOrthographicCameras"),
        ("SfMPerspectiveCameras", "PerspectiveCameras"),
        ("SfMOrthographicCameras", "OrthographicCameras"),
    ],
)
def test_former_names(old, new):
    R, T = pose()
    with pytest.warns(PendingDeprecationWarning, match=f"{old} is deprecated, use {new}"):
        cameras = getattr(camera_module, old)(R=R, T=T)
    assert type(cameras) is getattr(camera_module, new)
    points = torch.randn(3, 4, 3)
    expected = getattr(camera_module, new)(R=R, T=T).transform_points(points)
    torch.testing.assert_close(cameras.transform_points(points), expected)


@pytest.mark.parametrize("wide", ["R", "T", "RT"])
def test_extrinsics_of_numpy_go_with_float32(wide):
    """Matrices of NumPy are float64, and the rest of a program is float32."""
    points = torch.randn(3, 5, 3)
    for cameras in all_cameras():
        expected = cameras.transform_points_ndc(points), cameras.get_world_to_view_transform().transform_points(points)
        rendered = MeshRasterizer(cameras, RasterizationSettings((30, 50)))(ico_sphere(1).extend(3)).zbuf
        center = cameras.get_camera_center()
        for name in wide:
            setattr(cameras, name, getattr(cameras, name).double())
        found = cameras.transform_points_ndc(points), cameras.get_world_to_view_transform().transform_points(points)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        zbuf = MeshRasterizer(cameras, RasterizationSettings((30, 50)))(ico_sphere(1).extend(3)).zbuf
        torch.testing.assert_close(zbuf, rendered, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(cameras.get_camera_center(), center.double(), atol=1e-5, rtol=1e-5)
