from __future__ import annotations

import pytest
import torch

from recon_engine.renderer.compositing import alpha_composite, norm_weighted_sum, weighted_sum
from recon_engine.renderer.points import AlphaCompositor, NormWeightedCompositor

PAIRS = [(AlphaCompositor, alpha_composite), (NormWeightedCompositor, norm_weighted_sum)]


def inputs(device, C=3):
    idx = torch.tensor([[[[0, -1, 2]], [[1, -1, -1]]]], device=device)  # N=1, K=2, H=1, W=3
    alphas = torch.tensor([[[[0.5, 0.9, 0.25]], [[0.25, 0.9, 0.9]]]], device=device)
    return idx, alphas, torch.arange(3.0 * C, device=device).reshape(3, C).t() + 1


def test_by_hand(device):
    idx, alphas, features = inputs(device)
    f = features.t()
    zero = torch.zeros_like(f[0])
    expected = {
        alpha_composite: [0.5 * f[0] + 0.5 * 0.25 * f[1], zero, 0.25 * f[2]],
        norm_weighted_sum: [(2 * f[0] + f[1]) / 3, zero, f[2]],
        weighted_sum: [0.5 * f[0] + 0.25 * f[1], zero, 0.25 * f[2]],
    }
    for composite, pixels in expected.items():
        torch.testing.assert_close(composite(idx, alphas, features), torch.stack(pixels, 1)[None, :, None])


@pytest.mark.parametrize(("compositor", "function"), PAIRS)
def test_background(compositor, function, device):
    for C, color, expected in (
        (3, (0.1, 0.2, 0.3), [0.1, 0.2, 0.3]),
        (3, [0.1, 0.2, 0.3], [0.1, 0.2, 0.3]),
        (4, (0.1, 0.2, 0.3), [0.1, 0.2, 0.3, 1.0]),
        (4, torch.tensor([0.1, 0.2, 0.3, 0.5]), [0.1, 0.2, 0.3, 0.5]),
        (5, 0.7, [0.7] * 5),
        (2, None, [0.0] * 2),
    ):
        idx, alphas, features = inputs(device, C)
        plain = function(idx, alphas, features)
        image = compositor(background_color=color)(idx, alphas, features)
        torch.testing.assert_close(image[0, :, 0, 1], torch.tensor(expected, device=device))
        assert torch.equal(image[..., [0, 2]], plain[..., [0, 2]])
        torch.testing.assert_close(compositor()(idx, alphas, features, background_color=color), image)


def test_gradient_of_the_background(device):
    idx, alphas, features = inputs(device)
    color = torch.tensor([0.1, 0.2, 0.3], device=device, requires_grad=True)
    image = AlphaCompositor(color)(idx, alphas, features)
    (grad,) = torch.autograd.grad(image.sum(), color)
    assert grad.tolist() == [1.0, 1.0, 1.0]  # one pixel shows it


@pytest.mark.parametrize(("compositor", "function"), PAIRS)
def test_bad_background(compositor, function):
    idx, alphas, features = inputs("cpu")
    with pytest.raises(ValueError, match=r"Wrong shape of background_color: .* got \(1, 3\)"):
        compositor(background_color=torch.zeros(1, 3))(idx, alphas, features)
    with pytest.raises(ValueError, match="Background color has 5 channels, the features have 3"):
        compositor(background_color=torch.zeros(5))(idx, alphas, features)
