from __future__ import annotations

import pytest
import torch

from recon_engine.methods.shapes import building, create_cube
from recon_engine.structures import Meshes

trimesh = pytest.importorskip("trimesh")


def as_trimesh(mesh: Meshes) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.verts_packed().numpy(), mesh.faces_packed().numpy(), process=False)


@pytest.fixture(scope="module")
def house() -> Meshes:
    return building(colors=True)


def test_building_is_watertight_and_wound_outwards(house):
    solid = as_trimesh(house)
    assert solid.is_watertight
    assert solid.is_winding_consistent
    assert solid.body_count == 1
    assert solid.euler_number == 2
    assert 2000 < len(solid.faces) < 8000
    assert solid.area_faces.min() > 1e-5


def test_building_volume_is_that_of_its_parts(house):
    tiers = 1.2 * 0.1 * 0.8 + 1.1 * 0.5 * 0.7 + 0.9 * 0.3 * 0.5 + 0.5 * 0.5 * 0.3
    slab = 0.6 * 0.05 * 0.4
    roof = 1.2 * (0.2**2 * 0.2 + 4 * 0.2**3 / 3)  # a prism of length 0.2 between two half pyramids
    windows = (2 * (5 * 2 - 2) + 2 * 3 * 2 + 2 + 2 * 4 + 2 * 2 + 2 * 2 * 2 + 2 * 1 * 2) * 0.1 * 0.1 * 0.025
    assert as_trimesh(house).volume < tiers + slab + roof - 0.9 * windows
    assert as_trimesh(house).volume == pytest.approx(tiers + slab + roof - windows, rel=2e-3)


def vertices_of(house: Meshes, color: list[float]) -> torch.Tensor:
    """The vertices of one colour."""
    is_color = (house.textures.verts_features_packed() - torch.tensor(color)).abs().amax(1) < 1e-6
    return house.verts_packed()[is_color]


def test_the_door_is_recessed_behind_the_front_wall(house):
    door = vertices_of(house, [0.36, 0.22, 0.13])
    torch.testing.assert_close(door.amin(0), torch.tensor([-0.05, 0.10, 0.325]))
    torch.testing.assert_close(door.amax(0), torch.tensor([0.05, 0.30, 0.325]))


def test_every_window_is_recessed_behind_its_wall(house):
    x, _, z = vertices_of(house, [0.27, 0.42, 0.56]).unbind(1)
    planes_x = torch.tensor([-0.525, 0.525, -0.375, 0.475, -0.075, 0.375])
    planes_z = torch.tensor([-0.325, 0.325, -0.225, 0.225, -0.125, 0.125])
    on_x, on_z = ((side[:, None] - planes).abs().amin(1) < 1e-5 for side, planes in ((x, planes_x), (z, planes_z)))
    assert len(x) > 200
    assert bool((on_x | on_z).all())


def test_building_colors(house):
    rgb = house.textures.verts_features_packed()
    assert rgb.shape == house.verts_packed().shape
    assert len(rgb.unique(dim=0)) == 5
    assert 0 < float(rgb.min()) < float(rgb.max()) < 1
    assert building().textures is None


@pytest.mark.parametrize(("level", "verts", "faces"), [(0, 8, 12), (1, 26, 48), (4, 1538, 3072)])
def test_cube_counts(level, verts, faces):
    cube = create_cube(level)
    assert cube.verts_packed().shape == (verts, 3)
    assert cube.faces_packed().shape == (faces, 3)
    solid = as_trimesh(cube)
    assert solid.is_watertight
    assert solid.volume == pytest.approx(1.0)
    torch.testing.assert_close(cube.verts_packed().abs().amax(0), torch.full((3,), 0.5))


def test_cube_refuses_a_negative_level():
    with pytest.raises(ValueError, match="level must be 0 or more, got -1"):
        create_cube(-1)
