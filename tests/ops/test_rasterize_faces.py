from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import raster_scenes
import torch
from raster_scenes import OPTIONS, Scene, regular, soup, sphere

from recon_engine._load import load
from recon_engine._op import reference
from recon_engine.ops import rasterize_faces
from recon_engine.testing import values_and_grads

_C = load()
RECORDED = Path(__file__).parents[1] / "reference" / "raster.npz"
PLAIN = (False, False, False)
SIZES = [(16, 16), (12, 33), (35, 8), (17, 19), (1, 1), (1, 40), (40, 1)]
BLURS = [0.0, 1e-6, 1e-4, 1e-2]


def _rasterize(scene, image_size=(17, 21), blur_radius=0.0, K=8, options=PLAIN):
    return rasterize_faces(*scene, image_size, blur_radius, K, *options)


def _results(scene, *settings):
    """The fragments and the gradient in the vertices of a random functional of them."""
    fragments, grads = values_and_grads(lambda verts: _rasterize(scene._replace(verts=verts), *settings), scene.verts)
    return fragments, grads[0] if grads else torch.zeros_like(scene.verts)  # no meshes: the reference has no graph


def _close_gradients(scene, actual, expected, tolerance):
    """Errors are small against the largest gradient in the faces of a vertex: the corners of one share their terms."""
    by_face = expected[scene.faces].abs().flatten(1).amax(1, keepdim=True).expand(-1, 9).reshape(-1, 3)
    indices = scene.faces.view(-1, 1).expand(-1, 3)
    largest = torch.zeros_like(expected).scatter_reduce(0, indices, by_face, "amax")
    torch.testing.assert_close(
        actual / largest.clamp(min=1e-30), expected / largest.clamp(min=1e-30), rtol=0, atol=tolerance
    )


def _matches_reference(scene, *settings):
    fragments, grad = _results(scene, *settings)
    with reference():
        expected, expected_grad = _results(scene, *settings)
    double = scene.verts.dtype == torch.float64
    # Single precision: a blurred pixel next to a sliver has coordinates of some thousand, which cancel in the depth.
    tolerance = {"rtol": 1e-8, "atol": 1e-10} if double else {"rtol": 2e-3, "atol": 1e-4}
    torch.testing.assert_close(fragments, expected, **tolerance)
    _close_gradients(scene, grad, expected_grad, 1e-7 if double else 5e-3)


def _live(scene, *settings):
    pytest.importorskip("pytorch3d._C")
    return raster_scenes.pytorch3d_forward(scene, *settings)


def _equal(actual, expected):
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


# ---- what an outsider would check ----


def test_one_triangle_by_hand(device):
    """A right angle at the centre of the only pixel's (0, 0), moved by (-0.25, -0.25): weights 0.5, 0.25, 0.25."""
    verts = torch.tensor([[-0.25, -0.25, 2.0], [0.75, -0.25, 4.0], [-0.25, 0.75, 8.0]], device=device)
    scene = Scene(verts, torch.tensor([[0, 1, 2]]), torch.tensor([0]), torch.tensor([1])).to(device)
    pix_to_face, zbuf, bary, dists = _rasterize(scene, (1, 1), 0.0, 2)
    assert pix_to_face.tolist() == [[[[0, -1]]]]
    torch.testing.assert_close(bary.cpu().view(2, 3), torch.tensor([[0.5, 0.25, 0.25], [-1.0, -1.0, -1.0]]))
    torch.testing.assert_close(zbuf.cpu().flatten(), torch.tensor([0.5 * 2 + 0.25 * 4 + 0.25 * 8, -1.0]))
    # The catheti pass at distance 0.25 and the hypotenuse x + y = 0.5 at 0.5 / sqrt(2).
    torch.testing.assert_close(dists.cpu().flatten(), torch.tensor([-(0.25**2), -1.0]))
    # In perspective: weights over depths, 1/4 : 1/16 : 1/32, and the depth is their harmonic mean.
    _, zbuf, bary, _ = _rasterize(scene, (1, 1), 0.0, 1, (True, False, False))
    torch.testing.assert_close(bary.cpu().flatten(), torch.tensor([8.0, 2.0, 1.0]) / 11)
    torch.testing.assert_close(zbuf.item(), 1 / (0.5 / 2 + 0.25 / 4 + 0.25 / 8))


