from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import recon_engine.ops
import recon_engine.renderer
import recon_engine.structures
from recon_engine.ops import corresponding_points_alignment, iterative_closest_point
from recon_engine.ops.points_alignment import SimilarityTransform
from recon_engine.structures import Pointclouds
from recon_engine.transforms import random_rotations

REFERENCE = Path(__file__).parent.parent / "reference"


def _answers(ops, renderer, structures):
    spec = importlib.util.spec_from_file_location("record_alignment", REFERENCE / "record_alignment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.answers(ops, renderer, structures)


def _assert_same(theirs):
    ours = _answers(recon_engine.ops, recon_engine.renderer, recon_engine.structures)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        # Iterations in float32 add up rounding.
        tolerance = {"rtol": 1e-4, "atol": 2e-5} if name.startswith("icp") else {"rtol": 1e-5, "atol": 2e-6}
        torch.testing.assert_close(ours[name], expected, **tolerance, msg=lambda m, n=name: f"{n}: {m}")


def test_recorded():
    _assert_same({name: torch.from_numpy(array) for name, array in np.load(REFERENCE / "alignment.npz").items()})


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_live():
    pytest.importorskip("pytorch3d")
    import pytorch3d.ops
    import pytorch3d.renderer
    import pytorch3d.structures

    _assert_same(_answers(pytorch3d.ops, pytorch3d.renderer, pytorch3d.structures))


def random(*shape, device="cpu"):
    return torch.randn(*shape, dtype=torch.float64, device=device)


def moved(x, R, T, s):
    return s[:, None, None] * x @ R + T[:, None]


@pytest.mark.parametrize("scale", [False, True])
def test_finds_the_similarity(scale, device):
    x = random(4, 20, 3, device=device)
    R, T = random_rotations(4, dtype=torch.float64, device=device), random(4, 3, device=device)
    s = torch.rand(4, dtype=torch.float64, device=device) + 0.5 if scale else torch.ones_like(T[:, 0])
    found = corresponding_points_alignment(x, moved(x, R, T, s), estimate_scale=scale)
    for got, expected in zip(found, (R, T, s), strict=True):
        torch.testing.assert_close(got, expected)
    assert corresponding_points_alignment(x.float(), x.float()).R.dtype == torch.float32


def test_reflections():
    x = random(2, 10, 3)
    mirror = torch.diag(torch.tensor([-1.0, 1, 1], dtype=torch.float64)).expand(2, 3, 3)
    torch.testing.assert_close(corresponding_points_alignment(x, x @ mirror, allow_reflection=True).R, mirror)
    R = corresponding_points_alignment(x, x @ mirror).R
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("scale", [False, True])
def test_weights_are_those_of_the_squares(scale):
    """No change of the answer lowers the weighted sum of squares; PyTorch3D squares the weights of the covariance."""
    x, y = random(3, 12, 3), random(3, 12, 3)
    weights = 4 * torch.rand(3, 12, dtype=torch.float64)
    found = corresponding_points_alignment(x, y, weights, estimate_scale=scale)

    def cost(R, T, s):
        return (weights * (moved(x, R, T, s) - y).square().sum(-1)).sum(1)

    least = cost(*found)
    for step in (1e-3, 1e-2):
        turn = torch.linalg.matrix_exp(step * torch.tensor([[0.0, 1, -1], [-1, 0, 1], [1, -1, 0]]).double())
        for R, T, s in (
            (found.R @ turn, found.T, found.s),
            (found.R @ turn.T, found.T, found.s),
            (found.R, found.T + step, found.s),
            (found.R, found.T - step, found.s),
            *([(found.R, found.T, found.s + step), (found.R, found.T, found.s - step)] if scale else []),
        ):
            assert (cost(R, T, s) > least).all()


def test_integer_weights_repeat_points():
    x, y = random(1, 6, 3), random(1, 6, 3)
    counts = torch.tensor([3, 1, 2, 0, 1, 4])
    repeated = corresponding_points_alignment(
        x.repeat_interleave(counts, 1), y.repeat_interleave(counts, 1), None, estimate_scale=True
    )
    weighted = corresponding_points_alignment(x, y, counts[None], estimate_scale=True)
    for got, expected in zip(weighted, repeated, strict=True):
        torch.testing.assert_close(got, expected)


def test_clouds_of_several_sizes():
    """Padding has no say."""
    points = [random(2, 9, 3), random(2, 9, 3)]
    sizes = torch.tensor([9, 5])
    for padded in points:
        padded[1, 5:] = 100.0
    clouds = [SimpleNamespace(points_padded=lambda p=p: p, num_points_per_cloud=lambda: sizes) for p in points]
    weights = [torch.rand(9, dtype=torch.float64), torch.rand(5, dtype=torch.float64)]
    for w in (None, weights):
        found = corresponding_points_alignment(*clouds, weights=w, estimate_scale=True)
        for n, size in enumerate(sizes.tolist()):
            alone = corresponding_points_alignment(
                points[0][n : n + 1, :size],
                points[1][n : n + 1, :size],
                weights=None if w is None else w[n][None],
                estimate_scale=True,
            )
            for got, expected in zip(found, alone, strict=True):
                torch.testing.assert_close(got[n], expected[0])


def test_gradcheck():
    x, y, w = random(2, 6, 3), random(2, 6, 3), torch.rand(2, 6, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (x, y, w)]
    assert torch.autograd.gradcheck(lambda *args: tuple(corresponding_points_alignment(*args, True)), leaves)


def test_ambiguous_rotations_warn():
    with pytest.warns(UserWarning, match="less than dim"):
        corresponding_points_alignment(random(1, 3, 3), random(1, 3, 3))
    line = torch.arange(6, dtype=torch.float64)[None, :, None] * torch.tensor([1.0, 0, 0]).double()
    with pytest.warns(UserWarning, match="Excessively low rank"):
        corresponding_points_alignment(line, line)


# ---- iterative_closest_point ----


def small_motion(N, device="cpu"):
    angles = 0.1 * random(N, 3, device=device)
    cross = torch.linalg.cross(torch.eye(3, dtype=torch.float64, device=device).expand(N, 3, 3), angles[:, None])
    return torch.linalg.matrix_exp(cross), 0.05 * random(N, 3, device=device)


def assert_same_solution(actual, expected):
    for got, want in zip((*actual.RTs, actual.rmse), (*expected.RTs, expected.rmse), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closest_points_find_the_motion(dtype, device):
    x = random(3, 200, 3, device=device)
    R, T = small_motion(3, device)
    y = moved(x, R, T, torch.ones_like(T[:, 0])).flip(1)
    found = iterative_closest_point(x.to(dtype), y.to(dtype))
    assert found.converged
    assert found.RTs.R.dtype == found.rmse.dtype == dtype
    tolerance = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 1e-10}
    torch.testing.assert_close(found.RTs.R, R.to(dtype), **tolerance)
    torch.testing.assert_close(found.RTs.T, T.to(dtype), **tolerance)
    torch.testing.assert_close(found.RTs.s, torch.ones(3, dtype=dtype, device=device))
    torch.testing.assert_close(found.Xt, y.flip(1).to(dtype), **tolerance)


def test_closest_points_find_the_scale():
    x = random(2, 100, 3)
    found = iterative_closest_point(x, 1.03 * x, estimate_scale=True)
    torch.testing.assert_close(found.RTs.s, torch.full((2,), 1.03, dtype=torch.float64))


def test_sets_that_fit_exactly_have_converged():
    """The error cannot fall below 0; PyTorch3D divides 0 by 0 and goes on to the last iteration."""
    one_place = torch.zeros(2, 8, 3)
    with pytest.warns(UserWarning, match="low rank"):
        found = iterative_closest_point(one_place, one_place)
    assert found.converged
    assert len(found.t_history) == 2
    torch.testing.assert_close(found.rmse, torch.zeros(2))


def test_history_and_the_error_that_never_rises():
    x, y = random(2, 50, 3), random(2, 60, 3)
    full = iterative_closest_point(x, y)
    assert len(full.t_history) > 4
    torch.testing.assert_close(full.t_history[-1], full.RTs)
    errors = []
    for i in range(1, 5):
        part = iterative_closest_point(x, y, max_iterations=i)
        assert not part.converged
        torch.testing.assert_close(part.RTs, full.t_history[i - 1])
        errors.append(part.rmse)
    assert (torch.stack(errors).diff(dim=0) <= 1e-12).all()
    torch.testing.assert_close(iterative_closest_point(x, y, full.t_history[2]).RTs, full.RTs)


def test_no_iterations():
    x, y = random(2, 50, 3), random(2, 60, 3)
    found = iterative_closest_point(x, y, max_iterations=0)
    assert (found.converged, found.rmse, found.t_history) == (False, None, [])
    torch.testing.assert_close(found.Xt, x)
    start = SimilarityTransform(
        random_rotations(2, dtype=torch.float64), random(2, 3), torch.tensor([2.0, 0.5]).double()
    )
    found = iterative_closest_point(x, y, start, max_iterations=0)
    torch.testing.assert_close(found.Xt, moved(x, *start))
    torch.testing.assert_close(found.RTs, start)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("sizes", [((30, 9, 21), (12, 25, 40)), ((30, 9, 21), (30, 9, 21))])
def test_each_cloud_is_aligned_by_itself(sizes, scale, device):
    """Also clouds of X and Y with the same sizes, for which PyTorch3D counts the padding."""
    xs = [random(n, 3, device=device) for n in sizes[0]]
    ys = [1.2 * x[torch.arange(n) % len(x)] + 0.3 * random(n, 3, device=device) for x, n in zip(xs, sizes[1])]
    X, Y = Pointclouds(xs), Pointclouds(ys)
    options = {"max_iterations": 6, "relative_rmse_thr": -1, "estimate_scale": scale}
    found = iterative_closest_point(X, Y, **options)
    assert isinstance(found.Xt, Pointclouds)
    for n, (x, y) in enumerate(zip(xs, ys, strict=True)):
        alone = iterative_closest_point(x[None], y[None], **options)
        for got, expected in zip((*found.RTs, found.rmse), (*alone.RTs, alone.rmse), strict=True):
            torch.testing.assert_close(got[n], expected[0])
        torch.testing.assert_close(found.Xt.points_list()[n], alone.Xt[0])


def test_moved_clouds_keep_their_features():
    features = [random(8, 2), random(5, 2)]
    points = random(8, 3), random(5, 3)
    X = Pointclouds(list(points), features=features)
    found = iterative_closest_point(X, Pointclouds([p.repeat(2, 1) + 0.01 for p in points]))
    for got, expected in zip(found.Xt.features_list(), features, strict=True):
        torch.testing.assert_close(got, expected)


def test_an_empty_cloud_of_x():
    X = Pointclouds([random(20, 3), random(0, 3)])
    Y = random(2, 30, 3)
    with pytest.warns(UserWarning, match="low rank"):
        found = iterative_closest_point(X, Y)
    assert_same_solution(
        iterative_closest_point(X.points_list()[0][None], Y[:1]),
        found._replace(RTs=SimilarityTransform(*(part[:1] for part in found.RTs)), rmse=found.rmse[:1]),
    )
    assert len(found.Xt.points_list()[1]) == 0


def test_far_from_the_origin():
    x = random(1, 60, 3)
    R, T = small_motion(1)
    y = moved(x, R, T, torch.ones(1, dtype=torch.float64))
    found = iterative_closest_point(x + 1e6, y + 1e6)
    torch.testing.assert_close(found.RTs.R, R, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.Xt, y + 1e6, rtol=0, atol=1e-8)


@pytest.mark.filterwarnings("ignore:Excessively low rank:UserWarning")
@pytest.mark.parametrize("shape", ["equal", "line", "plane"])
def test_degenerate_sets_stay_finite(shape):
    x = random(2, 12, 3)
    x = {
        "equal": x[:, :1].expand(2, 12, 3),
        "line": x * torch.tensor([1.0, 0, 0]),
        "plane": x * torch.tensor([1.0, 1, 0]),
    }[shape]
    found = iterative_closest_point(x, x.roll(1, 1) + 0.01, estimate_scale=True)
    assert all(part.isfinite().all() for part in (*found.RTs, found.rmse, found.Xt))


def test_gradients_of_the_last_pairs():
    x, y = random(2, 12, 3).requires_grad_(), random(2, 15, 3).requires_grad_()

    def error(x, y):
        found = iterative_closest_point(x, y, max_iterations=4, estimate_scale=True)
        return found.rmse, found.Xt

    assert torch.autograd.gradcheck(error, (x, y))


def test_verbose(capsys):
    x, y = random(2, 12, 3), random(2, 15, 3)
    iterative_closest_point(x, y, max_iterations=1, verbose=True)
    printed = capsys.readouterr().out
    assert "iteration 0: rmse mean" in printed
    assert "not converged in 1 iterations" in printed
    iterative_closest_point(x, y, verbose=True)
    assert "has converged in" in capsys.readouterr().out


def test_bad_closest_points():
    x, y = random(2, 6, 3), random(2, 8, 3)
    for other in (y[:1], y[..., :2]):
        with pytest.raises(ValueError, match="same number of batches and data dimensions"):
            iterative_closest_point(x, other)
    rows = (torch.eye(3).double().expand(2, 3, 3), torch.zeros(2, 3), torch.ones(2))
    for start in (rows[:2], (rows[0], rows[1], torch.ones(2, 1)), torch.eye(4)):
        with pytest.raises(ValueError, match="named tuple SimilarityTransform"):
            iterative_closest_point(x, y, start)
    with pytest.raises(ValueError, match="a cloud of Y is empty"):
        iterative_closest_point(x, Pointclouds([y[0], y[0, :0]]))
    y[1, 2, 0] = float("nan")
    with pytest.raises(ValueError, match=r"Y must be finite, got nan at \[1, 2, 0\]"):
        iterative_closest_point(x, y)


def test_bad_input():
    x = random(2, 6, 3)
    with pytest.raises(ValueError, match="same number of batches, points and dimensions"):
        corresponding_points_alignment(x, x[:, :5])
    with pytest.raises(ValueError, match="same first two dimensions as X"):
        corresponding_points_alignment(x, x, torch.ones(2, 5))
    with pytest.raises(ValueError, match="number of weights should equal"):
        corresponding_points_alignment(x, x, [torch.ones(6), torch.ones(5)])
    with pytest.raises(ValueError, match="either Pointclouds objects or tensors"):
        corresponding_points_alignment([x], x)
