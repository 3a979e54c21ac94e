"""The CUDA kernel of `render_faces`, run on a CPU, gives the answers of the CPU kernel."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "ops")]
from emulated_cuda import kernels_of
from raster_scenes import OPTIONS, soup, sphere, with_neighbors
from test_cuda_emulated import ORDERS, cuda, deterministic  # noqa: F401 - fixtures
from test_render_faces import LIGHTINGS, SAMPLINGS, TEXTURES, arguments, split

from recon_engine import _samples
from recon_engine.testing import values_and_grads

OP = _samples.all_ops()["render_faces"]


def check(cuda, order, *args):  # noqa: F811
    render, values = split(args)
    expected = values_and_grads(render, *values)
    with kernels_of(cuda, OP, order):
        actual = values_and_grads(render, *values)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("lighting", LIGHTINGS)
def test_lighting_and_texture(cuda, lighting, texture, hard):  # noqa: F811
    for i, size in enumerate([(18, 21), (1, 37)]):
        scene = soup((30, 0, 9), 0.6, seed=i, near=1.0).to("cpu", torch.float64)
        check(cuda, ORDERS[i], *arguments(scene, lighting, texture, size, hard=hard))


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_options(cuda, options, hard):  # noqa: F811
    for i, K in enumerate((1, 3, 70)):
        scene = soup((60,), 0.5, seed=K, near=1.0).to("cpu", torch.float64)
        check(cuda, ORDERS[i], *arguments(scene, blur_radius=1e-3 * i, K=K, options=options, hard=hard))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_samplings(cuda, sampling):  # noqa: F811
    scene = soup((20,), 0.6, near=1.0).to("cpu", torch.float64)
    check(cuda, ORDERS[2], *arguments(scene, "ambient", "image", sampling=sampling))


@pytest.mark.parametrize("hard", [False, True])
def test_halves_of_clipped_faces(cuda, hard):  # noqa: F811
    scene = with_neighbors(soup((30, 0, 25), 0.7)).to("cpu", torch.float64)
    check(cuda, ORDERS[3], *arguments(scene, K=50, hard=hard))


@pytest.mark.parametrize("hard", [False, True])
def test_small_faces_and_shared_faces(cuda, hard):  # noqa: F811
    scene = sphere(2).to("cpu", torch.float64)
    scene = scene._replace(first=torch.tensor([0, 100]), count=torch.tensor([200, 150]))
    check(cuda, ORDERS[1], *arguments(scene, image_size=(33, 40), blur_radius=1e-3, K=4, hard=hard))


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("lighting", LIGHTINGS)
def test_deterministic_mode(cuda, lighting, hard, deterministic):  # noqa: F811
    scene = soup((30, 0, 9), 0.6, near=1.0).to("cpu", torch.float64)
    check(cuda, ORDERS[2], *arguments(scene, lighting, hard=hard))
    shared = scene._replace(first=torch.tensor([0, 10]), count=torch.tensor([25, 29]))
    check(cuda, ORDERS[3], *arguments(shared, lighting, hard=hard))


def test_gradient_of_images_is_refused_in_deterministic_mode(cuda, deterministic):  # noqa: F811
    render, values = split(arguments(soup((20,), 0.6, near=1.0), "none", "image"))
    with kernels_of(cuda, OP, ORDERS[0]), pytest.raises(RuntimeError, match="gradient of maps"):
        values_and_grads(render, *values)
