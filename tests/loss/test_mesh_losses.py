from __future__ import annotations

import itertools

import pytest
import torch

from recon_engine._op import reference
from recon_engine.loss import _plan, mesh_edge_loss, mesh_laplacian_smoothing, mesh_normal_consistency
from recon_engine.loss._plan import plan_of
from recon_engine.ops import cot_laplacian
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere

LOSSES = {
    "edge": lambda m: mesh_edge_loss(m, 0.2),
    "uniform": mesh_laplacian_smoothing,
    "cot": lambda m: mesh_laplacian_smoothing(m, "cot"),
    "cotcurv": lambda m: mesh_laplacian_smoothing(m, "cotcurv"),
    "cot with weights": lambda m: mesh_laplacian_smoothing(m, "cot", differentiate_weights=True),
    "cotcurv with weights": lambda m: mesh_laplacian_smoothing(m, "cotcurv", differentiate_weights=True),
    "normal": mesh_normal_consistency,
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def _meshes(dtype, device, levels=(2, 0, 1)):
    spheres = [ico_sphere(level, device) for level in levels]
    verts = [s.verts_packed().to(dtype) for s in spheres]
    faces = [s.faces_packed() for s in spheres]
    # A fin on one edge, a face that runs the other way round, a vertex without faces.
    faces[1] = torch.cat([faces[1][1:], faces[1][:1].flip(1), torch.tensor([[0, 1, 12]], device=device)])
    verts[1] = torch.cat([verts[1], verts[1].new_tensor([[2.0, 0, 0], [3, 3, 3]])])
    return Meshes([v + 0.1 * torch.randn_like(v) for v in verts], faces)


def _value_and_grad(loss, meshes):
    offset = torch.zeros_like(meshes.verts_packed()).requires_grad_()
    value = loss(meshes.offset_verts(offset))
    return value.detach(), torch.autograd.grad(value, offset)[0]


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference(name, dtype, device):
    meshes = _meshes(dtype, device)
    actual = _value_and_grad(LOSSES[name], meshes)
    with reference():
        expected = _value_and_grad(LOSSES[name], meshes)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(actual, expected, **tolerance)
    assert actual[0].dtype == dtype


@pytest.mark.parametrize("name", ["edge", "uniform", "normal", "cot with weights", "cotcurv with weights"])
def test_gradcheck(name, device):
    meshes = _meshes(torch.float64, device, levels=(0, 0))
    offset = torch.zeros_like(meshes.verts_packed()).requires_grad_()
    assert torch.autograd.gradcheck(lambda o: LOSSES[name](meshes.offset_verts(o)), offset)


@pytest.mark.parametrize("method", ["cot", "cotcurv"])
def test_gradcheck_with_constant_weights(method, device):
    meshes = _meshes(torch.float64, device, levels=(0, 0))
    verts, faces = meshes.verts_packed(), meshes.faces_packed()
    L, inv_areas = cot_laplacian(verts, faces)
    total = L.to_dense().sum(1, keepdim=True)
    matrix = (L.to_dense() - torch.diag(total[:, 0])) * 0.25 * inv_areas
    if method == "cot":
        scale = torch.where(total > 0, 1 / total, total)
        matrix = L.to_dense() * scale - torch.eye(len(verts)).to(verts)
    counts = meshes.num_verts_per_mesh()[meshes.verts_packed_to_mesh_idx()]
    offset = torch.zeros_like(verts).requires_grad_()
    expected = ((matrix @ (verts + offset)).norm(dim=1) / counts).sum() / len(meshes)
    value, grad = _value_and_grad(LOSSES[method], meshes)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(grad, torch.autograd.grad(expected, offset)[0])


@pytest.mark.parametrize("method", ["cot", "cotcurv"])
def test_weights_change_the_gradient_only(method, device):
    meshes = _meshes(torch.float64, device)
    constant, full = (_value_and_grad(LOSSES[name], meshes) for name in (method, f"{method} with weights"))
    assert constant[0] == full[0]
    assert (constant[1] - full[1]).abs().max() > 0.01 * full[1].abs().max()


def test_gradient_through_weights_is_that_of_the_size(device):
    """The cotangents do not change with the size of a mesh, the curvature does: derivatives along the vertices."""
    meshes = _meshes(torch.float64, device, levels=(2, 0))
    for name, power in (("cot with weights", 1), ("cotcurv with weights", -1)):
        value, grad = _value_and_grad(LOSSES[name], meshes)
        torch.testing.assert_close((grad * meshes.verts_packed()).sum(), power * value)


@every_loss
def test_each_mesh_counts_the_same(name, device):
    meshes = _meshes(torch.float64, device)
    alone = [LOSSES[name](meshes[i]) for i in range(len(meshes))]
    torch.testing.assert_close(LOSSES[name](meshes), torch.stack(alone).mean())


def test_known_values(device):
    verts = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], device=device)
    right_angle = Meshes([verts], [torch.tensor([[0, 1, 2], [1, 0, 3]], device=device)])
    assert mesh_normal_consistency(right_angle) == 1
    flat = Meshes([verts * torch.tensor([1.0, 1, 0], device=device)], [torch.tensor([[0, 1, 2]], device=device)])
    torch.testing.assert_close(mesh_edge_loss(flat, 1.0).item(), (2**0.5 - 1) ** 2 / 3)
    folded = verts.clone()
    folded[3] = folded[2]
    assert mesh_normal_consistency(Meshes([folded], right_angle.faces_list())) == 2


