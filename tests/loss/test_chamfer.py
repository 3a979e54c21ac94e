from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from recon_engine.loss import chamfer_distance


def _clouds(device, dtype=torch.float32, N=3):
    return torch.randn(N, 20, 3, device=device, dtype=dtype), torch.randn(N, 30, 3, device=device, dtype=dtype)


@pytest.mark.parametrize("norm", [1, 2])
def test_by_hand(norm, device):
    x, y = _clouds(device, torch.float64)
    distances = torch.cdist(x, y, p=norm) ** norm
    loss, loss_normals = chamfer_distance(x, y, norm=norm)
    torch.testing.assert_close(loss, (distances.amin(2).mean(1) + distances.amin(1).mean(1)).mean())
    assert loss_normals is None
    hausdorff, _ = chamfer_distance(x, y, norm=norm, point_reduction="max", batch_reduction=None)
    torch.testing.assert_close(hausdorff, torch.maximum(distances.amin(2).amax(1), distances.amin(1).amax(1)))


@pytest.mark.parametrize("abs_cosine", [True, False])
def test_normals_by_hand(abs_cosine, device):
    x, y = _clouds(device, torch.float64)
    normals_x, normals_y = _clouds(device, torch.float64)
    (from_x, from_y), (angle_x, angle_y) = chamfer_distance(
        x,
        y,
        x_normals=normals_x,
        y_normals=normals_y,
        batch_reduction=None,
        point_reduction=None,
        abs_cosine=abs_cosine,
    )
    distances = torch.cdist(x, y).square()
    torch.testing.assert_close(from_x, distances.amin(2))
    torch.testing.assert_close(from_y, distances.amin(1))
    nearest = normals_y[torch.arange(3)[:, None], distances.argmin(2)]
    cosine = F.cosine_similarity(normals_x, nearest, dim=2)
    torch.testing.assert_close(angle_x, 1 - (cosine.abs() if abs_cosine else cosine))
    assert angle_y.shape == (3, 30)


def test_gradcheck(device):
    x, y = _clouds(device, torch.float64, N=2)
    x, y = x[:, :6].requires_grad_(), y[:, :7].requires_grad_()
    normals = torch.randn_like(x).requires_grad_(), torch.randn_like(y).requires_grad_()
    lengths = torch.tensor([6, 2], device=device), torch.tensor([3, 7], device=device)
    weights = torch.tensor([0.5, 2.0], dtype=torch.float64, device=device)

    def both(x, y, a, b):
        return chamfer_distance(x, y, *lengths, x_normals=a, y_normals=b, weights=weights)

    assert torch.autograd.gradcheck(both, (x, y, *normals))


def test_point_clouds_bring_lengths_and_normals(device):
    x, y = _clouds(device)
    lengths, normals = torch.tensor([20, 4, 0], device=device), torch.randn_like(x)
    cloud = SimpleNamespace(
        points_padded=lambda: x, num_points_per_cloud=lambda: lengths, normals_padded=lambda: normals
    )
    y_normals = torch.randn_like(y)
    expected = chamfer_distance(x, y, lengths, x_normals=normals, y_normals=y_normals)
    torch.testing.assert_close(chamfer_distance(cloud, y, y_normals=y_normals), expected)


def test_padding_does_not_count(device):
    x, y = _clouds(device)
    lengths_x, lengths_y = torch.tensor([20, 4, 9], device=device), torch.tensor([1, 30, 6], device=device)
    together = chamfer_distance(x, y, lengths_x, lengths_y, batch_reduction=None)[0]
    alone = [
        chamfer_distance(x[b : b + 1, :n], y[b : b + 1, :m])[0]
        for b, (n, m) in enumerate(zip(lengths_x.tolist(), lengths_y.tolist()))
    ]
    torch.testing.assert_close(together, torch.stack(alone))


def test_weights(device):
    x, y = _clouds(device)
    each = chamfer_distance(x, y, batch_reduction=None)[0]
    weights = torch.tensor([1.0, 0.0, 3.0], device=device)
    torch.testing.assert_close(chamfer_distance(x, y, weights=weights)[0], (each * weights).sum() / 4)
    torch.testing.assert_close(
        chamfer_distance(x, y, weights=weights, batch_reduction="sum")[0], (each * weights).sum()
    )
    x.requires_grad_()
    nothing, normals = chamfer_distance(x, y, weights=weights * 0)
    assert nothing == 0
    assert normals is None
    assert (torch.autograd.grad(nothing, x)[0] == 0).all()


def test_empty(device):
    x, y = _clouds(device)
    none = torch.zeros(3, dtype=torch.int64, device=device)
    assert chamfer_distance(x, y, none, none)[0] == 0
    assert chamfer_distance(x[:, :0], y)[0] == 0
    assert chamfer_distance(x[:0], y[:0])[0] == 0


def test_bad_input(device):
    x, y = _clouds(device)
    wrong = {
        "batch_reduction must be one of": {"batch_reduction": "max"},
        "point_reduction must be one of": {"point_reduction": "median"},
        "Batch reduction must be None": {"point_reduction": None},
        "Support for 1 or 2 norm": {"norm": 3},
        "Normals must be None": {"point_reduction": "max", "x_normals": x},
        "Expected lengths to be of shape": {"x_lengths": torch.tensor([1], device=device)},
        "A length value was too long": {"x_lengths": torch.tensor([1, 21, 1], device=device)},
        "Expected normals to be of shape": {"y_normals": x},
        "weights must be of shape": {"weights": torch.ones(2, device=device)},
        "weights cannot be negative": {"weights": torch.tensor([1.0, -1, 1], device=device)},
    }
    for message, options in wrong.items():
        with pytest.raises(ValueError, match=message):
            chamfer_distance(x, y, **options)
    with pytest.raises(ValueError, match="y does not have the correct shape"):
        chamfer_distance(x, y[:2])
    with pytest.raises(ValueError, match="Expected points to be of shape"):
        chamfer_distance(x[0], y[0])
    with pytest.raises(ValueError, match=r"either Pointclouds objects or torch\.Tensor"):
        chamfer_distance([x], y)