def test_distance_outside_and_clipped_coordinates(device):
    """The pixel centre (0, 0) lies 0.1 below the middle of the edge 01, which is as wide as 2."""
    verts = torch.tensor([[-1.0, 0.1, 1.0], [1.0, 0.1, 3.0], [0.0, 2.1, 9.0]], device=device)
    scene = Scene(verts, torch.tensor([[0, 1, 2]]), torch.tensor([0]), torch.tensor([1])).to(device)
    assert (_rasterize(scene, (1, 1), 0.0099)[0] == -1).all()
    _, zbuf, bary, dists = _rasterize(scene, (1, 1), 0.0101, 1)
    torch.testing.assert_close(dists.item(), 0.01)
    torch.testing.assert_close(bary.cpu().flatten(), torch.tensor([0.525, 0.525, -0.05]))
    torch.testing.assert_close(zbuf.item(), 0.525 + 3 * 0.525 - 9 * 0.05)
    _, zbuf, bary, _ = _rasterize(scene, (1, 1), 0.0101, 1, (False, True, False))
    torch.testing.assert_close(bary.cpu().flatten(), torch.tensor([0.5, 0.5, 0.0]))
    torch.testing.assert_close(zbuf.item(), 2.0)


@pytest.mark.parametrize(("x", "y", "row", "column"), [(1, 1, 0, 0), (-1, 1, 0, 1), (1, -1, 1, 0), (-1, -1, 1, 1)])
def test_x_is_left_and_y_is_up(x, y, row, column, device):
    corners = torch.tensor([[0.1, 0.1, 1.0], [0.9, 0.1, 1.0], [0.1, 0.9, 1.0]]) * torch.tensor([x, y, 1])
    scene = Scene(corners, torch.tensor([[0, 1, 2]]), torch.tensor([0]), torch.tensor([1])).to(device)
    hit = _rasterize(scene, (4, 4), 0.0, 1)[0].view(2, 2, 2, 2).amax((1, 3)) >= 0
    assert hit.nonzero().tolist() == [[row, column]]


