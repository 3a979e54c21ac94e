from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from recon_engine.renderer import BlendParams, hard_rgb_blend, sigmoid_alpha_blend, softmax_rgb_blend


def fragments(K=3, dtype=torch.float32, device="cpu"):
    shape = (2, 3, 4, K)
    shown = (torch.rand(shape, device=device) < 0.7).sort(dim=-1, descending=True).values
    return SimpleNamespace(
        pix_to_face=torch.where(shown, torch.randint(9, shape, device=device), -1),
        dists=torch.where(shown, (torch.rand(shape, dtype=dtype, device=device) - 0.5) * 1e-3, -1.0),
        zbuf=torch.where(shown, 1 + 4 * torch.rand(shape, dtype=dtype, device=device), -1.0),
    )


def pixel_softmax(colors, dists, zbuf, faces, params, znear, zfar):
    """The blending of one pixel in Python floats, in float64."""
    eps = 1e-10
    background = torch.tensor(params.background_color, dtype=torch.float64)
    shown = [k for k in range(len(faces)) if faces[k] >= 0]
    p = torch.sigmoid(-dists[shown] / params.sigma)
    z = (zfar - zbuf[shown]) / (zfar - znear)
    top = torch.cat((z, torch.tensor([eps], dtype=torch.float64))).max()
    w, delta = p * torch.exp((z - top) / params.gamma), torch.exp((eps - top) / params.gamma).clamp(min=eps)
    rgb = ((w[:, None] * colors[shown]).sum(0) + delta * background) / (w.sum() + delta)
    return torch.cat((rgb, (1 - (1 - p).prod())[None]))


def test_softmax_matches_the_formula():
    fr, colors = fragments(dtype=torch.float64), torch.rand(2, 3, 4, 3, 3, dtype=torch.float64)
    params = BlendParams(sigma=1e-4, gamma=0.05, background_color=(0.1, 0.5, 0.9))
    zfar = torch.tensor([6.0, 8.0])
    image = softmax_rgb_blend(colors, fr, params, znear=0.5, zfar=zfar)
    for n, h, w in ((0, 0, 0), (0, 2, 3), (1, 1, 1), (1, 2, 0)):
        at = (n, h, w)
        args = (colors[at], fr.dists[at], fr.zbuf[at], fr.pix_to_face[at])
        torch.testing.assert_close(image[at], pixel_softmax(*args, params, 0.5, float(zfar[n])))


def test_softmax_gradcheck():
    fr = fragments(dtype=torch.float64)
    colors = torch.rand(2, 3, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    params = BlendParams(sigma=1e-2, gamma=0.3)

    def blend(colors, dists, zbuf):
        return softmax_rgb_blend(colors, SimpleNamespace(pix_to_face=fr.pix_to_face, dists=dists, zbuf=zbuf), params)

    assert torch.autograd.gradcheck(blend, (colors, fr.dists.requires_grad_(), fr.zbuf.requires_grad_()))


@pytest.mark.parametrize("dist", [-1e6, -1e-3, 0.0, 1e-3, 1e6])
@pytest.mark.parametrize("depth", [1e-6, 1.0, 99.9999, 100.0, 1e6])
def test_softmax_gradients_are_finite(dist, depth):
    """Saturated sigmoids, several faces of probability 1, faces beyond the far plane, and padding of infinity."""
    pix_to_face = torch.tensor([[[[0, 1, 2, -1]]]])
    dists = torch.tensor([[[[dist, dist, dist, float("inf")]]]]).requires_grad_()
    zbuf = torch.tensor([[[[depth, depth, 2 * depth, float("nan")]]]]).requires_grad_()
    colors = torch.rand(1, 1, 1, 4, 3).requires_grad_()
    image = softmax_rgb_blend(colors, SimpleNamespace(pix_to_face=pix_to_face, dists=dists, zbuf=zbuf), BlendParams())
    image.square().sum().backward()
    assert image.isfinite().all()
    assert all(leaf.grad.isfinite().all() for leaf in (dists, zbuf, colors))


def test_no_face_shows_the_background():
    fr = SimpleNamespace(
        pix_to_face=torch.full((1, 2, 2, 3), -1), dists=torch.full((1, 2, 2, 3), -1.0), zbuf=-torch.ones(1, 2, 2, 3)
    )
    params = BlendParams(background_color=torch.tensor([0.1, 0.2, 0.3]))
    colors = torch.rand(1, 2, 2, 3, 3)
    for blend in (hard_rgb_blend, softmax_rgb_blend):
        torch.testing.assert_close(
            blend(colors, fr, params), torch.tensor([0.1, 0.2, 0.3, 0.0]).expand(1, 2, 2, 4), atol=1e-6, rtol=0
        )


def test_sigmoid_alpha(device):
    fr, colors = fragments(device=device), torch.rand(2, 3, 4, 3, 3, device=device)
    image = sigmoid_alpha_blend(colors, fr, BlendParams(sigma=1e-3))
    prob = torch.sigmoid(-fr.dists / 1e-3) * (fr.pix_to_face >= 0)
    torch.testing.assert_close(image[..., 3], 1 - (1 - prob).prod(-1), atol=1e-6, rtol=0)
    assert (image[..., :3] == colors[..., 0, :]).all()


@pytest.mark.parametrize("channels", [1, 5])
def test_any_number_of_channels(channels):
    fr, colors = fragments(), torch.rand(2, 3, 4, 3, channels)
    params = BlendParams(background_color=(0.5,) * channels)
    for blend in (hard_rgb_blend, softmax_rgb_blend, sigmoid_alpha_blend):
        assert blend(colors, fr, params).shape == (2, 3, 4, channels + 1)


def test_bad_input():
    fr, colors = fragments(), torch.rand(2, 3, 4, 3, 3)
    with pytest.raises(ValueError, match=r"background_color must have 3 channels like the colors; got shape \(2,\)"):
        hard_rgb_blend(colors, fr, BlendParams(background_color=(1.0, 1.0)))
    for value in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"BlendParams\.sigma must be positive"):
            softmax_rgb_blend(colors, fr, BlendParams(sigma=value))
        with pytest.raises(ValueError, match=r"BlendParams\.sigma must be positive"):
            sigmoid_alpha_blend(colors, fr, BlendParams(sigma=value))
        with pytest.raises(ValueError, match=r"BlendParams\.gamma must be positive"):
            softmax_rgb_blend(colors, fr, BlendParams(gamma=value))
