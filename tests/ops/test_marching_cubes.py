from __future__ import annotations

import itertools
import math

import pytest
import torch

from recon_engine.ops import marching_cubes_data as data
from recon_engine.ops.marching_cubes import marching_cubes, marching_cubes_naive
from recon_engine.structures import Meshes


def _grid(*shape, dtype=torch.float64, device="cpu"):
    axes = [torch.arange(n, dtype=dtype, device=device) for n in shape]
    return torch.meshgrid(*axes, indexing="ij")


def _ball(size, radius, dtype=torch.float64, device="cpu"):
    z, y, x = _grid(size, size, size, dtype=dtype, device=device)
    middle = (size - 1) / 2 + 0.137  # no value equals the level
    return ((x - middle) ** 2 + (y - middle) ** 2 + (z - middle) ** 2).sqrt() - radius


def _directed_edges(faces):
    return torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def _assert_manifold(verts, faces, closed=True):
    """Every edge has one face on each side, and the faces at a vertex form one fan."""
    edges = _directed_edges(faces)
    V = len(verts)
    keys = edges[:, 0] * V + edges[:, 1]
    assert len(keys.unique()) == len(keys), "an edge has two faces on one side"
    against = torch.isin(edges[:, 1] * V + edges[:, 0], keys)
    if closed:
        assert against.all(), "an edge has a face on one side only"
        assert (faces.unique() == torch.arange(V, device=faces.device)).all()
    # In a fan each edge that leaves a vertex is followed by one that comes in; a manifold has one such cycle (or path)
    # at each vertex: as many as there are when corners are joined along shared edges.
    corner: dict[int, dict[int, int]] = {}
    for a, b, c in faces.tolist():
        for v, first, second in ((a, b, c), (b, c, a), (c, a, b)):
            corner.setdefault(v, {})[first] = second
    for fan in corner.values():
        ends = set(fan) - set(fan.values())
        assert len(ends) <= (0 if closed else 1)
        start = at = next(iter(ends or fan))
        length = 0
        while at in fan:
            at, length = fan[at], length + 1
            if at == start:
                break
        assert length == len(fan), "two fans meet in a vertex"


def _volume(verts, faces):
    a, b, c = verts[faces].unbind(1)
    return (a * torch.linalg.cross(b, c)).sum() / 6


def _euler(verts, faces):
    return len(verts) - len(faces) * 3 // 2 + len(faces)


# ---- the table ----


def test_numberings():
    assert sorted(data.INDEX) == list(range(8))
    assert len({tuple(e) for e in data.EDGE_TO_VERTICES}) == 12
    assert all((a ^ b).bit_count() == 1 and a < b for a, b in data.EDGE_TO_VERTICES)
    assert len(data.FACE_TABLE) == 256
    assert max(map(len, data.FACE_TABLE)) == 15
    with pytest.raises(AttributeError, match="TABLE_OF_FACES"):
        _ = data.TABLE_OF_FACES


def test_every_case_uses_exactly_the_crossed_edges():
    for case, edges in enumerate(data.FACE_TABLE):
        below = {data.INDEX[i] for i in range(8) if case >> i & 1}
        crossed = {e for e, (a, b) in enumerate(data.EDGE_TO_VERTICES) if (a in below) != (b in below)}
        assert set(edges) == crossed


@pytest.mark.parametrize("axis", range(3))
def test_every_pair_of_neighbouring_cells_fits_together(axis):
    """All 2^12 ways in which the corners of two cells can lie below the surface."""
    shape = [2, 2, 2]
    shape[2 - axis] = 3
    values = torch.tensor(list(itertools.product([0.0, 1.0], repeat=12))).reshape(-1, *shape)
    verts, faces = marching_cubes(values, 0.5)
    for v, f in zip(verts, faces, strict=True):
        edges = _directed_edges(f)
        keys = set(map(tuple, edges.tolist()))
        assert len(keys) == len(edges)
        inside = [(a, b) for a, b in keys if (b, a) not in keys]
        # What is left open lies on the border of the two cells.
        for a, b in inside:
            same = (v[a] == v[b]) & (v[a].abs() == 1)
            assert same.any()


