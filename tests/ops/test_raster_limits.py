"""What the rasterising ops refuse, what they survive, and the sizes they must reach."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from raster_scenes import regular, soup

from recon_engine.ops import rasterize_faces, soft_silhouette

OPS = ["rasterize_faces", "soft_silhouette"]
both_ops = pytest.mark.parametrize("op", OPS)
NAN, INF = math.nan, math.inf


def _call(op, device="cpu", **changed):
    """The op on three good triangles of two meshes, except for what is `changed`."""
    scene = soup((2, 1), 1.0).to(device)
    arguments = {
        "verts": scene.verts,
        "faces": scene.faces,
        "mesh_to_face_first_idx": scene.first,
        "num_faces_per_mesh": scene.count,
        "image_size": (5, 6),
        "blur_radius": 1e-3,
        "faces_per_pixel": 2,
    }
    if op == "soft_silhouette":
        return soft_silhouette(**{**arguments, "sigma": 1e-3, **changed})
    return rasterize_faces(**{**arguments, **changed})


@both_ops
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("verts", torch.ones(9, 2)),
        ("verts", torch.ones(27)),
        ("verts", torch.ones(1, 9, 3)),
        ("faces", torch.zeros(3, 4, dtype=torch.int64)),
        ("faces", torch.zeros(9, dtype=torch.int64)),
        ("mesh_to_face_first_idx", torch.zeros(2, 1, dtype=torch.int64)),
        ("num_faces_per_mesh", torch.zeros(3, dtype=torch.int64)),
        ("num_faces_per_mesh", torch.zeros((), dtype=torch.int64)),
    ],
)
def test_shapes(op, name, value, device):
    with pytest.raises(ValueError, match=rf"{op}: {name} must have shape \("):
        _call(op, device, **{name: value.to(device)})


@both_ops
@pytest.mark.parametrize("name", ["faces", "mesh_to_face_first_idx", "num_faces_per_mesh"])
@pytest.mark.parametrize("dtype", [torch.int32, torch.float32, torch.bool])
def test_indices_are_int64(op, name, dtype, device):
    shape = (3, 3) if name == "faces" else (2,)
    with pytest.raises(ValueError, match=rf"{op}: {name} must be int64, got \w+"):
        _call(op, device, **{name: torch.zeros(shape, dtype=dtype, device=device)})


@both_ops
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_vertices_are_floating_point(op, dtype, device):
    with pytest.raises(ValueError, match=rf"{op}: verts must be floating point, got \w+"):
        _call(op, device, verts=torch.ones(9, 3, device=device).to(dtype))


@both_ops
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(op, dtype, device):
    with pytest.raises(ValueError, match=r"float32 or float64, got b?float16: convert with \.float\(\)"):
        _call(op, device, verts=torch.ones(9, 3, device=device, dtype=dtype))


def test_neighbors(device):
    for value, message in (
        (torch.zeros(2, dtype=torch.int64), r"must have shape \(F\), got \(2\)"),
        (torch.zeros(3, dtype=torch.int32), "must be int64, got int32"),
    ):
        with pytest.raises(ValueError, match=rf"clipped_faces_neighbor_idx {message}"):
            _call("rasterize_faces", device, clipped_faces_neighbor_idx=value.to(device))


def test_neighbors_that_do_not_exist_are_never_found(device):
    expected = _call("rasterize_faces", device, clipped_faces_neighbor_idx=None)
    for neighbors in ([0, 1, 2], [2**40, -7, 3], [2**63 - 1, -(2**63), 2]):
        actual = _call("rasterize_faces", device, clipped_faces_neighbor_idx=torch.tensor(neighbors, device=device))
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@both_ops
@pytest.mark.parametrize("index", [-1, -(2**63), 9, 2**31, 2**63 - 1])
def test_face_indices_out_of_range(op, index):
    for row, column in ((0, 0), (1, 2), (2, 1)):
        faces = torch.arange(9).view(3, 3)
        faces[row, column] = index
        with pytest.raises(ValueError, match=rf"faces has index {index} in row {row} but there are 9 vertices"):
            _call(op, faces=faces)


@both_ops
@pytest.mark.parametrize(
    ("first", "count"),
    [(0, 4), (4, 0), (3, 1), (-1, 1), (0, -1), (2, 2), (2**63 - 1, 1), (1, 2**63 - 1), (2**62, 2**62), (-(2**63), 1)],
)
def test_mesh_ranges_out_of_bounds(op, first, count):
    message = rf"mesh 1 claims {count} faces from face {first} .*num_faces_per_mesh.* but there are 3"
    with pytest.raises(ValueError, match=message):
        _call(op, mesh_to_face_first_idx=torch.tensor([0, first]), num_faces_per_mesh=torch.tensor([2, count]))


@both_ops
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_vertices_that_are_not_finite(op, value):
    for vertex, component in ((0, 0), (4, 1), (8, 2), (5, 2)):
        verts = soup((2, 1), 1.0).verts
        verts[vertex, component] = value
        if component == 2 and value == -INF:
            _call(op, verts=verts)  # behind the camera like any other
            continue
        face = vertex // 3
        corners = ", ".join(map(str, range(3 * face, 3 * face + 3)))
        with pytest.raises(ValueError, match=rf"verts must be finite .* face {face} \(vertices {corners}\)"):
            _call(op, verts=verts)


@both_ops
def test_vertices_that_no_face_uses_may_be_anything(op, device):
    scene = soup((2, 1), 1.0).to(device)
    verts = torch.cat([scene.verts, torch.full((2, 3), NAN, device=device)]).requires_grad_()
    out = _call(op, device, verts=verts)
    values = out[1:] if isinstance(out, tuple) else (out,)
    torch.testing.assert_close(out, _call(op, device))
    (grad,) = torch.autograd.grad(sum(v.sum() for v in values), verts)
    assert grad.isfinite().all()
    assert grad[:9].any()


@both_ops
@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("faces_per_pixel", 0, ValueError, "faces_per_pixel must be > 0, got 0"),
        ("faces_per_pixel", -3, ValueError, "faces_per_pixel must be > 0, got -3"),
        ("faces_per_pixel", 1.5, TypeError, "faces_per_pixel must .*int.* 1.5"),
        ("blur_radius", -1e-9, ValueError, r"blur_radius must be >= 0, got -1e-0?9"),
        ("blur_radius", NAN, ValueError, "blur_radius must be >= 0, got -?nan"),
        ("image_size", (0, 6), ValueError, "image_size must be > 0, got 0"),
        ("image_size", (5, 0), ValueError, "image_size must be > 0, got 0"),
        ("image_size", (5, -6), ValueError, "image_size must be > 0, got -6"),
        ("image_size", (5, 6, 7), ValueError, r"image_size must be two ints \(H, W\), got \(5, 6, 7\)"),
        ("image_size", 5, ValueError, r"image_size must be two ints \(H, W\), got 5"),
        ("image_size", (5.0, 6.0), TypeError, "image_size must .*int.* 5.0"),
        ("perspective_correct", None, TypeError, "perspective_correct must be a bool, got None"),
        ("clip_barycentric_coords", "yes", TypeError, "clip_barycentric_coords must be a bool, got a string"),
        ("cull_backfaces", 1, TypeError, "cull_backfaces must be a bool, got an int"),
    ],
)
def test_settings(op, name, value, error, message, device):
    with pytest.raises(error, match=message):
        _call(op, device, **{name: value})


@pytest.mark.parametrize("sigma", [0.0, -1e-4, NAN, -INF])
def test_sigma_is_positive(sigma, device):
    with pytest.raises(ValueError, match=r"soft_silhouette: sigma must be > 0, got"):
        _call("soft_silhouette", device, sigma=sigma)


@both_ops
def test_integers_of_other_libraries(op, device):
    expected = _call(op, device)
    actual = _call(op, device, image_size=[np.int64(5), np.int32(6)], faces_per_pixel=np.int64(2), blur_radius=0.001)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


# torch's own: it instantiates the autograd function while it traces
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_with_sizes_that_change(device):
    scene = regular(20).to(device)

    def loss(verts, height, width, K):
        fragments = rasterize_faces(verts, *scene[1:], (height, width), 1e-3, K)
        return fragments[3].sum() + soft_silhouette(verts, *scene[1:4], (height, width), 1e-3, K, 1e-3).sum()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for sizes in ((8, 9, 2), (10, 7, 3)):
        verts = scene.verts.clone().requires_grad_()
        values = [f(verts, *sizes) for f in (loss, compiled)]
        torch.testing.assert_close(values[1], values[0])
        torch.testing.assert_close(*(torch.autograd.grad(v, verts) for v in values))


@both_ops
def test_infinite_blur_reaches_every_pixel(op, device):
    out = _call(op, device, blur_radius=INF, clip_barycentric_coords=True)
    if op == "rasterize_faces":
        assert (out[0][0] >= 0).all()
        assert out[1].isfinite().all()
    else:
        assert out.isfinite().all()


@both_ops
def test_changed_indices_are_noticed_before_the_gradient(op):
    scene = regular(9)
    faces, verts = scene.faces.clone(), scene.verts.requires_grad_()
    first, count = scene.first, scene.count
    out = _call(op, verts=verts, faces=faces, mesh_to_face_first_idx=first, num_faces_per_mesh=count)
    faces += 2**40
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (out[1] if isinstance(out, tuple) else out).sum().backward()


_NASTY = """
import random
import torch
from recon_engine.ops import rasterize_faces, soft_silhouette

