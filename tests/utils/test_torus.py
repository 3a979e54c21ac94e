from __future__ import annotations

import pytest
import torch

from recon_engine.utils import torus


def test_lies_on_the_torus(device):
    mesh = torus(r=0.5, R=2.0, sides=7, rings=11, device=device)
    x, y, z = mesh.verts_packed().unbind(-1)
    assert x.device.type == device.type
    torch.testing.assert_close(((x * x + y * y).sqrt() - 2.0) ** 2 + z * z, torch.full_like(x, 0.25))


def test_is_closed_with_one_hole_and_points_outwards():
    mesh = torus(r=0.5, R=2.0, sides=7, rings=11)
    verts, faces = mesh.verts_packed(), mesh.faces_packed()
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    assert torch.equal(torch.unique(edges, dim=0), torch.unique(edges.flip(1), dim=0))
    assert len(verts) - len(edges) // 2 + len(faces) == 0  # Euler characteristic of a torus
    # Signed volume by the divergence theorem: near 2 pi^2 R r^2 and positive.
    volume = torch.linalg.det(verts[faces]).sum() / 6
    assert 0.7 < volume / (2 * torch.pi**2 * 2.0 * 0.25) < 1.0


@pytest.mark.parametrize(("sides", "rings", "name"), [(0, 3, "sides"), (3, -1, "rings")])
def test_bad_counts(sides, rings, name):
    with pytest.raises(ValueError, match=f"torus: {name} must be > 0, got"):
        torus(1.0, 2.0, sides, rings)


@pytest.mark.parametrize("args", [(1, 3, 5, 7), (0.25, 0.5, 1, 1), (0.3, 2.0, 2, 9)])
def test_equals_pytorch3d(args):
    p3d = pytest.importorskip("pytorch3d.utils")
    expected, mesh = p3d.torus(*args), torus(*args)
    assert torch.equal(mesh.verts_packed(), expected.verts_packed())
    assert torch.equal(mesh.faces_packed(), expected.faces_packed())
