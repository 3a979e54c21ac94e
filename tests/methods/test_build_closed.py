from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recon_engine.methods.build.closed import enclosed_volume, is_watertight, outward, reclosed
from recon_engine.methods.shapes import building, create_cube
from recon_engine.structures import Meshes, join_meshes_as_scene
from recon_engine.utils import ico_sphere

PI = 3.14159265


def inside_out(mesh: Meshes) -> Meshes:
    return Meshes([mesh.verts_packed()], [mesh.faces_packed().flip(1)])


def moved(mesh: Meshes, x: float) -> Meshes:
    return Meshes([mesh.verts_packed() + torch.tensor([x, 0.0, 0.0])], [mesh.faces_packed()])


@pytest.mark.parametrize("mesh", [create_cube(0), create_cube(2), ico_sphere(2), building()])
def test_closed_meshes(mesh):
    assert is_watertight(mesh)
    assert is_watertight(inside_out(mesh))
    assert enclosed_volume(mesh) > 0
    assert enclosed_volume(inside_out(mesh)) == pytest.approx(-enclosed_volume(mesh))


def with_faces(faces: Tensor) -> Meshes:
    return Meshes([create_cube(0).verts_packed()], [faces])


CUBE = create_cube(0).faces_packed()


@pytest.mark.parametrize(
    "faces",
    [
        CUBE[:-1],  # a hole
        torch.cat([CUBE[:-1], CUBE[-1:].flip(1)]),  # a face the wrong way around
        torch.cat([CUBE, CUBE]),  # edges of four faces
        torch.cat([CUBE, torch.tensor([[0, 0, 1]])]),  # an edge of one vertex
        CUBE[:0],
    ],
)
def test_meshes_that_are_not_closed(faces):
    assert not is_watertight(with_faces(faces))


def test_volumes():
    assert enclosed_volume(create_cube(3)) == pytest.approx(1.0)
    assert enclosed_volume(moved(create_cube(3), 1000.0)) == pytest.approx(1.0, rel=1e-3)
    assert enclosed_volume(ico_sphere(4)) == pytest.approx(4 / 3 * PI, rel=5e-3)


def test_closed_meshes_are_turned_outwards():
    cube = create_cube(1)
    assert outward(cube) is cube
    assert torch.equal(outward(inside_out(cube)).faces_packed(), cube.faces_packed())
    bowl = Meshes([cube.verts_packed()], [cube.faces_packed()[:-1].flip(1)])
    assert outward(bowl) is bowl


BALL = ico_sphere(3)
LENS = PI / 12 * (4 + 0.75) * (2 - 0.75) ** 2  # what two unit balls with middles at distance 0.75 share
OVERLAPPING = join_meshes_as_scene([BALL, moved(BALL, 0.75)])


@pytest.mark.parametrize(
    ("mesh", "volume"),
    [
        (ico_sphere(3), 4 / 3 * PI),
        (inside_out(ico_sphere(3)), 4 / 3 * PI),
        (OVERLAPPING, 8 / 3 * PI - LENS),
        (join_meshes_as_scene([BALL, moved(ico_sphere(2).scale_verts(0.2), 2.0)]), 4 / 3 * PI),  # the largest part
        (Meshes([BALL.verts_packed()], [BALL.faces_packed()[:-9]]), 4 / 3 * PI),  # a hole is closed
        (Meshes([BALL.verts_packed() * 1e-3 + 5.0], [BALL.faces_packed()]), 4 / 3 * PI * 1e-9),
    ],
)
def test_closed_surfaces_around_what_a_mesh_encloses(mesh, volume):
    closed = reclosed(mesh, 32)
    assert is_watertight(closed)
    assert enclosed_volume(closed) == pytest.approx(volume, rel=0.03)
    assert len(closed.verts_packed()) == len(closed.faces_packed().unique())


def test_the_surface_lies_on_the_mesh():
    cube = create_cube(3)
    verts = reclosed(cube, 32).verts_packed()
    on_side = verts[(verts.abs() < 0.4).sum(1) == 2]
    assert len(on_side) > 500
    torch.testing.assert_close(on_side.abs().amax(1), torch.full((len(on_side),), 0.5), rtol=0, atol=2e-3)
    assert float(verts.abs().max()) < 0.502


def crossings(mesh: Meshes) -> int:
    """How many edges of a mesh cross a face that they share no vertex with, in float64."""
    verts, faces, edges = mesh.verts_packed().double(), mesh.faces_packed(), mesh.edges_packed()
    count = 0
    a, b, c = verts[faces].unbind(1)
    normal = (b - a).cross(c - a, dim=1)
    for some in edges.split(256):
        start, along = verts[some[:, 0]][:, None], (verts[some[:, 1]] - verts[some[:, 0]])[:, None]
        shares = (some[:, None, :, None] == faces[None, :, None, :]).any(3).any(2)
        steep = (normal * along).sum(-1)
        t = (normal * (a - start)).sum(-1) / steep
        hit = start + t[..., None] * along
        sides = [(torch.linalg.cross((q - p)[None], hit - p) * normal).sum(-1) > 0 for p, q in ((a, b), (b, c), (c, a))]
        is_crossed = (steep != 0) & (t > 0) & (t < 1) & sides[0] & sides[1] & sides[2] & ~shares
        count += int(is_crossed.sum())
    return count


def test_no_face_crosses_another():
    overlapping = join_meshes_as_scene([ico_sphere(2), moved(ico_sphere(2), 0.75)])
    assert crossings(overlapping) > 50
    assert crossings(ico_sphere(2)) == 0
    crumpled = ico_sphere(2)
    crumpled = crumpled.offset_verts(0.3 * torch.randn(crumpled.verts_packed().shape, generator=torch.manual_seed(0)))
    assert crossings(crumpled) > 100
    for mesh in (overlapping, crumpled):
        assert crossings(reclosed(mesh, 12)) == 0


def test_what_is_thinner_than_a_cell_is_lost():
    flat = Meshes([create_cube(0).verts_packed() * torch.tensor([1.0, 1e-4, 1.0])], [CUBE])
    with pytest.raises(ValueError, match="encloses nothing as thick as a cell"):
        reclosed(flat, 20)
