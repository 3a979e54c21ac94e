from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from recon_engine.loss import chamfer_distance
from recon_engine.structures import Pointclouds


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


@pytest.mark.parametrize("reduction", [("mean", "mean"), ("sum", "sum"), (None, "max"), (None, None)])
def test_pointclouds(reduction):
    batch, point = reduction
    options = {"batch_reduction": batch, "point_reduction": point}
    points = [torch.randn(n, 3, dtype=torch.float64) for n in (9, 4)]
    normals = [torch.randn_like(p) for p in points]
    y, y_normals = torch.randn(2, 7, 3, dtype=torch.float64), torch.randn(2, 7, 3, dtype=torch.float64)
    if point == "max":
        clouds, padded = Pointclouds(points), {}
    else:
        clouds = Pointclouds(points, normals)
        options["y_normals"], padded = y_normals, {"x_normals": clouds.normals_padded()}
    expected = chamfer_distance(clouds.points_padded(), y, torch.tensor([9, 4]), **padded, **options)
    torch.testing.assert_close(chamfer_distance(clouds, y, **options), expected)
    assert (expected[1] is None) == (point == "max")


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


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_clouds_shifted_by_little(norm, offset):
    """Each point is nearest to its own image, so the distance is that of the shift, twice."""
    grid = torch.cartesian_prod(*[torch.arange(11.0, dtype=torch.float64)] * 3)[None] + offset
    shift = torch.tensor([0.25, -0.125, 0.0625], dtype=torch.float64)
    x, y = grid.requires_grad_(), (grid[:, torch.randperm(1331)] + shift).detach()
    loss, _ = chamfer_distance(x, y, norm=norm)
    torch.testing.assert_close(loss, 2 * shift.abs().pow(norm).sum())
    expected = -2 * (shift.sign() if norm == 1 else 2 * shift) / 1331
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], expected.expand_as(x))


@pytest.mark.parametrize("M", [40, 3000])
def test_equal_and_duplicated_points(M, device):
    same = torch.full((1, M, 3), 7.0, device=device, requires_grad=True)
    loss, _ = chamfer_distance(same, same.detach())
    assert loss == 0
    assert (torch.autograd.grad(loss, same)[0] == 0).all()
    twice = torch.randn(1, M, 3, device=device).repeat(1, 2, 1)
    assert chamfer_distance(twice, twice[:, :M])[0] == 0


@pytest.mark.parametrize("M", [40, 3000])
def test_points_with_nan_have_no_neighbours(M, device):
    x, y = torch.randn(1, M, 3, device=device), torch.randn(1, M, 3, device=device)
    x[0, 3, 1] = float("nan")
    (from_x, from_y), _ = chamfer_distance(x, y, batch_reduction=None, point_reduction=None)
    assert from_x.isnan().sum() == 1
    assert from_y.isfinite().all()
    assert chamfer_distance(x, y)[0].isnan()


def _peak_memory() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux, to read the peak of memory")
def test_a_million_points_take_seconds_and_memory_in_proportion():
    n = 100
    grid = torch.cartesian_prod(*[torch.arange(float(n))] * 3)[None]
    shift = torch.tensor([0.25, -0.125, 0.0625])
    x, y = grid.clone().requires_grad_(), (grid[:, torch.randperm(n**3)] + shift).requires_grad_()
    chamfer_distance(x[:, :2000], y[:, :2000])[0].backward()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before, start = _peak_memory(), time.process_time()
    loss, _ = chamfer_distance(x, y)
    grad_x, grad_y = torch.autograd.grad(loss, (x, y))
    seconds, memory = time.process_time() - start, _peak_memory() - before
    torch.testing.assert_close(loss, 2 * shift.square().sum())
    torch.testing.assert_close(grad_x, (-4 * shift / n**3).expand_as(x))
    torch.testing.assert_close(grad_y, (4 * shift / n**3).expand_as(y))
    assert seconds < 20  # comparing each with each takes an hour
    assert memory < 300 * n**3


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