@pytest.mark.parametrize(("H", "W"), [(4, 8), (8, 4)])
def test_short_side_spans_minus_one_to_one(H, W, device):
    """A square of side 2 fills the middle of the long side only."""
    verts = torch.tensor([[-1.0, -1.0, 1.0], [1.0, -1.0, 1.0], [1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]])
    # The second diagonal, so that centres on the first are inside of one of the four.
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 1, 3], [1, 2, 3]])
    scene = Scene(verts, faces, torch.tensor([0]), torch.tensor([4])).to(device)
    hit = _rasterize(scene, (H, W), 0.0, 1)[0][0, ..., 0] >= 0
    expected = torch.zeros(H, W, dtype=torch.bool)
    expected[(H - 4) // 2 : (H + 4) // 2, (W - 4) // 2 : (W + 4) // 2] = True
    assert torch.equal(hit.cpu(), expected)


def test_back_faces_run_clockwise(device):
    scene = regular(40).to(device)
    seen = _rasterize(scene, K=40, options=(False, False, True))[0].unique()
    a, b, c = scene.verts[scene.faces][..., :2].unbind(1)
    normal = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    assert (normal[seen[1:]] < 0).all() or (normal[seen[1:]] > 0).all()
    turned = scene._replace(faces=scene.faces.flip(1))
    both = torch.cat([seen, _rasterize(turned, K=40, options=(False, False, True))[0].unique()]).unique()
    assert torch.equal(both, _rasterize(scene, K=40)[0].unique())


def test_nearest_face_wins_whatever_the_order(device):
    scene = soup((30,), 1.0).to(device)
    pix_to_face, zbuf, _, _ = _rasterize(scene, K=30)
    hit = pix_to_face >= 0
    assert (zbuf.diff(dim=-1)[hit[..., 1:]] >= 0).all()
    assert (zbuf[~hit] == -1).all()
    assert torch.equal(_rasterize(scene, K=1)[0], pix_to_face[..., :1])
    turned = _rasterize(scene._replace(faces=scene.faces.flip(0)), K=30)
    assert torch.equal(torch.where(turned[0] >= 0, 29 - turned[0], -1), pix_to_face)


# ---- the reference ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("blur_radius", BLURS)
def test_matches_reference(blur_radius, options, dtype, device):
    for i, image_size in enumerate(SIZES):
        _matches_reference(regular(30, seed=i).to(device, dtype), image_size, blur_radius, 4, options)


@pytest.mark.parametrize("K", [1, 2, 8, 50, 150, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference_for_any_number_of_faces_per_pixel(K, dtype, device):
    _matches_reference(soup((170,), 1.5, near=2.0).to(device, dtype), (9, 7), 1e-4, K, (True, True, False))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference_on_a_closed_mesh(options, dtype, device):
    _matches_reference(sphere(2).to(device, dtype), (24, 31), 1e-4, 4, options)


@pytest.mark.parametrize("counts", [(9, 0, 20), (0, 7), (0,), (0, 0), ()])
def test_several_empty_and_no_meshes(counts, device):
    scene = soup(counts, near=3.0).to(device)
    _matches_reference(scene, (10, 6), 1e-4, 3, (True, True, False))
    pix_to_face = _rasterize(scene, (10, 6), 1e-4, 3)[0]
    assert pix_to_face.shape == (len(counts), 10, 6, 3)
    for mesh, first, count in zip(pix_to_face, scene.first, scene.count):
        assert ((mesh == -1) | ((mesh >= first) & (mesh < first + count))).all()


@pytest.mark.parametrize("K", [1, 2, 3, 7, 200])
def test_equal_depths_come_in_order_of_their_index(K, device):
    scene = raster_scenes.duplicated(soup((20,), 1.0).to(device)).to(device)
    _matches_reference(scene.to(device, torch.float64), (17, 9), 0.0, K, PLAIN)
    pix_to_face, zbuf, _, _ = _rasterize(scene, (17, 9), 0.0, K)
    tied = (zbuf.diff(dim=-1) == 0) & (pix_to_face[..., 1:] >= 0)
    assert (pix_to_face.diff(dim=-1)[tied] > 0).all()
    assert (pix_to_face[..., 0] < 20).all()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("K", [2, 30])
def test_faces_behind_the_camera_and_without_area(K, options, device):
    scene = soup((30,), 1.0, near=-1.0)
    flat, dot = scene.verts[:9].clone(), scene.verts[9:18].clone()
    flat[2::3] = (flat[0::3] + flat[1::3]) / 2
    dot[1::3] = dot[2::3] = dot[0::3]
    scene = scene._replace(verts=torch.cat([flat, dot, scene.verts[18:]])).to(device, torch.float64)
    _matches_reference(scene, (15, 22), 0.01, K, options)
    seen = _rasterize(scene, (15, 22), 0.01, 30, options)[0].unique()[1:]
    assert len(seen)
    assert seen.min() >= 6
    assert (scene.verts[scene.faces[seen]][..., 2] > 0).all()


@pytest.mark.parametrize("options", OPTIONS)
def test_halves_of_clipped_faces_count_once(options, device):
    scene = raster_scenes.with_neighbors(soup((30, 0, 12), 1.0, near=3.0)).to(device, torch.float64)
    _matches_reference(scene, (15, 22), 1e-3, 60, options)
    pix_to_face = _rasterize(scene, (15, 22), 1e-3, 60, options)[0]
    assert pix_to_face.shape[-1] == 60
    one_sided = _rasterize(scene._replace(neighbors=None), (15, 22), 1e-3, 60, options)[0]
    assert (one_sided >= 0).sum() > (pix_to_face >= 0).sum()
    other = scene.neighbors[pix_to_face.clamp(min=0)]
    twice = (other[..., None] == pix_to_face[..., None, :]) & (other[..., None] >= 0) & (pix_to_face[..., None] >= 0)
    assert not twice.any()


def test_a_half_replaced_by_a_deeper_one_makes_room_again(device):
    """With K = 1: depth 1, then its other half at 3, which is closer to the pixel, and then 2, which is nearer."""
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [0.0, 1.0]])
    sizes, depths = torch.tensor([0.9, 0.9, 0.3, 0.9]), torch.tensor([1.0, 5.0, 3.0, 2.0])
    verts = torch.cat([corners * sizes[:, None, None], depths[:, None, None].expand(4, 3, 1)], -1).view(-1, 3)
    neighbors = torch.tensor([2, -1, 0, -1])
    scene = Scene(verts, torch.arange(12).view(4, 3), torch.tensor([0]), torch.tensor([4]), neighbors).to(device)
    for K, expected in ((1, [3]), (2, [3, 2]), (3, [3, 2, 1])):
        assert _rasterize(scene, (1, 1), 0.0, K)[0].flatten().tolist() == expected


# ---- PyTorch3D ----


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    "kind", ["soup", "grid", "regular", "sphere", "duplicated", "neighbors", "one-sided", "behind"]
)
def test_bits_are_pytorch3ds(kind, options):
    soup_of = soup((30, 0, 25), 0.7)
    scene = {
        "soup": soup_of,
        "grid": soup_of._replace(verts=(soup_of.verts * 4).round() / 4),  # edges through pixel centres, equal depths
        "regular": regular(60),
        "sphere": sphere(2),
        "duplicated": raster_scenes.duplicated(soup((25,), 1.0)),
        "neighbors": raster_scenes.with_neighbors(soup_of),
        "one-sided": raster_scenes.with_neighbors(soup_of, symmetric=False),
        "behind": soup((60,), 1.0, near=-0.5),
        "needles": raster_scenes.needles(1),
    }[kind]
    for image_size, blur_radius, K in zip([*SIZES, (17, 19)], itertools.cycle(BLURS), [1, 2, 8, 3, 150, 50, 200, 5]):
        settings = (image_size, blur_radius, K, options)
        _equal(_rasterize(scene, *settings), _live(scene, *settings))


