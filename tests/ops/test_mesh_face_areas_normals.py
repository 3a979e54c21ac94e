from __future__ import annotations

import pytest
import torch

from recon_engine.ops import mesh_face_areas_normals
from recon_engine.testing import assert_matches_reference
from recon_engine.utils import ico_sphere


def _mesh(level, dtype, device):
    sphere = ico_sphere(level, device)
    verts = sphere.verts_packed().to(dtype)
    return verts + 0.1 * torch.randn_like(verts), sphere.faces_packed()


@pytest.mark.parametrize("level", [0, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference(level, dtype, device):
    verts, faces = _mesh(level, dtype, device)
    tolerance = {"rtol": 1e-3, "atol": 2e-3} if dtype == torch.float32 else {"rtol": 1e-6, "atol": 1e-9}
    assert_matches_reference(lambda v: mesh_face_areas_normals(v, faces), verts, **tolerance)


def test_gradcheck(device):
    """Also through the normals, whose gradient in z is wrong in PyTorch3D."""
    verts, faces = _mesh(0, torch.float64, device)
    assert torch.autograd.gradcheck(lambda v: mesh_face_areas_normals(v, faces), verts.requires_grad_())


def test_known_triangle(device):
    verts = torch.tensor([[0.0, 0, 0], [2, 0, 0], [0, 3, 0]], device=device)
    areas, normals = mesh_face_areas_normals(verts, torch.tensor([[0, 1, 2], [0, 2, 1]], device=device))
    assert areas.tolist() == [3, 3]
    assert normals.tolist() == [[0, 0, 1], [0, 0, -1]]


def test_degenerate_faces_have_finite_gradients(device):
    verts = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [1e-9, 1e-9, 0]], device=device, requires_grad=True)
    faces = torch.tensor([[0, 1, 2], [1, 1, 1], [0, 1, 3]], device=device)
    areas, normals = mesh_face_areas_normals(verts, faces)
    assert areas[:2].tolist() == [0, 0]
    assert (normals[:2] == 0).all()
    (grad,) = torch.autograd.grad(areas.sum() + normals.sum(), verts)
    assert grad.isfinite().all()


def test_empty(device):
    verts, faces = torch.randn(4, 3, device=device), torch.zeros(0, 3, dtype=torch.int64, device=device)
    areas, normals = mesh_face_areas_normals(verts.requires_grad_(), faces)
    assert areas.shape == (0,)
    assert normals.shape == (0, 3)
    assert (torch.autograd.grad(areas.sum() + normals.sum(), verts)[0] == 0).all()
    assert mesh_face_areas_normals(verts[:0], faces)[0].shape == (0,)


def test_noncontiguous(device):
    verts, faces = _mesh(1, torch.float32, device)
    strided = mesh_face_areas_normals(verts.t().contiguous().t(), faces.t().contiguous().t())
    torch.testing.assert_close(strided, mesh_face_areas_normals(verts, faces), rtol=0, atol=0)


def test_repeatable_for_every_number_of_threads():
    verts, faces = _mesh(5, torch.float32, "cpu")
    before = torch.get_num_threads()
    grads = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        leaf = verts.clone().requires_grad_()
        areas, normals = mesh_face_areas_normals(leaf, faces)
        grads.append(torch.autograd.grad(areas.sum() + normals[:, 0].sum(), leaf)[0])
    torch.set_num_threads(before)
    assert (grads[0] == grads[1]).all()
    assert (grads[0] == grads[2]).all()


@pytest.mark.parametrize("index", [-1, 3, 2**40])
def test_index_that_is_no_vertex(index):
    faces = torch.tensor([[0, 1, 2], [0, index, 2]])
    with pytest.raises(ValueError, match=rf"faces has index {index} in row 1 but there are 3 vertices"):
        mesh_face_areas_normals(torch.zeros(3, 3), faces)


def test_bad_input(device):
    verts, faces = torch.zeros(4, 3, device=device), torch.zeros(2, 3, dtype=torch.int64, device=device)
    with pytest.raises(ValueError, match="verts need to be of shape Vx3"):
        mesh_face_areas_normals(verts[None], faces)
    with pytest.raises(ValueError, match="faces need to be of shape Fx3"):
        mesh_face_areas_normals(verts, faces[:, :2])
    with pytest.raises(ValueError, match=r"faces need to be of type torch\.int64"):
        mesh_face_areas_normals(verts, faces.int())
