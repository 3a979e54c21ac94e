from __future__ import annotations

import importlib
import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from recon_engine import _samples
from recon_engine.ops import add_pointclouds_to_volumes
from recon_engine.ops import add_points_features_to_volume_densities_features as add_points
from recon_engine.ops.points_to_volumes import _points_to_volumes
from recon_engine.structures import Pointclouds, Volumes
from recon_engine.testing import assert_matches_reference, values_and_grads

REFERENCE = Path(__file__).parent.parent / "reference"
OP = _samples.all_ops()["points_to_volumes"]


def _answers(module):
    spec = importlib.util.spec_from_file_location("record", REFERENCE / "record_points_to_volumes.py")
    recorder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recorder)
    return recorder.answers(module)


def _assert_same(theirs):
    ours = _answers(importlib.import_module("recon_engine.ops.points_to_volumes"))
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_recorded():
    recorded = np.load(REFERENCE / "points_to_volumes.npz")
    _assert_same({name: torch.from_numpy(array) for name, array in recorded.items()})


def test_live():
    pytest.importorskip("pytorch3d")
    _assert_same(_answers(importlib.import_module("pytorch3d.ops.points_to_volumes")))


def random(*shape, dtype=torch.float64, device="cpu"):
    return torch.rand(*shape, dtype=dtype, device=device)