# ---- surfaces ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_its_specification(dtype, device):
    generator = torch.Generator().manual_seed(0)
    for shape in ((2, 5, 6, 7), (1, 2, 2, 2), (2, 3, 2, 64), (1, 4, 3, 65), (1, 3, 4, 129), (3, 2, 9, 128)):
        volume = torch.rand(shape, generator=generator, dtype=torch.float64).to(device, dtype)
        for local in (True, False):
            ours = marching_cubes(volume, 0.4, local)
            expected = marching_cubes_naive(volume, 0.4, local)
            torch.testing.assert_close(ours[0], expected[0])
            for a, b in zip(ours[1], expected[1], strict=True):
                assert torch.equal(a, b)
            assert ours[0][0].dtype == dtype
            assert ours[1][0].dtype == torch.int64


@pytest.mark.parametrize("size", [8, 33, 66])
def test_ball(size, device):
    radius = size / 3
    (verts,), (faces,) = marching_cubes(_ball(size, radius, device=device)[None], 0.0, return_local_coords=False)
    _assert_manifold(verts, faces)
    assert _euler(verts, faces) == 2
    # Normals look to larger values, away from the middle.
    expected = 4 / 3 * math.pi * radius**3
    assert abs(_volume(verts, faces) / expected - 1) < 6 / size**2
    middle = (size - 1) / 2 + 0.137
    assert ((verts - middle).norm(dim=1) - radius).abs().max() < 0.13 / radius


def test_torus_has_a_hole(device):
    z, y, x = _grid(20, 41, 43, device=device)
    ring = ((x - 21.3).square() + (y - 20.1).square()).sqrt() - 13.2
    (verts,), (faces,) = marching_cubes((ring.square() + (z - 9.7).square()).sqrt()[None], 5.1)
    _assert_manifold(verts, faces)
    assert _euler(verts, faces) == 0


@pytest.mark.parametrize("quantised", [False, True])
def test_noise_is_a_closed_manifold(quantised, device):
    """Noise has every case beside every other; a border of one side closes the surface."""
    volume = torch.rand(2, 8, 7, 9, dtype=torch.float64, device=device)
    if quantised:
        volume = (volume * 4).round() / 4  # many values equal the level
    for border in (0.0, 1.0):
        closed = torch.nn.functional.pad(volume, (1,) * 6, value=border)
        for verts, faces in zip(*marching_cubes(closed, 0.5), strict=True):
            _assert_manifold(verts, faces)
            assert len(faces) > 1000
    for verts, faces in zip(*marching_cubes(volume, 0.5), strict=True):
        _assert_manifold(verts, faces, closed=False)


def test_open_edges_lie_on_the_border(device):
    volume = torch.rand(1, 9, 10, 70, device=device)
    (verts,), (faces,) = marching_cubes(volume, 0.5)
    edges = _directed_edges(faces)
    keys = edges[:, 0] * len(verts) + edges[:, 1]
    is_open = ~torch.isin(edges[:, 1] * len(verts) + edges[:, 0], keys)
    a, b = verts[edges[is_open]].unbind(1)
    assert is_open.any()
    assert (((a - b).abs() < 1e-6) & (a.abs() > 1 - 1e-6)).any(dim=1).all()


def test_one_corner(device):
    volume = torch.ones(1, 2, 2, 2, device=device)
    volume[0, 0, 0, 0] = 0
    verts, faces = marching_cubes(volume, return_local_coords=False)
    assert sorted(verts[0].tolist()) == [[0, 0, 0.5], [0, 0.5, 0], [0.5, 0, 0]]
    a, b, c = verts[0][faces[0][0]]
    assert (torch.linalg.cross(b - a, c - a) > 0).all()
    local, _ = marching_cubes(volume)
    torch.testing.assert_close(local[0], 2 * verts[0] - 1)


