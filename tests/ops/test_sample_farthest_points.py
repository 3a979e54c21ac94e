from __future__ import annotations

import pytest
import torch

from recon_engine._load import load
from recon_engine._op import reference
from recon_engine.ops import sample_farthest_points
from recon_engine.ops.sample_farthest_points import sample_farthest_points_naive
from recon_engine.utils import ico_sphere

_C = load()
LEVELS = ["baseline", "avx2", "avx512"]


def _plain(points, K, start=0):
    """Indices of the samples of one cloud (P, D), from the definition in float64 of numbers that float32 holds."""
    chosen = [start]
    while len(chosen) < K:
        distance = torch.cdist(points.double(), points[chosen].double()).square().amin(1)
        chosen.append(int(distance.argmax()))
    return chosen


@pytest.mark.parametrize("D", [1, 2, 3, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_by_definition(D, dtype, device):
    points = torch.randn(2, 60, D, device=device, dtype=dtype)
    samples, idx = sample_farthest_points(points, K=20)
    assert idx.tolist() == [_plain(cloud, 20) for cloud in points.cpu()]
    assert (samples == points[torch.arange(2, device=device)[:, None], idx]).all()


SHAPES = {
    "normal": lambda p: p,
    "lattice": lambda p: (p * 4).round(),
    "clusters far away": lambda p: (p * 2).round() * 1e6 + p,
    "plane": lambda p: p * torch.tensor([1.0, 1.0, 0.0]),
    "line": lambda p: p * torch.tensor([0.0, 1.0, 0.0]),
    "equal": lambda p: p * 0 + 3,
    "outlier": lambda p: torch.cat([p[:-1], p[-1:] * 1e30]),
    "tiny": lambda p: p * 1e-30,
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_tree_gives_what_the_plain_loop_gives(shape, level):
    points = SHAPES[shape](torch.randn(3000, 3))[None]
    before = _C.simd_level()
    if not _C.set_simd_level(level):
        pytest.skip(f"this CPU has no {level}")
    try:
        _, idx = sample_farthest_points(points, K=260)
        few, many = sample_farthest_points(points[:, :1500], K=260)[1], sample_farthest_points(points, K=100)[1]
    finally:
        _C.set_simd_level(before)
    assert (idx == sample_farthest_points_naive(points, K=260)[1]).all()
    assert (few == sample_farthest_points_naive(points[:, :1500], K=260)[1]).all()
    assert (many == idx[:, :100]).all()


@pytest.mark.parametrize("D", [1, 2])
def test_trees_in_fewer_dimensions(D):
    points = torch.randn(2, 2500, D, dtype=torch.float64)
    assert (sample_farthest_points(points, K=300)[1] == sample_farthest_points_naive(points, K=300)[1]).all()


def test_float64_is_not_rounded_to_float32(device):
    """In float32 all these points are one of a few."""
    points = 1e8 + torch.rand(1, 3000, 3, dtype=torch.float64, device=device)
    _, idx = sample_farthest_points(points, K=300)
    assert (idx == sample_farthest_points(points - 1e8, K=300)[1]).float().mean() > 0.9
    assert len(idx.unique()) == 300


def test_no_point_is_farther_from_the_samples_than_the_last_of_them():
    """The property that makes the samples an r-net, on a cloud that is too large for plain loops."""
    points = torch.rand(1, 200_000, 3)
    samples, idx = sample_farthest_points(points, K=500)
    assert len(idx[0].unique()) == 500
    apart = torch.cdist(samples[0, :-1], samples[0, -1:]).amin()
    farthest = max(torch.cdist(part, samples[0, :-1]).amin(1).amax() for part in points[0].split(20000))
    torch.testing.assert_close(farthest, apart, rtol=1e-4, atol=0)


def test_ragged(device):
    points = torch.randn(4, 50, 3, device=device)
    lengths, K = torch.tensor([50, 7, 0, 30], device=device), [5, 9, 3, 0]
    samples, idx = sample_farthest_points(points, lengths, K)
    assert idx.shape == (4, 9)
    assert samples.shape == (4, 9, 3)
    for n, count in enumerate([5, 7, 0, 0]):
        alone = sample_farthest_points(points[n : n + 1, : int(lengths[n])], K=count)[1]
        assert (idx[n, :count] == alone[0]).all()
        assert (idx[n, count:] == -1).all()
        assert (samples[n, count:] == 0).all()
    same = sample_farthest_points(points, lengths, torch.tensor(K, device=device))
    torch.testing.assert_close(same, (samples, idx))


def test_random_start(device):
    points = torch.randn(3, 40, 3, device=device)
    lengths = torch.tensor([40, 3, 1], device=device)
    starts = torch.stack([sample_farthest_points(points, lengths, 2, True)[1][:, 0] for _ in range(50)])
    assert (starts < lengths).all()
    assert (starts >= 0).all()
    assert len(starts[:, 0].unique()) > 5
    _, idx = sample_farthest_points(points, K=10, random_start_point=True)
    assert idx.tolist() == [_plain(cloud, 10, row[0]) for cloud, row in zip(points.cpu(), idx.tolist())]


def test_the_six_corners_of_an_octahedron_come_first():
    verts = ico_sphere(0).verts_packed()
    octahedron = torch.cat([torch.eye(3), -torch.eye(3)])
    points = torch.cat([octahedron * 2, verts])[None]
    _, idx = sample_farthest_points(points, K=6)
    assert sorted(idx[0].tolist()) == list(range(6))


def test_gradient(device):
    points = torch.randn(2, 9, 3, dtype=torch.float64, device=device, requires_grad=True)
    lengths = torch.tensor([9, 2], device=device)
    assert torch.autograd.gradcheck(lambda p: sample_farthest_points(p, lengths, 4)[0], points)


@pytest.mark.parametrize("random", [False, True])
def test_empty(random, device):
    points = torch.zeros(2, 0, 3, device=device)
    samples, idx = sample_farthest_points(points, K=3, random_start_point=random)
    assert (idx == -1).all()
    assert samples.shape == (2, 3, 3)
    assert sample_farthest_points(points[:0], K=3)[1].shape == (0, 3)
    assert sample_farthest_points(torch.zeros(2, 4, 3, device=device), K=0)[0].shape == (2, 0, 3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_points_that_are_not_finite(bad):
    points = torch.randn(2, 9, 3)
    points[1, 5, 2] = bad
    with pytest.raises(ValueError, match=r"points\[1, 5\] is not finite"):
        sample_farthest_points(points, K=3)
    _, idx = sample_farthest_points(points, torch.tensor([9, 5]), 3)
    assert (idx >= 0).all()


def test_repeatable_for_every_number_of_threads():
    points = torch.randn(5, 3000, 3)
    before, results = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(sample_farthest_points(points, K=250)[1])
    torch.set_num_threads(before)
    assert (results[0] == results[1]).all()


def test_bad_input(device):
    points = torch.zeros(2, 5, 3, device=device)
    with pytest.raises(ValueError, match=r"points must have shape \(N, P, D\)"):
        sample_farthest_points(points[0])
    with pytest.raises(ValueError, match="same batch dimension"):
        sample_farthest_points(points, torch.tensor([5], device=device))
    with pytest.raises(ValueError, match="A value in lengths was too large: at most 5"):
        sample_farthest_points(points, torch.tensor([5, 6], device=device))
    with pytest.raises(ValueError, match="K and points must have the same batch dimension"):
        sample_farthest_points(points, K=[1, 2, 3])
    for K in (-1, [3, -1]):
        with pytest.raises(ValueError, match="K must not be negative, got -1"):
            sample_farthest_points(points, K=K)


def test_against_pytorch3d():
    theirs = pytest.importorskip("pytorch3d.ops").sample_farthest_points
    points = torch.randn(3, 2500, 3)
    lengths, K = torch.tensor([2500, 2100, 40]), torch.tensor([300, 20, 50])
    for cloud in (points, (points * 3).round()):
        torch.testing.assert_close(sample_farthest_points(cloud, lengths, K), theirs(cloud, lengths, K))
    torch.manual_seed(3)
    ours = sample_farthest_points(points, K=10, random_start_point=True)
    torch.manual_seed(3)
    torch.testing.assert_close(ours, theirs(points, K=10, random_start_point=True))


def test_reference_is_differentiable_too():
    points = torch.randn(1, 9, 3, dtype=torch.float64, requires_grad=True)
    with reference():
        assert sample_farthest_points(points, K=2)[0].requires_grad
