from __future__ import annotations

import pytest
import torch

import recon_engine
from recon_engine._load import load
from recon_engine._op import reference
from recon_engine.ops._ray_mesh import ray_mesh
from recon_engine.ops.point_mesh import ray_mesh_any_hit, ray_mesh_intersection
from recon_engine.utils import ico_sphere

_C = load()
INF, NAN = float("inf"), float("nan")
TRIANGLE = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
FACE = torch.tensor([[0, 1, 2]])


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def level(request):
    before = _C.simd_level()
    if not _C.set_simd_level(request.param):
        pytest.skip(f"this CPU has no {request.param}")
    yield request.param
    _C.set_simd_level(before)


def _rays(R, dtype=torch.float32, device="cpu"):
    return torch.randn(R, 3, dtype=dtype, device=device), torch.randn(R, 3, dtype=dtype, device=device)


def _soup(F, dtype=torch.float32, size=0.3, device="cpu"):
    corners = torch.randn(F, 1, 3, dtype=dtype, device=device) + size * torch.randn(F, 3, 3, dtype=dtype, device=device)
    return corners.reshape(-1, 3), torch.arange(3 * F, device=device).view(-1, 3)


@pytest.mark.parametrize("sizes", [(1, 1), (50, 40), (900, 700)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference(sizes, dtype, device):
    origins, directions = _rays(sizes[0], dtype, device)
    verts, faces = _soup(sizes[1], dtype, device=device)
    t, face, bary = ray_mesh_intersection(origins, directions, verts, faces)
    with reference():
        expected_t, expected_face = ray_mesh(origins, directions, verts[faces], INF, False)
    assert (face == expected_face).all()
    torch.testing.assert_close(t, expected_t, rtol=2e-4 if dtype == torch.float32 else 1e-9, atol=1e-6)
    hit = face >= 0
    at = (bary[hit, :, None] * verts[faces[face[hit]]]).sum(1)
    torch.testing.assert_close(at, (origins + t[:, None] * directions)[hit], rtol=1e-3, atol=1e-4)
    assert (t[~hit] == INF).all()
    assert (bary[~hit] == 0).all()
    assert (ray_mesh_any_hit(origins, directions, verts, faces) == hit).all()


def test_hits_of_a_cube(device):
    """Slabs give the same in closed form; half of the rays start inside."""
    corners = torch.tensor([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
    faces = [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6], [0, 2, 6]]
    faces = torch.tensor([*faces, [0, 6, 4], [1, 5, 7], [1, 7, 3]], device=device)
    origins, directions = _rays(2000, torch.float64, device)
    near = torch.minimum((-1 - origins) / directions, (1 - origins) / directions).amax(1)
    far = torch.maximum((-1 - origins) / directions, (1 - origins) / directions).amin(1)
    expected = torch.where(near >= 0, near, far)
    expected[(near > far) | (far < 0)] = INF
    t = ray_mesh_intersection(origins, directions, corners.double().to(device), faces).t
    assert (expected == INF).any()
    torch.testing.assert_close(t, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_no_ray_leaves_a_closed_mesh(dtype, offset, device):
    """Also not through edges and vertices, at which a part of the rays is aimed."""
    mesh = ico_sphere(3, device)
    verts, faces = mesh.verts_packed().to(dtype), mesh.faces_packed()
    edges = verts[mesh.edges_packed()]
    share = torch.rand(len(edges), 1, dtype=dtype, device=device)
    targets = torch.cat([verts, share * edges[:, 0] + (1 - share) * edges[:, 1], edges.mean(1), verts[faces].mean(1)])
    origins = 0.3 * torch.rand_like(targets)
    t, face, _ = ray_mesh_intersection(origins + offset, targets - origins, verts + offset, faces)
    assert (face >= 0).all()
    assert ((t - 1).abs() < (2e-3 if offset and dtype == torch.float32 else 1e-5)).all()
    assert ray_mesh_any_hit(origins + offset, targets - origins, verts + offset, faces).all()


def test_directions_along_the_axes_of_flat_faces(device):
    """Boxes without thickness, coordinates of 0 in the direction."""
    ground = torch.tensor([[0.0, 0, 0], [8, 0, 0], [8, 8, 0], [0, 8, 0]], device=device)
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]], device=device)
    x, y = (a.flatten() for a in torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij"))
    origins = torch.stack([x, y, torch.ones(81)], 1).to(device)
    down = torch.tensor([[0.0, -0.0, -2.0]], device=device).expand(81, 3)
    t, face, _ = ray_mesh_intersection(origins, down, ground, faces)
    assert (t == 0.5).all()  # the border of a face belongs to it
    on_diagonal = (x == y).to(device)
    assert (face[on_diagonal] == 0).all()  # both at once: the lower index
    assert (ray_mesh_intersection(origins, -down, ground, faces).face_idx == -1).all()
    sideways = torch.tensor([[1.0, 0.0, 0.0]], device=device).expand(81, 3)
    assert (ray_mesh_intersection(origins, sideways, ground, faces).t == INF).all()
    in_plane = origins * torch.tensor([1.0, 1.0, 0.0], device=device)
    assert (ray_mesh_intersection(in_plane, sideways, ground, faces).t == INF).all()  # along the face: no hit
    assert (ray_mesh_intersection(in_plane, down, ground, faces).t == 0).all()  # from the face itself


def test_duplicated_faces_and_faces_without_area(device):
    verts = TRIANGLE.to(device)
    faces = torch.tensor([[0, 0, 0], [0, 1, 1], [0, 2, 1], [0, 1, 2], [0, 1, 2]], device=device)
    origins = torch.tensor([[0.2, 0.2, 1.0], [0.5, 0.0, 1.0]], device=device)
    down = torch.tensor([[0.0, 0.0, -1.0]], device=device).expand(2, 3)
    found = ray_mesh_intersection(origins, down, verts, faces)
    assert found.face_idx.tolist() == [2, 2]
    assert found.t.tolist() == [1, 1]


def test_longest_t(device):
    origins = torch.tensor([[0.2, 0.2, 1.0]], device=device)
    down = torch.tensor([[0.0, 0.0, -1.0]], device=device)
    for t_max, hit in [(0.5, False), (1.0, True), (2.0, True)]:
        for any_hit in (ray_mesh_any_hit, lambda *a, **k: ray_mesh_intersection(*a, **k).face_idx >= 0):
            assert any_hit(origins, down, TRIANGLE.to(device), FACE.to(device), t_max=t_max).item() == hit


def test_gradcheck(device):
    origins, directions = _rays(10, torch.float64, device)
    mesh = ico_sphere(1, device)
    verts = 2 * mesh.verts_packed().double()
    origins = 0.2 * origins

    def hits(origins, directions, verts):
        found = ray_mesh_intersection(origins, directions, verts, mesh.faces_packed())
        return found.t, found.bary

    inputs = [a.requires_grad_() for a in (origins, directions, verts)]
    assert torch.autograd.gradcheck(hits, inputs)


def test_rays_that_miss_have_no_gradient(device):
    origins, directions = (a.to(device).requires_grad_() for a in (torch.ones(1, 3), torch.ones(1, 3)))
    found = ray_mesh_intersection(origins, directions, TRIANGLE.to(device), FACE.to(device))
    grads = torch.autograd.grad(found.bary.sum() + found.t.clamp(max=9).sum(), (origins, directions))
    assert all((g == 0).all() for g in grads)


def test_empty(device):
    rays = torch.ones(3, 3, device=device)
    none = torch.zeros(0, 3, dtype=torch.int64, device=device)
    found = ray_mesh_intersection(rays, rays, TRIANGLE.to(device), none)
    assert found.t.tolist() == [INF] * 3
    assert found.face_idx.tolist() == [-1] * 3
    assert found.bary.shape == (3, 3)
    found = ray_mesh_intersection(rays[:0], rays[:0], TRIANGLE.to(device), FACE.to(device))
    assert [a.shape for a in found] == [(0,), (0,), (0, 3)]


def test_instruction_sets_give_the_same_bits(level):
    origins, directions = _rays(500)
    verts, faces = _soup(600)
    t, face = ray_mesh(origins, directions, verts[faces], INF, False)
    _C.set_simd_level("baseline")
    expected_t, expected_face = ray_mesh(origins, directions, verts[faces], INF, False)
    assert (t == expected_t).all()
    assert (face == expected_face).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"directions": torch.zeros(2, 3)}, r"directions must not be 0, got \(0, 0, 0\) in row 0"),
        ({"directions": torch.full((2, 3), NAN)}, r"directions must be finite, got nan in row 0"),
        ({"origins": torch.full((2, 3), INF)}, r"origins must be finite, got inf in row 0"),
        ({"verts": TRIANGLE * NAN}, r"triangles must be finite"),
        ({"faces": FACE + 1}, r"faces must hold indices of 3 vertices, got 1 to 3"),
        ({"origins": torch.zeros(3, 3)}, r"ray_mesh: directions must have shape \(R, 3\), got \(2, 3\)"),
    ],
)
def test_wrong_input(change, message):
    arguments = {"origins": torch.zeros(2, 3), "directions": torch.ones(2, 3), "verts": TRIANGLE, "faces": FACE}
    with pytest.raises((ValueError, TypeError), match=message):
        ray_mesh_intersection(**(arguments | change))


def test_public_names():
    for name in ("ray_mesh_intersection", "ray_mesh_any_hit"):
        assert getattr(recon_engine.ops, name) is globals()[name]