def test_axes(device):
    """x runs along W, y along H, z along D, and [-1, 1] is from the first value to the last."""
    volume = _ball(9, 2.0, dtype=torch.float32, device=device)[1:8, :, 2:]
    verts, faces = marching_cubes(volume[None], 0.0, return_local_coords=False)
    local, same = marching_cubes(volume[None], 0.0)
    assert torch.equal(faces[0], same[0])
    sizes = torch.tensor([7.0, 9.0, 7.0], device=device)
    torch.testing.assert_close(local[0], verts[0] / (sizes - 1) * 2 - 1)
    middle = torch.tensor([2.137, 4.137, 3.137], device=device)
    torch.testing.assert_close((verts[0].amax(0) + verts[0].amin(0)) / 2, middle, atol=0.1, rtol=0)


def test_level_defaults_to_the_middle_of_each_volume(device):
    volume = torch.stack([_ball(8, 2.0, device=device), 5 + 3 * _ball(8, 2.5, device=device)])
    verts, _ = marching_cubes(volume)
    for i in range(2):
        alone, _ = marching_cubes(volume[i : i + 1], ((volume[i].max() + volume[i].min()) / 2).item())
        torch.testing.assert_close(verts[i], alone[0])


def test_batches_equal_their_members(device):
    volume = torch.rand(3, 6, 5, 66, device=device)
    volume[1] = 2
    verts, faces = marching_cubes(volume, 0.6)
    for i in range(3):
        (v,), (f,) = marching_cubes(volume[i : i + 1], 0.6)
        assert torch.equal(verts[i], v)
        assert torch.equal(faces[i], f)
    assert verts[1].shape == (0, 3)
    meshes = Meshes(verts, faces)
    assert meshes.num_faces_per_mesh().tolist()[1] == 0


@pytest.mark.parametrize("shape", [(0, 4, 4, 4), (2, 1, 4, 4), (2, 4, 1, 4), (2, 4, 4, 1), (1, 0, 3, 3)])
def test_grids_without_cells(shape, device):
    verts, faces = marching_cubes(torch.rand(shape, device=device), 0.5)
    assert len(verts) == len(faces) == shape[0]
    assert all(v.shape == f.shape == (0, 3) and f.dtype == torch.int64 for v, f in zip(verts, faces, strict=True))


def test_infinite_values(device):
    """What is not known is often infinite: the surface stays beside it, at values that are."""
    volume = _ball(9, 3.0, device=device)
    inf = float("inf")
    for unknown in (torch.where(volume > 0, inf, volume), torch.where(volume < 0, -inf, volume), volume.sign() * inf):
        (verts,), (faces,) = marching_cubes(unknown[None], 0.0)
        assert verts.isfinite().all()
        _assert_manifold(verts, faces)


def test_values_of_any_size(device):
    volume = _ball(9, 3.0, device=device)
    (expected,), _ = marching_cubes(volume[None], 0.0)
    for scale in (1e-300, 1e-9, 1e300):
        (verts,), _ = marching_cubes(volume[None] * scale, 0.0)
        torch.testing.assert_close(verts, expected)


# ---- gradients ----


def test_gradcheck(device):
    volume = torch.rand(2, 3, 4, 3, dtype=torch.float64, device=device)
    volume = torch.where((volume - 0.5).abs() < 0.05, 0.7, volume)  # no step of gradcheck crosses the level
    volume[0, 0, 0, 0] = 0.2
    volume.requires_grad_()
    for local in (True, False):
        assert torch.autograd.gradcheck(lambda v, local=local: tuple(marching_cubes(v, 0.5, local)[0]), volume)


def test_gradients_across_words(device):
    volume = torch.rand(1, 3, 3, 131, dtype=torch.float64, device=device).requires_grad_()
    weights = torch.randn(len(marching_cubes(volume, 0.5)[0][0]), 3, dtype=torch.float64, device=device)
    grads = [
        torch.autograd.grad((f(volume, 0.5)[0][0] * weights).sum(), volume)[0]
        for f in (marching_cubes, marching_cubes_naive)
    ]
    torch.testing.assert_close(*grads)


def test_gradient_moves_a_ball(device):
    """A larger level of the distance moves every vertex outwards by the same length."""
    values = _ball(17, 5.0, device=device)[None].requires_grad_()
    verts, _ = marching_cubes(values, 0.0, return_local_coords=False)
    radius = (verts[0] - 8.137).norm(dim=1).mean()
    (grad,) = torch.autograd.grad(radius, values)
    assert abs(grad.sum() + 1) < 0.05
    assert (grad[values.detach().abs() > 2] == 0).all()