def _recorded():
    with np.load(RECORDED) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    height, width, blur_radius, K = arrays["settings"].tolist()
    return arrays, Scene(*(arrays[name] for name in Scene._fields)), ((int(height), int(width)), blur_radius, int(K))


@pytest.mark.parametrize("options", OPTIONS)
def test_recorded_answers_of_pytorch3d(options, device):
    arrays, scene, settings = _recorded()
    scene = scene.to(device)
    verts = scene.verts.requires_grad_()
    fragments = _rasterize(scene, *settings, options)
    key = "".join("ny"[o] for o in options)
    expected = [arrays[f"{key}/{name}"] for name in ("pix_to_face", "zbuf", "bary", "dists")]
    expected[0] = expected[0].long()
    # GPUs may contract a multiplication and an addition.
    exact = {"rtol": 0, "atol": 0} if device.type == "cpu" else {}
    torch.testing.assert_close([f.detach().cpu() for f in fragments], expected, **exact)
    (grad,) = torch.autograd.grad(fragments[1:], verts, raster_scenes.output_grads(fragments))
    _close_gradients(scene, grad, arrays[f"{key}/grad_verts"].to(device), 2e-3)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("blur_radius", BLURS)
def test_gradients_are_pytorch3ds(blur_radius, options):
    """Up to the order of the sums: single precision, some hundred terms of a face that cancel, hence 2e-3.

    All pixels lie in front of the horizon of the planes, since PyTorch3D differentiates the clamped denominator of
    those behind it (see test_gradient_beyond_the_horizon).
    """
    for seed in range(3):
        scene = regular(60, 0.4, seed)
        settings = ((21, 34), blur_radius, 6, options)
        expected = _live(scene, *settings)
        verts = scene.verts.requires_grad_()
        grads = raster_scenes.output_grads(expected)
        (grad,) = torch.autograd.grad(_rasterize(scene, *settings)[1:], verts, grads)
        with torch.no_grad():
            _close_gradients(scene, grad, raster_scenes.pytorch3d_backward(scene, expected[0], grads, options), 2e-3)


