from __future__ import annotations

import pytest
import torch

from recon_engine.ops import corresponding_cameras_alignment
from recon_engine.renderer import FoVPerspectiveCameras, PerspectiveCameras
from recon_engine.transforms import random_rotations


def cameras(n=6):
    R, T = random_rotations(n, dtype=torch.float64), torch.randn(n, 3, dtype=torch.float64)
    return PerspectiveCameras(R=R, T=T, focal_length=torch.full((n,), 1.5, dtype=torch.float64))


def moved(source, scale):
    """The cameras in a world that is turned, moved and scaled."""
    R, T = random_rotations(1, dtype=torch.float64)[0], torch.randn(1, 3, dtype=torch.float64)
    return FoVPerspectiveCameras(R=R @ source.R, T=(T @ source.R)[:, 0] + scale * source.T)


@pytest.mark.parametrize("mode", ["centers", "extrinsics"])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_finds_the_similarity(mode, scale):
    source = cameras()
    before = source.R.clone(), source.T.clone()
    target = moved(source, scale)
    aligned = corresponding_cameras_alignment(source, target, estimate_scale=scale != 1.0, mode=mode)
    assert type(aligned) is PerspectiveCameras
    torch.testing.assert_close(aligned.R, target.R)
    torch.testing.assert_close(aligned.T, target.T)
    assert torch.equal(aligned.focal_length, source.focal_length)
    assert torch.equal(source.R, before[0])
    assert torch.equal(source.T, before[1])


def test_never_a_reflection():
    """PyTorch3D's "extrinsics" gives reflections where the rotations disagree."""
    half_turns = [torch.diag(torch.tensor(d, dtype=torch.float64)) for d in ([1, -1, -1], [-1, 1, -1], [-1, -1, 1])]
    source, target = cameras(3), cameras(3)
    target.R = torch.stack(half_turns) @ source.R  # their mean is -1/3 of the identity
    aligned = corresponding_cameras_alignment(source, target)
    torch.testing.assert_close(torch.linalg.det(aligned.R), torch.ones(3, dtype=torch.float64))


def test_one_camera():
    source, target = cameras(1), cameras(1)
    aligned = corresponding_cameras_alignment(source, target)
    torch.testing.assert_close(aligned.R, target.R)
    torch.testing.assert_close(aligned.T, target.T)


@pytest.mark.parametrize("mode", ["centers", "extrinsics"])
def test_gradcheck(mode):
    source, target = cameras(4), cameras(4)

    def align(source_T, target_T):
        source.T, target.T = source_T, target_T
        aligned = corresponding_cameras_alignment(source, target, mode=mode)
        return aligned.R, aligned.T

    leaves = [source.T.clone().requires_grad_(), target.T.clone().requires_grad_()]
    assert torch.autograd.gradcheck(align, leaves)


def test_bad_input():
    with pytest.raises(ValueError, match="same number of cameras: got 2 and 3"):
        corresponding_cameras_alignment(cameras(2), cameras(3))
    with pytest.raises(ValueError, match=r"mode has to be one of \(centers, extrinsics\); got 'center'"):
        corresponding_cameras_alignment(cameras(2), cameras(2), mode="center")
