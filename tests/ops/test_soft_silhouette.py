from __future__ import annotations

import math
import subprocess
import sys

import pytest
import raster_scenes
import torch
from raster_scenes import OPTIONS, Scene, regular, soup, sphere

from recon_engine._load import load
from recon_engine.ops import rasterize_faces, sigmoid_alpha_blend, soft_silhouette
from recon_engine.testing import assert_matches_reference, values_and_grads

_C = load()
PLAIN = (False, False, False)
SIZES = [(16, 16), (12, 33), (35, 8), (17, 19), (1, 1), (1, 40), (40, 1)]


def _silhouette(scene, image_size=(17, 21), blur_radius=1e-3, K=8, sigma=1e-4, options=PLAIN):
    return soft_silhouette(*scene[:4], image_size, blur_radius, K, sigma, *options)


def _unfused(scene, image_size=(17, 21), blur_radius=1e-3, K=8, sigma=1e-4, options=PLAIN):
    pix_to_face, _, _, dists = rasterize_faces(*scene[:4], None, image_size, blur_radius, K, *options)
    return sigmoid_alpha_blend(dists, pix_to_face, sigma)


def _results(function, scene, *settings):
    return values_and_grads(lambda verts: function(scene._replace(verts=verts), *settings), scene.verts)


def _same_as_unfused(scene, *settings):
    (alpha,), (grad,) = _results(_silhouette, scene, *settings)
    (expected,), (expected_grad,) = _results(_unfused, scene, *settings)
    double = scene.verts.dtype == torch.float64
    torch.testing.assert_close(alpha, expected, rtol=0, atol=1e-12 if double else 2e-6)
    # Where little light passes, 1 - p has few digits left, and so has its gradient, in either way.
    largest = expected_grad.abs().max().item()
    torch.testing.assert_close(grad, expected_grad, rtol=0, atol=(1e-11 if double else 1e-4) * largest)
    return alpha, grad


def test_one_triangle_by_hand(device):
    """The centre of the only pixel lies 0.25 from two edges and 0.5 / sqrt(2) from the third; then 0.1 outside."""
    inside = torch.tensor([[-0.25, -0.25, 2.0], [0.75, -0.25, 4.0], [-0.25, 0.75, 8.0]])
    outside = torch.tensor([[-1.0, 0.1, 1.0], [1.0, 0.1, 3.0], [0.0, 2.1, 9.0]])
    verts, faces = torch.cat([inside, outside]), torch.arange(6).view(2, 3)
    scene = Scene(verts, faces, torch.tensor([0, 1, 0]), torch.tensor([1, 1, 2])).to(device)
    near, far = 1 / (1 + math.exp(-0.0625 / 0.05)), 1 / (1 + math.exp(0.01 / 0.05))
    both = 1 - (1 - near) * (1 - far)
    alpha = _silhouette(scene, (1, 1), 0.0101, 2, 0.05)
    torch.testing.assert_close(alpha.flatten().cpu(), torch.tensor([near, far, both]))
    # Only the nearest of the two counts: depth 3.5 against 0.525 + 3 * 0.525 - 9 * 0.05 = 1.65.
    assert _silhouette(scene, (1, 1), 0.0101, 1, 0.05)[2].item() == pytest.approx(far, abs=1e-6)
    assert not _silhouette(scene, (1, 1), 0.0099, 2, 0.05)[1].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
