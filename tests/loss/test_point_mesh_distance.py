from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

import recon_engine.loss
from recon_engine.loss import point_mesh_distance as module
from recon_engine.loss.point_mesh_distance import (
    face_point_distance,
    point_face_distance,
    point_mesh_edge_distance,
    point_mesh_face_distance,
)
from recon_engine.structures import Meshes, Pointclouds
from recon_engine.utils import ico_sphere

REFERENCE = Path(__file__).parent.parent / "reference"


def _recorder():
    spec = importlib.util.spec_from_file_location("record_point_mesh", REFERENCE / "record_point_mesh.py")
    recorder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recorder)
    return recorder


def _ours():
    return _recorder().answers(module, Meshes, Pointclouds)


def _assert_same(ours, theirs):
    for name, answer in ours.items():
        torch.testing.assert_close(answer, theirs[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_recorded():
    recorded = np.load(REFERENCE / "point_mesh.npz")
    assert set(recorded) == {*_ours(), "box_vol", "box_iou"}
    _assert_same(_ours(), {name: torch.from_numpy(array) for name, array in recorded.items()})


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_live():
    theirs = pytest.importorskip("pytorch3d.loss.point_mesh_distance")
    structures = pytest.importorskip("pytorch3d.structures")
    _assert_same(_ours(), _recorder().answers(theirs, structures.Meshes, structures.Pointclouds))
    for name in ("point_mesh_face_distance", "point_mesh_edge_distance"):
        pairs = [inspect.signature(getattr(package, name)).parameters.values() for package in (module, theirs)]
        ours, expected = ([(p.name, p.default) for p in parameters] for parameters in pairs)
        assert ours == expected


def test_recorded_limit_matters():
    ours = _ours()
    assert ours["mesh_face_limit"] > ours["mesh_face"]


def test_float64_and_gradients():
    """Weights and reductions by hand; PyTorch3D computes in float32 only."""
    recorder = _recorder()
    points = [p.double().requires_grad_() for p in recorder.clouds()]
    verts, faces = recorder.mesh_lists()
    verts = [v.double().requires_grad_() for v in verts]
    expected = torch.zeros((), dtype=torch.float64)
    zero = torch.tensor([0])
    for p, v, f in zip(points, verts, faces, strict=True):
        for distance in (point_face_distance, face_point_distance):
            expected = expected + distance(p, zero, v[f], zero, 0).mean() / 3
    loss = point_mesh_face_distance(Meshes(verts, faces), Pointclouds(points))
    torch.testing.assert_close(loss, expected)
    assert torch.autograd.gradcheck(
        lambda *a: point_mesh_face_distance(Meshes(list(a[:3]), faces), Pointclouds(list(a[3:]))), (*verts, *points)
    )
    assert torch.autograd.gradcheck(
        lambda *a: point_mesh_edge_distance(Meshes(list(a[:3]), faces), Pointclouds(list(a[3:]))), (*verts, *points)
    )


def test_unit_of_length_does_not_matter():
    """In metres or in millimetres: a threshold on areas would tell them apart."""
    sphere, points = ico_sphere(4), torch.randn(200, 3)
    large = point_mesh_face_distance(sphere, Pointclouds([points]))
    small = point_mesh_face_distance(sphere.scale_verts(1e-3), Pointclouds([1e-3 * points]))
    torch.testing.assert_close(small * 1e6, large)
    limited = point_mesh_face_distance(sphere, Pointclouds([points]), 5e-3)  # given: all faces are smaller
    assert limited > large
    torch.testing.assert_close(point_mesh_face_distance(sphere, Pointclouds([points]), min_triangle_area=0.0), large)


def test_empty_clouds_and_meshes():
    """Nothing to measure costs nothing; something with nothing to be close to is infinitely far."""
    verts, faces = torch.rand(3, 3), torch.tensor([[0, 1, 2]])
    none = torch.zeros(0, 3)
    no_faces = torch.zeros(0, 3, dtype=torch.int64)
    both = point_mesh_face_distance(Meshes([verts, none], [faces, no_faces]), Pointclouds([torch.rand(4, 3), none]))
    alone = point_mesh_face_distance(Meshes([verts], [faces]), Pointclouds([torch.rand(4, 3)]))
    assert both.isfinite()
    assert alone.isfinite()
    assert point_mesh_face_distance(Meshes([verts], [faces]), Pointclouds([none])) == float("inf")
    assert point_mesh_edge_distance(Meshes([verts], [no_faces]), Pointclouds([torch.rand(4, 3)])) == float("inf")


def test_batches_with_empty_clouds_keep_their_meshes():
    """PyTorch3D's CPU kernel goes on with the wrong mesh after an empty cloud."""
    points, tris = torch.rand(6, 3), torch.rand(3, 3, 3)
    points_first, tris_first = torch.tensor([0, 3, 3]), torch.tensor([0, 1, 2])
    dist = point_face_distance(points, points_first, tris, tris_first, 3)
    zero = torch.tensor([0])
    alone = point_face_distance(points[3:], zero, tris[2:], zero, 3)
    assert (dist[3:] == alone).all()


def test_wrong_input():
    sphere, points = ico_sphere(0), torch.rand(4, 3)
    with pytest.raises(ValueError, match="must be equal sized batches, got 1 meshes and 2 clouds"):
        point_mesh_face_distance(sphere, Pointclouds([points, points]))
    with pytest.raises(ValueError, match="must be equal sized batches"):
        point_mesh_edge_distance(sphere, Pointclouds([]))
    zero = torch.tensor([0])
    with pytest.raises(ValueError, match=r"tris must be of shape \(\*, 3, 3\), got \(5, 2, 3\)"):
        point_face_distance(points, zero, torch.rand(5, 2, 3), zero, 4)
    with pytest.raises(ValueError, match=r"segms must be of shape \(\*, 2, 3\), got \(5, 3, 3\)"):
        module.point_edge_distance(points, zero, torch.rand(5, 3, 3), zero, 4)


def test_names():
    for name in ("point_mesh_face_distance", "point_mesh_edge_distance"):
        assert getattr(recon_engine.loss, name) is getattr(module, name)
    assert module._DEFAULT_MIN_TRIANGLE_AREA == 5e-3
    points, zero = torch.rand(4, 3), torch.tensor([0])
    corners = {"face": torch.rand(5, 3, 3), "edge": torch.rand(5, 2, 3)}
    for first, second in (("point", "face"), ("face", "point"), ("point", "edge"), ("edge", "point")):
        arguments = points, zero, corners["face" if "face" in (first, second) else "edge"], zero, 5
        function = getattr(module, f"{first}_{second}_distance")
        applied = getattr(module, f"_{first.title()}{second.title()}Distance").apply
        assert (applied(*arguments) == function(*arguments)).all()
