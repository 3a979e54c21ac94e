from __future__ import annotations

import json
import math
import signal
from dataclasses import replace

import pytest
import torch

from recon_engine.io import save_obj, save_ply
from recon_engine.methods.align import (
    AlignFit,
    AlignSettings,
    Shapes,
    align,
    align_settings,
    built_in,
    displaced,
    from_shapes,
    load_shapes,
    save_results,
)
from recon_engine.methods.shapes import building, create_cube, dodecahedron, octahedron
from recon_engine.ops import sample_points_from_meshes
from recon_engine.transforms import random_rotations

FAST = align_settings(fast=True)
TINY = replace(FAST, samples=60, iterations=12)
TINY_RIGID = align_settings(rigid=True, samples=80, iterations=12, starts=4)


def test_documented_defaults():
    settings = align_settings()
    assert settings == AlignSettings()
    assert (settings.iterations, settings.samples) == (200, 5000)
    assert (settings.learning_rate, settings.momentum) == (0.1, 0.9)
    assert settings.motion == (3, 4, 5)
    assert settings.noise**2 == pytest.approx(0.1)
    assert settings.shared


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, "samples must be 1 or more, got 0"),
        ({"momentum": 1.0}, r"momentum must be below 1, got 1\.0"),
        ({"motion": (1.0, math.inf, 0.0)}, "motion must be three finite numbers"),
        ({"noise": -1.0}, "noise must be 0 or more"),
        ({"starts": 0}, "starts must be 1 or more, got 0"),
        ({"scale": True}, "scale goes with rigid"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        align_settings(**changes)


def test_the_documented_experiment():
    """Three solids of different sizes in one batch, with noise of variance 0.1: one displacement of 3, 4, 5."""
    result = from_shapes(built_in(), replace(FAST, iterations=200))
    assert float(result.errors.max()) < 0.05
    assert torch.equal(result.T[0], result.T[2])
    assert result.s.tolist() == [1, 1, 1]
    total = result.history.table()["chamfer"]
    assert total[0] > 50
    assert total[-1] < 0.1
    assert float(result.start_distance.min()) > 5
    assert float(result.distance.max()) < 0.1


def test_every_pair_may_have_its_own_displacement():
    sources = built_in()
    motions = torch.tensor([[3.0, 4.0, 5.0], [-1.0, 0.0, 2.0], [0.0, 0.5, 0.0]])
    targets = sources.moved(torch.eye(3).repeat(3, 1, 1), motions, torch.ones(3))
    result = align(sources, targets, replace(FAST, shared=False))
    torch.testing.assert_close(result.T, motions, rtol=0, atol=0.05)
    assert result.errors is None


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_rigid_alignments(scale):
    """The building and solids in random rotations; a solid may come to lie in any that looks the same."""
    sources = built_in(rigid=True)
    settings = align_settings(rigid=True, fast=True, scale=scale != 1.0)
    true, _ = displaced(sources, settings)
    true = true._replace(s=torch.full((3,), scale))
    result = replace(align(sources, sources.moved(*true), settings), true=true)
    assert float(result.errors.max()) < 0.05 * scale
    assert float(result.distance.max()) < 0.06 * scale
    torch.testing.assert_close(result.s, true.s, rtol=0.02, atol=0)
    torch.testing.assert_close(result.R[1], true.R[1], rtol=0, atol=0.05)  # the building has no symmetry


def test_one_start_stays_where_it_is():
    """Without other starts the nearest optimum is found: right for a small turn, not for a large one."""
    house = Shapes(["house"], [building().verts_packed()], [building().faces_packed()])
    settings = align_settings(rigid=True, fast=True, starts=1)
    angle = torch.tensor(0.15)
    turn = torch.tensor([[angle.cos(), 0, angle.sin()], [0, 1, 0], [-angle.sin(), 0, angle.cos()]])[None]
    near = align(house, house.moved(turn, torch.ones(1, 3), torch.ones(1)), settings)
    torch.testing.assert_close(near.R, turn, rtol=0, atol=0.03)
    upside_down = torch.diag(torch.tensor([1.0, -1.0, -1.0]))[None]
    far = align(house, house.moved(upside_down, torch.ones(1, 3), torch.ones(1)), settings)
    assert float((far.R - upside_down).abs().max()) > 0.5


def test_a_rigid_alignment_ends_when_nothing_falls():
    settings = align_settings(rigid=True, fast=True, iterations=80, tolerance=1e-3)
    fit = AlignFit(*(built_in(rigid=True) for _ in range(2)), settings)
    steps = list(fit)
    assert 1 < len(steps) < 80
    assert fit.history.planned == fit.history.length == len(steps)
    assert float(steps[-1].loss) <= float(steps[0].loss)


def test_points_are_those_of_one_batch():
    """Meshes of different sizes are sampled together; clouds keep to their points."""
    shapes = built_in()
    cloud = torch.rand(7, 3)
    mixed = Shapes(
        ["a", "b", "c"], [shapes.verts[0], cloud, shapes.verts[2]], [shapes.faces[0], cloud[:0].long(), shapes.faces[2]]
    )
    points = mixed.points(50)
    assert points.shape == (3, 50, 3)
    assert {tuple(point) for point in points[1].tolist()} <= {tuple(point) for point in cloud.tolist()}
    assert float((points[0].abs().amax(1) - 0.5).abs().max()) < 1e-6
    torch.manual_seed(5)
    together = sample_points_from_meshes(shapes._meshes, 20)
    torch.manual_seed(5)
    assert torch.equal(shapes.points(20), together)


def test_a_cloud_is_aligned_to_a_mesh():
    solid = dodecahedron(2)
    cloud = sample_points_from_meshes(solid, 3000)[0]
    sources = Shapes(["scan"], [cloud], [torch.zeros(0, 3, dtype=torch.int64)])
    targets = Shapes(["solid"], [solid.verts_packed() + torch.tensor([0.4, -0.3, 0.2])], [solid.faces_packed()])
    result = align(sources, targets, FAST)
    torch.testing.assert_close(result.T, torch.tensor([[0.4, -0.3, 0.2]]), rtol=0, atol=0.03)


def test_the_same_seed_gives_the_same_result():
    first, again, other = (from_shapes(built_in(), replace(TINY, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first.T, again.T)
    assert not torch.equal(first.T, other.T)
    state = torch.get_rng_state()
    from_shapes(built_in(), TINY)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("settings", [TINY, replace(TINY_RIGID, samples=1500, tolerance=0.0)])
def test_a_run_that_was_killed_ends_like_one_that_was_not(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("recon_engine.methods._train.Checkpoint.__init__.__defaults__", (0.0,))
    path = tmp_path / "a.checkpoint"
    sources = built_in(settings.rigid)
    _, targets = displaced(sources, settings)
    whole = align(sources, targets, settings)
    assert whole.history.length > 5
    for stop in (1, 2):
        for _ in zip(range(stop), AlignFit(sources, targets, settings, checkpoint=path), strict=False):
            torch.rand(3)  # a user's own random numbers change nothing
    assert AlignFit(sources, targets, settings, checkpoint=path).history.length == 3
    for _ in range(2):  # the second one finds nothing left to do
        again = align(sources, targets, settings, checkpoint=path)
        for name in ("R", "T", "s", "distance"):
            assert torch.equal(getattr(again, name), getattr(whole, name)), name
        assert again.history.table() == whole.history.table()
    with pytest.raises(ValueError, match="is of a run with targets"):
        AlignFit(sources, sources, settings, checkpoint=path)


@pytest.fixture
def _pythons_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_pythons_ctrl_c")
def test_ctrl_c_keeps_what_was_reached(tmp_path):
    sources = built_in()
    fit = AlignFit(sources, sources.noisy(0.1), TINY, checkpoint=tmp_path / "a.checkpoint")
    for step in fit:
        if step.iteration == 4:
            signal.raise_signal(signal.SIGINT)
    result = fit.result()
    assert result.interrupted
    assert result.history.length == 5
    assert not align(sources, fit.targets, TINY, checkpoint=tmp_path / "a.checkpoint").interrupted


def test_losses_may_be_changed():
    class Middle(AlignFit):
        def loss(self, moved, target):
            return (moved.mean(1) - target.mean(1)).square().sum(1).mean()

    sources = built_in()
    fit = Middle(sources, displaced(sources, FAST)[1], FAST)
    for step in fit:
        if float(step.loss) < 1e-3:
            break
    assert fit.history.length < 120
    assert float(fit.result().T[0, 2]) == pytest.approx(5, abs=0.2)


def test_a_step_that_is_too_long_is_named():
    with pytest.raises(FloatingPointError, match="choose a smaller learning rate"):
        from_shapes(built_in(), replace(TINY, learning_rate=1e20))


def test_shapes_that_cannot_be_aligned(tmp_path):
    solids = built_in()
    with pytest.raises(ValueError, match="every source needs a target, got 3 sources and 1 targets"):
        AlignFit(solids, Shapes(["a"], solids.verts[:1], solids.faces[:1]))
    with pytest.raises(ValueError, match="at least one shape is needed"):
        Shapes([], [], [])
    with pytest.raises(ValueError, match="a has vertices that are NaN or infinite"):
        Shapes(["a"], [torch.full((3, 3), torch.nan)], [torch.zeros(0, 3, dtype=torch.int64)])
    with pytest.raises(ValueError, match=r"a must have vertices \(V, 3\) with V > 0, got \(0, 3\)"):
        Shapes(["a"], [torch.zeros(0, 3)], [torch.zeros(0, 3, dtype=torch.int64)])
    with pytest.raises(FileNotFoundError, match=r"gone\.obj does not exist"):
        load_shapes([tmp_path / "gone.obj"])


def test_files(tmp_path):
    cube = create_cube(0)
    save_obj(str(tmp_path / "cube.obj"), cube.verts_packed(), cube.faces_packed())
    save_ply(str(tmp_path / "cloud.ply"), cube.verts_packed() + 2)
    shapes = load_shapes([tmp_path / "cube.obj", tmp_path / "cloud.ply"])
    assert shapes.names == ["cube.obj", "cloud.ply"]
    assert [len(faces) for faces in shapes.faces] == [12, 0]
    assert shapes.points(9).shape == (2, 9, 3)


@pytest.mark.parametrize(("make", "counts"), [(octahedron, (6, 12, 8)), (dodecahedron, (20, 54, 36))])
def test_solids(make, counts):
    solid = make()
    verts, faces = solid.verts_packed(), solid.faces_packed()
    assert (len(verts), len(solid.edges_packed()), len(faces)) == counts
    torch.testing.assert_close(verts.norm(dim=1), torch.ones(len(verts)))
    a, b, c = verts[faces].unbind(1)
    outwards = (torch.linalg.cross(b - a, c - a, dim=1) * (a + b + c)).sum(1)
    assert bool((outwards > 0).all())
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    assert {tuple(e) for e in edges.tolist()} == {tuple(e[::-1]) for e in edges.tolist()}  # closed, and one orientation
    assert len(make(2).faces_packed()) == 16 * len(faces)
    with pytest.raises(ValueError, match="level must be 0 or more, got -1"):
        make(-1)


def test_the_sides_of_the_dodecahedron_are_flat():
    verts, faces = dodecahedron().verts_packed(), dodecahedron().faces_packed().view(12, 3, 3)
    corners = verts[faces].flatten(1, 2)
    normal = corners.mean(1, keepdim=True) / corners.mean(1, keepdim=True).norm(dim=2, keepdim=True)
    along = (corners * torch.linalg.cross(*(corners[:, 1:3] - corners[:, :1]).unbind(1), dim=1)[:, None]).sum(2)
    assert float((along - along[:, :1]).abs().max()) < 1e-6
    assert normal.shape == (12, 1, 3)
    areas = (
        torch.linalg.cross(
            corners.view(12, 3, 3, 3)[:, :, 1] - corners.view(12, 3, 3, 3)[:, :, 0],
            corners.view(12, 3, 3, 3)[:, :, 2] - corners.view(12, 3, 3, 3)[:, :, 0],
            dim=2,
        )
        .norm(dim=2)
        .sum(1)
    )
    torch.testing.assert_close(areas, areas[:1].expand(12))


def test_errors_of_symmetric_shapes():
    """A cube that was turned onto itself is where it should be."""
    cube = Shapes(["cube"], [create_cube(1).verts_packed()], [create_cube(1).faces_packed()])
    result = from_shapes(cube, TINY_RIGID)
    torch.manual_seed(3)
    quarter = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    true = result.true
    turned = replace(result, R=quarter @ true.R, T=true.T, s=true.s)
    assert float(turned.errors.max()) < 1e-5
    assert float(replace(result, R=random_rotations(1), T=true.T, s=true.s).errors.max()) > 0.05


@pytest.mark.parametrize("settings", [TINY, TINY_RIGID])
def test_the_results_folder(settings, tmp_path):
    for module in ("PIL", "matplotlib"):
        pytest.importorskip(module)
    solids = built_in(settings.rigid)
    cloud = solids.verts[2][:40]
    sources = Shapes(["cube", "octahedron", "scan"], [*solids.verts[:2], cloud], [*solids.faces[:2], cloud[:0].long()])
    result = from_shapes(sources, settings)
    save_results(result, tmp_path, "solids and a scan")
    expected = {"moved1.obj", "moved2.obj", "moved3.ply", "alignment.json", "losses.csv", "losses.png", "pictures.png"}
    assert {path.name for path in tmp_path.iterdir()} == expected | {"metrics.json", "report.html"}
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["error_max"] == pytest.approx(float(result.errors.max()))
    pairs = json.loads((tmp_path / "alignment.json").read_text())
    assert [pair["source"] for pair in pairs] == ["cube", "octahedron", "scan"]
    torch.testing.assert_close(torch.tensor(pairs[1]["T"]), result.T[1])
    moved = load_shapes([tmp_path / "moved1.obj", tmp_path / "moved3.ply"])
    torch.testing.assert_close(moved.verts[0], result.moved.verts[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(moved.verts[1], result.moved.verts[2], rtol=0, atol=1e-4)
    report = (tmp_path / "report.html").read_text()
    for text in ("Alignment of solids and a scan", "moved3.ply", "after"):
        assert text in report
