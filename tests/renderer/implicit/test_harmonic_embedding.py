from __future__ import annotations

import math

import pytest
import torch

from recon_engine.renderer import HarmonicEmbedding


@pytest.mark.parametrize("append_input", [True, False])
def test_shapes(append_input, device):
    embed = HarmonicEmbedding(60, omega_0=0.1, append_input=append_input).to(device)
    x = torch.rand(2, 7, 3, device=device)
    assert embed(x).shape == (2, 7, embed.get_output_dim())
    assert embed.get_output_dim(5) == HarmonicEmbedding.get_output_dim_static(5, 60, append_input)
    assert embed.get_output_dim() == 360 + 3 * append_input  # 360: the book's network
    assert not embed.state_dict()


def test_order_of_the_output():
    embedded = HarmonicEmbedding(3, omega_0=0.5)(torch.tensor([0.3, 0.7], dtype=torch.float64))
    phases = [0.5 * f * x for x in (0.3, 0.7) for f in (1, 2, 4)]
    expected = [math.sin(p) for p in phases] + [math.cos(p) for p in phases] + [0.3, 0.7]
    torch.testing.assert_close(embedded, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15)


def test_linear_frequencies():
    embedded = HarmonicEmbedding(3, logspace=False, append_input=False)(torch.tensor([0.5], dtype=torch.float64))
    torch.testing.assert_close(embedded[:3], torch.sin(torch.tensor([0.5, 1.25, 2.0], dtype=torch.float64)))


def test_variances_give_expected_values():
    x, std = torch.tensor([0.4], dtype=torch.float64), 0.3
    embed = HarmonicEmbedding(2, append_input=False)
    normal = torch.randn(400000, 1, dtype=torch.float64) * std + x
    torch.testing.assert_close(embed(x, diag_cov=x.new_tensor([std**2])), embed(normal).mean(0), rtol=0, atol=5e-3)


def test_cosines_of_large_numbers():
    """sin(x + pi / 2) has lost the shift where x is large: cosines are then a copy of the sines."""
    x = torch.tensor([2.0**26])
    sine, cosine = HarmonicEmbedding(1, append_input=False)(x)
    torch.testing.assert_close(sine, torch.tensor(math.sin(2.0**26)))
    torch.testing.assert_close(cosine, torch.tensor(math.cos(2.0**26)))


def test_gradcheck():
    embed = HarmonicEmbedding(3, omega_0=0.5)
    x, var = (torch.rand(2, 3, dtype=torch.float64).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(embed, (x, var))