# ---- gradients ----


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("blur_radius", [0.0, 0.01])
def test_gradcheck(blur_radius, options, device):
    scene = regular(8, 0.6, seed=3).to(device, torch.float64)
    scene.verts[:, 2] -= 18.5  # perspective matters

    def differentiable(verts):
        return _rasterize(scene._replace(verts=verts), (5, 7), blur_radius, 3, options)[1:]

    assert (_rasterize(scene, (5, 7), blur_radius, 3, options)[0] >= 0).sum() > 10
    assert torch.autograd.gradcheck(differentiable, scene.verts.requires_grad_())


def test_no_gradient_where_nothing_is_hit(device):
    scene = soup((5,), near=-5.0).to(device)
    fragments, grad = _results(scene)
    assert (fragments[0] == -1).all()
    assert not grad.any()


@pytest.mark.parametrize("clip", [False, True])
def test_gradient_beyond_the_horizon(clip, device):
    """A pixel where the plane of the face is at infinity or behind the camera: the denominator is clamped, constant.

    PyTorch3D divides by the square of the clamped value there: gradients of 1e11 instead of 1 (its issue 561).
    """
    verts = torch.tensor([[-0.5, -0.2, 0.5], [0.5, -0.2, 0.5], [0.0, 0.0, 8.0]], device=device)
    scene = Scene(verts, torch.tensor([[0, 1, 2]]), torch.tensor([0]), torch.tensor([1])).to(device)
    settings = ((3, 3), 0.6, 1, (True, clip, False))
    _, zbuf, bary, _ = _rasterize(scene, *settings)
    if not clip:
        assert (bary.sum(-1)[zbuf >= 0] < 0.5).any()  # the situation does occur
    fragments, grad = _results(scene, *settings)
    double = _results(scene.to(device, torch.float64), *settings)[1]
    with reference():
        expected = _results(scene.to(device, torch.float64), *settings)[1]
    assert all(f.isfinite().all() for f in fragments)
    _close_gradients(scene, double, expected, 1e-7)
    _close_gradients(scene, grad.double(), expected, 1e-4)


# ---- numbers that are hard on floats ----


@pytest.mark.parametrize("blur_radius", [1e-6, 1e-4, 1e-2])
@pytest.mark.parametrize("corner", [0, 1, 2])
def test_needles_keep_their_blur(corner, blur_radius, device):
    """The sign of their area is rounding, and must not decide on which side of an edge pixels are hit."""
    for seed in range(3):
        scene = raster_scenes.needles(corner, seed=seed).to(device)
        settings = ((31, 32), blur_radius, 60, (False, True, False))
        pix_to_face = _rasterize(scene, *settings)[0]
        with reference():
            expected = _rasterize(scene, *settings)[0]
        assert torch.equal(pix_to_face.sort(-1)[0], expected.sort(-1)[0])
        assert (pix_to_face >= 0).any()


