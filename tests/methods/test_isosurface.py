from __future__ import annotations

import pytest
import torch

from recon_engine.methods._isosurface import surface_of
from recon_engine.structures import Volumes

pytest.importorskip("recon_engine._C")


def ball(radius: float, opaque: float = 0.9, points: int = 40) -> tuple[Volumes, torch.Tensor]:
    """A ball whose colour is that of its side, in a grid from -1 to 1; and the places of the grid's points."""
    axis = torch.linspace(-1, 1, points)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    places = torch.stack([x, y, z])
    inside = (radius - places.norm(dim=0)) * points / 2  # in voxels
    densities = opaque * (inside + 0.5).clamp(0, 1)
    return Volumes(densities[None, None], (places[None] > 0).float(), voxel_size=2 / (points - 1)), places


def test_a_ball_has_its_radius_and_its_colours():
    volumes, _ = ball(0.6)
    mesh = surface_of(volumes, step=0.05)
    verts = mesh.verts_packed()
    torch.testing.assert_close(verts.norm(dim=1), torch.full((len(verts),), 0.6), rtol=0, atol=0.03)
    assert (mesh.verts_normals_packed() * verts).sum(1).min() > 0.5  # faces look outwards
    away = (verts.abs() > 0.15).all(1)
    colors = mesh.textures.verts_features_packed()
    torch.testing.assert_close(colors[away], (verts[away] > 0).float(), rtol=0, atol=1e-4)


def test_what_reaches_the_border_is_closed():
    trimesh = pytest.importorskip("trimesh")
    mesh = surface_of(ball(2.0)[0], step=0.05)
    solid = trimesh.Trimesh(mesh.verts_packed().numpy(), mesh.faces_packed().numpy(), process=False)
    assert solid.is_watertight
    assert solid.volume == pytest.approx(8, rel=0.2)


def test_small_parts_are_left_out():
    volumes, places = ball(0.5)
    apart = (places - 0.9).norm(dim=0) < 0.1
    densities = volumes.densities() + apart.float()
    mesh = surface_of(Volumes(densities, volumes.features(), voxel_size=2 / 39), step=0.05)
    assert float(mesh.verts_packed().max()) < 0.6


def test_thin_air_has_no_surface():
    assert surface_of(ball(0.6, opaque=0.01)[0], step=0.05) is None
    # The same density between samples that are near each other absorbs more on the same way.
    assert surface_of(ball(0.6, opaque=0.1)[0], step=0.05) is None
    assert surface_of(ball(0.6, opaque=0.1)[0], step=0.01) is not None