random.seed(0)
torch.manual_seed(0)
odd = [0, 1, -1, 2, 3, 7, 2**31 - 1, 2**31, -2**31, 2**32, 2**62, -2**62, 2**63 - 1, -2**63]
numbers = [0.0, 1e-45, 1e-38, 1e-8, 1.0, -1.0, 1e19, 1e38, -1e38, float("nan"), float("inf"), -float("inf")]
answered = refused = 0
for _ in range(1500):
    V, F, N = (random.choice([0, 1, 2, 5, 40]) for _ in range(3))
    verts = torch.rand(V, 3) * 3 - torch.tensor([1.5, 1.5, -0.1])
    for _ in range(random.choice([0, 0, 1, 5]) if V else 0):
        verts[random.randrange(V), random.randrange(3)] = random.choice(numbers)
    verts = verts.to(random.choice([torch.float32, torch.float64])).requires_grad_()
    faces = torch.randint(0, max(V, 1), (F, 3))
    first, count = torch.randint(0, F + 1, (N,)), torch.zeros(N, dtype=torch.int64)
    for n in range(N):
        count[n] = random.randint(0, F - int(first[n]))
    neighbors = torch.randint(-2, F + 2, (F,)) if random.random() < 0.5 else None
    for tensor in (faces, first, count, neighbors):
        if tensor is not None and tensor.numel() and random.random() < 0.1:
            tensor.view(-1)[random.randrange(tensor.numel())] = random.choice(odd)
    size = random.choice([1, 2, 16, 17, 33]), random.choice([1, 3, 15, 16, 40])
    blur, K = random.choice([0.0, 1e-45, 1e-8, 1e-2, 10.0, 1e38]), random.choice([1, 2, 9, 70])
    options = [random.random() < 0.5 for _ in range(3)]
    try:
        if random.random() < 0.6:
            out = rasterize_faces(verts, faces, first, count, neighbors, size, blur, K, *options)
            assert ((out[0] >= -1) & (out[0] < F)).all()
            sum(o.sum() for o in out[1:]).backward()
        else:
            sigma = random.choice([1e-38, 1e-4, 1.0])
            alpha = soft_silhouette(verts, faces, first, count, size, blur, K, sigma, *options)
            alpha.sum().backward()
        answered += 1
    except ValueError as error:
        assert any(word in str(error) for word in ("verts", "faces", "mesh")), error
        refused += 1
