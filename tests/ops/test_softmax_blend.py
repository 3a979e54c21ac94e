from __future__ import annotations

import pytest
import torch

from recon_engine._op import _C
from recon_engine.ops import softmax_blend
from recon_engine.testing import assert_as_accurate, assert_matches_reference

SOFT = (1e-2, 5e-2)  # sigma, gamma: no weight is lost in rounding


def _inputs(K, dtype=torch.float32, device="cpu", C=3, packed=False):
    shape = (2, 5, 7, K)
    dists = (torch.randn(shape, dtype=torch.float64) * 1e-2).to(device, dtype)
    zbuf = (torch.rand(shape, dtype=torch.float64) * 3 + 1).to(device, dtype)
    pix_to_face = torch.randint(-1, 9, shape, device=device)
    if packed:  # as the rasteriser leaves them
        pix_to_face = pix_to_face.sort(-1, descending=True).values
    colors = torch.rand(*shape, C, dtype=torch.float64).to(device, dtype)
    planes = torch.tensor([[1.0, 5.0], [0.5, 9.0]], dtype=dtype, device=device)
    return colors, pix_to_face, zbuf, dists, planes, torch.rand(C, dtype=torch.float64).to(device, dtype)


def _fixed(inputs, sigma=SOFT[0], gamma=SOFT[1]):
    """The op as a function of what its kernel differentiates."""
    _, pix_to_face, _, _, planes, background = inputs
    return lambda colors, zbuf, dists: softmax_blend(colors, pix_to_face, zbuf, dists, planes, background, sigma, gamma)


@pytest.mark.parametrize("K", [1, 3, 8, 17, 50])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference(K, packed, dtype, device):
    inputs = _inputs(K, dtype, device, packed=packed)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    assert_matches_reference(_fixed(inputs), inputs[0], inputs[2], inputs[3], **tolerance)


@pytest.mark.parametrize("C", [1, 4, 9])
def test_any_number_of_channels(C, device):
    inputs = _inputs(5, torch.float64, device, C=C)
    assert_matches_reference(_fixed(inputs), inputs[0], inputs[2], inputs[3])


def test_as_accurate(device):
    inputs = _inputs(20, device=device)
    _, pix_to_face, _, _, planes, background = inputs

    def op(colors, zbuf, dists):
        return softmax_blend(colors, pix_to_face, zbuf, dists, planes.to(colors), background.to(colors), *SOFT)

    assert_as_accurate(op, inputs[0], inputs[2], inputs[3], factor=4.0)


def test_gradcheck(device):
    inputs = _inputs(4, torch.float64, device)
    leaves = [inputs[i].clone().requires_grad_() for i in (0, 2, 3)]
    assert torch.autograd.gradcheck(_fixed(inputs), leaves)


def test_gradient_of_planes_and_background(device):
    inputs = [i.clone() for i in _inputs(4, torch.float64, device)]
    planes, background = inputs[4].requires_grad_(), inputs[5].requires_grad_()
    assert torch.autograd.gradcheck(lambda p, b: softmax_blend(*inputs[:4], p, b, *SOFT), (planes, background))


def test_one_pixel_by_hand(device):
    """Two faces, one of them well in front and covering the pixel: the pixel has its colour."""
    colors = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], device=device).view(1, 1, 1, 2, 3)
    dists = torch.tensor([-1.0, -1.0], device=device).view(1, 1, 1, 2)
    zbuf = torch.tensor([2.0, 3.0], device=device).view(1, 1, 1, 2)
    faces = torch.tensor([0, 1], device=device).view(1, 1, 1, 2)
    planes, white = torch.tensor([[1.0, 100.0]], device=device), torch.ones(3, device=device)
    image = softmax_blend(colors, faces, zbuf, dists, planes, white, 1e-4, 1e-4)
    torch.testing.assert_close(image.flatten().cpu(), torch.tensor([1.0, 0.0, 0.0, 1.0]))
    nothing = softmax_blend(colors, faces - 2, zbuf, dists, planes, white, 1e-4, 1e-4)
    assert nothing.flatten().tolist() == [1, 1, 1, 0]


