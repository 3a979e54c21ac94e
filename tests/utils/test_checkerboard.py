from __future__ import annotations

import pytest
import torch

from recon_engine.utils import checkerboard

pytest.importorskip("recon_engine.renderer.mesh.textures")


def test_colours_alternate(device):
    mesh = checkerboard(2, color1=(0.1, 0.2, 0.3), color2=(0.9, 0.8, 0.7), device=device)
    assert mesh.device.type == device.type
    colors = mesh.textures.atlas_packed()[:, 0, 0]
    centres = mesh.verts_packed()[mesh.faces_packed()].mean(dim=1)
    is_first = (centres[:, :2].floor().sum(dim=1) % 2 == 0)[:, None]
    first, second = (torch.tensor(c, device=device) for c in [(0.1, 0.2, 0.3), (0.9, 0.8, 0.7)])
    torch.testing.assert_close(colors, torch.where(is_first, first, second))


def test_covers_the_square_once():
    mesh = checkerboard(3)
    a, b, c = mesh.verts_packed()[mesh.faces_packed()].unbind(1)
    normals = torch.linalg.cross(b - a, c - a)
    torch.testing.assert_close(normals, torch.tensor([0.0, 0.0, 1.0]).expand(72, 3))
    assert len(torch.unique(torch.cat([a, b, c], dim=1), dim=0)) == 72


def test_bad_arguments():
    with pytest.raises(ValueError, match="checkerboard: radius must be >= 1, got 0"):
        checkerboard(0)
    with pytest.raises(ValueError, match="same length, got 3 and 1"):
        checkerboard(1, color2=(1.0,))


def test_equals_pytorch3d():
    p3d = pytest.importorskip("pytorch3d.utils")
    for radius in (1, 4):
        expected, mesh = p3d.checkerboard(radius, color2=(1.0, 0.5, 0.0)), checkerboard(radius, color2=(1.0, 0.5, 0.0))
        assert torch.equal(mesh.verts_packed(), expected.verts_packed())
        assert torch.equal(mesh.faces_packed(), expected.faces_packed())
        assert torch.equal(mesh.textures.atlas_padded(), expected.textures.atlas_padded())
