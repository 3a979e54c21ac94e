from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import recon_engine
from recon_engine._load import load
from recon_engine._op import reference
from recon_engine.ops._point_mesh import closest_weights, point_mesh
from recon_engine.ops.point_mesh import closest_points_on_mesh, signed_distance, winding_number
from recon_engine.testing import assert_matches_reference
from recon_engine.utils import ico_sphere, torus

_C = load()
INF, NAN = float("inf"), float("nan")
CUBE = torch.tensor([[x, y, z] for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)])
CUBE_SIDES = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
CUBE_FACES = torch.tensor([[side[0], side[i], side[i + 1]] for side in CUBE_SIDES for i in (1, 2)])
# Sizes on both sides of where simplices are sorted into a tree; (points, simplices).
SIZES = [(1, 1), (40, 33), (700, 500)]


def _first(device="cpu"):
    return torch.zeros(1, dtype=torch.int64, device=device)


def _search(points, simplices, **options):
    first = _first(points.device)
    return point_mesh(points, first, simplices, first, **options)


def _soup(P, S, H, dtype=torch.float32, size=0.4):
    return torch.randn(P, 3, dtype=dtype), torch.randn(S, 1, 3, dtype=dtype) + size * torch.randn(S, H, 3, dtype=dtype)


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def level(request):
    before = _C.simd_level()
    if not _C.set_simd_level(request.param):
        pytest.skip(f"this CPU has no {request.param}")
    yield request.param
    _C.set_simd_level(before)