def test_hard_settings_give_finite_gradients(device):
    colors, pix_to_face, zbuf, dists, planes, background = _inputs(6, device=device)
    leaves = [colors.requires_grad_(), (zbuf * 40).requires_grad_(), (dists * 1e6).requires_grad_()]
    image = softmax_blend(leaves[0], pix_to_face, leaves[1], leaves[2], planes, background, 1e-4, 1e-4)
    assert image.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(image.sum(), leaves))


def test_what_empty_slots_hold_does_not_matter(device):
    colors, pix_to_face, zbuf, dists, *rest = _inputs(6, device=device)
    empty = pix_to_face < 0
    poisoned = [
        torch.where(empty.view(*empty.shape, *[1] * (a.ndim - 4)), torch.nan, a).requires_grad_()
        for a in (colors, zbuf, dists)
    ]
    image = softmax_blend(poisoned[0], pix_to_face, poisoned[1], poisoned[2], *rest, *SOFT)
    torch.testing.assert_close(image, softmax_blend(colors, pix_to_face, zbuf, dists, *rest, *SOFT))
    assert all(g.isfinite().all() for g in torch.autograd.grad(image.sum(), poisoned))


def test_instruction_sets_agree():
    inputs = _inputs(19)
    level = _C.simd_level()
    try:
        images = [softmax_blend(*inputs, *SOFT) for name in ("baseline", "avx2", "avx512") if _C.set_simd_level(name)]
    finally:
        _C.set_simd_level(level)
    for image in images[1:]:
        torch.testing.assert_close(image, images[0])


def test_noncontiguous(device):
    colors, pix_to_face, *rest = _inputs(6, device=device)
    moved = colors.transpose(1, 2).contiguous().transpose(1, 2), pix_to_face.mT.contiguous().mT
    torch.testing.assert_close(softmax_blend(*moved, *rest, *SOFT), softmax_blend(colors, pix_to_face, *rest, *SOFT))


def test_empty(device):
    colors, pix_to_face, zbuf, dists, planes, background = _inputs(3, device=device)
    none = softmax_blend(
        colors[..., :0, :], pix_to_face[..., :0], zbuf[..., :0], dists[..., :0], planes, background, *SOFT
    )
    assert (none[..., 3] == 0).all()
    assert (none[..., :3] == background).all()
    assert softmax_blend(colors[:0], pix_to_face[:0], zbuf[:0], dists[:0], planes[:0], background, *SOFT).shape[0] == 0


def test_bad_input(device):
    inputs = _inputs(3, device=device)
    with pytest.raises(ValueError, match=r"planes must have shape \(N, 2\), got \(1, 2\)"):
        softmax_blend(*inputs[:4], inputs[4][:1], inputs[5], *SOFT)
    with pytest.raises(ValueError, match=r"gamma must be > 0, got 0"):
        softmax_blend(*inputs, 1e-2, 0.0)
    with pytest.raises(ValueError, match=r"background must have shape \(C\), got \(4\)"):
        softmax_blend(*inputs[:5], torch.zeros(4, device=device), *SOFT)


@pytest.mark.parametrize(("height", "K", "C"), [(180, 50, 3), (3, 700, 3), (5, 90, 16)])
def test_large_gradients(height, K, C):
    """Gradients that go around the caches, and pixels too large to be written in groups."""
    shape = (1, height, 131, K)
    is_face = torch.arange(K) < torch.randint(0, 12, (*shape[:3], 1))
    pix_to_face = torch.where(is_face & (torch.rand(shape) < 0.8), 1, -1)
    colors, dists, zbuf = torch.rand(*shape, C), torch.randn(shape) * 1e-2, torch.rand(shape) + 1
    inputs = (colors, pix_to_face, zbuf, dists, torch.tensor([[1.0, 5.0]]), torch.rand(C))
    empty = torch.tensor(float("nan"))
    colors, zbuf, dists = (
        torch.where(m, a, empty)
        for m, a in zip(((pix_to_face >= 0)[..., None], pix_to_face >= 0, pix_to_face >= 0), (colors, zbuf, dists))
    )
    assert_matches_reference(_fixed(inputs), colors, zbuf, dists, rtol=1e-3, atol=1e-4)