def _finite_and_as_double(scene, settings, tolerance=1e-3, gradients=True):
    fragments, grad = _results(scene, *settings)
    double, double_grad = _results(scene.to(scene.verts.device, torch.float64), *settings)
    assert all(f.isfinite().all() for f in fragments)
    assert grad.isfinite().all()
    assert (fragments[0] >= 0).any()
    assert torch.equal(fragments[0], double[0])
    torch.testing.assert_close([f.double() for f in fragments[1:]], double[1:], rtol=tolerance, atol=tolerance)
    if gradients:
        _close_gradients(scene, grad.double(), double_grad, 10 * tolerance)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("z_scale", [1e-7, 1e-5, 1e-3, 1e3, 1e10, 1e16, 1e20, 1e30])
def test_depths_of_any_size(z_scale, options, device):
    """1e20: PyTorch3D's issue 460. The product of two depths overflows from 1e19 on, and is below 1e-8 near 0."""
    scene = regular(20).to(device)
    scene = scene._replace(verts=scene.verts * torch.tensor([1, 1, z_scale / 20], device=device))
    fragments, grad = _results(scene, (17, 21), 1e-3, 4, options)
    assert all(f.isfinite().all() for f in fragments)
    assert grad.isfinite().all()
    assert (fragments[0] >= 0).any()


@pytest.mark.parametrize("z_scale", [1e3, 1e10, 1e16, 1e20, 1e30])
def test_perspective_does_not_depend_on_the_unit_of_depth(z_scale, device):
    options = (True, True, False)
    scene = regular(20).to(device)
    unit = torch.tensor([1, 1, z_scale], device=device)
    fragments = _rasterize(scene, (17, 21), 0.0, 4, options)
    scaled = _rasterize(scene._replace(verts=scene.verts * unit), (17, 21), 0.0, 4, options)
    hit = fragments[0] >= 0
    assert torch.equal(scaled[0], fragments[0])
    torch.testing.assert_close(scaled[1][hit] / z_scale, fragments[1][hit], rtol=1e-5, atol=0)
    torch.testing.assert_close(scaled[2], fragments[2])


@pytest.mark.parametrize("options", OPTIONS)
def test_faces_next_to_the_camera_plane(options, device):
    """PyTorch3D's issue 561: blur, perspective, and vertices as near to the camera as they may be."""
    scene = soup((40,), 0.5, near=0.0)
    scene.verts[::3, 2] = torch.logspace(-7.9, 0, 40)
    scene = scene.to(device)
    fragments, grad = _results(scene, (17, 21), 1e-2, 4, options)
    assert all(f.isfinite().all() for f in fragments)
    assert grad.isfinite().all()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("height", [0.0, 1e-8, 3e-8, 1e-7, 1e-6, 1e-4, 1e-2])
