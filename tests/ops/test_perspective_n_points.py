from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import recon_engine.ops
from recon_engine.ops import efficient_pnp
from recon_engine.transforms import random_rotations

REFERENCE = Path(__file__).parent.parent / "reference"


def recorder():
    spec = importlib.util.spec_from_file_location("record_point_estimates", REFERENCE / "record_point_estimates.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _assert_as_good(theirs):
    """Poses of exact views are the same; with noise other control points give errors that are as small."""
    for name, got in recorder().pose_answers(recon_engine.ops).items():
        if name.endswith("err_2d"):
            expected = theirs[name]
            assert (got <= 1.1 * expected + 1e-6).all(), f"{name}: {got} instead of {expected}"
            assert got.mean() <= 1.001 * expected.mean() + 1e-6, f"{name}: {got} instead of {expected}"
        else:
            torch.testing.assert_close(got, theirs[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_recorded():
    recorded = np.load(REFERENCE / "point_estimates.npz")
    _assert_as_good({name: torch.from_numpy(array) for name, array in recorded.items()})


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_live():
    pytest.importorskip("pytorch3d")
    import pytorch3d.ops

    _assert_as_good(recorder().pose_answers(pytorch3d.ops))


def random(*shape, device="cpu"):
    return torch.randn(*shape, dtype=torch.float64, device=device)


def view(N, P, shape=(1.0, 1.0, 1.0), distance=5.0, shift=0.0, device="cpu"):
    """Points (N, P, 3) of an extent, where they are seen (N, P, 2), and the pose."""
    x = random(N, P, 3, device=device) * torch.tensor(shape, dtype=torch.float64, device=device)
    R = random_rotations(N, dtype=torch.float64, device=device)
    T = torch.cat((0.5 * random(N, 2, device=device), distance + random(N, 1, device=device).abs()), 1)
    moved = x @ R + T[:, None]
    x = x + shift
    return x, moved[..., :2] / moved[..., 2:], R, T - (shift * R.sum(1))


def assert_pose(found, R, T, atol):
    torch.testing.assert_close(found.R, R, rtol=0, atol=atol)
    torch.testing.assert_close(found.T, T, rtol=atol, atol=atol)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("P", [6, 7, 20, 300])
def test_finds_the_pose(P, skip, device):
    x, y, R, T = view(8, P, device=device)
    found = efficient_pnp(x, y, skip_quadratic_eq=skip)
    assert_pose(found, R, T, 1e-6)
    torch.testing.assert_close(found.x_cam, x @ R + T[:, None], rtol=0, atol=1e-6)
    assert found.err_2d.shape == found.err_3d.shape == (8,)
    assert (found.err_2d < 1e-7).all()
    assert (found.err_3d < 1e-12).all()


@pytest.mark.filterwarnings("ignore:EPnP")
@pytest.mark.parametrize("P", [4, 5])
def test_few_points_are_seen_where_they_are(P):
    """Four or five points have several null vectors; the candidates are good starts and not always the pose."""
    x, y, R, _ = view(60, P)
    found = efficient_pnp(x, y)
    assert (found.err_2d < 1e-4).double().mean() > (0.5 if P == 4 else 0.8)
    assert all(part.isfinite().all() for part in found)
    torch.testing.assert_close(found.R @ found.R.mT, torch.eye(3, dtype=torch.float64).expand_as(R))


@pytest.mark.parametrize("P", [4, 6, 50])
def test_points_in_a_plane(P):
    """One control point is then free; the pose is unique all the same."""
    x, y, R, T = view(30, P, (1.0, 1.0, 0.0))
    turn = random_rotations(30, dtype=torch.float64)
    for points, rotation in ((x, R), (x @ turn, turn.mT @ R)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = efficient_pnp(points, y)
        assert (found.err_2d < 1e-5).double().mean() >= 0.9
        right = found.err_2d < 1e-9
        torch.testing.assert_close(found.R[right], rotation[right], rtol=0, atol=1e-3)
        torch.testing.assert_close(found.T[right], T[right], rtol=1e-3, atol=1e-3)


def test_weak_perspective():
    """Far away the linear system alone is not enough."""
    x, y, R, _ = view(10, 20, distance=100.0)
    y = y + 1e-5 * random(10, 20, 2)
    found, linear = efficient_pnp(x, y), efficient_pnp(x, y, skip_quadratic_eq=True)
    assert (found.err_2d <= linear.err_2d + 1e-12).all()
    assert (found.err_2d < 1e-4).all()
    torch.testing.assert_close(found.R, R, rtol=0, atol=2e-2)


def test_far_from_the_origin():
    x, y, R, _ = view(5, 30, shift=1e5)
    found = efficient_pnp(x, y)
    torch.testing.assert_close(found.R, R, rtol=0, atol=1e-5)
    moved = found.x_cam
    torch.testing.assert_close(moved[..., :2] / moved[..., 2:], y, rtol=0, atol=1e-5)


def test_float32_in_and_out(device):
    x, y, R, T = view(4, 30, device=device)
    found = efficient_pnp(x.float(), y.float())
    assert {part.dtype for part in found} == {torch.float32}
    assert_pose(found, R.float(), T.float(), 1e-4)


@pytest.mark.parametrize("skip", [False, True])
def test_weights_of_zero_leave_points_out(skip):
    x, y, _, _ = view(6, 40)
    y = y + 0.01 * random(6, 40, 2)
    weights = (torch.rand(6, 40) > 0.4).double()
    weights[:, :8] = 1
    spoilt = y + 100 * (1 - weights)[..., None]
    found = efficient_pnp(x, spoilt, weights, skip)
    for n in range(6):
        kept = weights[n] > 0
        alone = efficient_pnp(x[n : n + 1, kept], y[n : n + 1, kept], skip_quadratic_eq=skip)
        for got, expected in zip((found.R, found.T, found.err_2d, found.err_3d), (alone.R, alone.T, *alone[3:])):
            torch.testing.assert_close(got[n], expected[0], rtol=1e-6, atol=1e-8)
    same = efficient_pnp(x, spoilt, 3.0 * weights, skip)
    torch.testing.assert_close(tuple(same), tuple(found), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("skip", [False, True])
def test_integer_weights_repeat_points(skip):
    x, y, _, _ = view(1, 10)
    y = y + 0.01 * random(1, 10, 2)
    counts = torch.tensor([3, 1, 2, 2, 1, 4, 1, 1, 5, 2])
    repeated = efficient_pnp(x.repeat_interleave(counts, 1), y.repeat_interleave(counts, 1), skip_quadratic_eq=skip)
    weighted = efficient_pnp(x, y, counts[None], skip)
    for got, expected in zip(weighted[1:], repeated[1:], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8)


def test_weights_of_all_views():
    x, y, _, _ = view(3, 12)
    y = y + 0.01 * random(3, 12, 2)
    weights = torch.rand(1, 12, dtype=torch.float64)
    found, each = efficient_pnp(x, y, weights), efficient_pnp(x, y, weights.expand(3, 12))
    torch.testing.assert_close(tuple(found), tuple(each))


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_gradcheck(skip, flat):
    x, y, _, _ = view(2, 9, (1.0, 1.0, 0.0 if flat else 1.0))
    y = y + 0.02 * random(2, 9, 2)
    weights = torch.rand(2, 9, dtype=torch.float64) + 0.5

    def pose(y):
        return efficient_pnp(x, y, weights, skip)

    # The quadratic equations are solved to nine digits or so.
    assert torch.autograd.gradcheck(pose, (y.requires_grad_(),), eps=2e-5, atol=1e-3)


@pytest.mark.parametrize("skip", [False, True])
def test_gradcheck_of_exact_views(skip):
    leaves = [t.requires_grad_() for t in (*view(2, 9)[:2], torch.rand(2, 9, dtype=torch.float64) + 0.5)]

    def pose(*leaves):
        return efficient_pnp(*leaves, skip_quadratic_eq=skip)[:3]

    assert torch.autograd.gradcheck(pose, leaves)


@pytest.mark.filterwarnings("ignore:EPnP")
@pytest.mark.parametrize(
    "shape", [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1.0, 1e-9, 1e-9), (1e9, 1e9, 1e9), (1e-9, 1e-9, 1e-9)]
)
def test_degenerate_points_stay_finite(shape):
    """All in one place, or in one line, say nothing about the rotation."""
    x, y, _, _ = view(3, 10, shape, distance=5.0 * max(*shape, 1.0))
    found = efficient_pnp(x, y)
    assert all(part.isfinite().all() for part in found)
    torch.testing.assert_close(found.R @ found.R.mT, torch.eye(3, dtype=torch.float64).expand(3, 3, 3))


def test_no_views():
    found = efficient_pnp(random(0, 6, 3), random(0, 6, 2))
    assert found.R.shape == (0, 3, 3)
    assert found.T.shape == (0, 3)


def test_points_behind_the_camera_warn():
    with pytest.warns(UserWarning, match=r"EPnP: \d+\.\d+% points have z<0"):
        efficient_pnp(random(2, 40, 3), random(2, 40, 2))


def test_bad_input():
    x, y, _, _ = view(2, 8)
    with pytest.raises(ValueError, match=r"x must have shape \(N, P, 3\) with P >= 4, got \(2, 3, 3\)"):
        efficient_pnp(x[:, :3], y[:, :3])
    with pytest.raises(ValueError, match=r"x must have shape"):
        efficient_pnp(x[0], y[0])
    with pytest.raises(ValueError, match=r"y must have shape \(2, 8, 2\), got \(2, 7, 2\)"):
        efficient_pnp(x, y[:, :7])
    with pytest.raises(ValueError, match=r"weights must have shape \(2, 8\), got \(8,\)"):
        efficient_pnp(x, y, torch.ones(8))
    y[0, 5, 1] = float("nan")
    with pytest.raises(ValueError, match=r"efficient_pnp: y must be finite, got nan at \[0, 5, 1\]"):
        efficient_pnp(x, y)
