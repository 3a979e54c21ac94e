"""Meshes that no algorithm likes: borders, fins, faces that come twice or have no area, vertices alone, nothing."""

from __future__ import annotations

import pytest
import torch

from recon_engine._op import reference
from recon_engine.loss import mesh_edge_loss, mesh_laplacian_smoothing, mesh_normal_consistency
from recon_engine.ops import SubdivideMeshes, cot_laplacian, laplacian, sample_points_from_meshes, taubin_smoothing
from recon_engine.ops.graph_conv import gather_scatter
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere

LOSSES = {
    "edge": mesh_edge_loss,
    "uniform": mesh_laplacian_smoothing,
    "cot": lambda m: mesh_laplacian_smoothing(m, "cot"),
    "cotcurv": lambda m: mesh_laplacian_smoothing(m, "cotcurv", differentiate_weights=True),
    "normal": mesh_normal_consistency,
}


def _batch(device, dtype=torch.float64):
    """An open fan with a fin, a sphere with a face twice and one turned around, a needle, no faces, nothing."""
    generator = torch.Generator().manual_seed(0)
    sphere = ico_sphere(1)
    fan = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 2, 5], [2, 0, 6]])
    double = torch.cat([sphere.faces_packed(), sphere.faces_packed()[:1], sphere.faces_packed()[1:2].flip(1)])
    needle = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0.5, 1e-9, 0]], dtype=torch.float64)
    verts = [
        torch.randn(8, 3, generator=generator, dtype=torch.float64),  # the last is in no face
        sphere.verts_packed().double(),
        torch.cat([needle, needle + 1]),
        torch.randn(3, 3, generator=generator, dtype=torch.float64),
        torch.zeros(0, 3, dtype=torch.float64),
    ]
    none = torch.zeros(0, 3, dtype=torch.int64)
    faces = [fan, double, torch.tensor([[0, 1, 2], [3, 4, 5], [3, 4, 4]]), none, none]
    return Meshes([v.to(device, dtype) for v in verts], [f.to(device) for f in faces])


def _areas(meshes):
    a, b, c = meshes.verts_packed()[meshes.faces_packed()].unbind(1)
    areas = torch.linalg.cross(b - a, c - a).norm(dim=1) / 2
    return areas.new_zeros(len(meshes)).index_add(0, meshes.faces_packed_to_mesh_idx(), areas)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses(name, dtype, device):
    meshes = _batch(device, dtype)
    results = []
    for _ in range(2):
        offset = torch.zeros_like(meshes.verts_packed()).requires_grad_()
        value = LOSSES[name](meshes.offset_verts(offset))
        results.append((value.detach(), *torch.autograd.grad(value, offset)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert all(t.isfinite().all() for t in results[0])
    if dtype == torch.float64:  # in float32 the needles are decided by rounding
        with reference():
            expected = LOSSES[name](meshes)
        torch.testing.assert_close(results[0][0], expected)


def test_subdivision(device):
    meshes = _batch(device)
    split = SubdivideMeshes()(meshes)
    assert split.num_faces_per_mesh().tolist() == [4 * n for n in meshes.num_faces_per_mesh().tolist()]
    new = meshes.num_verts_per_mesh() + meshes.num_edges_per_mesh()
    assert split.num_verts_per_mesh().tolist() == new.tolist()
    torch.testing.assert_close(_areas(split), _areas(meshes))


def test_samples(device):
    meshes = _batch(device)
    samples, normals = sample_points_from_meshes(meshes, 200, return_normals=True)
    assert (samples[3:] == 0).all()
    torch.testing.assert_close(normals[:3].norm(dim=2), samples.new_ones(3, 200))
    # The turned faces of the sphere lie on it as well.
    assert (samples[1].norm(dim=1) <= 1 + 1e-12).all()
    assert (samples[1].norm(dim=1) > 0.8).all()


def test_smoothing(device):
    meshes = _batch(device)
    smooth = taubin_smoothing(meshes, num_iter=4)
    assert smooth.verts_packed().isfinite().all()
    assert torch.equal(smooth.verts_list()[0][7], meshes.verts_list()[0][7])
    assert torch.equal(smooth.verts_list()[3], meshes.verts_list()[3])
    for a, b in zip(smooth.faces_list(), meshes.faces_list(), strict=True):
        assert torch.equal(a, b)


def test_laplacians(device):
    meshes = _batch(device)
    verts, faces, edges = meshes.verts_packed(), meshes.faces_packed(), meshes.edges_packed()
    L, inv_areas = cot_laplacian(verts, faces)
    assert inv_areas.isfinite().all()
    torch.testing.assert_close(L.to_dense(), L.to_dense().T)
    uniform = laplacian(verts, edges).to_dense()
    joined = torch.isin(torch.arange(len(verts), device=device), edges)
    torch.testing.assert_close(uniform.sum(1)[joined], torch.zeros_like(uniform[0])[joined])
    counts = gather_scatter(torch.ones_like(verts[:, :1]), edges)
    assert (counts.flatten() == meshes.topology().vert_degrees).all()
