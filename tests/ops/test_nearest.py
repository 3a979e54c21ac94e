from __future__ import annotations

import numpy as np
import pytest
import torch

from recon_engine._load import load
from recon_engine._op import reference
from recon_engine.ops import knn_gather, knn_points
from recon_engine.ops._nearest import _both_reference, nearest, nearest_both
from recon_engine.testing import assert_matches_reference

_C = load()
INF, NAN = float("inf"), float("nan")

# Sizes on both sides of where the tree takes over.
SIZES = [(1, 1, 1), (2, 40, 33), (1, 70, 900), (1, 900, 800)]


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def level(request):
    before = _C.simd_level()
    if not _C.set_simd_level(request.param):
        pytest.skip(f"this CPU has no {request.param}")
    yield request.param
    _C.set_simd_level(before)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("D", [1, 2, 3, 5])
@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("K", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference(size, D, norm, K, dtype, device):
    B, N, M = size
    x, y = torch.randn(B, N, D, dtype=dtype, device=device), torch.randn(B, M, D, dtype=dtype, device=device)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
    assert_matches_reference(lambda x, y: nearest(x, y, norm=norm, K=K), x, y, **tolerance)


@pytest.mark.parametrize("size", [(40, 33), (1500, 1100)])
@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_instruction_sets_give_the_same_bits(size, K, dtype, level):
    x, y = (torch.randint(0, 9, (1, n, 3)).to(dtype) for n in size)  # a lattice: most distances are ties
    dist, idx = nearest(x, y, K=K)
    with reference():
        expected_dist, expected_idx = nearest(x, y, K=K)
    assert (dist == expected_dist).all()
    assert (idx == expected_idx).all()


# Trees and parts of clouds; K that fills lists once, often, and not at all.
@pytest.mark.parametrize(("D", "M"), [(3, 700), (3, 4000), (6, 5000)])
@pytest.mark.parametrize("K", [2, 40, 130, 700, 3000])
@pytest.mark.parametrize("lattice", [False, True])
def test_many_neighbours(D, M, K, lattice, level):
    x, y = (torch.randn(2, n, D, dtype=torch.float64) for n in (70, M))
    if lattice:
        x, y = (x * 3).round(), (y * 3).round()
    lengths = torch.tensor([M, M // 3])
    dist, idx = nearest(x, y, None, lengths, K=K)
    with reference():
        expected_dist, expected_idx = nearest(x, y, None, lengths, K=K)
    assert (idx == expected_idx).all()
    torch.testing.assert_close(dist, expected_dist)


@pytest.mark.parametrize("D", [3, 5])
@pytest.mark.parametrize("K", [2, 300])
def test_points_in_the_order_of_their_distance(D, K):
    """The worst order for lists: every point is nearer than those before it, or farther."""
    y = torch.randn(1, 5000, D, dtype=torch.float64)
    y = y[:, y[0].norm(dim=1).argsort(descending=True)]
    x = torch.zeros(1, 80, D, dtype=torch.float64)
    assert (nearest(x, y, K=K)[1] == torch.arange(4999, 4999 - K, -1)).all()
    assert (nearest(x, y.flip(1), K=K)[1] == torch.arange(K)).all()


@pytest.mark.parametrize("size", [(60, 70), (900, 1200)])
def test_both_directions(size, device):
    x, y = (torch.randn(2, n, 3, device=device) for n in size)
    lengths = [torch.tensor([n, n // 3], device=device) for n in size]
    assert_matches_reference(lambda x, y: nearest_both(x, y, *lengths), x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("norm", [1, 2])
def test_gradcheck(K, norm, device):
    x, y = (torch.randn(2, n, 3, dtype=torch.float64, device=device, requires_grad=True) for n in (5, 7))
    lengths = torch.tensor([5, 3], device=device), torch.tensor([2, 7], device=device)
    assert torch.autograd.gradcheck(lambda x, y: nearest(x, y, *lengths, norm=norm, K=K)[0], (x, y))
    assert torch.autograd.gradcheck(lambda x, y: nearest_both(x, y, *lengths, norm=norm)[::2], (x, y))


def test_equal_coordinates_have_no_l1_gradient(device):
    x = torch.tensor([[[1.0, 2.0, 3.0]]], device=device, requires_grad=True)
    y = torch.tensor([[[1.0, 5.0, 1.0]]], device=device, requires_grad=True)
    grads = torch.autograd.grad(nearest(x, y, norm=1)[0].sum(), (x, y))
    assert grads[0].flatten().tolist() == [0, -1, 1]
    assert grads[1].flatten().tolist() == [0, 1, -1]


@pytest.mark.parametrize(("N", "M"), [(50, 60), (1000, 1500)])
@pytest.mark.parametrize("K", [1, 7])
def test_ragged(N, M, K, device):
    x, y = torch.randn(4, N, 3, device=device), torch.randn(4, M, 3, device=device)
    lengths_x, lengths_y = torch.tensor([N, 0, 3, 9], device=device), torch.tensor([M, 5, 0, 2], device=device)
    dist, idx = nearest(x, y, lengths_x, lengths_y, K=K)
    for b, (n, m) in enumerate(zip(lengths_x.tolist(), lengths_y.tolist())):
        assert (dist[b, n:] == 0).all()
        assert (idx[b, n:] == 0).all()
        assert (dist[b, :, m:] == 0).all()
        assert (idx[b, :, m:] == 0).all()
        if n and m:
            alone_dist, alone_idx = nearest(x[b : b + 1, :n], y[b : b + 1, :m], K=K)
            assert (dist[b, :n] == alone_dist[0]).all()
            assert (idx[b, :n] == alone_idx[0]).all()


@pytest.mark.parametrize("M", [100, 3000])
@pytest.mark.parametrize("K", [1, 3])
def test_lowest_index_wins_ties(M, K, device):
    x, y = torch.zeros(1, 200, 3, device=device), torch.ones(1, M, 3, device=device)
    dist, idx = nearest(x, y, K=K)
    assert (dist == 3).all()
    assert (idx == torch.arange(K, device=device)).all()


@pytest.mark.parametrize("K", [1, 3])
def test_many_equal_points_take_no_longer(K):
    """Comparing each of them with each would take minutes."""
    p = torch.randn(1, 1_000_000, 3)
    p[:, 1000:] = 0
    dist, idx = nearest(p[:, :20000], p, K=K)
    assert (dist[:, 1000:] == 0).all()
    assert (idx[:, 1000:] == 1000 + torch.arange(K)).all()


SHAPES = {
    "outlier": lambda p: torch.cat([p[:-1], p[-1:] * 1e30]),
    "offset": lambda p: p + 1e6,
    "huge": lambda p: p * 1e37,
    "tiny": lambda p: p * 1e-30,
    "plane": lambda p: p * torch.tensor([1.0, 1.0, 0.0]),
    "line": lambda p: p * torch.tensor([0.0, 1.0, 0.0]),
    "clusters": lambda p: (p * 3).round() + p * 1e-5,
    "powers": lambda p: p.sign() * 2 ** (p * 30),
    "lattice": lambda p: (p * 4).round(),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("K", [1, 2])
def test_difficult_clouds(shape, K):
    x, y = (SHAPES[shape](torch.randn(n, 3))[None] for n in (1000, 1300))
    dist, idx = nearest(x, y, K=K)
    with reference():
        expected_dist, expected_idx = nearest(x, y, K=K)
    torch.testing.assert_close(dist, expected_dist, rtol=1e-6, atol=0)
    assert (idx == expected_idx).float().mean() > 0.999  # the reference may round sums in another order


@pytest.mark.parametrize("M", [50, 1500])
@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_not_finite(M, K, bad, device):
    x, y = torch.randn(1, 200, 3, device=device), torch.randn(1, M, 3, device=device)
    clean = nearest(x, y[:, 4:], K=K)
    x[0, 7, 1], y[0, :4, 2] = bad, bad
    dist, idx = nearest(x, y, K=K)
    others = torch.arange(200, device=device) != 7
    assert (dist[0, others] == clean[0][0, others]).all()
    assert (idx[0, others] == clean[1][0, others] + 4).all()
    assert not dist[0, 7].isfinite().any()
    assert ((idx >= 0) & (idx < M)).all()


@pytest.mark.parametrize("M", [3, 1500])
def test_nothing_but_nan(M, device):
    dist, idx = nearest(torch.randn(1, 100, 3, device=device), torch.full((1, M, 3), NAN, device=device), K=2)
    assert dist.isnan().all()
    assert (idx == 0).all()


def test_overflow_is_a_distance(device):
    x, y = torch.zeros(1, 2, 3, device=device), torch.full((1, 5, 3), 3e38, device=device)
    dist, idx = nearest(x, y)
    assert (dist == INF).all()
    assert (idx == 0).all()


def test_empty(device):
    some, none = torch.randn(2, 4, 3, device=device, requires_grad=True), torch.zeros(2, 0, 3, device=device)
    assert nearest(none, some)[0].shape == (2, 0, 1)
    dist, idx = nearest(some, none, K=2)
    assert (dist == 0).all()
    assert (idx == 0).all()
    assert (torch.autograd.grad(dist.sum(), some)[0] == 0).all()
    assert nearest(some[:0], none[:0])[0].shape == (0, 4, 1)


def test_noncontiguous(device):
    x, y = torch.randn(3, 200, 2, device=device).mT.mT, torch.randn(3, 2, 900, device=device).mT
    torch.testing.assert_close(nearest(x.mT.contiguous().mT, y), nearest(x, y.contiguous()), rtol=0, atol=0)


@pytest.mark.parametrize("K", [1, 3])
def test_repeatable_for_every_number_of_threads(K):
    x, y = (torch.randn(2, 12000, 3).requires_grad_() for _ in range(2))
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        dist, idx = nearest(x, y, K=K)
        results.append((dist, idx, *torch.autograd.grad(dist.square().sum(), (x, y))))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all((a == b).all() for a, b in zip(results[0], other))


def test_against_scipy():
    spatial = pytest.importorskip("scipy.spatial")
    x, y = torch.randn(1, 3000, 3, dtype=torch.float64), torch.rand(1, 5000, 3, dtype=torch.float64)
    dist, idx = nearest(x, y, K=5)
    expected_dist, expected_idx = spatial.cKDTree(y[0].numpy()).query(x[0].numpy(), k=5)
    np.testing.assert_allclose(dist[0].sqrt().numpy(), expected_dist, rtol=1e-12)
    np.testing.assert_array_equal(idx[0].numpy(), expected_idx)


def test_knn_points_returns_a_named_tuple(device):
    p1, p2 = torch.randn(2, 6, 4, device=device), torch.randn(2, 9, 4, device=device)
    result = knn_points(p1, p2, K=3, return_nn=True)
    assert result._fields == ("dists", "idx", "knn")
    dists, idx, knn = result
    assert (knn == p2[torch.arange(2)[:, None, None], idx]).all()
    torch.testing.assert_close((p1[:, :, None] - knn).square().sum(-1), dists)
    assert knn_points(p1, p2).knn is None


def test_knn_gather_pads_with_zeros(device):
    x = torch.randn(2, 4, 3, device=device, requires_grad=True)
    idx = torch.zeros(2, 5, 6, dtype=torch.int64, device=device)
    assert (knn_gather(x, idx)[:, :, 4:] == 0).all()
    short = knn_gather(x, idx, torch.tensor([4, 1], device=device))
    assert (short[1, :, 1:] == 0).all()
    assert (short[0, :, :4] == x[0, 0]).all()
    assert knn_gather(x[:, :0], idx).shape == (2, 5, 6, 3)


def test_bad_input(device):
    p1, p2 = torch.zeros(2, 4, 3, device=device), torch.zeros(2, 5, 3, device=device)
    with pytest.raises(ValueError, match="same batch dimension"):
        knn_points(p1, p2[:1])
    with pytest.raises(ValueError, match="same point dimension"):
        knn_points(p1, p2[..., :2])
    with pytest.raises(ValueError, match="Support for 1 or 2 norm"):
        knn_points(p1, p2, norm=3)
    with pytest.raises(ValueError, match=r"nearest: K must be >= 1, got 0"):
        knn_points(p1, p2, K=0)
    with pytest.raises(ValueError, match=r"lengths_x must have shape \(B\), got \(3\)"):
        knn_points(p1, p2, torch.tensor([1, 2, 3], device=device))
    with pytest.raises(ValueError, match=r"y is float64 but x is float32"):
        knn_points(p1, p2.double())
    with pytest.raises(ValueError, match="same batch dimension"):
        knn_gather(p1, torch.zeros(3, 1, 1, dtype=torch.int64))


def test_lengths_out_of_range_are_clamped(device):
    x, y = torch.randn(1, 5, 3, device=device), torch.randn(1, 6, 3, device=device)
    out = nearest(x, y, torch.tensor([99], device=device), torch.tensor([10**12], device=device))
    torch.testing.assert_close(out, nearest(x, y))
    assert (nearest(x, y, torch.tensor([-4], device=device))[0] == 0).all()


def test_reference_of_both_is_two_searches():
    x, y = torch.randn(1, 6, 3), torch.randn(1, 8, 3)
    dist_x, _, dist_y, _ = _both_reference(x, y, None, None, False)
    assert dist_x.shape == (1, 6)
    assert dist_y.shape == (1, 8)
