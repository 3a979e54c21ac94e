from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from recon_engine.ops import convert_pointclouds_to_tensor, eyes, get_point_covariances, is_pointclouds, wmean
from recon_engine.ops.utils import masked_gather


def test_masked_gather(device):
    points = torch.randn(2, 5, 3, device=device, requires_grad=True)
    idx = torch.tensor([[0, -1, 4], [3, 3, -1]], device=device)
    out = masked_gather(points, idx)
    assert (out[0, 0] == points[0, 0]).all()
    assert (out[1, 1] == points[1, 3]).all()
    assert (out[idx == -1] == 0).all()
    assert (masked_gather(points, idx[:, None].expand(2, 4, 3))[:, 2] == out).all()
    (grad,) = torch.autograd.grad(out.sum(), points)
    assert grad[1, 3].tolist() == [2, 2, 2]
    assert masked_gather(points[:, :0], idx * 0 - 1).shape == (2, 3, 3)


def test_masked_gather_bad_input(device):
    points = torch.zeros(2, 5, 3, device=device)
    with pytest.raises(ValueError, match="same batch dimension"):
        masked_gather(points, torch.zeros(1, 3, dtype=torch.int64, device=device))
    with pytest.raises(ValueError, match="idx format is not supported"):
        masked_gather(points, torch.zeros(2, dtype=torch.int64, device=device))


def test_wmean(device):
    x, weight = torch.randn(4, 6, 3, device=device), torch.rand(4, 6, device=device)
    torch.testing.assert_close(wmean(x), x.mean(-2, keepdim=True))
    expected = (x * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)
    torch.testing.assert_close(wmean(x, weight, keepdim=False), expected)
    torch.testing.assert_close(wmean(x, weight[:1]), wmean(x, weight[:1].expand(4, 6)))
    assert (wmean(x, weight * 0) == 0).all()
    with pytest.raises(ValueError, match="weights are not compatible with the tensor"):
        wmean(x, weight[:, :5])


def test_eyes(device):
    out = eyes(3, 4, device=device, dtype=torch.float64)
    assert (out == torch.eye(3, dtype=torch.float64, device=device).expand(4, 3, 3)).all()
    assert eyes(2, 0).shape == (0, 2, 2)


def test_point_clouds_by_what_they_can_do(device):
    points, lengths = torch.randn(2, 5, 3, device=device), torch.tensor([5, 2], device=device)
    clouds = SimpleNamespace(points_padded=lambda: points, num_points_per_cloud=lambda: lengths)
    assert is_pointclouds(clouds)
    assert not is_pointclouds(points)
    assert convert_pointclouds_to_tensor(clouds) == (points, lengths)
    tensor, counts = convert_pointclouds_to_tensor(points)
    assert tensor is points
    assert counts.tolist() == [5, 5]
    with pytest.raises(ValueError, match="either Pointclouds objects or tensors, got list"):
        convert_pointclouds_to_tensor([points])


def test_point_covariances(device):
    points = torch.randn(1, 8, 3, device=device, dtype=torch.float64)
    covariances, neighbors = get_point_covariances(points, torch.tensor([8], device=device), 8)
    assert neighbors.shape == (1, 8, 8, 3)
    torch.testing.assert_close(covariances, torch.cov(points[0].T, correction=0).expand(1, 8, 3, 3))
