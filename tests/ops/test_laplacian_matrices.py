from __future__ import annotations

import pytest
import torch

from recon_engine.ops import cot_laplacian, laplacian, norm_laplacian, taubin_smoothing
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere


@pytest.fixture
def mesh(device):
    sphere = ico_sphere(1, device)
    verts = sphere.verts_packed().double()
    return Meshes([verts + 0.05 * torch.randn_like(verts)], [sphere.faces_packed()])


def test_uniform(mesh):
    verts, edges = mesh.verts_packed(), mesh.edges_packed()
    L = laplacian(verts, edges).to_dense()
    adjacency = torch.zeros_like(L)
    adjacency[edges[:, 0], edges[:, 1]] = adjacency[edges[:, 1], edges[:, 0]] = 1
    torch.testing.assert_close(L, adjacency / adjacency.sum(1, keepdim=True) - torch.eye(len(L)).to(L))
    torch.testing.assert_close(L, mesh.laplacian_packed().to_dense())


def test_cotangents_of_angles(mesh):
    verts, faces = mesh.verts_packed(), mesh.faces_packed()
    L, inv_areas = cot_laplacian(verts, faces)
    expected, areas = torch.zeros_like(L.to_dense()), verts.new_zeros(len(verts))
    for face in faces.tolist():
        for k in range(3):
            i, j, o = face[(k + 1) % 3], face[(k + 2) % 3], face[k]
            a, b = verts[i] - verts[o], verts[j] - verts[o]
            cross = torch.linalg.cross(a, b).norm()
            expected[i, j] += a @ b / cross
            expected[j, i] += a @ b / cross
            areas[o] += cross / 2
    torch.testing.assert_close(L.to_dense(), expected)
    torch.testing.assert_close(inv_areas, 1 / areas[:, None])


def test_inverse_lengths(mesh):
    verts, edges = mesh.verts_packed(), mesh.edges_packed()
    L = norm_laplacian(verts, edges).to_dense()
    lengths = torch.cdist(verts, verts)
    expected = torch.zeros_like(L)
    expected[edges[:, 0], edges[:, 1]] = 1 / lengths[edges[:, 0], edges[:, 1]]
    torch.testing.assert_close(L, expected + expected.T)


def test_vertices_without_faces(device):
    verts = torch.randn(4, 3, device=device)
    faces, edges = torch.tensor([[0, 1, 2]], device=device), torch.tensor([[0, 1], [0, 2], [1, 2]], device=device)
    assert cot_laplacian(verts, faces)[1][3] == 0
    assert laplacian(verts, edges).to_dense()[3].tolist() == [0, 0, 0, -1]
    assert (norm_laplacian(verts, edges).to_dense()[3] == 0).all()


def test_gradients(mesh):
    verts, faces, edges = mesh.verts_packed().clone().requires_grad_(), mesh.faces_packed()[:4], mesh.edges_packed()[:5]
    assert torch.autograd.gradcheck(lambda v: cot_laplacian(v, faces)[0].to_dense(), verts)
    assert torch.autograd.gradcheck(lambda v: norm_laplacian(v, edges).to_dense(), verts)


def test_taubin_smooths_without_shrinking(mesh):
    smooth = taubin_smoothing(mesh, num_iter=20)
    roughness = [(m.laplacian_packed() @ m.verts_packed()).norm(dim=1).std() for m in (mesh, smooth)]
    assert roughness[1] < 0.7 * roughness[0]
    plain = taubin_smoothing(mesh, mu=0, num_iter=20)
    before, after, shrunk = (m.verts_packed().norm(dim=1).mean() for m in (mesh, smooth, plain))
    assert before - after < 0.3 * (before - shrunk)
    assert (smooth.faces_packed() == mesh.faces_packed()).all()


def test_taubin_keeps_vertices_without_edges(device):
    verts = torch.randn(4, 3, device=device)
    smooth = taubin_smoothing(Meshes([verts], [torch.tensor([[0, 1, 2]], device=device)]), num_iter=3)
    assert (smooth.verts_packed()[3] == verts[3]).all()
    assert smooth.verts_packed().isfinite().all()
