from __future__ import annotations

import math

import pytest
import torch

from recon_engine.transforms import acos_linear_extrapolation


@pytest.mark.parametrize("bounds", [(-0.9999, 0.9999), (-0.5, 0.8), (0.1, 0.1)])
def test_is_acos_inside_and_its_tangent_outside(bounds):
    x = torch.linspace(-1.5, 1.5, 61, dtype=torch.float64)
    y = acos_linear_extrapolation(x, bounds)
    for value, angle in zip(x.tolist(), y.tolist(), strict=True):
        anchor = min(max(value, bounds[0]), bounds[1])
        expected = math.acos(anchor) - (value - anchor) / math.sqrt(1 - anchor * anchor)
        assert angle == pytest.approx(expected, abs=1e-12)


def test_gradient_is_finite_and_continuous_at_the_bounds():
    x = torch.tensor([-1.0, -0.9999, 0.0, 0.9999, 1.0, 1.2], dtype=torch.float64, requires_grad=True)
    acos_linear_extrapolation(x).sum().backward()
    steepest = 1 / math.sqrt(1 - 0.9999**2)
    expected = torch.tensor([-steepest, -steepest, -1.0, -steepest, -steepest, -steepest], dtype=torch.float64)
    torch.testing.assert_close(x.grad, expected)
    y = torch.linspace(-1.1, 1.1, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(acos_linear_extrapolation, (y,))


@pytest.mark.parametrize("bounds", [(0.5, -0.5), (-1.0, 0.5), (-0.5, 1.0)])
def test_wrong_bounds(bounds):
    with pytest.raises(ValueError, match="bound"):
        acos_linear_extrapolation(torch.zeros(1), bounds)