def test_matches_reference(options, dtype, device):
    tolerance = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 1e-8, "atol": 1e-9}
    for i, image_size in enumerate(SIZES):
        scene = regular(30, seed=i).to(device, dtype)
        assert_matches_reference(
            soft_silhouette, *scene[:4], image_size, [0.0, 1e-4, 1e-2][i % 3], 4, 1e-2, *options, **tolerance
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("blur_radius", [0.0, 1e-6, 1e-4, 1e-2])
def test_same_as_rasterising_and_blending(blur_radius, options, dtype, device):
    for i, image_size in enumerate(SIZES):
        _same_as_unfused(soup((40,), seed=i, near=2.0).to(device, dtype), image_size, blur_radius, 40, 1e-3, options)
    _same_as_unfused(sphere(2).to(device, dtype), (24, 31), blur_radius, 4, 1e-4, options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("K", [1, 2, 8, 50])
def test_crowded_pixels_count_the_nearest_faces(K, options, dtype, device):
    scene = soup((20 * K,), 1.0, near=2.0).to(device, dtype)
    scene.verts[:, 0] += 1.3  # most of them on one side
    settings = ((19, 18), 1e-2, K, 0.5, options)
    hits = (rasterize_faces(*scene[:4], None, (19, 18), 1e-2, 20 * K, *options)[0] >= 0).sum(-1)
    assert (hits > K).any()
    assert (hits <= K).any()
    alpha, _ = _same_as_unfused(scene, *settings)
    if K <= 8:  # the opacity of more is 1
        assert not torch.equal(alpha, _silhouette(scene, (19, 18), 1e-2, 20 * K, 0.5, options))


@pytest.mark.parametrize("K", [1, 2, 5, 20])
def test_equal_depths_in_crowded_pixels(K, device):
    """Every face three times: which of equal depth counts is decided by the index, in both passes."""
    for dtype in (torch.float32, torch.float64):
        _same_as_unfused(raster_scenes.duplicated(soup((25,), 1.0)).to(device, dtype), (17, 9), 1e-2, K, 0.3)
    flat = soup((25,), 1.0)
    flat.verts[:, 2] = 1
    alpha, grad = _same_as_unfused(flat.to(device, torch.float64), (17, 9), 1e-2, K, 0.3)
    assert alpha.any()
    assert grad.any()


@pytest.mark.parametrize("counts", [(9, 0, 20), (0, 7), (0,), (0, 0), ()])
def test_several_empty_and_no_meshes(counts, device):
    scene = soup(counts, 0.8).to(device)
    alpha, _ = _same_as_unfused(scene, (10, 6), 1e-2, 2, 0.1) if sum(counts) else (_silhouette(scene, (10, 6)), None)
    assert alpha.shape == (len(counts), 10, 6)
    assert alpha.dtype == scene.verts.dtype
    for mesh, count in zip(alpha, counts):
        assert mesh.any() == (count > 0)


@pytest.mark.parametrize("options", OPTIONS)
def test_faces_behind_the_camera_do_not_count(options, device):
    scene = soup((60,), 1.0, near=-1.0).to(device)
    alpha, grad = _same_as_unfused(scene, (15, 22), 1e-2, 50, 0.1, options)
    assert alpha.any()
    behind = (scene.verts[scene.faces][..., 2] < 0).any(1)
    assert behind.any()
    assert not grad[scene.faces[behind]].any()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("K", [2, 8])
def test_gradcheck(K, options, device):
    scene = regular(8, 0.6, seed=3).to(device, torch.float64)
    scene.verts[:, 2] -= 18.5

    def differentiable(verts):
        return _silhouette(scene._replace(verts=verts), (5, 7), 0.01, K, 0.1, options)

    assert (differentiable(scene.verts) > 0).sum() > 5
    assert torch.autograd.gradcheck(differentiable, scene.verts.requires_grad_())


def test_depth_has_no_gradient(device):
    _, (grad,) = _results(_silhouette, soup((40,), 0.8).to(device), (17, 21), 1e-2, 3, 0.1, (True, True, False))
    assert grad[:, :2].any()
    assert not grad[:, 2].any()


def test_one_minus_alpha_is_that_of_the_pixels_no_face_covers(device):
    """A sharp silhouette is the image of the pixels that are hit, and faces that cover each other do not add up."""
    scene = sphere(2).to(device)
    alpha = _silhouette(scene, (32, 32), 0.0, 50, 1e-9)
    hit = rasterize_faces(*scene[:4], None, (32, 32), 0.0, 1)[0][..., 0] >= 0
    assert torch.equal(alpha > 0.5, hit)
    assert ((alpha == 0) | (alpha == 1))[alpha != 0.5].float().mean() > 0.99


@pytest.mark.parametrize("sigma", [1e-30, 1e-8, 1e-4, 1.0, 1e30])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, 1e8])
def test_any_softness_gives_finite_numbers(sigma, size, device):
    scene = soup((30,), size).to(device)
    for options in OPTIONS:
        (alpha,), (grad,) = _results(_silhouette, scene, (9, 10), 1e-2, 5, sigma, options)
        assert ((alpha >= 0) & (alpha <= 1)).all()
        assert grad.isfinite().all()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("z_scale", [1e-8, 1e-5, 1e3, 1e20, 1e30])