def inputs(N=2, P=30, C=3, size=(4, 3, 5), **options):
    points = 2.6 * random(N, P, 3, **options) - 1.3
    return points, random(N, P, C, **options), random(N, 1, *size, **options), random(N, C, *size, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("trilinear", [True, False])
@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize(
    "shape", [(2, 30, 3, (4, 3, 5)), (1, 6000, 37, (17, 2, 3)), (3, 5, 1, (1, 1, 1)), (2, 9, 0, (2, 3, 4))]
)
def test_matches_reference(shape, rescale, align, trilinear, dtype, device):
    N, P, C, size = shape
    points, *others = inputs(N, P, C, size, dtype=dtype, device=device)
    grids = torch.stack([torch.tensor(size) - (n % 2 if min(size) > 1 else 0) for n in range(N)]).to(device)
    tolerance = (
        {"rtol": 1e-3, "atol": 1e-3 if P > 1000 else 1e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-10}
    )

    def op(*tensors):
        if not trilinear:
            tensors = (points, *tensors)
        return OP(*tensors, grids, random_mask, trilinear, align, rescale, 0.5, 0.8)

    def reference(*tensors):
        if not trilinear:
            tensors = (points, *tensors)
        return OP.reference(*tensors, grids, random_mask, trilinear, align, rescale, 0.5, 0.8)

    random_mask = torch.rand(N, P, device=device) > 0.3
    tensors = (points, *others) if trilinear else tuple(others)
    for got, expected in zip(values_and_grads(op, *tensors), values_and_grads(reference, *tensors), strict=True):
        torch.testing.assert_close(got, expected, **tolerance)


def test_one_point_in_the_middle_of_a_voxel():
    D, H, W = 5, 5, 10
    for align, mode in itertools.product((True, False), ("trilinear", "nearest")):

        def unit(i, size, align=align):
            return 2 * i / (size - 1) - 1 if align else 2 * (i + 0.5) / size - 1

        point = torch.tensor([[[unit(3, W), unit(2, H), unit(1, D)]]], dtype=torch.float64)
        features, densities = add_points(
            point, 7 + random(1, 1, 2) * 0, torch.zeros(1, 1, D, H, W).double(), None, mode, align_corners=align
        )
        expected = torch.zeros(1, 1, D, H, W).double()
        expected[0, 0, 1, 2, 3] = 1
        torch.testing.assert_close(densities, expected)
        torch.testing.assert_close(features, 7 * expected.expand(1, 2, D, H, W))


@pytest.mark.parametrize(
    ("align", "place", "size"), [(True, (-0.2, 0.2, -0.2), (6, 6, 11)), (False, (-0.3, 0.4, -0.4), (5, 5, 10))]
)
def test_a_point_on_a_voxel_but_for_the_rounding_of_its_coordinates_votes_for_that_one_alone(align, place, size):
    """As `grid_sample` reads it: the nearest numbers of float32 stand for tenths."""
    _, densities = add_points(
        torch.tensor([[place]]), torch.ones(1, 1, 1), torch.zeros(1, 1, *size), None, align_corners=align
    )
    expected = torch.zeros(1, 1, *size)
    expected[(0, 0, *((2, 3, 4) if align else (1, 3, 3)))] = 1
    assert (densities == expected).all()


@pytest.mark.parametrize("align", [True, False])
def test_votes_at_both_borders_are_shares(align):
    """A point beyond the last voxel gives a part of its vote; PyTorch3D gives 1.4 and -0.4 at the lower border."""
    W = 4
    places = torch.linspace(-1.5, W + 0.5, 61).double()
    x = 2 * places / (W - 1) - 1 if align else 2 * (places + 0.5) / W - 1
    points = torch.stack((x, torch.zeros_like(x), torch.zeros_like(x)), -1)[:, None]
    _, densities = add_points(points, random(61, 1, 1), torch.zeros(61, 1, 1, 1, W).double(), None, align_corners=align)
    expected = (1 - (places[:, None] - torch.arange(W)).abs()).clamp(min=0)
    torch.testing.assert_close(densities[:, 0, 0, 0], expected)
    assert (densities >= 0).all()


def test_halves_go_to_the_voxel_away_from_zero():
    W = 8
    places = torch.tensor([-0.5, -0.49, 0.5, 1.5, 2.5, 7.49, 7.5]).double()
    points = torch.zeros(len(places), 1, 3).double()
    points[:, 0, 0] = 2 * (places + 0.5) / W - 1
    _, densities = add_points(
        points, random(7, 1, 1), torch.zeros(7, 1, 1, 1, W).double(), None, "nearest", align_corners=False
    )
    voxels = [densities[i].flatten().nonzero().flatten().tolist() for i in range(7)]
    assert voxels == [[], [0], [1], [2], [3], [7], []]


def test_all_votes_of_inner_points_arrive():
    points = random(3, 500, 3) * 1.2 - 0.6
    features = random(3, 500, 2)
    for mode in ("trilinear", "nearest"):
        sums, densities = add_points(
            points, features, torch.zeros(3, 1, 8, 9, 7).double(), None, mode, rescale_features=False
        )
        torch.testing.assert_close(densities.sum((1, 2, 3, 4)), torch.full((3,), 500.0).double())
        torch.testing.assert_close(sums.sum((2, 3, 4)), features.sum(1))


def test_features_are_averages():
    points, _, densities, _ = inputs()
    found, votes = add_points(
        points, torch.full((2, 30, 3), 4.0).double(), torch.zeros_like(densities), None, min_weight=1e-9
    )
    seen = (votes > 1e-9).expand_as(found)
    torch.testing.assert_close(found[seen], torch.full_like(found[seen], 4.0))
    assert (found[~seen] <= 4).all()


def test_splatting_is_the_transpose_of_sampling():
    """<splat(f), V> = <f, sample(V)>, where sample is torch's grid_sample."""
    points, features, densities, volumes = inputs(size=(4, 6, 5))
    for align in (True, False):
        sums, _ = add_points(
            points, features, torch.zeros_like(densities), None, rescale_features=False, align_corners=align
        )
        sampled = torch.nn.functional.grid_sample(volumes, points[:, :, None, None], align_corners=align)
        torch.testing.assert_close((sums * volumes).sum(), (features.mT * sampled[..., 0, 0]).sum())


@pytest.mark.parametrize("mode", ["trilinear", "nearest"])
def test_given_volumes_stay_as_they_are(mode):
    """PyTorch3D adds to them although it promises a copy."""
    points, features, densities, volumes = inputs()
    before = densities.clone(), volumes.clone()
    found = add_points(points, features, densities, volumes, mode)
    assert torch.equal(densities, before[0])
    assert torch.equal(volumes, before[1])
    assert not torch.equal(found[1], densities)


def test_the_raw_function_writes_in_place():
    points, features, densities, volumes = inputs()
    points.requires_grad_(), features.requires_grad_()
    grids, mask = torch.tensor([[4, 3, 5]] * 2), torch.ones(2, 30)
    expected = densities.clone(), volumes.clone()
    found = _points_to_volumes(points, features, densities, volumes, grids, 2.0, mask, False, True)
    assert found[0].is_set_to(densities)
    assert found[1].is_set_to(volumes)
    sums, votes = add_points(
        points,
        features,
        torch.zeros_like(densities),
        None,
        rescale_features=False,
        align_corners=False,
    )
    torch.testing.assert_close(found[0], expected[0] + 2 * votes)
    torch.testing.assert_close(found[1], expected[1] + 2 * sums)
    torch.testing.assert_close(
        torch.autograd.grad(found[1].square().sum(), (points, features)),
        torch.autograd.grad((expected[1] + 2 * sums).square().sum(), (points, features)),
    )


@pytest.mark.parametrize("python", [False, True])
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("align", [False, True])
def test_gradcheck(align, rescale, python):
    leaves = [t.requires_grad_() for t in inputs(2, 7, 2, (3, 4, 3))]
    grids, mask = torch.tensor([[3, 4, 3], [2, 3, 3]]), torch.ones(2, 7)
    mask[1, 2] = 0
    options = {"rescale_features": rescale, "align_corners": align, "min_weight": 0.7, "_python": python}

    def add(*leaves):
        return add_points(*leaves, "trilinear", mask=mask, grid_sizes=grids, **options)

    assert torch.autograd.gradcheck(add, leaves)


def test_gradcheck_nearest():
    points, *leaves = inputs(2, 7, 2, (3, 4, 3))
    leaves = [t.requires_grad_() for t in leaves]
    assert torch.autograd.gradcheck(lambda *leaves: add_points(points, *leaves, "nearest"), leaves)
    found = add_points(points.requires_grad_(), *leaves, "nearest")
    assert torch.autograd.grad(found[0].sum(), points, allow_unused=True) == (None,)


def test_masks_of_any_kind():
    points, features, densities, volumes = inputs()
    kept = torch.rand(2, 30) > 0.5
    spoilt = torch.where(kept[..., None], points, float("nan"))
    expected = [
        add_points(points[n : n + 1, kept[n]], features[n : n + 1, kept[n]], densities[n : n + 1], volumes[n : n + 1])
        for n in range(2)
    ]
    for mask in (kept, kept.float(), kept.long(), 3 * kept.double()):
        found = add_points(spoilt, features, densities, volumes, mask=mask)
        for got, alone in zip(found, zip(*expected, strict=True), strict=True):
            torch.testing.assert_close(got, torch.cat(alone))


def test_grids_inside_of_the_volume():
    """A volume that uses a part of its tensor is one of that size, and the rest stays as it was."""
    points, features, densities, volumes = inputs()
    grids = torch.tensor([[2, 3, 4], [4, 1, 5]])
    found = add_points(points, features, densities, volumes, grid_sizes=grids, rescale_features=False)
    for n, (D, H, W) in enumerate(grids.tolist()):
        part = (slice(n, n + 1), slice(None), slice(D), slice(H), slice(W))
        alone = add_points(
            points[n : n + 1], features[n : n + 1], densities[part], volumes[part], rescale_features=False
        )
        for got, initial, expected in zip(found, (volumes, densities), alone, strict=True):
            torch.testing.assert_close(got[part], expected)
            rest = got[n].clone()
            rest[:, :D, :H, :W] = initial[n, :, :D, :H, :W]
            torch.testing.assert_close(rest, initial[n])


# ---- points that are hard ----


@pytest.mark.parametrize("mode", ["trilinear", "nearest"])
@pytest.mark.parametrize("case", ["one place", "lattice", "far", "none", "no clouds", "no voxels"])
def test_hard_points(case, mode):
    points, features, densities, volumes = inputs(2, 5000, 3, (4, 5, 3))
    if case == "one place":
        points = torch.tensor([0.1, -0.2, 0.3]).double().expand_as(points)
    if case == "lattice":  # on voxels and half way between them
        points = (4 * points).round() / 4
    if case == "far":
        points = points * 1e30
    if case == "none":
        points, features = points[:, :0], features[:, :0]
    if case == "no clouds":
        points, features, densities, volumes = points[:0], features[:0], densities[:0], volumes[:0]
    if case == "no voxels":
        densities, volumes = densities[:, :, :0], volumes[:, :, :0]
    leaves = [t.contiguous().requires_grad_() for t in (points, features, densities, volumes)]

    def run(python):
        found = add_points(*leaves, mode, _python=python)
        wanted = leaves if mode == "trilinear" else leaves[1:]
        return [t.detach() for t in found], torch.autograd.grad(sum(t.square().sum() for t in found), wanted)

    (values, grads), (expected, expected_grads) = run(False), run(True)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(grads, expected_grads)


@pytest.mark.parametrize("C", [3, 40])
def test_any_number_of_threads_gives_the_same_bits(C):
    args = [t.float().requires_grad_() for t in inputs(2, 20000, C, (9, 8, 7))]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found = add_points(*args)
            grads = torch.autograd.grad((found[0] * found[1]).sum(), args)
            results.append([t.detach() for t in (*found, *grads)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for got, expected in zip(other, results[0], strict=True):
            assert torch.equal(got, expected)


# ---- Pointclouds and Volumes ----


def clouds_and_volumes(features=True, **options):
    generator = torch.Generator().manual_seed(1)
    sizes, grids = (12, 0, 30), ((4, 5, 3), (2, 3, 4), (4, 4, 4))
    points, colors = ([4 * torch.rand(n, c, generator=generator) - 2 for n in sizes] for c in (3, 2))
    densities = [torch.rand(1, *grid, generator=generator) for grid in grids]
    volumes = [torch.rand(2, *grid, generator=generator) for grid in grids]
    place = {"voxel_size": 0.7, "volume_translation": (0.1, -0.2, 0.3), **options}
    return Pointclouds(points, features=colors), Volumes(densities, volumes if features else None, **place)


@pytest.mark.parametrize("options", [{}, {"mode": "nearest"}, {"rescale_features": False}, {"min_weight": 0.4}])
@pytest.mark.parametrize("align", [True, False])
def test_clouds_in_world_coordinates(align, options):
    """Each cloud votes in its own volume, of its own size and at its own place; PyTorch3D takes one size only."""
    clouds, volumes = clouds_and_volumes(align_corners=align)
    before = volumes.densities().clone(), volumes.features().clone()
    found = add_pointclouds_to_volumes(clouds, volumes, **options)
    assert isinstance(found, Volumes)
    assert torch.equal(volumes.densities(), before[0])
    assert torch.equal(volumes.features(), before[1])
    torch.testing.assert_close(
        found.get_world_to_local_coords_transform().get_matrix(),
        volumes.get_world_to_local_coords_transform().get_matrix(),
    )
    for n, points in enumerate(clouds.points_list()):
        alone = add_points(
            volumes[n].world_to_local_coords(points[None]),
            clouds.features_list()[n][None],
            volumes[n].densities(),
            volumes[n].features(),
            grid_sizes=volumes[n].get_grid_sizes(),
            align_corners=align,
            **options,
        )
        D, H, W = found.densities_list()[n].shape[1:]
        torch.testing.assert_close(found.features_list()[n], alone[0][0, :, :D, :H, :W])
        torch.testing.assert_close(found.densities_list()[n], alone[1][0, :, :D, :H, :W])


def test_live_clouds_inside_of_the_volume():
    pytest.importorskip("pytorch3d")
    structures, ops = importlib.import_module("pytorch3d.structures"), importlib.import_module("pytorch3d.ops")
    clouds, volumes = clouds_and_volumes()
    volumes = Volumes(volumes.densities(), volumes.features(), 0.7, (0.1, -0.2, 0.3))
    inner = Pointclouds([0.2 * p for p in clouds.points_list()], features=clouds.features_list())
    theirs = ops.add_pointclouds_to_volumes(
        structures.Pointclouds(inner.points_list(), features=inner.features_list()),
        structures.Volumes(volumes.densities().clone(), volumes.features().clone(), 0.7, (0.1, -0.2, 0.3)),
    )
    ours = add_pointclouds_to_volumes(inner, volumes)
    torch.testing.assert_close(ours.densities(), theirs.densities())
    torch.testing.assert_close(ours.features(), theirs.features())


def test_volumes_without_features_start_at_zero():
    clouds, volumes = clouds_and_volumes(features=False)
    found = add_pointclouds_to_volumes(clouds, volumes)
    zeros = volumes.update_padded(volumes.densities(), torch.zeros(3, 2, *volumes.densities().shape[2:]))
    torch.testing.assert_close(found.features(), add_pointclouds_to_volumes(clouds, zeros).features())


@pytest.mark.parametrize("python", [False, True])
def test_gradients_reach_clouds_and_volumes(python):
    clouds, volumes = clouds_and_volumes()
    leaves = [t.requires_grad_() for t in (*clouds.points_list(), volumes.densities(), volumes.features())]
    clouds = Pointclouds(leaves[:3], features=clouds.features_list())
    found = add_pointclouds_to_volumes(clouds, volumes, _python=python)
    grads = torch.autograd.grad(found.features().square().sum() + found.densities().sum(), leaves)
    assert all(g.isfinite().all() for g in grads)
    assert all(g.abs().sum() > 0 for g in grads if g.numel())


def test_clouds_that_do_not_fit():
    clouds, volumes = clouds_and_volumes()
    with pytest.raises(ValueError, match="same batch size: got 2 volumes and 3 clouds"):
        add_pointclouds_to_volumes(clouds, volumes[:2])
    with pytest.raises(ValueError, match="'features' defined"):
        add_pointclouds_to_volumes(Pointclouds(clouds.points_list()), volumes)
    wide = Pointclouds(clouds.points_list(), features=[f.repeat(1, 2) for f in clouds.features_list()])
    with pytest.raises(ValueError, match="volume_features"):
        add_pointclouds_to_volumes(wide, volumes)


def test_sample_matches_reference(device):
    assert_matches_reference(
        OP, *_samples.sample_inputs("points_to_volumes", device, torch.float64), rtol=1e-9, atol=1e-9
    )


def test_bad_input():
    points, features, densities, volumes = inputs()
    with pytest.raises(ValueError, match='No such interpolation mode "cubic"'):
        add_points(points, features, densities, volumes, "cubic")
    with pytest.raises(ValueError, match="Only one-dimensional densities"):
        add_points(points, features, volumes, volumes)
    with pytest.raises(ValueError, match="volume_features"):
        add_points(points, features, densities, volumes[:, :2])
    with pytest.raises(ValueError, match="features"):
        add_points(points, features[:, :4], densities, volumes)
    with pytest.raises(ValueError, match="points"):
        add_points(points[..., :2], features, densities, volumes)
    with pytest.raises(ValueError, match="float32"):
        add_points(points.float(), features, densities, volumes)
    with pytest.raises(ValueError, match=r"grid_sizes\[1\] has a height of 4 but the volumes have 3"):
        add_points(points, features, densities, volumes, grid_sizes=torch.tensor([[4, 3, 5], [4, 4, 5]]))
    points[1, 7, 2] = float("nan")
    with pytest.raises(ValueError, match=r"points must be finite, got nan at \[1, 7, 2\]"):
        add_points(points, features, densities, volumes)
