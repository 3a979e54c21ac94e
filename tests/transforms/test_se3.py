from __future__ import annotations

import math

import pytest
import torch

from recon_engine.transforms import se3_exp_map, se3_log_map
from recon_engine.transforms.so3 import hat


def exponential(log: torch.Tensor) -> torch.Tensor:
    """The rigid motion by its definition: the matrix exponential of the 4x4 generator, in float64, for row vectors."""
    log = log.double()
    generator = torch.zeros(len(log), 4, 4, dtype=torch.float64, device=log.device)
    generator[:, :3, :3] = hat(log[:, 3:])
    generator[:, :3, 3] = log[:, :3]
    return torch.linalg.matrix_exp(generator).transpose(1, 2)


def logs(dtype: torch.dtype) -> torch.Tensor:
    """Motions with rotation angles from 0 to just below pi, on both sides of where the series end."""
    angles = torch.tensor([0, 1e-12, 1e-6, 1e-3, 5e-3, 0.02, 0.3, 0.4999, 0.5001, 1, 2, 3, 3.1], dtype=dtype)
    axes = torch.randn(len(angles), 3, dtype=dtype)
    return torch.cat([torch.randn(len(angles), 3, dtype=dtype), angles[:, None] * axes / axes.norm(dim=1)[:, None]], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exp_is_the_matrix_exponential(dtype, device):
    """PyTorch3D clamps angles below 0.01, which costs it up to 2e-8 of the length of the translation there."""
    log = logs(dtype).to(device)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(se3_exp_map(log), exponential(log).to(dtype), atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_is_the_inverse_of_exp(dtype, device):
    log = logs(dtype).to(device)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(se3_log_map(se3_exp_map(log)), log, atol=tolerance, rtol=0)
    motion = exponential(log).to(dtype)
    torch.testing.assert_close(se3_exp_map(se3_log_map(motion)), motion, atol=tolerance, rtol=0)


def test_gradcheck():
    log = logs(torch.float64)[3:].requires_grad_()
    assert torch.autograd.gradcheck(se3_exp_map, (log,))
    assert torch.autograd.gradcheck(lambda x: se3_log_map(se3_exp_map(x)), (log,))


def test_gradients_at_the_identity_and_at_half_turns():
    jacobian = torch.autograd.functional.jacobian(lambda x: se3_log_map(se3_exp_map(x)), torch.zeros(1, 6).double())
    torch.testing.assert_close(jacobian[0, :, 0], torch.eye(6, dtype=torch.float64))
    half_turn = torch.tensor([[1.0, 2, 3, math.pi, 0, 0]], requires_grad=True)
    se3_log_map(se3_exp_map(half_turn)).sum().backward()
    assert half_turn.grad.isfinite().all()


def test_translation_only_and_empty():
    log = torch.cat([torch.randn(4, 3), torch.zeros(4, 3)], 1)
    torch.testing.assert_close(se3_exp_map(log)[:, 3, :3], log[:, :3])
    assert se3_exp_map(torch.zeros(0, 6)).shape == (0, 4, 4)
    assert se3_log_map(torch.zeros(0, 4, 4)).shape == (0, 6)


def test_wrong_input():
    with pytest.raises(ValueError, match=r"\(N, 6\)"):
        se3_exp_map(torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"\(N, 4, 4\)"):
        se3_log_map(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="should be 0"):
        se3_log_map(torch.ones(1, 4, 4))
