from __future__ import annotations

import time

import pytest
import torch

from recon_engine.utils import ico_sphere


@pytest.mark.parametrize("level", [0, 1, 2, 3, 5])
def test_is_a_closed_sphere(level, device):
    mesh = ico_sphere(level, device)
    verts, faces = mesh.verts_packed(), mesh.faces_packed()
    assert verts.device.type == device.type
    assert verts.dtype == torch.float32
    assert faces.dtype == torch.int64
    assert verts.shape == (10 * 4**level + 2, 3)
    assert faces.shape == (20 * 4**level, 3)
    torch.testing.assert_close(verts.norm(dim=1), torch.ones(len(verts), device=device), rtol=0, atol=5e-5)
    # Closed: V - E + F = 2 and every directed edge has its reverse once. Oriented: each normal points outwards.
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    assert len(torch.unique(edges, dim=0)) == len(edges)
    assert torch.equal(torch.unique(edges, dim=0), torch.unique(edges.flip(1), dim=0))
    a, b, c = verts[faces].unbind(1)
    assert (torch.linalg.cross(b - a, c - a) * (a + b + c)).sum(-1).min() > 0


def test_calls_do_not_share_memory():
    first = ico_sphere(2)
    first.verts_packed().zero_()
    assert ico_sphere(2).verts_packed().abs().max() > 0.9


def test_works_without_gradients_and_inside_inference_mode():
    with torch.inference_mode():
        ico_sphere(1)
    verts = ico_sphere(1).verts_packed().requires_grad_()
    (verts * verts).sum().backward()
    torch.testing.assert_close(verts.grad, 2 * verts.detach())


def test_level_6_is_fast():
    ico_sphere(6)
    start = time.perf_counter()
    ico_sphere(6)
    assert time.perf_counter() - start < 0.1


@pytest.mark.parametrize("level", [-1, 13])
def test_bad_level(level):
    with pytest.raises(ValueError, match=rf"ico_sphere: level must be .* got {level}"):
        ico_sphere(level)


def test_level_of_wrong_type():
    with pytest.raises(TypeError, match="ico_sphere: level must be an int, got float"):
        ico_sphere(1.5)


@pytest.mark.parametrize("level", [0, 1, 4])
def test_equals_pytorch3d(level):
    p3d = pytest.importorskip("pytorch3d.utils")
    expected, mesh = p3d.ico_sphere(level), ico_sphere(level)
    assert torch.equal(mesh.verts_packed(), expected.verts_packed())
    assert torch.equal(mesh.faces_packed(), expected.faces_packed())
