from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import recon_engine.ops
import recon_engine.renderer
from recon_engine.ops import corresponding_points_alignment
from recon_engine.transforms import random_rotations

REFERENCE = Path(__file__).parent.parent / "reference"


def _answers(ops, renderer):
    spec = importlib.util.spec_from_file_location("record_alignment", REFERENCE / "record_alignment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.answers(ops, renderer)


def _assert_same(theirs):
    ours = _answers(recon_engine.ops, recon_engine.renderer)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-5, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_recorded():
    _assert_same({name: torch.from_numpy(array) for name, array in np.load(REFERENCE / "alignment.npz").items()})


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_live():
    pytest.importorskip("pytorch3d")
    import pytorch3d.ops
    import pytorch3d.renderer

    _assert_same(_answers(pytorch3d.ops, pytorch3d.renderer))


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