def test_orientation_of_faces_does_not_matter(device):
    meshes = _meshes(torch.float64, device, levels=(1, 1))
    faces = [f.clone() for f in meshes.faces_list()]
    faces[0][::2] = faces[0][::2].flip(1)
    turned = Meshes(meshes.verts_list(), faces)
    torch.testing.assert_close(mesh_normal_consistency(turned), mesh_normal_consistency(meshes))


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_meshes_have_finite_gradients(name, dtype, device):
    verts = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1e-20, 0]], dtype=dtype, device=device)
    faces = torch.tensor([[0, 1, 2], [1, 0, 3], [3, 0, 2], [2, 2, 1], [0, 1, 4]], device=device)
    for scale in (1, 0, 1e-12):
        value, grad = _value_and_grad(LOSSES[name], Meshes([verts * scale], [faces]))
        assert value.isfinite()
        assert grad.isfinite().all()


@every_loss
def test_nan_stays_visible(name, device):
    meshes = _meshes(torch.float32, device, levels=(1, 0))
    verts = meshes.verts_packed().clone()
    verts[3] = float("nan")
    assert LOSSES[name](meshes.update_padded(meshes.verts_padded() * float("nan"))).isnan()
    value, grad = _value_and_grad(LOSSES[name], meshes.offset_verts(verts - meshes.verts_packed()))
    assert value.isnan()
    assert grad[len(meshes.verts_list()[0]) :].isfinite().all()


@every_loss
def test_empty(name, device):
    no_verts, no_faces = torch.zeros(0, 3, device=device), torch.zeros(0, 3, dtype=torch.int64, device=device)
    for meshes in (Meshes([], []), Meshes([no_verts], [no_faces])):
        value = LOSSES[name](meshes)
        assert value.shape == (1,)
        assert value.item() == 0
        value.backward()
    sphere = ico_sphere(1, device)
    with_empty = Meshes([no_verts, sphere.verts_packed()], [no_faces, sphere.faces_packed()])
    torch.testing.assert_close(LOSSES[name](with_empty), LOSSES[name](sphere) / 2)


def test_no_faces_share_an_edge(device):
    value = mesh_normal_consistency(
        Meshes([torch.randn(3, 3, device=device)], [torch.tensor([[0, 1, 2]], device=device)])
    )
    assert value.shape == (1,)
    assert value.item() == 0


def test_unknown_method(device):
    with pytest.raises(ValueError, match=r"Method should be one of \{uniform, cot, cotcurv\}, got 'cotan'"):
        mesh_laplacian_smoothing(ico_sphere(0, device), "cotan")


@every_loss
def test_without_gradients(name, device):
    meshes = _meshes(torch.float32, device)
    offset = torch.zeros_like(meshes.verts_packed()).requires_grad_()
    with torch.no_grad():
        plain = LOSSES[name](meshes.offset_verts(offset))
    assert not plain.requires_grad
    assert plain == _value_and_grad(LOSSES[name], meshes)[0]


@every_loss
def test_repeatable_for_every_number_of_threads(name):
    meshes = _meshes(torch.float32, "cpu", levels=(5, 0))
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(_value_and_grad(LOSSES[name], meshes))
    torch.set_num_threads(before)
    assert all((a == b).all() for other in results[1:] for a, b in zip(results[0], other))


def test_faces_across_an_edge(monkeypatch, device):
    """Whether found by the kernel of the CPU or by sorting, which is what a GPU does."""
    meshes = _meshes(torch.float32, device, levels=(2, 1))
    faces = torch.cat(
        [meshes.faces_list()[0], torch.tensor([[0, 1, 1], [5, 5, 5], [0, 1, 2], [2, 1, 0]], device=device)]
    )
    results = []
    for kernels in (True, False):
        if not kernels:
            monkeypatch.setattr(_plan, "kernels_for", lambda like: None)
        topology = Meshes([meshes.verts_list()[0]], [faces.clone()]).topology()
        offsets, entries = plan_of(topology).across(topology)
        pairs = [sorted(entries[a:b].tolist()) for a, b in itertools.pairwise(offsets.tolist())]
        results.append([[entry // 2 for entry in row] for row in pairs[:-4]] + [pairs[:320]])
        assert plan_of(topology).weights("pairs", topology, torch.float64) == 2 / len(entries)
    assert results[0] == results[1]


def test_faces_across_the_edges_of_a_closed_surface(monkeypatch, device):
    """Every edge has two faces, some of which are turned around."""
    sphere = _meshes(torch.float32, device, levels=(2, 1))
    faces = sphere.faces_list()[0].clone()
    faces[::3] = faces[::3].flip(1)
    results = []
    for kernels in (True, False):
        if not kernels:
            monkeypatch.setattr(_plan, "kernels_for", lambda like: None)
        topology = Meshes([sphere.verts_list()[0]], [faces.clone()]).topology()
        offsets, entries = plan_of(topology).across(topology)
        assert torch.equal(offsets, 3 * torch.arange(len(faces) + 1, device=device))
        results.append(entries.view(-1, 3).sort(1).values)
    assert torch.equal(*results)
    assert 0.2 < (results[0] % 2).double().mean() < 0.8


def test_topology_is_looked_at_once(device):
    sphere = ico_sphere(1, device)
    offset = torch.zeros_like(sphere.verts_packed())
    assert plan_of(sphere.offset_verts(offset).topology()) is plan_of(sphere.topology())
    mesh_normal_consistency(sphere)
    across = plan_of(sphere.topology()).across(sphere.topology())
    assert plan_of(sphere.offset_verts(offset).topology()).across(sphere.topology()) is across
