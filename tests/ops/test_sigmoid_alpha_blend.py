from __future__ import annotations

import pytest
import torch

from recon_engine.ops import sigmoid_alpha_blend
from recon_engine.testing import assert_as_accurate, assert_matches_reference


def _inputs(K, dtype=torch.float32, device="cpu"):
    dists = torch.randn(2, 5, 7, K, dtype=dtype, device=device) * 1e-4
    return dists, torch.randint(-1, 9, dists.shape, device=device), 1e-4


@pytest.mark.parametrize("K", [1, 3, 8, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference(K, dtype, device):
    assert_matches_reference(sigmoid_alpha_blend, *_inputs(K, dtype, device))


@pytest.mark.parametrize("K", [1, 50])
def test_as_accurate(K, device):
    assert_as_accurate(sigmoid_alpha_blend, *_inputs(K, device=device))


def test_gradcheck(device):
    dists, pix_to_face, _ = _inputs(5, torch.float64, device)
    dists = (dists * 1e4).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: sigmoid_alpha_blend(d, pix_to_face, 1.0), dists)


def test_saturated_faces_give_finite_gradients(device):
    dists = torch.tensor([-1.0, -1e-9, 0.0, 1.0, 3e38], device=device).view(1, 1, 1, 5).requires_grad_()
    alpha = sigmoid_alpha_blend(dists, torch.arange(5, device=device).view(1, 1, 1, 5), 1e-4)
    assert alpha.item() == 1
    assert torch.autograd.grad(alpha.sum(), dists)[0].isfinite().all()


def test_noncontiguous(device):
    dists, pix_to_face, sigma = _inputs(6, device=device)
    flipped = sigmoid_alpha_blend(dists.mT.contiguous().mT, pix_to_face.mT.contiguous().mT, sigma)
    torch.testing.assert_close(flipped, sigmoid_alpha_blend(dists, pix_to_face, sigma))


def test_empty(device):
    no_faces = torch.zeros(1, 2, 3, 0, device=device)
    assert (sigmoid_alpha_blend(no_faces, no_faces.long(), 1e-4) == 0).all()
    assert sigmoid_alpha_blend(no_faces[:0], no_faces[:0].long(), 1e-4).shape == (0, 2, 3)


def test_bad_input(device):
    dists, pix_to_face, sigma = _inputs(4, device=device)
    with pytest.raises(ValueError, match=r"pix_to_face must have shape \(N, H, W, K\), got \(2, 5, 7, 3\) \(N=2, H=5"):
        sigmoid_alpha_blend(dists, pix_to_face[..., :3], sigma)
    with pytest.raises(ValueError, match=r"pix_to_face must be int64, got int32"):
        sigmoid_alpha_blend(dists, pix_to_face.int(), sigma)
    with pytest.raises(ValueError, match=r"sigma must be > 0, got 0"):
        sigmoid_alpha_blend(dists, pix_to_face, 0.0)
    with pytest.raises(TypeError, match=r"sigma must be a number, got a string"):
        sigmoid_alpha_blend(dists, pix_to_face, "soft")
