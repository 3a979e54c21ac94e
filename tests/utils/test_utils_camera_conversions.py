from __future__ import annotations

import pytest
import torch

from recon_engine import utils

transforms = pytest.importorskip("recon_engine.transforms")
pytest.importorskip("recon_engine.renderer.camera_conversions")


def opencv_cameras(count: int = 4) -> tuple[torch.Tensor, ...]:
    R = transforms.random_rotations(count, dtype=torch.float64)
    tvec = torch.randn(count, 3, dtype=torch.float64) + torch.tensor([0.0, 0, 8])
    camera_matrix = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
    camera_matrix[:, 0, 0], camera_matrix[:, 1, 1] = 500 + 100 * torch.rand(2, count, dtype=torch.float64)
    camera_matrix[:, 0, 2], camera_matrix[:, 1, 2] = 300, 200
    return R, tvec, camera_matrix, torch.tensor([[480, 640]]).expand(count, 2)


def test_projects_as_opencv_does():
    R, tvec, camera_matrix, image_size = opencv_cameras()
    points = torch.randn(4, 10, 3, dtype=torch.float64)
    homogeneous = (camera_matrix @ (R @ points.mT + tvec[..., None])).mT
    cameras = utils.cameras_from_opencv_projection(R, tvec, camera_matrix, image_size)
    screen = cameras.transform_points_screen(points, image_size=image_size)
    torch.testing.assert_close(screen[..., :2], homogeneous[..., :2] / homogeneous[..., 2:])


def test_round_trip():
    parameters = opencv_cameras()
    cameras = utils.cameras_from_opencv_projection(*parameters)
    for found, expected in zip(utils.opencv_from_cameras_projection(cameras, parameters[3]), parameters):
        torch.testing.assert_close(found, expected)


def test_pulsar_vectors_agree():
    R, tvec, camera_matrix, image_size = opencv_cameras()
    camera_matrix[:, 1, 1] = camera_matrix[:, 0, 0]
    direct = utils.pulsar_from_opencv_projection(R, tvec, camera_matrix, image_size)
    cameras = utils.cameras_from_opencv_projection(R, tvec, camera_matrix, image_size)
    assert direct.shape == (4, 13)
    torch.testing.assert_close(utils.pulsar_from_cameras_projection(cameras, image_size), direct, check_dtype=False)


def test_equals_pytorch3d():
    theirs = pytest.importorskip("pytorch3d.utils")
    parameters = opencv_cameras()
    parameters = (*(p.float() for p in parameters[:3]), parameters[3])
    ours, expected = (m.cameras_from_opencv_projection(*parameters) for m in (utils, theirs))
    for name in ("R", "T", "focal_length", "principal_point"):
        torch.testing.assert_close(getattr(ours, name), getattr(expected, name))
    torch.testing.assert_close(
        utils.pulsar_from_opencv_projection(*parameters), theirs.pulsar_from_opencv_projection(*parameters)
    )
