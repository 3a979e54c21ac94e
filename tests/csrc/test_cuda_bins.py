"""The CUDA rasterisers, run on a CPU, with more faces than a tile looks at one by one: they are found through bins."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "ops")]
from emulated_cuda import kernels_of
from raster_scenes import OPTIONS, Scene, duplicated, needles, soup, sphere, with_neighbors
from test_cuda_emulated import OPS, ORDERS, _check_rasterizer, _check_silhouette, cuda  # noqa: F401 - a fixture

from recon_engine.ops import rasterize_faces
from recon_engine.testing import values_and_grads

PLAIN = (False, False, False)
CLIPPED = (True, True, False)


def _joined(*scenes):
    """The meshes of all scenes as one mesh."""
    offsets = torch.tensor([0, *(len(s.verts) for s in scenes)]).cumsum(0)
    faces = torch.cat([s.faces + offset for s, offset in zip(scenes, offsets)])
    return Scene(torch.cat([s.verts for s in scenes]), faces, torch.tensor([0]), torch.tensor([len(faces)]))


def _layers(F=700, seed=0):
    """Large faces behind one another in any order, of constant depth: most are hidden behind the nearest."""
    scene = soup((F,), 3.0, seed)
    depth = torch.rand(F, generator=torch.Generator().manual_seed(seed)) + 1
    verts = scene.verts.clone()
    verts[:, 2] = depth.repeat_interleave(3)
    return scene._replace(verts=verts)


@pytest.mark.parametrize(
    ("size", "K", "blur_radius"), [((128, 128), 4, 0.0), ((90, 200), 1, 1e-5), ((40, 24), 70, 1e-4)]
)
def test_small_faces(cuda, size, K, blur_radius):  # noqa: F811
    for options, order in ((PLAIN, ORDERS[0]), (CLIPPED, ORDERS[3])):
        _check_rasterizer(cuda, soup((20_000,), 0.02), size, blur_radius, K, options, [order])


def test_bins_of_several_tiles(cuda):  # noqa: F811
    """There are 361 tiles, and at most 256 bins."""
    _check_rasterizer(cuda, soup((1000, 700), 0.1), (300, 290), 1e-5, 1, PLAIN, [ORDERS[0]])


def test_more_faces_than_a_block_looks_up_at_once(cuda):  # noqa: F811
    """One word of the summary stands for 1024 faces, and a block reads 256 of them at a time."""
    scene = soup((270_000,), 0.003)
    _check_rasterizer(cuda, scene, (16, 16), 0.0, 2, PLAIN, [ORDERS[0]], backward=False)


@pytest.mark.parametrize("size", [(700, 1), (1, 700), (7, 333), (64, 64)])
@pytest.mark.parametrize("options", OPTIONS[::3])
def test_faces_of_all_sizes(cuda, size, options):  # noqa: F811
    scene = _joined(soup((1500,), 0.03), soup((60,), 30.0, 1, near=2.0), soup((40,), 0.6, 2))
    _check_rasterizer(cuda, scene, size, 1e-3, 5, options, [ORDERS[2]])
    _check_silhouette(cuda, scene, size, 1e-3, 5, 0.1, options, [ORDERS[1]])


@pytest.mark.parametrize("counts", [(600, 0, 31, 1030, 7), (1024, 1024, 1, 0, 2047), (0, 0, 0, 0, 3000)])
def test_meshes_of_different_sizes(cuda, counts):  # noqa: F811
    scene = soup(counts, 0.1)
    for size, order in (((50, 70), ORDERS[0]), ((33, 16), ORDERS[3])):
        _check_rasterizer(cuda, scene, size, 1e-3, 3, CLIPPED, [order])
        _check_silhouette(cuda, scene, size, 1e-3, 3, 1e-2, CLIPPED, [order])


def test_meshes_may_share_faces(cuda):  # noqa: F811
    scene = soup((2100,), 0.1)._replace(first=torch.tensor([0, 5, 1055]), count=torch.tensor([2100, 1050, 33]))
    _check_rasterizer(cuda, scene, (40, 50), 1e-3, 3, PLAIN, ORDERS[:2])


@pytest.mark.parametrize("K", [1, 2, 4, 8, 20])
@pytest.mark.parametrize("options", OPTIONS)
def test_hidden_faces(cuda, K, options):  # noqa: F811
    """Most are passed over because of the depths found before; those of equal depth come by their index."""
    for i, scene in enumerate((_layers(), duplicated(_layers(300)), soup((900,), 1.5, near=0.1))):
        for blur_radius in (0.0, 1e-3):
            _check_rasterizer(cuda, scene, (20, 37), blur_radius, K, options, [ORDERS[i]], backward=False)


@pytest.mark.parametrize("scale", [3e-5, 1e-4, 1e15, 1e18])
@pytest.mark.parametrize("clip", [False, True])
def test_hidden_faces_at_extreme_depths(cuda, scale, clip):  # noqa: F811
    """In perspective the weights are divided by a sum that is clamped there: depths are not means of the corners'."""
    scene = soup((900,), 1.5, near=0.1)
    scene.verts[:, 2] *= scale
    far = scene.verts.clone()
    far[::7, 2] *= 1e6  # and faces that reach from one extreme to the other
    for i, verts in enumerate((scene.verts, far)):
        for blur_radius in (0.0, 1e-3):
            settings = (20, 37), blur_radius, 2, (True, clip, False), [ORDERS[i]]
            _check_rasterizer(cuda, scene._replace(verts=verts), *settings, backward=False)


