from __future__ import annotations

import pytest
import torch

from recon_engine._load import load
from recon_engine.ops import NeighborIndex, knn_points
from recon_engine.ops._nearest import nearest


@pytest.mark.parametrize(("M", "D"), [(40, 3), (1500, 1), (1500, 2), (1500, 3), (900, 5)])
@pytest.mark.parametrize("K", [1, 6, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", [1, 2])
def test_answers_of_knn_points(M, D, K, dtype, norm, device):
    y, lengths = torch.randn(2, M, D, dtype=dtype, device=device), torch.tensor([M, M // 3], device=device)
    index = NeighborIndex(y, lengths)
    for N in (1, 30, 200):
        x, lengths_x = torch.randn(2, N, D, dtype=dtype, device=device), torch.tensor([N, N // 2], device=device)
        ours = index.query(x, K, lengths_x, norm, return_nn=True)
        expected = knn_points(x, y, lengths_x, lengths, norm, K, return_nn=True)
        torch.testing.assert_close(tuple(ours), tuple(expected), rtol=0, atol=0)
    assert index.query(x).knn is None


@pytest.mark.parametrize("M", [30, 1000])
def test_gradients(M, device):
    y = torch.randn(1, M, 3, device=device, requires_grad=True)
    x = torch.randn(1, 100, 3, device=device, requires_grad=True)
    results = []
    for answer in (NeighborIndex(y).query(x, 3, return_nn=True), knn_points(x, y, K=3, return_nn=True)):
        loss = answer.dists.square().sum() + answer.knn.sin().sum()
        results.append(torch.autograd.grad(loss, (x, y)))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_memory_is_linear():
    sizes = [NeighborIndex(torch.rand(1, n, 3))._index.nbytes / n for n in (10_000, 100_000)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
    assert sizes[1] < 30


def test_lengths_are_those_of_the_time_it_was_built(device):
    y, lengths = torch.randn(1, 1000, 3, device=device), torch.tensor([900], device=device)
    index, x = NeighborIndex(y, lengths), torch.randn(1, 5, 3, device=device)
    before = index.query(x, 4)
    lengths.fill_(10)
    torch.testing.assert_close(index.query(x, 4).idx, before.idx)


@pytest.mark.parametrize("change", ["values", "shape"])
@pytest.mark.parametrize("M", [30, 1000])
def test_changed_points_are_noticed(M, change, device):
    y = torch.randn(1, M, 3, device=device)
    index = NeighborIndex(y)
    if change == "values":
        y.mul_(2)
    else:
        y.resize_(1, M // 2, 3)
    with pytest.raises(RuntimeError, match="were changed in place after the index was built"):
        index.query(torch.zeros(1, 1, 3, device=device))


@pytest.mark.parametrize("M", [30, 1000])
def test_compiles(M):
    index, x = NeighborIndex(torch.randn(1, M, 3)), torch.randn(1, 9, 3)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: index.query(x, 2).idx, fullgraph=True, backend="aot_eager")
    assert (compiled(x) == index.query(x, 2).idx).all()


@torch.inference_mode()
def test_inference_mode():
    y = torch.randn(1, 1000, 3)
    x = torch.randn(1, 5, 3)
    torch.testing.assert_close(NeighborIndex(y).query(x).idx, knn_points(x, y).idx)


def test_empty(device):
    x = torch.randn(2, 4, 3, device=device)
    assert (NeighborIndex(torch.zeros(2, 0, 3, device=device)).query(x, 2).dists == 0).all()
    assert NeighborIndex(torch.zeros(0, 1000, 3, device=device)).query(x[:0]).idx.shape == (0, 4, 1)
    lengths = torch.tensor([0, 1000], device=device)
    assert (NeighborIndex(torch.randn(2, 1000, 3, device=device), lengths).query(x, 2).dists[0] == 0).all()


def test_noncontiguous_points():
    y = torch.randn(1, 3, 1000).mT
    x = torch.randn(1, 9, 3)
    torch.testing.assert_close(NeighborIndex(y).query(x, 2).idx, knn_points(x, y, K=2).idx)


def test_bad_input(device):
    y = torch.randn(2, 1000, 3, device=device)
    index = NeighborIndex(y)
    with pytest.raises(ValueError, match=r"points must have shape \(N, P, D\), got \(1000, 3\)"):
        NeighborIndex(y[0])
    with pytest.raises(ValueError, match=r"float32 or float64, got torch\.float16"):
        NeighborIndex(y.half())
    with pytest.raises(ValueError, match=r"lengths must have shape \(2,\), like the clouds, got \(3,\)"):
        NeighborIndex(y, torch.tensor([1, 2, 3]))
    for wrong in (y[:1], y[..., :2], y[0]):
        with pytest.raises(ValueError, match=r"points must have shape \(2, P, 3\)"):
            index.query(wrong)
    with pytest.raises(ValueError, match="Support for 1 or 2 norm"):
        index.query(y, norm=3)


def test_the_index_of_other_points_is_refused():
    x, y = torch.randn(1, 5, 3), torch.randn(1, 1000, 3)
    index = NeighborIndex(torch.randn(1, 900, 3))._index
    with pytest.raises(ValueError, match="build it again from the points that are searched"):
        nearest(x, y, index=index)
    with pytest.raises(ValueError, match="build it again"):
        load().neighbor_index(y, None, index)