print(answered, refused)
"""


def test_random_input_is_answered_or_refused():
    """In a process of its own, since what this looks for are crashes and endless loops."""
    command = [sys.executable, "-W", "ignore", "-c", _NASTY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answered, refused = map(int, done.stdout.split())
    assert answered > 300
    assert refused > 300


def test_large_image(device):
    scene = regular(4, 0.8).to(device)
    pix_to_face, zbuf, bary, dists = rasterize_faces(*scene, (4096, 4096), 0.0, 1)
    assert pix_to_face.shape == (1, 4096, 4096, 1)
    small = rasterize_faces(*scene, (256, 256), 0.0, 1)[0]
    share, expected = ((p >= 0).double().mean().item() for p in (pix_to_face, small))
    assert share == pytest.approx(expected, abs=0.01)
    hit = pix_to_face >= 0
    for values in (zbuf, dists, *bary.unbind(-1)):
        assert torch.equal(values == -1, ~hit)


@pytest.mark.parametrize("size", [(1, 20000), (20000, 1), (3, 5000)])
def test_long_image(size, device):
    verts = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]], device=device)
    verts += torch.tensor([[-9e4, -9e4, 0.0], [9e4, -9e4, 0.0], [0.0, 9e4, 0.0]], device=device)
    scene = regular(1)._replace(verts=verts).to(device)
    assert (rasterize_faces(*scene, size, 0.0, 1)[0] == 0).all()
    assert (soft_silhouette(*scene[:4], size, 0.0, 1, 1e-4) == 1).all()


def test_many_faces_in_one_pixel(device):
    """All of 20000 faces hit the only pixel; the nearest 200 are kept."""
    F = 20000
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [0.0, 1.0]])
    depth = torch.randperm(F)[:, None, None].expand(F, 3, 1) + 1.0
    verts = torch.cat([corners.expand(F, 3, 2), depth], -1).view(-1, 3)
    faces, first, count = torch.arange(3 * F).view(F, 3), torch.tensor([0]), torch.tensor([F])
    inputs = [t.to(device) for t in (verts, faces, first, count)]
    pix_to_face, zbuf, _, _ = rasterize_faces(*inputs, None, (1, 1), 0.0, 200)
    torch.testing.assert_close(zbuf.flatten().cpu(), torch.arange(1.0, 201.0))
    assert torch.equal(pix_to_face.flatten().cpu(), depth[:, 0, 0].argsort()[:200])
