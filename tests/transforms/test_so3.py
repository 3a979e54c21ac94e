from __future__ import annotations

import math

import pytest
import torch

from recon_engine.transforms import (
    random_rotations,
    so3_exp_map,
    so3_exponential_map,
    so3_log_map,
    so3_relative_angle,
    so3_rotation_angle,
)
from recon_engine.transforms.so3 import hat, hat_inv


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exp_and_log_are_inverses(dtype, device):
    w = torch.randn(100, 3, dtype=dtype, device=device)
    w = w / w.norm(dim=1, keepdim=True) * torch.linspace(0, math.pi - 1e-2, 100, dtype=dtype, device=device)[:, None]
    torch.testing.assert_close(so3_log_map(so3_exp_map(w)), w, atol=2e-4 if dtype == torch.float32 else 1e-11, rtol=0)
    R = random_rotations(50, dtype=dtype, device=device)
    torch.testing.assert_close(so3_exp_map(so3_log_map(R)), R, atol=5e-6 if dtype == torch.float32 else 1e-12, rtol=0)


def test_exp_is_the_matrix_exponential_of_hat():
    w = torch.randn(20, 3, dtype=torch.float64)
    torch.testing.assert_close(so3_exp_map(w), torch.linalg.matrix_exp(hat(w)))


def test_angles(device):
    angles = torch.tensor([0.0, 0.3, 1.0, 3.0], dtype=torch.float64, device=device)
    axis = torch.tensor([0.0, 0.6, -0.8], dtype=torch.float64, device=device)
    R = so3_exp_map(angles[:, None] * axis)
    torch.testing.assert_close(so3_rotation_angle(R, cos_bound=0.0)[1:], angles[1:])
    torch.testing.assert_close(so3_rotation_angle(R, cos_angle=True), torch.cos(angles))
    other = random_rotations(4, dtype=torch.float64, device=device)
    torch.testing.assert_close(so3_relative_angle(R @ other, other)[1:], angles[1:])


def test_hat():
    v, p = torch.randn(5, 3), torch.randn(5, 3)
    torch.testing.assert_close((hat(v) @ p[..., None])[..., 0], torch.linalg.cross(v, p))
    torch.testing.assert_close(hat_inv(hat(v)), v)
    assert torch.autograd.gradcheck(lambda x: hat_inv(hat(x)), (v.double().requires_grad_(),))


def test_gradcheck():
    a, b = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(so3_exp_map, (a,))
    assert torch.autograd.gradcheck(lambda a: so3_log_map(so3_exp_map(a)), (a,))
    assert torch.autograd.gradcheck(lambda a: so3_rotation_angle(so3_exp_map(a)), (a,))
    assert torch.autograd.gradcheck(lambda a, b: so3_relative_angle(so3_exp_map(a), so3_exp_map(b)), (a, b))


def test_gradients_are_finite_at_the_identity_and_at_half_turns():
    R = torch.stack([torch.eye(3), torch.diag(torch.tensor([1.0, -1, -1])), torch.diag(torch.tensor([-1.0, 1, -1]))])
    R.requires_grad_()
    (so3_log_map(R).sum() + so3_rotation_angle(R).sum() + so3_relative_angle(R, R.detach()).sum()).backward()
    assert R.grad.isfinite().all()


def test_empty():
    assert so3_exp_map(torch.zeros(0, 3)).shape == (0, 3, 3)
    assert so3_log_map(torch.zeros(0, 3, 3)).shape == (0, 3)
    assert so3_rotation_angle(torch.zeros(0, 3, 3)).shape == (0,)
    assert hat_inv(hat(torch.zeros(0, 3))).shape == (0, 3)


def test_deprecated_name():
    w = torch.randn(2, 3)
    with pytest.warns(PendingDeprecationWarning, match="so3_exp_map"):
        torch.testing.assert_close(so3_exponential_map(w), so3_exp_map(w))


def test_wrong_input():
    with pytest.raises(ValueError, match=r"Nx3\. Got"):
        so3_exp_map(torch.zeros(5, 4))
    with pytest.raises(ValueError, match=r"batch of 3x3 Tensors\. Got"):
        so3_log_map(torch.zeros(5, 3, 5))
    with pytest.raises(ValueError, match="trace outside valid range"):
        so3_rotation_angle(2 * torch.eye(3)[None])
    with pytest.raises(ValueError, match="not skew-symmetric"):
        hat_inv(torch.eye(3)[None])
    with pytest.raises(ValueError, match="3-dimensional"):
        hat(torch.zeros(2, 4))
