from __future__ import annotations

import pytest
import torch

from recon_engine.ops.interp_face_attrs import interpolate_face_attributes


def inputs(dtype=torch.float32, device="cpu", D=3):
    pix_to_face = torch.randint(-1, 4, (2, 3, 5, 2), device=device)
    bary = torch.rand(2, 3, 5, 2, 3, dtype=dtype, device=device)
    return pix_to_face, bary, torch.rand(4, 3, D, dtype=dtype, device=device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("D", [1, 3, 7])
def test_matches_reference(dtype, D, device):
    pix_to_face, bary, attributes = inputs(dtype, device, D)
    got = interpolate_face_attributes(pix_to_face, bary, attributes)
    want = torch.einsum("nhwkv,nhwkvd->nhwkd", bary, attributes[pix_to_face]) * (pix_to_face >= 0)[..., None]
    assert got.dtype == dtype
    torch.testing.assert_close(got, want)


def test_gradcheck(device):
    pix_to_face, bary, attributes = inputs(torch.float64, device)
    leaves = (bary.requires_grad_(), attributes.requires_grad_())
    assert torch.autograd.gradcheck(lambda b, a: interpolate_face_attributes(pix_to_face, b, a), leaves)


def test_padding_gets_no_gradient_and_no_value(device):
    pix_to_face, bary, attributes = inputs(device=device)
    bary = torch.where((pix_to_face < 0)[..., None], float("nan"), bary).requires_grad_()
    out = interpolate_face_attributes(pix_to_face, bary, attributes)
    out.sum().backward()
    assert (out[pix_to_face < 0] == 0).all()
    assert (bary.grad[pix_to_face < 0] == 0).all()


def test_noncontiguous(device):
    pix_to_face, bary, attributes = inputs(device=device)
    strided = attributes.transpose(0, 1).contiguous().transpose(0, 1)
    got = interpolate_face_attributes(pix_to_face.mT, bary.transpose(2, 3), strided)
    want = interpolate_face_attributes(pix_to_face, bary, attributes)
    torch.testing.assert_close(got, want.transpose(2, 3))


def test_empty(device):
    out = interpolate_face_attributes(
        torch.full((1, 2, 2, 1), -1, device=device),
        torch.full((1, 2, 2, 1, 3), -1.0, device=device),
        torch.zeros(0, 3, 2, device=device),
    )
    assert out.shape == (1, 2, 2, 1, 2)
    assert (out == 0).all()


def test_shape_error(device):
    pix_to_face, bary, attributes = inputs(device=device)
    with pytest.raises(ValueError, match="Faces can only have three vertices"):
        interpolate_face_attributes(pix_to_face, bary, attributes[:, :2])
    with pytest.raises(ValueError, match=r"barycentric_coords must have shape \(N, H, W, K, 3\)"):
        interpolate_face_attributes(pix_to_face, bary[..., :2], attributes)
    with pytest.raises(ValueError, match="pix_to_face must have shape"):
        interpolate_face_attributes(pix_to_face[:1], bary, attributes)
