from __future__ import annotations

import pytest
import torch

from recon_engine._load import load
from recon_engine._op import reference
from recon_engine.ops import ball_query
from recon_engine.ops.ball_query import _ball_query
from recon_engine.testing import assert_matches_reference

_C = load()
NAN, INF = float("nan"), float("inf")


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def level(request):
    before = _C.simd_level()
    if not _C.set_simd_level(request.param):
        pytest.skip(f"this CPU has no {request.param}")
    yield request.param
    _C.set_simd_level(before)


@pytest.mark.parametrize("D", [1, 2, 3, 5])
@pytest.mark.parametrize("K", [1, 7, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference(D, K, dtype, device):
    x, y = torch.randn(2, 40, D, dtype=dtype, device=device), torch.randn(2, 70, D, dtype=dtype, device=device)
    lengths = torch.tensor([40, 11], device=device), torch.tensor([50, 70], device=device)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
    assert_matches_reference(lambda x, y: ball_query(x, y, *lengths, K=K, radius=0.9)[:2], x, y, **tolerance)


# Balls that are full at once, after a while, seldom and never; in the tree and before it.
@pytest.mark.parametrize(("radius", "K"), [(3.0, 20), (0.5, 30), (0.12, 40), (0.05, 4), (0.3, 900), (0.0, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_clouds(radius, K, dtype, level):
    x, y = torch.rand(1, 90, 3, dtype=dtype), torch.rand(1, 20000, 3, dtype=dtype)
    dists, idx, nn = ball_query(x, y, K=K, radius=radius)
    with reference():
        expected = ball_query(x, y, K=K, radius=radius)
    assert (idx == expected.idx).all()
    torch.testing.assert_close(dists, expected.dists)
    torch.testing.assert_close(nn, expected.knn)


def test_the_tree_is_searched_by_index_where_points_are_sorted_by_distance():
    """Nothing near lies in front: every query goes through the tree, and the first by index are not the nearest."""
    y = torch.rand(40000, 3)
    y = y[(y - 0.5).norm(dim=1).argsort(descending=True)][None]
    x = 0.5 + 0.01 * torch.randn(1, 80, 3)
    for K in (1, 5, 300):
        ours = ball_query(x, y, K=K, radius=0.2)
        with reference():
            expected = ball_query(x, y, K=K, radius=0.2)
        assert (ours.idx == expected.idx).all()


def test_lattice(level):
    y = (torch.randn(1, 17000, 3) * 3).round()
    x = y[:, 5000:5100]
    inside = (x[0, :, None] - y[0]).square().sum(-1) < 4  # points at exactly 2 lie outside
    idx = ball_query(x, y, K=50, radius=2.0).idx[0]
    for row, hits in zip(idx, inside):
        expected = hits.nonzero()[:50, 0]
        assert row[: len(expected)].tolist() == expected.tolist()
        assert (row[len(expected) :] == -1).all()


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_equal_points(offset, device):
    y = torch.full((1, 300, 3), offset, device=device)
    dists, idx, _ = ball_query(y[:, :70], y, K=5, radius=0.1)
    assert (idx == torch.arange(5, device=device)).all()
    assert (dists == 0).all()


def test_gradcheck(device):
    x, y = (torch.randn(2, n, 3, dtype=torch.float64, device=device, requires_grad=True) for n in (5, 8))
    lengths = torch.tensor([5, 3], device=device), torch.tensor([2, 8], device=device)

    def values(x, y):
        out = ball_query(x, y, *lengths, K=3, radius=1.5)
        return out.dists, out.knn

    assert torch.autograd.gradcheck(values, (x, y))


def test_return_nn(device):
    x, y = torch.randn(1, 6, 3, device=device), torch.randn(1, 30, 3, device=device)
    result = ball_query(x, y, K=8, radius=1.0)
    assert result._fields == ("dists", "idx", "knn")
    found = result.idx >= 0
    assert (result.knn[found] == y[0, result.idx[found]]).all()
    assert (result.knn[~found] == 0).all()
    assert ball_query(x, y, return_nn=False).knn is None
    torch.testing.assert_close(ball_query(x, y, K=8, radius=1.0, skip_points_outside_cube=True), result)


@pytest.mark.parametrize("M", [60, 20000])
def test_not_finite(M, device):
    x, y = torch.rand(1, 80, 3, device=device), torch.rand(1, M, 3, device=device)
    clean = ball_query(x, y[:, 3:], K=4, radius=0.3)
    x[0, 5, 1], y[0, 0, 0], y[0, 1, 1], y[0, 2, 2] = NAN, NAN, INF, -INF
    result = ball_query(x, y, K=4, radius=0.3)
    others = torch.arange(80, device=device) != 5
    assert (result.idx[0, 5] == -1).all()
    assert (result.dists[:, others] == clean.dists[:, others]).all()
    assert (result.idx[:, others] == torch.where(clean.idx < 0, -1, clean.idx + 3)[:, others]).all()


def test_empty(device):
    some, none = torch.randn(2, 4, 3, device=device, requires_grad=True), torch.zeros(2, 0, 3, device=device)
    dists, idx, nn = ball_query(some, none, K=3)
    assert (idx == -1).all()
    assert nn.shape == (2, 4, 3, 3)
    assert (torch.autograd.grad(dists.sum(), some)[0] == 0).all()
    assert ball_query(none, some)[0].shape == (2, 0, 500)
    lengths = torch.zeros(2, dtype=torch.int64, device=device)
    assert (ball_query(some, some, lengths1=lengths)[1] == -1).all()
    assert (ball_query(some, some, lengths2=lengths)[1] == -1).all()


def test_repeatable_for_every_number_of_threads():
    x, y = (torch.rand(1, n, 3).requires_grad_() for n in (3000, 20000))
    before, results = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        dists, idx, _ = ball_query(x, y, K=9, radius=0.05)
        results.append((dists, idx, *torch.autograd.grad(dists.sum(), (x, y))))
    torch.set_num_threads(before)
    assert all((a == b).all() for a, b in zip(*results))


def test_bad_input(device):
    p1, p2 = torch.zeros(2, 4, 3, device=device), torch.zeros(2, 5, 3, device=device)
    with pytest.raises(ValueError, match="same batch dimension"):
        ball_query(p1, p2[:1])
    with pytest.raises(ValueError, match="same point dimension"):
        ball_query(p1, p2[..., :2])
    with pytest.raises(ValueError, match="K must be >= 1, got 0"):
        ball_query(p1, p2, K=0)
    for radius in (-1.0, NAN):
        with pytest.raises(ValueError, match="radius must be >= 0"):
            ball_query(p1, p2, radius=radius)
    with pytest.raises(ValueError, match=r"lengths_x must have shape \(B\), got \(3\)"):
        ball_query(p1, p2, torch.tensor([1, 2, 3], device=device))


def test_the_op_itself_takes_infinite_radii(device):
    x, y = torch.randn(1, 3, 3, device=device), torch.randn(1, 9, 3, device=device)
    assert (_ball_query(x, y, None, None, 9, INF)[1] == torch.arange(9, device=device)).all()


@pytest.mark.parametrize("skip", [False, True])
def test_against_pytorch3d(skip):
    theirs = pytest.importorskip("pytorch3d.ops").ball_query
    x, y = torch.rand(2, 50, 3).requires_grad_(), torch.rand(2, 1000, 3).requires_grad_()
    lengths = torch.tensor([50, 20]), torch.tensor([600, 1000])
    results = []
    for function in (ball_query, theirs):
        out = function(x, y, *lengths, K=12, radius=0.15, skip_points_outside_cube=skip)
        loss = out.dists.square().sum() + out.knn.square().sum()
        results.append((*out, *torch.autograd.grad(loss, (x, y))))
    assert (results[0][1] == results[1][1]).all()
    torch.testing.assert_close(*results)
