from __future__ import annotations

import pytest
import torch

from recon_engine.ops._surface_points import surface_points
from recon_engine.ops.sample_points_from_meshes import sample_points_from_meshes
from recon_engine.structures import Meshes
from recon_engine.testing import assert_matches_reference
from recon_engine.utils import ico_sphere


def _square(device, dtype=torch.float32):
    verts = torch.tensor([[0.0, 0, 1], [2, 0, 1], [0, 2, 1], [2, 2, 1]], dtype=dtype, device=device)
    return verts, torch.tensor([[0, 1, 2], [2, 1, 3]], device=device)


def _empty(device, dtype=torch.float32):
    return torch.zeros(0, 3, dtype=dtype, device=device), torch.zeros(0, 3, dtype=torch.int64, device=device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_lie_on_their_faces(dtype, device):
    verts, faces = _square(device, dtype)
    samples, normals = sample_points_from_meshes(Meshes([verts], [faces]), 4000, return_normals=True)
    assert samples.shape == normals.shape == (1, 4000, 3)
    assert samples.dtype == normals.dtype == dtype
    torch.testing.assert_close(samples[..., 2], torch.ones_like(samples[..., 2]))
    assert ((samples[..., :2] >= 0) & (samples[..., :2] <= 2)).all()
    assert (normals == torch.tensor([0.0, 0, 1], dtype=dtype, device=device)).all()
    torch.testing.assert_close(samples[0].mean(0)[:2], verts.new_ones(2), rtol=0, atol=0.1)
    torch.testing.assert_close(samples[0].var(0)[:2], verts.new_full((2,), 1 / 3), rtol=0, atol=0.05)


def test_faces_are_chosen_by_their_area(device):
    verts = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 0, 0], [8, 0, 0], [5, 1, 0]], device=device)
    mesh = Meshes([verts], [torch.tensor([[0, 1, 2], [3, 4, 5], [1, 1, 2]], device=device)])
    samples = sample_points_from_meshes(mesh, 8000)
    assert abs((samples[..., 0] > 2).float().mean() - 0.75) < 0.03


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
def test_empty_meshes_have_rows_of_zeros(order, device):
    parts = [
        _square(device),
        _empty(device),
        (ico_sphere(1, device).verts_list()[0], ico_sphere(1, device).faces_list()[0]),
    ]
    meshes = Meshes([parts[i][0] for i in order], [parts[i][1] for i in order])
    samples, normals = sample_points_from_meshes(meshes, 50, return_normals=True)
    for row, part in enumerate(order):
        assert ((samples[row] == 0).all() and (normals[row] == 0).all()) == (part == 1)


def test_gradient_reaches_the_vertices(device):
    sphere = ico_sphere(2, device)
    offset = torch.zeros_like(sphere.verts_packed()).requires_grad_()
    samples, normals = sample_points_from_meshes(sphere.offset_verts(offset), 300, return_normals=True)
    (grad,) = torch.autograd.grad(samples.sum(), offset, retain_graph=True)
    # Barycentric coordinates sum to 1, so that the points share out the gradient that they get.
    torch.testing.assert_close(grad.sum(0), torch.full((3,), 300.0, device=device))
    assert torch.autograd.grad(normals.square()[..., 0].sum(), offset)[0].abs().sum() > 0


def test_more_faces_than_multinomial_takes(monkeypatch, device):
    import sys

    module = sys.modules["recon_engine.ops.sample_points_from_meshes"]
    verts = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 0, 0], [8, 0, 0], [5, 1, 0]], device=device)
    meshes = Meshes([verts, verts], [torch.tensor([[1, 1, 2], [0, 1, 2], [3, 4, 5], [2, 2, 2]], device=device)] * 2)
    monkeypatch.setattr(module, "_MAX_CATEGORIES", 3)
    samples = sample_points_from_meshes(meshes, 8000)
    assert ((samples[..., 0] > 2).float().mean(1) - 0.75).abs().max() < 0.03
    assert ((samples[..., :2].sum(-1) <= 1) | (samples[..., 0] >= 5)).all()


def test_bad_input(device):
    verts, faces = _square(device)
    with pytest.raises(ValueError, match="Meshes are empty"):
        sample_points_from_meshes(Meshes(*[[part] for part in _empty(device)]))
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="Meshes contain nan or inf"):
            sample_points_from_meshes(Meshes([verts * bad], [faces]))
    with pytest.raises(ValueError, match="Meshes do not contain textures"):
        sample_points_from_meshes(Meshes([verts], [faces]), return_textures=True)


def test_mesh_without_area():
    verts, faces = _square("cpu")
    with pytest.raises(ValueError, match="every mesh needs a face with an area > 0, mesh 1"):
        sample_points_from_meshes(Meshes([verts, verts * 0], [faces, faces]))


def test_textures_of_vertices(device):
    textures = pytest.importorskip("recon_engine.renderer").TexturesVertex
    parts = [_square(device), _empty(device)]
    for order in ((0,), (0, 1), (1, 0)):
        verts, faces = [parts[i][0] for i in order], [parts[i][1] for i in order]
        meshes = Meshes(verts, faces, textures(verts))
        samples, colors = sample_points_from_meshes(meshes, 20, return_textures=True)
        torch.testing.assert_close(samples, colors)
        both = sample_points_from_meshes(meshes, 20, return_normals=True, return_textures=True)
        assert [t.shape for t in both] == [(len(order), 20, 3)] * 3


def test_surface_points(device):
    sphere = ico_sphere(4, device)
    verts, faces = sphere.verts_packed().double(), sphere.faces_packed()
    face_idx, bary = torch.randint(len(faces), (30000,), device=device), torch.rand(30000, 3, device=device).double()
    assert_matches_reference(lambda v, b: surface_points(v, faces, face_idx, b), verts, bary)
    some = bary[:9].requires_grad_()
    assert torch.autograd.gradcheck(lambda b: surface_points(verts, faces, face_idx[:9], b), some)
    assert surface_points(verts, faces, face_idx[:0], bary[:0]).shape == (0, 3)


def test_surface_points_of_no_face():
    verts, faces = _square("cpu")
    bary = torch.ones(1, 3)
    for index in (-1, 2):
        with pytest.raises(ValueError, match=rf"face_idx\[0\] is {index}, which is not one of 2 faces"):
            surface_points(verts, faces, torch.tensor([index]), bary)
    with pytest.raises(ValueError, match="corners among 3 vertices"):
        surface_points(verts[:3], faces, torch.tensor([1]), bary)