# ---- the op ----


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("H", [2, 3])
@pytest.mark.parametrize("from_points", [True, False])
@pytest.mark.parametrize("min_area", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference(size, H, from_points, min_area, dtype, device):
    points, simplices = (a.to(device) for a in _soup(*size, H, dtype))
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if dtype == torch.float32 else {}
    assert_matches_reference(
        lambda p, s: _search(p, s, from_points=from_points, min_area=min_area), points, simplices, **tolerance
    )


@pytest.mark.parametrize("H", [2, 3])
@pytest.mark.parametrize("from_points", [True, False])
def test_gradcheck(H, from_points, device):
    points, simplices = (a.to(device).requires_grad_() for a in _soup(6, 5, H, torch.float64))
    assert torch.autograd.gradcheck(lambda p, s: _search(p, s, from_points=from_points)[0], (points, simplices))


@pytest.mark.parametrize("from_points", [True, False])
def test_the_ends_of_an_edge_without_length_share_its_gradient(from_points, device):
    point = torch.tensor([[1.0, 2.0, 3.0]], device=device, requires_grad=True)
    edge = torch.tensor([[[0.5, 0.0, 0.0], [0.5, 0.0, 0.0]]], device=device, requires_grad=True)
    _search(point, edge, from_points=from_points)[0].sum().backward()
    half = torch.tensor([-0.5, -2.0, -3.0], device=device)
    torch.testing.assert_close(point.grad[0], -2 * half)
    torch.testing.assert_close(edge.grad[0], torch.stack([half, half]))


def _by_hand(point, triangle):
    """Christer Ericson's regions (Real-Time Collision Detection, 2005), another way to the same distance."""
    a, b, c = triangle
    ab, ac, ap, bp, cp = b - a, c - a, point - a, point - b, point - c
    d1, d2, d3, d4, d5, d6 = ab @ ap, ac @ ap, ab @ bp, ac @ bp, ab @ cp, ac @ cp
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    if d1 <= 0 and d2 <= 0:
        closest = a
    elif d3 >= 0 and d4 <= d3:
        closest = b
    elif d6 >= 0 and d5 <= d6:
        closest = c
    elif vc <= 0 <= d1 and d3 <= 0:
        closest = a + d1 / (d1 - d3) * ab
    elif vb <= 0 <= d2 and d6 <= 0:
        closest = a + d2 / (d2 - d6) * ac
    elif va <= 0 and d4 >= d3 and d5 >= d6:
        closest = b + (d4 - d3) / ((d4 - d3) + (d5 - d6)) * (c - b)
    else:
        closest = a + vb / (va + vb + vc) * ab + vc / (va + vb + vc) * ac
    return ((point - closest) ** 2).sum()


def test_distances_by_another_formula():
    points, triangles = _soup(30, 40, 3, torch.float64, size=1.0)
    dist, idx = _search(points, triangles)
    every = np.array([[_by_hand(p, t) for t in triangles.numpy()] for p in points.numpy()])
    np.testing.assert_allclose(dist, every.min(1), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(idx, every.argmin(1))
    dist, idx = _search(points, triangles, from_points=False)
    np.testing.assert_allclose(dist, every.min(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(idx, every.argmin(0))


SHAPES = {
    "needles": lambda p, t: (p, t * torch.tensor([1.0, 1e-5, 1e-5])),
    "slivers": lambda p, t: (p, torch.stack([t[:, 0], t[:, 1], t[:, :2].mean(1) + 1e-6], 1)),
    "points": lambda p, t: (p, t[:, :1].repeat(1, 3, 1)),
    "lines": lambda p, t: (p, torch.stack([t[:, 0], t[:, 1], t[:, :2].mean(1)], 1)),
    "all equal": lambda p, t: (p * 0 + 1, t * 0 + 1),
    "collinear": lambda p, t: (p * torch.tensor([0.0, 1.0, 0.0]), t * torch.tensor([0.0, 1.0, 0.0])),
    "far away": lambda p, t: (p + 1e6, t + 1e6),
    "clusters": lambda p, t: ((p * 2).round() * 1e6 + p, (t[:, :1] * 2).round() * 1e6 + t),
    "lattice": lambda p, t: ((p * 3).round(), (t * 3).round()),
    "tiny": lambda p, t: (p * 1e-6, t * 1e-6),
    "huge": lambda p, t: (p * 1e7, t * 1e7),
    "duplicates": lambda p, t: (p, t[:7].repeat(200, 1, 1)[: len(t)]),
    "corners": lambda p, t: (t.reshape(-1, 3)[: len(p)], t),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("from_points", [True, False])
def test_difficult_scenes(shape, from_points):
    """Every distance is that of float64, to rounding in the size of the triangles; a tie goes to the lower index."""
    points, triangles = SHAPES[shape](*_soup(400, 300, 3))
    dist, idx = _search(points, triangles, from_points=from_points)
    with reference():
        expected, _ = _search(points.double(), triangles.double(), from_points=from_points)
    size = (triangles[:, :, None] - triangles[:, None]).abs().amax().item() + 1e-30
    assert ((dist.double().sqrt() - expected.sqrt()).abs() <= 2e-6 * (expected.sqrt() + size)).all()
    # All pairs one by one: the search finds the first of the least, bit by bit.
    sides = (points[:, None, None], triangles[None]) if from_points else (points[None, :, None], triangles[:, None])
    pairs = (sides[1] - sides[0]).reshape(-1, 3, 3)
    starts = torch.arange(len(pairs))
    every, _ = point_mesh(torch.zeros(len(pairs), 3), starts, pairs, starts)
    every = every.reshape(len(dist), -1)
    assert (dist == every.min(1).values).all()
    assert (idx == (every == dist[:, None]).int().argmax(1)).all()


def test_small_triangles_need_no_threshold():
    """PyTorch3D's threshold of 5e-3 takes the distance of the edges here, which is more."""
    triangle = 1e-3 * torch.tensor([[[1.0, 0.0, 0.0], [-0.5, 0.8, 0.0], [-0.5, -0.8, 0.0]]])
    point = torch.tensor([[0.0, 0.0, 1e-4]])
    torch.testing.assert_close(_search(point, triangle)[0].sqrt(), torch.tensor([1e-4]))
    to_edges = _search(point, triangle, min_area=5e-3)[0]
    torch.testing.assert_close(to_edges.sqrt(), torch.tensor([math.hypot(1e-4, 8e-4 / math.hypot(1.5, 0.8))]))


@pytest.mark.parametrize("from_points", [True, False])
def test_min_area_asks_for_the_edges(from_points):
    points, triangles = _soup(100, 90, 3, torch.float64, size=0.2)
    n = torch.linalg.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    areas = 0.5 * n.norm(dim=1)
    limit = float(areas.median())
    dist, _ = _search(points, triangles, from_points=from_points, min_area=limit)
    edges = triangles[areas < limit][:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2, 3)
    if from_points:
        expected = torch.minimum(_search(points, edges)[0], _search(points, triangles[areas >= limit])[0])
        torch.testing.assert_close(dist, expected)
    else:
        expected = _search(points, edges, from_points=False)[0].view(-1, 3).amin(1)
        torch.testing.assert_close(dist[areas < limit], expected)


@pytest.mark.parametrize("from_points", [True, False])
@pytest.mark.parametrize("sizes", [(5, 4), (300, 250)])
def test_ragged(from_points, sizes, device):
    P, S = sizes
    points, triangles = (a.to(device) for a in _soup(2 * P + 1, 2 * S + 1, 3))
    points_first = torch.tensor([0, P, P, P + 1], device=device)  # P, 0, 1, P points
    tris_first = torch.tensor([0, S, S + 1, S + 1], device=device)  # S, 1, 0, S triangles
    dist, idx = point_mesh(points, points_first, triangles, tris_first, from_points=from_points)
    for n in range(4):
        end_p, end_t = [*points_first[1:], len(points)][n], [*tris_first[1:], len(triangles)][n]
        p, t = slice(points_first[n], end_p), slice(tris_first[n], end_t)
        own, other = (p, t) if from_points else (t, p)
        if other.start == other.stop:
            assert (dist[own] == INF).all()
            assert (idx[own] == -1).all()
            continue
        alone, alone_idx = _search(points[p], triangles[t], from_points=from_points)
        assert (dist[own] == alone).all()
        assert (idx[own] == alone_idx + other.start).all()


@pytest.mark.parametrize("from_points", [True, False])
def test_nothing_to_find_has_no_gradient(from_points, device):
    points, triangles = (a.to(device).requires_grad_() for a in _soup(5, 4, 3))
    first = torch.tensor([0, 5], device=device), torch.tensor([0, 0], device=device)
    dist, idx = point_mesh(points, first[0], triangles, first[1], from_points=from_points)
    assert (idx == -1).all()
    assert all((g == 0).all() for g in torch.autograd.grad(dist.sum(), (points, triangles)))


@pytest.mark.parametrize("from_points", [True, False])
def test_empty(from_points, device):
    points, triangles = torch.zeros(0, 3, device=device), torch.zeros(0, 3, 3, device=device)
    assert _search(points, triangles, from_points=from_points)[0].shape == (0,)
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    assert point_mesh(points, nothing, triangles, nothing, from_points=from_points)[0].shape == (0,)


@pytest.mark.parametrize("from_points", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_instruction_sets_give_the_same_bits(from_points, dtype, level):
    points, triangles = _soup(600, 500, 3, dtype)
    points, triangles = (points * 4).round(), (triangles * 4).round()
    dist, idx = _search(points, triangles, from_points=from_points)
    _C.set_simd_level("baseline")
    expected, expected_idx = _search(points, triangles, from_points=from_points)
    assert (dist == expected).all()
    assert (idx == expected_idx).all()


@pytest.mark.parametrize("from_points", [True, False])
def test_threads_change_nothing(from_points):
    points, triangles = (a.requires_grad_() for a in _soup(6000, 5500, 3, size=0.05))
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            dist, idx = _search(points, triangles, from_points=from_points)
            results.append((dist, idx, *torch.autograd.grad(dist.sqrt().sum(), (points, triangles))))
    finally:
        torch.set_num_threads(threads)
    for one, three in zip(*results, strict=True):
        assert (one == three).all()


def test_many_equal_triangles_take_no_longer():
    triangles = torch.cat([torch.randn(1000, 3, 3), torch.ones(200_000, 3, 3)])
    dist, idx = _search(torch.ones(3000, 3), triangles)
    assert (dist == 0).all()
    assert (idx == 1000).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": torch.full((3, 3), NAN)}, r"points must be finite, got nan in row 0"),
        ({"simplices": torch.tensor([[[0.0] * 3, [0.0] * 3, [0.0, INF, 0.0]]])}, r"simplices must be finite, got inf"),
        ({"points_first": torch.tensor([1])}, r"points_first must start with 0 and ascend up to 3, got 1 at 0"),
        ({"simplices_first": torch.tensor([0, 9]), "points_first": torch.tensor([0, 0])}, r"simplices_first .* got 9"),
        ({"points_first": torch.tensor([], dtype=torch.int64)}, r"simplices_first must have shape \(N\)"),
        ({"simplices": torch.zeros(4, 4, 3)}, r"edges \(S, 2, 3\) or triangles \(S, 3, 3\), got \(4, 4, 3\)"),
        ({"points": torch.zeros(3, 3, dtype=torch.float64)}, r"float64"),
    ],
)
def test_wrong_input(change, message):
    points, simplices = torch.zeros(3, 3), torch.zeros(4, 3, 3)
    arguments = {"points": points, "points_first": _first(), "simplices": simplices, "simplices_first": _first()}
    with pytest.raises(ValueError, match=message):
        point_mesh(**(arguments | change))


# ---- closest points ----


def test_closest_points_of_a_cube(device):
    points = 3 * torch.rand(200, 3, dtype=torch.float64, device=device) - 1
    verts = CUBE.to(points)
    found = closest_points_on_mesh(points, verts, CUBE_FACES.to(device))
    outside = points.clamp(0, 1)
    to_side = torch.minimum(points, 1 - points)
    inside = (to_side > 0).all(1)
    expected = torch.where(inside, to_side.amin(1), (points - outside).norm(dim=1))
    torch.testing.assert_close(found.distance, expected)
    torch.testing.assert_close(found.points[~inside], outside[~inside])
    corners = verts[CUBE_FACES.to(device)[found.face_idx]]
    torch.testing.assert_close((found.bary[:, :, None] * corners).sum(1), found.points)
    assert (found.bary >= 0).all()
    torch.testing.assert_close(signed_distance(points, verts, CUBE_FACES.to(device)), expected * (1 - 2 * inside.int()))


def test_closest_points_as_trimesh_finds_them():
    trimesh = pytest.importorskip("trimesh")
    mesh = torus(0.3, 1.0, 12, 20)
    verts, faces = mesh.verts_packed().double(), mesh.faces_packed()
    points = 2 * torch.rand(60, 3, dtype=torch.float64) - 1
    found = closest_points_on_mesh(points, verts, faces)
    tri = trimesh.Trimesh(verts.numpy(), faces.numpy(), process=False)
    closest, distance, _ = trimesh.proximity.closest_point_naive(tri, points.numpy())
    np.testing.assert_allclose(found.points, closest, atol=1e-9)
    np.testing.assert_allclose(found.distance, distance, atol=1e-9)


def test_closest_points_have_gradients(device):
    points = torch.randn(12, 3, dtype=torch.float64, device=device, requires_grad=True)
    verts = CUBE.double().to(device).add(0.01 * torch.randn(8, 3, dtype=torch.float64, device=device)).requires_grad_()

    def closest(points, verts):
        found = closest_points_on_mesh(points, verts, CUBE_FACES.to(device))
        return found.points, found.distance, found.bary

    assert torch.autograd.gradcheck(closest, (points, verts))
    assert torch.autograd.gradcheck(lambda p, v: signed_distance(p, v, CUBE_FACES.to(device)), (points, verts))


def test_distance_of_zero_has_a_gradient_of_zero(device):
    verts = CUBE.to(device).requires_grad_()
    points = CUBE.to(device).clone().requires_grad_()
    distance = closest_points_on_mesh(points, verts, CUBE_FACES.to(device)).distance
    assert (distance == 0).all()
    assert all((g == 0).all() for g in torch.autograd.grad(distance.sum(), (points, verts)))


def test_weights_of_triangles_without_area_are_finite():
    corners = torch.randn(20, 3, 3, dtype=torch.float64)
    corners[:10] = corners[:10, :1]
    corners[10:, 2] = corners[10:, :2].mean(1)
    corners.requires_grad_()
    weights = closest_weights(corners)
    torch.testing.assert_close(weights.sum(-1), torch.ones(20, dtype=torch.float64))
    assert torch.autograd.grad(weights.square().sum(), corners)[0].isfinite().all()


@pytest.mark.parametrize(
    ("verts", "faces", "message"),
    [
        (CUBE, torch.zeros(0, 3, dtype=torch.int64), "at least one face, got none"),
        (CUBE, CUBE_FACES + 1, "indices of 8 vertices, got 1 to 8"),
        (CUBE, CUBE_FACES.int(), r"faces must be int64 of shape \(F, 3\), got torch.int32"),
        (CUBE[None], CUBE_FACES, r"verts must be of shape \(V, 3\), got \(1, 8, 3\)"),
        (CUBE * NAN, CUBE_FACES, "must be finite"),
    ],
)
def test_wrong_meshes(verts, faces, message):
    with pytest.raises(ValueError, match=message):
        closest_points_on_mesh(torch.zeros(2, 3), verts, faces)


# ---- inside and outside ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_winding_number_of_closed_meshes(dtype, device):
    mesh = ico_sphere(3, device)
    verts, faces = mesh.verts_packed().to(dtype), mesh.faces_packed()
    points = 2 * torch.rand(500, 3, dtype=dtype, device=device) - 1
    radius = points.norm(dim=1)
    points, inside = points[(radius - 1).abs() > 0.02], (radius < 1)[(radius - 1).abs() > 0.02]
    tolerance = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 1e-12}
    torch.testing.assert_close(winding_number(points, verts, faces), inside.to(dtype), **tolerance)
    torch.testing.assert_close(winding_number(points, verts, faces.flip(1)), -inside.to(dtype), **tolerance)
    nested = torch.cat([faces, faces + len(verts)])
    twice = winding_number(points, torch.cat([verts, 2 * verts]), nested)
    torch.testing.assert_close(twice, inside.to(dtype) + 1, **tolerance)


def test_winding_number_of_an_open_mesh():
    """A triangle seen from its centre covers half of everything, from far away its area over the distance squared."""
    triangle = torch.tensor([[1.0, 0, 0], [-0.5, 3**0.5 / 2, 0], [-0.5, -(3**0.5) / 2, 0]], dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2]])
    points = torch.tensor([[0, 0, -1e-9], [0, 0, 1e-9], [0, 0, -100.0]], dtype=torch.float64)
    winding = winding_number(points, triangle, faces)
    far = 0.75 * 3**0.5 / 1e4 / (4 * math.pi)
    torch.testing.assert_close(winding, torch.tensor([0.5, -0.5, far], dtype=torch.float64), rtol=1e-3, atol=1e-8)


def test_winding_number_matches_its_reference_on_soup():
    points, triangles = _soup(60, 200, 3, torch.float64, size=1.0)
    verts, faces = triangles.reshape(-1, 3), torch.arange(600).view(-1, 3)
    with reference():
        expected = winding_number(points, verts, faces)
    assert expected.abs().max() > 1.5
    torch.testing.assert_close(winding_number(points, verts, faces), expected)
    assert winding_number(verts, verts, faces).isfinite().all()


def test_winding_number_on_every_instruction_set(level):
    points, triangles = _soup(61, 200, 3)
    verts, faces = triangles.reshape(-1, 3), torch.arange(600).view(-1, 3)
    winding = winding_number(points, verts, faces)
    _C.set_simd_level("baseline")
    assert (winding == winding_number(points, verts, faces)).all()


def test_winding_number_of_what_is_no_number():
    with pytest.raises(ValueError, match="points must be finite, got nan in row 1"):
        winding_number(torch.tensor([[0.0, 0, 0], [0, NAN, 0]]), CUBE, CUBE_FACES)
    with pytest.raises(ValueError, match="triangles must be finite, got inf"):
        winding_number(torch.zeros(1, 3), CUBE + INF, CUBE_FACES)


def test_signed_distance_of_a_sphere():
    mesh = ico_sphere(4)
    verts, faces = mesh.verts_packed(), mesh.faces_packed()
    points = torch.randn(300, 3)
    expected = points.norm(dim=1) - 1
    for orientation in (faces, faces.flip(1)):
        distance = signed_distance(points, verts, orientation)
        torch.testing.assert_close(distance, expected, rtol=0, atol=2e-3)


def test_signed_distance_survives_a_hole():
    mesh = ico_sphere(4)
    distance = signed_distance(torch.zeros(1, 3), mesh.verts_packed(), mesh.faces_packed()[40:])
    assert -1 < distance.item() < -0.99


def test_public_names():
    for name in ("closest_points_on_mesh", "winding_number", "signed_distance"):
        assert getattr(recon_engine.ops, name) is globals()[name]