@pytest.mark.parametrize("options", OPTIONS)
def test_needles(cuda, options):  # noqa: F811
    """Their barycentric coordinates are mostly rounding: no bound on their depth may rest on them."""
    scene = _joined(*(needles(corner, 400, seed) for seed, corner in enumerate((0, 1, 2))))
    for blur_radius in (0.0, 1e-6, 1e-2):
        _check_rasterizer(cuda, scene, (70, 40), blur_radius, 2, options, [ORDERS[2]], backward=False)
        _check_rasterizer(
            cuda, scene.to("cpu", torch.float64), (70, 40), blur_radius, 2, options, [ORDERS[1]], backward=False
        )


@pytest.mark.parametrize("K", [1, 3, 70])
def test_halves_of_clipped_faces(cuda, K):  # noqa: F811
    scene = with_neighbors(soup((900, 0, 300), 0.4))
    _check_rasterizer(cuda, scene, (40, 40), 1e-3, K, CLIPPED, [ORDERS[3]])
    _check_rasterizer(cuda, scene.to("cpu", torch.float64), (17, 50), 1e-3, K, PLAIN, [ORDERS[1]])


def test_invalid_faces_are_left_out(cuda):  # noqa: F811
    """The GPU's answer cannot be waited for, so nothing is raised: such faces are not there."""
    scene = soup((1500,), 0.2)
    broken, culled = scene.faces.clone(), scene.verts.clone()
    out = torch.arange(0, 1500, 3)
    broken[out, 1] = torch.tensor([-1, 4500, 2**40])[torch.arange(len(out)) % 3]
    culled[3 * out + 1, 2] = -1  # for the CPU: behind the camera
    culled[3 * 7 + 2, 0] = 1e30  # and a face whose edges are too long
    expected = rasterize_faces(culled, *scene[1:], (64, 48), 1e-4, 4)
    not_finite = scene.verts.clone()
    not_finite[3 * 7 + 2, 0] = torch.nan
    # The mesh claims faces that do not exist, too.
    claims = Scene(not_finite, broken, torch.tensor([-5]), torch.tensor([10_000]))
    for order in ORDERS:
        with kernels_of(cuda, OPS["rasterize_faces"], order):
            actual = rasterize_faces(*claims, (64, 48), 1e-4, 4)
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("size", [64, 256, 400])
def test_a_tile_looks_at_few_faces(cuda, size):  # noqa: F811
    """Two barriers for every 256 faces that a tile looks at: 40 if it looked at all, and five to look them up."""
    scene = sphere(4)
    assert len(scene.faces) == 5120
    with kernels_of(cuda, OPS["rasterize_faces"], ORDERS[0]):
        rasterize_faces(*scene, (size, size), 0.0, 1)
    tiles = -((-size // 16) ** 2)
    assert cuda.barriers() / tiles < 15


@pytest.mark.parametrize("faces", [1, 600, 10**4, 10**6, 10**7, 3 * 10**8])
@pytest.mark.parametrize("tiles", [(1, 1), (1, 44), (16, 16), (32, 32), (64, 64), (625, 3), (512, 512)])
def test_bins_are_few_small_and_cover_the_image(cuda, faces, tiles):  # noqa: F811
    out = torch.zeros(5, dtype=torch.int64)
    cuda.call("cuda_bins", faces, *tiles, out)
    side, across, down, groups, size = out.tolist()
    assert across * side >= tiles[0] > (across - 1) * side
    assert down * side >= tiles[1] > (down - 1) * side
    assert groups * 1024 >= faces
    assert across * down <= 256
    assert size == across * down * groups * 128 <= 64 << 20
    # Bins of half the side would have been too many or too large, unless they are tiles.
    finer = -(-2 * tiles[0] // side) * -(-2 * tiles[1] // side)
    assert side == 1 or finer > 256 or finer * groups * 128 > 64 << 20


def test_gradients_of_some_hits_only(cuda):  # noqa: F811
    """Those of the nearest hit are zero, which must not end the search for others."""
    scene = soup((40,), 0.7, near=2.0)

    def run(verts):
        _, zbuf, _, dists = rasterize_faces(verts, *scene[1:], (20, 24), 1e-2, 6)
        return zbuf[..., 1:3].contiguous(), dists[..., 2:].contiguous()

    expected = values_and_grads(run, scene.verts)
    for order in ORDERS:
        with kernels_of(cuda, OPS["rasterize_faces"], order):
            torch.testing.assert_close(values_and_grads(run, scene.verts), expected, rtol=1e-4, atol=1e-4)
