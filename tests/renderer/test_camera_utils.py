from __future__ import annotations

import pytest
import torch

from recon_engine.renderer.camera_utils import camera_to_eye_at_up, join_cameras_as_batch, rotate_on_spot
from recon_engine.renderer.cameras import (
    FoVPerspectiveCameras,
    PerspectiveCameras,
    get_world_to_view_transform,
    look_at_view_transform,
)


def test_eye_at_up_round_trip():
    R, T = look_at_view_transform(2.0, torch.tensor([10.0, -40.0]), torch.tensor([30.0, 200.0]))
    eye, at, up = camera_to_eye_at_up(get_world_to_view_transform(R, T))
    R2, T2 = look_at_view_transform(eye=eye, at=at, up=up)
    torch.testing.assert_close(R2, R, atol=1e-6, rtol=0)
    torch.testing.assert_close(T2, T, atol=1e-6, rtol=0)


def test_rotate_on_spot_keeps_the_center():
    R, T = look_at_view_transform(2.0, 10.0, torch.tensor([30.0, 200.0]))
    turn = look_at_view_transform(1.0, 5.0, 15.0)[0]
    new_R, new_T = rotate_on_spot(R, T, turn[0])
    before = PerspectiveCameras(R=R, T=T).get_camera_center()
    torch.testing.assert_close(PerspectiveCameras(R=new_R, T=new_T).get_camera_center(), before, atol=1e-6, rtol=0)
    torch.testing.assert_close(new_R, R @ turn.transpose(1, 2))
    one_R, one_T = rotate_on_spot(R[0], T[0], turn[0])
    assert one_R.shape == (1, 3, 3)
    assert one_T.shape == (1, 3)


@pytest.mark.parametrize(("name", "position"), [("R", 0), ("T", 1), ("rotation", 2)])
def test_rotate_on_spot_errors(name, position):
    args = [torch.eye(3), torch.zeros(3), torch.eye(3)]
    args[position] = torch.zeros(2, 4, 4)
    with pytest.raises(ValueError, match=f"Invalid {name}"):
        rotate_on_spot(*args)


def test_join_errors():
    fov, ndc = FoVPerspectiveCameras(), PerspectiveCameras()
    with pytest.raises(ValueError, match="cameras_list is empty"):
        join_cameras_as_batch([])
    with pytest.raises(ValueError, match="must inherit from CamerasBase"):
        join_cameras_as_batch([fov, 3])
    with pytest.raises(ValueError, match="same type"):
        join_cameras_as_batch([fov, ndc])
    with pytest.raises(ValueError, match="Attribute degrees is not constant"):
        join_cameras_as_batch([fov, FoVPerspectiveCameras(degrees=False)])
    with pytest.raises(ValueError, match="Attribute image_size is inconsistently present"):
        join_cameras_as_batch([ndc, PerspectiveCameras(image_size=((4, 4),))])
