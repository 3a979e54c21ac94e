from __future__ import annotations

import pytest
import torch

from recon_engine.renderer.camera_conversions import (
    _cameras_from_opencv_projection,
    _opencv_from_cameras_projection,
    _pulsar_from_cameras_projection,
)
from recon_engine.renderer.cameras import PerspectiveCameras, look_at_view_transform


def opencv(n=2):
    R, T = look_at_view_transform(4.0, torch.tensor([10.0, -40.0]), torch.tensor([30.0, 200.0]))
    K = torch.tensor([[[60.0, 0.0, 26.0], [0.0, 55.0, 14.0], [0.0, 0.0, 1.0]]]).repeat(n, 1, 1)
    return R.transpose(1, 2).contiguous(), T, K


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (48, 32)])
def test_opencv_pixels_and_round_trip(size):
    R, tvec, K = opencv()
    image_size = torch.tensor([size, size])
    cameras = _cameras_from_opencv_projection(R, tvec, K, image_size)
    points = 0.5 * torch.randn(2, 8, 3)
    projected = torch.einsum("nij,npj->npi", K, torch.einsum("nij,npj->npi", R, points) + tvec[:, None])
    expected = projected[..., :2] / projected[..., 2:]
    torch.testing.assert_close(cameras.transform_points_screen(points)[..., :2], expected, atol=1e-3, rtol=0)
    for got, want in zip(_opencv_from_cameras_projection(cameras, image_size), (R, tvec, K), strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=0)


def test_opencv_from_cameras_in_pixels():
    R, tvec, K = opencv()
    flip = torch.tensor([-1.0, -1.0, 1.0])
    size = torch.tensor([[32, 48], [32, 48]])
    focal, point = torch.stack((K[:, 0, 0], K[:, 1, 1]), 1), K[:, :2, 2]
    cameras = PerspectiveCameras(focal, point, R.transpose(1, 2) * flip, tvec * flip, in_ndc=False, image_size=size)
    for got, want in zip(_opencv_from_cameras_projection(cameras, size), (R, tvec, K), strict=True):
        torch.testing.assert_close(got, want)


def test_pulsar(live):
    from pytorch3d.renderer import PerspectiveCameras as Theirs
    from pytorch3d.renderer.camera_conversions import _pulsar_from_cameras_projection as theirs

    R, T = look_at_view_transform(4.0, 20.0, torch.tensor([30.0, 200.0]))
    size = torch.tensor([[32, 48], [32, 48]])
    args = {"focal_length": 1.7, "principal_point": ((0.1, 0.2),), "R": R, "T": T}
    got = _pulsar_from_cameras_projection(PerspectiveCameras(**args), size)
    torch.testing.assert_close(got, theirs(Theirs(**args), size))


def test_pulsar_errors():
    cameras = PerspectiveCameras(R=torch.eye(3).expand(2, 3, 3), T=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="same positive"):
        _pulsar_from_cameras_projection(cameras, torch.tensor([[32, 48], [48, 32]]))
