"""The CUDA kernels, run on a CPU (tests/csrc/cuda_emulation), give the answers of the CPU kernels."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "ops")]
import emulated_cuda
import raster_scenes
from emulated_cuda import ASCENDING, DESCENDING, SHUFFLED, EmulatedCuda, kernels_of
from raster_scenes import OPTIONS, regular, soup, sphere

from recon_engine import _samples
from recon_engine.ops import rasterize_faces, render_spheres, soft_silhouette
from recon_engine.testing import values_and_grads

ORDERS = [ASCENDING, DESCENDING, SHUFFLED, SHUFFLED + 1]
PLAIN = (False, False, False)
OPS = _samples.all_ops()


@pytest.fixture(scope="module")
def cuda(request: pytest.FixtureRequest) -> EmulatedCuda:
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None or "clang" in compiler or not emulated_cuda.supported():
        pytest.skip("the emulation of CUDA needs Linux and g++")
    folder = request.config.cache.mkdir("cuda_emulation")
    return EmulatedCuda(emulated_cuda.build(compiler, folder))


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    # Python does not fill what kernels write anyway: that would hide entries they leave out.
    torch.utils.deterministic.fill_uninitialized_memory = False
    yield
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(False)


def _equal(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


# ---- the emulation ----


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("different_barriers", r"wait at different barriers: .*faults.cu:\d+ and .*faults.cu:\d+"),
        ("missing_lane", "threads wait for each other for ever, at .*faults.cu"),
        ("shuffle_from_outside", "shuffle from a lane that does not take part"),
        ("beyond_the_end", "a kernel touched memory outside of its tensors"),
        ("host", "the host touched device memory"),
        ("too_many_threads", "invalid configuration argument"),
    ],
)
@pytest.mark.parametrize("order", ORDERS)
def test_faults_are_reported(cuda, fault, message, order):
    with emulated_cuda.running(cuda, order), pytest.raises(RuntimeError, match=message):
        cuda.call("faults", fault, torch.zeros(64))


@pytest.mark.parametrize(("fault", "same"), [("missing_barrier", False), ("unset_shared", False), ("correct", True)])
def test_races_show_in_other_orders(cuda, fault, same):
    results = []
    for order in ORDERS:
        results.append(torch.zeros(64))
        with emulated_cuda.running(cuda, order):
            cuda.call("faults", fault, results[-1])
    assert all(torch.equal(r, results[0]) for r in results[1:]) == same


def test_exchanges_of_a_warp(cuda):
    out = torch.zeros(64)
    cuda.call("faults", "correct", out)
    i = torch.arange(64)
    shifted = (i % 32 != 0).int() + (i % 32 != 31).int()  # at the ends of a warp a lane keeps its own value
    torch.testing.assert_close(out, (63 - i + 100 + 8000 + shifted * 10000 + 40 * 100000).float(), rtol=0, atol=0)


# ---- every op ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", sorted(OPS))
def test_every_op(cuda, name, dtype):
    inputs = _samples.sample_inputs(name, dtype=dtype)
    expected = values_and_grads(OPS[name], *inputs)
    for order in ORDERS:
        with kernels_of(cuda, OPS[name], order):
            actual = values_and_grads(OPS[name], *inputs)
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_op_gives_the_same_bits_in_deterministic_mode(cuda, name, deterministic):
    inputs = _samples.sample_inputs(name)
    if name in ("rasterize_faces", "soft_silhouette", "render_faces"):  # Python gives them faces that share no vertices
        inputs = (inputs[0][inputs[1].flatten()], torch.arange(3 * len(inputs[1])).view(-1, 3), *inputs[2:])
    if name == "render_faces":
        corners = _samples.sample_inputs(name)[1].flatten()
        inputs = (*inputs[:5], inputs[5][corners], *inputs[6:])
    op = functools.partial(OPS[name])
    # The gradient of texture images is refused: it is summed in any order.
    op.constants = [*OPS[name].constants, 7] if name == "render_faces" else OPS[name].constants
    results = []
    for order in ORDERS:
        with kernels_of(cuda, OPS[name], order):
            results.append(values_and_grads(op, *inputs))
    for result in results[1:]:
        _equal(result, results[0])


# ---- the rasterisers ----


def _check_rasterizer(cuda, scene, image_size, blur_radius, K, options, orders=ORDERS, backward=True):
    """Fragments equal those of the CPU bit for bit, gradients up to rounding."""

    def run(verts):
        return rasterize_faces(verts, *scene[1:], image_size, blur_radius, K, *options)

    op = OPS["rasterize_faces"]
    compute = values_and_grads if backward else lambda f, verts: (list(f(verts)), [])
    expected, expected_grads = compute(run, scene.verts)
    for order in orders:
        with kernels_of(cuda, op, order):
            actual, grads = compute(run, scene.verts)
        _equal(actual, expected)
        _close(grads, expected_grads)


def _close(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        largest = e.abs().max().item() if e.numel() else 1.0
        torch.testing.assert_close(a, e, rtol=0, atol=(1e-4 if a.dtype == torch.float32 else 1e-12) * largest)


def _check_silhouette(cuda, scene, image_size, blur_radius, K, sigma, options, orders=ORDERS):
    def run(verts):
        return soft_silhouette(verts, *scene[1:4], image_size, blur_radius, K, sigma, *options)

    expected, expected_grads = values_and_grads(run, scene.verts)
    for order in orders:
        with kernels_of(cuda, OPS["soft_silhouette"], order):
            actual, grads = values_and_grads(run, scene.verts)
        torch.testing.assert_close(actual, expected, rtol=0, atol=2e-6 if scene.verts.dtype == torch.float32 else 1e-12)
        _close(grads, expected_grads)


SCENES = {
    "soup": soup((30, 0, 25), 0.7),
    "grid": soup((30, 0, 25), 0.7)._replace(verts=(soup((30, 0, 25), 0.7).verts * 4).round() / 4),
    "regular": regular(60),
    "sphere": sphere(2),
    "duplicated": raster_scenes.duplicated(soup((25,), 1.0)),
    "neighbors": raster_scenes.with_neighbors(soup((30, 0, 25), 0.7)),
    "one-sided": raster_scenes.with_neighbors(soup((30, 0, 25), 0.7), symmetric=False),
    "behind": soup((60,), 1.0, near=-0.5),
    "needles": raster_scenes.needles(1),
    "five": soup((3, 70, 0, 300, 1), 0.3, near=2.0),
    "empty": soup((0, 0)),
    "none": soup(()),
}
SETTINGS = [((33, 50), 1e-3), ((50, 33), 0.0), ((1, 40), 1e-2), ((40, 1), 1e-4), ((64, 64), 1e-2), ((18, 90), 1e-3)]


@pytest.mark.parametrize("kind", SCENES)
@pytest.mark.parametrize("K", [1, 3, 8, 20, 70])
def test_rasterizer(cuda, kind, K):
    for i, (image_size, blur_radius) in list(enumerate(SETTINGS))[K % 2 :: 2]:
        _check_rasterizer(cuda, SCENES[kind], image_size, blur_radius, K, OPTIONS[(i + K) % 8], [ORDERS[i % 4]])


@pytest.mark.parametrize("options", OPTIONS)
def test_rasterizer_in_double_precision(cuda, options):
    for kind in ("soup", "neighbors"):
        _check_rasterizer(cuda, SCENES[kind].to("cpu", torch.float64), (19, 34), 1e-3, 5, options)


@pytest.mark.parametrize("kind", ["soup", "neighbors", "five"])
def test_deterministic_rasterizer(cuda, kind, deterministic):
    scene = SCENES[kind]
    results = []
    for order in ORDERS:
        with kernels_of(cuda, OPS["rasterize_faces"], order):
            results.append(values_and_grads(lambda v: rasterize_faces(v, *scene[1:], (20, 35), 1e-3, 4), scene.verts))
        _equal(results[-1], results[0])
    _check_rasterizer(cuda, scene, (20, 35), 1e-3, 4, PLAIN)


@pytest.mark.parametrize("kind", [k for k in SCENES if k not in ("neighbors", "one-sided", "none", "needles")])
@pytest.mark.parametrize("K", [1, 3, 20, 70])
def test_silhouette(cuda, kind, K):
    for i, (image_size, blur_radius) in list(enumerate(SETTINGS))[K % 2 :: 2]:
        _check_silhouette(cuda, SCENES[kind], image_size, blur_radius, K, 1e-2, OPTIONS[(i + K) % 8], [ORDERS[i % 4]])


# ---- spheres ----


def _render_spheres(cuda, orthogonal, dtype, N, C, **options):
    """Images and gradients from the CPU kernels and from those of CUDA, in every order."""
    generator = torch.Generator().manual_seed(7)

    def random(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)

    points = random(2, N, 3) * torch.tensor([6.0, 4.0, 2.0], dtype=dtype) + torch.tensor([-3.0, -2.0, 5.0], dtype=dtype)
    camera = torch.tensor([[0.0, 0, 0], [-0.49, 0.36, 1], [0.02, 0.002, 0], [0.002, -0.02, 0]], dtype=dtype)
    camera = camera * torch.tensor([1, 1, 8, 8] if orthogonal else [1, 1, 1, 1], dtype=dtype)[:, None]
    inputs = (
        points,
        random(2, N) * (0.3 if N > 100 else 1.0) + 0.01,
        random(2, N, C),
        camera.expand(2, 4, 3),
        random(2, N),
        random(C),
    )

    def run(points, radii, colors, camera, opacity, background):
        return render_spheres(
            *(points, radii, colors, camera, (37, 50), 0.1),
            max_depth=9.0,
            min_depth=3.0,
            opacity=opacity,
            background=background,
            orthogonal=orthogonal,
            **options,
        )

    expected = values_and_grads(run, *inputs)
    assert (expected[0][2] >= 0).any(-1).float().mean() > 0.2
    for order in ORDERS:
        with kernels_of(cuda, OPS["render_spheres"], order):
            yield expected, values_and_grads(run, *inputs)


@pytest.mark.parametrize("orthogonal", [False, True])
@pytest.mark.parametrize(
    ("N", "C", "options"),
    [
        (40, 3, {}),
        (700, 4, {"track": 8, "max_hits": 2}),
        (700, 1, {"track": 1, "average": True}),
        (600, 2, {"track": 3, "count_all": True}),
        (60, 6, {"track": 12, "average": True}),
        (0, 3, {}),
    ],
)
def test_spheres(cuda, orthogonal, N, C, options):
    """In registers and in the outputs, with bins and without, tracking any number."""
    if N == 0:
        image = torch.empty(1, 5, 6, 2)
        with kernels_of(cuda, OPS["render_spheres"], ASCENDING):
            nothing = render_spheres(
                *(torch.zeros(1, 0, 3), torch.zeros(1, 0), torch.zeros(1, 0, 2), torch.eye(4, 3)[None], (5, 6), 0.1),
                max_depth=9.0,
                min_depth=3.0,
            )
        _equal(nothing[0], torch.ones_like(image))
        return
    for expected, actual in _render_spheres(cuda, orthogonal, torch.float64, N, C, **options):
        (image, stats, ids, depths), (same, same_stats, same_ids, same_depths) = expected[0], actual[0]
        _equal(same_ids, ids)
        torch.testing.assert_close([same, same_depths], [image, depths], rtol=1e-10, atol=1e-10)
        exact = slice(0, 4) if options.get("count_all") else slice(0, 2)
        torch.testing.assert_close(same_stats[..., exact], stats[..., exact], rtol=1e-10, atol=1e-10)
        _close(actual[1], expected[1])


def test_spheres_in_deterministic_mode(cuda, deterministic):
    results = []
    for expected, actual in _render_spheres(cuda, False, torch.float32, 60, 3, track=4):
        _close(actual[1], expected[1])
        results.append(actual)
    for result in results[1:]:
        _equal(result, results[0])