@pytest.mark.parametrize("threads", [2, 3])
def test_any_number_of_threads_gives_the_same_bits(threads):
    volume = torch.rand(1, 40, 40, 100).requires_grad_()
    before = torch.get_num_threads()
    results = []
    for count in (1, threads):
        torch.set_num_threads(count)
        (verts,), (faces,) = marching_cubes(volume, 0.5)
        results.append((verts, faces, torch.autograd.grad(verts.square().sum(), volume)[0]))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# ---- bad input ----


def test_bad_input():
    with pytest.raises(ValueError, match=r"vol_batch must have shape \(N, D, H, W\), got \(3, 3, 3\)"):
        marching_cubes(torch.zeros(3, 3, 3))
    with pytest.raises(ValueError, match=r"float32 or float64, got torch.int64; convert it with .float\(\)"):
        marching_cubes(torch.zeros(1, 3, 3, 3, dtype=torch.int64))


def test_nan_is_named():
    volume = torch.rand(2, 40, 40, 70)
    volume[1, 2, 1, 66] = volume[1, 20, 1, 66] = float("nan")
    with pytest.raises(ValueError, match=r"vol_batch\[1, 2, 1, 66\] is not a number; fill it"):
        marching_cubes(volume, 0.5)
    with pytest.raises(ValueError, match=r"the isolevel of volume 1 is not a number"):
        marching_cubes(volume)


# ---- other programs ----


def _distances(a, b):
    """From each point of a to the nearest one of b."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").amin(1)


@pytest.mark.filterwarnings("ignore")
def test_same_surface_as_scikit_image():
    measure = pytest.importorskip("skimage.measure")
    volume = torch.nn.functional.avg_pool3d(torch.rand(1, 1, 20, 21, 22, dtype=torch.float64), 4, 1)[0]
    (verts,), (faces,) = marching_cubes(volume, 0.5, return_local_coords=False)
    theirs, their_faces, _, _ = measure.marching_cubes(volume[0].numpy(), 0.5, method="lorensen")
    theirs = torch.from_numpy(theirs.copy()).double().flip(1)
    assert max(_distances(verts, theirs).max(), _distances(theirs, verts).max()) < 1e-5
    area = [
        torch.linalg.cross(v[f][:, 1] - v[f][:, 0], v[f][:, 2] - v[f][:, 0]).norm(dim=1).sum() / 2
        for v, f in ((verts, faces), (theirs, torch.from_numpy(their_faces.copy()).long()))
    ]
    assert abs(area[0] / area[1] - 1) < 0.02


def test_watertight_for_trimesh():
    trimesh = pytest.importorskip("trimesh")
    volume = torch.nn.functional.pad(torch.rand(1, 10, 10, 10), (1,) * 6, value=1.0)
    (verts,), (faces,) = marching_cubes(volume, 0.5)
    mesh = trimesh.Trimesh(verts.numpy(), faces.numpy(), process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.euler_number == _euler(verts, faces)


@pytest.mark.filterwarnings("ignore")
def test_same_surface_as_pytorch3d():
    """The same vertices and the same volume; the triangles that fill a cell and their order are others."""
    p3d = pytest.importorskip("pytorch3d.ops.marching_cubes", exc_type=ImportError)
    for volume in (_ball(16, 5.0, torch.float32)[None], torch.rand(2, 7, 8, 9)):
        for local in (True, False):
            theirs = p3d.marching_cubes(volume, 0.5, local)
            ours = marching_cubes(volume, 0.5, local)
            for v, f, tv, tf in zip(*ours, *theirs, strict=True):
                assert len(v) == len(tv)
                # Vertices closer to a value than 1e-5 are moved to it there.
                assert max(_distances(v, tv).max(), _distances(tv, v).max()) < 1e-4
                assert abs(len(f) - len(tf)) <= 0.02 * len(f)
                if len(volume) == 1:
                    torch.testing.assert_close(_volume(v, f), _volume(tv, tf), rtol=1e-3, atol=0)