def test_faces_seen_edge_on(height, options, device):
    """PyTorch3D's issue 110: as the area goes to zero gradients grow, but nothing becomes NaN."""
    verts = torch.tensor([[-0.5, 0.1, 1.0], [0.5, 0.1, 2.0], [0.1, 0.1 + height, 3.0]])
    turned = verts @ torch.tensor([[0.8, 0.6, 0.0], [-0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    faces = torch.tensor([[0, 1, 2], [3, 5, 4]])
    scene = Scene(torch.cat([verts, turned]), faces, torch.tensor([0]), torch.tensor([2]))
    for dtype in (torch.float32, torch.float64):
        fragments, grad = _results(scene.to(device, dtype), (16, 16), 0.05, 2, options)
        assert all(f.isfinite().all() for f in fragments)
        assert grad.isfinite().all()
    assert (fragments[0] >= 0).any() == (height > 1e-8)  # below, the area counts as zero


@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_face_far_larger_than_the_image(size, options, device):
    verts = torch.tensor([[-1.0, -0.9, 1.0], [0.8, -1.0, 2.0], [0.1, 1.0, 3.0]]) * torch.tensor([size, size, 1.0])
    scene = Scene(verts, torch.tensor([[0, 2, 1]]), torch.tensor([0]), torch.tensor([1])).to(device)
    scene = scene if not options[2] else scene._replace(faces=scene.faces.flip(1))
    if not (_rasterize(scene, (6, 9), 1e-4, 2, options)[0] >= 0).any():
        scene = scene._replace(faces=scene.faces.flip(1))
    _finite_and_as_double(scene, ((6, 9), 1e-4, 2, options))
    assert (_rasterize(scene, (6, 9), 1e-4, 1, options)[0] == 0).all()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("coordinate", [1e15, 1e18, 1e20, 1e25, 1e38])
def test_coordinates_that_overflow_when_squared(coordinate, axis, options, device):
    """Wide faces then have no distance that a float could hold, and are left out; far ones are drawn."""
    huge = torch.tensor([[-1.0, -0.9, 1.0], [0.8, -1.0, 2.0], [0.1, 1.0, 3.0]])
    huge[:, axis] *= coordinate
    others = soup((10,), 0.8)
    verts, faces = torch.cat([huge, others.verts]), torch.arange(33).view(11, 3)
    scene = Scene(verts, faces.flip(1), torch.tensor([0]), torch.tensor([11])).to(device)
    settings = ((9, 8), 1e-3, 2, options)
    fragments, grad = _results(scene, *settings)
    assert all(f.isfinite().all() for f in fragments)
    assert grad[3:].isfinite().all()
    assert grad.isfinite().all() or coordinate > 1e25  # beyond, gradients themselves exceed the largest float
    seen = axis == 2 or coordinate <= 1e18
    assert (fragments[0] == 0).any() == seen
    if seen:
        double = _rasterize(scene.to(device, torch.float64), *settings)
        assert torch.equal(fragments[0], double[0])
    else:
        _equal(fragments, _rasterize(scene._replace(first=scene.first + 1, count=scene.count - 1), *settings))


@pytest.mark.parametrize("size", [1e-2, 1e-3])
def test_faces_smaller_than_a_pixel(size, device):
    scene = soup((200,), size).to(device)
    _matches_reference(scene.to(device, torch.float64), (20, 20), 1e-2, 8, (True, True, False))
    assert _results(scene, (20, 20), 1e-2, 8, (True, True, False))[1].isfinite().all()


# ---- the same bits each time ----


@pytest.fixture
def _settings_restored():
    threads, level = torch.get_num_threads(), _C.simd_level()
    yield
    torch.set_num_threads(threads)
    _C.set_simd_level(level)


@pytest.mark.parametrize("K", [1, 8, 50, 150])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("_settings_restored")
def test_same_bits_on_any_number_of_threads(K, dtype):
    scene = raster_scenes.with_neighbors(soup((300, 5, 200), 0.3)).to("cpu", dtype)
    settings = ((50, 67), 1e-4, K, (True, True, False))
    torch.set_num_threads(1)
    fragments, grad = _results(scene, *settings)
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        again, again_grad = _results(scene, *settings)
        _equal([*again, again_grad], [*fragments, grad])


def test_same_bits_for_a_mesh_with_shared_vertices():
    scene = sphere(3)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 2, 3):
            torch.set_num_threads(threads)
            results.append(_results(scene, (64, 64), 1e-4, 8, (True, True, False)))
    finally:
        torch.set_num_threads(before)
    for fragments, grad in results[1:]:
        _equal([*fragments, grad], [*results[0][0], results[0][1]])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
@pytest.mark.usefixtures("_settings_restored")
def test_instruction_sets_agree(level, options):
    """Forward to the bit. Backward: sums over other registers, in another order."""
    scene = raster_scenes.with_neighbors(soup((90, 50), 0.5, near=4.0))
    settings = ((33, 50), 1e-4, 5, options)
    _C.set_simd_level("baseline")
    fragments, grad = _results(scene, *settings)
    if not _C.set_simd_level(level):
        pytest.skip(f"this CPU has no {level}")
    again, again_grad = _results(scene, *settings)
    _equal(again, fragments)
    _close_gradients(scene, again_grad, grad, 1e-3)