def test_depths_of_any_size(z_scale, options, device):
    scene = regular(40).to(device)
    scene = scene._replace(verts=scene.verts * torch.tensor([1, 1, z_scale / 20], device=device))
    for K in (2, 40):
        alpha, grad = _same_as_unfused(scene, (17, 21), 1e-3, K, 1e-3, options)
        assert alpha.any()
        assert grad.isfinite().all()


def test_edge_on_faces_give_finite_gradients(device):
    for height in (0.0, 1e-8, 1e-7, 1e-5):
        verts = torch.tensor([[-0.5, 0.1, 1.0], [0.5, 0.1, 2.0], [0.1, 0.1 + height, 3.0]])
        scene = Scene(verts, torch.tensor([[0, 1, 2]]), torch.tensor([0]), torch.tensor([1])).to(device)
        (alpha,), (grad,) = _results(_silhouette, scene, (16, 16), 0.05, 2, 1e-2)
        assert alpha.any() == (height > 1e-8)
        assert grad.isfinite().all()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("corner", [0, 1, 2])
def test_needles(corner, options, device):
    for blur_radius in (0.0, 1e-4, 1e-2):
        _same_as_unfused(raster_scenes.needles(corner).to(device), (31, 32), blur_radius, 60, 1e-2, options)


@pytest.fixture
def _settings_restored():
    threads, level = torch.get_num_threads(), _C.simd_level()
    yield
    torch.set_num_threads(threads)
    _C.set_simd_level(level)


@pytest.mark.parametrize("K", [2, 100])
@pytest.mark.usefixtures("_settings_restored")
def test_same_bits_on_any_number_of_threads(K):
    results = []
    for threads in (1, 2, 2, 5):
        torch.set_num_threads(threads)
        results.append([_results(_silhouette, s, (67, 50), 1e-3, K, 1e-3) for s in (soup((300, 0, 90)), sphere(3))])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
@pytest.mark.usefixtures("_settings_restored")
def test_instruction_sets_agree(level, options):
    settings = ((33, 50), 1e-3, 5, 1e-2, options)
    _C.set_simd_level("baseline")
    (expected,), (expected_grad,) = _results(_silhouette, soup((140,)), *settings)
    if not _C.set_simd_level(level):
        pytest.skip(f"this CPU has no {level}")
    (alpha,), (grad,) = _results(_silhouette, soup((140,)), *settings)
    torch.testing.assert_close(alpha, expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(grad, expected_grad, rtol=0, atol=1e-5 * expected_grad.abs().max().item())


_PEAK = """
import resource, sys, torch
from recon_engine.ops import soft_silhouette
K = int(sys.argv[1])
generator = torch.Generator().manual_seed(0)
verts = (torch.rand(3000, 3, generator=generator) + torch.tensor([-0.5, -0.5, 1])).requires_grad_()
first, count = torch.tensor([0]), torch.tensor([1000])
alpha = soft_silhouette(verts, torch.arange(3000).view(1000, 3), first, count, (512, 512), 1e-4, K, 1e-4)
alpha.sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_faces_per_pixel():
    """512 x 512 pixels: one more fragment in each would take 7 MB, 150 of them 1 GB."""
    pytest.importorskip("resource")

    def peak(K):
        command = [sys.executable, "-W", "ignore", "-c", _PEAK, str(K)]
        return int(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)

    unit = 1 if sys.platform == "darwin" else 1024
    assert (peak(150) - peak(1)) * unit < 64 << 20
