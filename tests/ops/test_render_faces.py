from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from raster_scenes import OPTIONS, Scene, regular, soup, sphere, with_neighbors
from torch import Tensor

from recon_engine._load import load
from recon_engine.ops import render_faces
from recon_engine.testing import assert_matches_reference, values_and_grads

_C = load()
LIGHTINGS = ["none", "face", "ambient", "directional", "point"]
TEXTURES = ["vertex", "image", "atlas"]
SAMPLINGS = list(itertools.product(["zeros", "border", "reflection"], [False, True], [False, True]))


def arguments(
    scene: Scene,
    lighting: str = "point",
    texture: str = "vertex",
    image_size: tuple[int, int] = (13, 16),
    blur_radius: float = 1e-2,
    K: int = 6,
    options: tuple[bool, bool, bool] = (True, True, False),
    sampling: tuple[str, bool, bool] = ("border", False, True),
    hard: bool = False,
    sigma: float = 1e-2,
    gamma: float = 0.1,
) -> tuple[Any, ...]:
    """What `render_faces` takes to draw the scene with random looks; no two points are lit alike."""
    g = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=g, dtype=torch.float64).to(scene.verts)

    V, F, N = len(scene.verts), len(scene.faces), len(scene.first)
    attributes = [random(V, 3) - 0.5, random(V, 3) - 0.5] if lighting in ("directional", "point") else []
    attributes += [random(V, 3)] if texture == "vertex" else []
    uvs, maps, map_of_face = random(0, 3, 2), random(0, 0, 0, 3), torch.zeros(0, dtype=torch.int64)
    if texture == "image":
        uvs, maps = random(F, 3, 2) * 2 - 0.5, random(3, 5, 4, 3)
        map_of_face = torch.arange(F) % 3
    elif texture == "atlas":
        maps = random(F, 4, 4, 3)
    lights = random(0, 0)
    if lighting == "face":
        lights = random(F, 6)
    elif lighting != "none":
        place = 2 * (random(N, 3) - 0.5) if lighting == "directional" else 4 * (random(N, 3) - 0.5)
        lights = torch.cat([random(N, 9), place, 4 * (random(N, 3) - 0.5), 1 + 5 * random(N, 1)], 1)
    planes = torch.tensor([[0.5, 5.0]]).to(scene.verts).expand(N, 2)
    empty = attributes[0][:, :0] if attributes else random(V, 0)
    return (
        *scene,
        torch.cat([empty, *attributes], 1),
        uvs,
        maps,
        map_of_face.to(scene.verts.device),
        lights,
        planes,
        random(3),
        image_size,
        blur_radius,
        K,
        *options,
        lighting,
        texture,
        *sampling,
        hard,
        sigma,
        gamma,
    )


def split(args: tuple[Any, ...]) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """`render_faces` as a function of what the kernel differentiates, and the values of that."""
    varied = [0, 5, 6, 7, 9]  # verts, attributes, uvs, maps, lights

    def render(*values: Tensor) -> Tensor:
        every = list(args)
        for i, value in zip(varied, values):
            every[i] = value
        return render_faces(*every)

    return render, [args[i] for i in varied]


def check(*args: Any, rtol: float = 1e-7, atol: float = 1e-9) -> None:
    render, values = split(args)
    assert_matches_reference(render, *values, rtol=rtol, atol=atol)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("lighting", LIGHTINGS)
def test_matches_reference(lighting, texture, hard, device):
    for i, size in enumerate([(13, 16), (5, 37), (35, 4), (1, 1)]):
        scene = soup((20, 0, 9), 0.6, seed=i, near=1.0).to(device, torch.float64)
        check(*arguments(scene, lighting, texture, size, hard=hard))


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_matches_reference_for_all_options(options, hard, device):
    for blur_radius, K in itertools.product((0.0, 1e-3), (1, 3, 40)):
        scene = soup((60,), 0.5, seed=K, near=1.0).to(device, torch.float64)
        check(*arguments(scene, blur_radius=blur_radius, K=K, options=options, hard=hard))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_matches_reference_for_all_samplings(sampling, device):
    scene = soup((20,), 0.6, near=1.0).to(device, torch.float64)
    check(*arguments(scene, "ambient", "image", sampling=sampling))


@pytest.mark.parametrize("hard", [False, True])
def test_matches_reference_with_halves_of_clipped_faces(hard, device):
    scene = with_neighbors(soup((30, 0, 25), 0.7)).to(device, torch.float64)
    check(*arguments(scene, K=50, hard=hard))


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("lighting", LIGHTINGS)
def test_gradcheck(lighting, texture, hard, device):
    # An atlas has a gradient in its texels only: moving a pixel from one texel to the next is no smooth change.
    scene = regular(5, size=0.8).to(device, torch.float64)
    args = arguments(scene, lighting, texture, (4, 5), blur_radius=1e-2, K=3, hard=hard, gamma=10.0)
    render, values = split(args)
    steady = [texture == "atlas", False, False, False, False]
    leaves = [v.clone().requires_grad_(v.numel() > 0 and not fixed) for v, fixed in zip(values, steady)]
    torch.autograd.gradcheck(lambda *v: render(*v), leaves, eps=1e-7, atol=1e-5)


def test_single_precision_is_as_accurate_as_plain_torch(device):
    # Not for an atlas: which texel is the nearest changes with a rounding.
    for lighting, texture in itertools.product(LIGHTINGS, ["vertex", "image"]):
        render, values = split(arguments(sphere(1).to(device), lighting, texture, (20, 23), 1e-4, 8, sigma=1e-4))
        (actual,), _ = values_and_grads(render, *values)
        double, _ = split(
            arguments(sphere(1).to(device, torch.float64), lighting, texture, (20, 23), 1e-4, 8, sigma=1e-4)
        )
        (exact,), _ = values_and_grads(double, *[v.double() for v in values])
        torch.testing.assert_close(actual.double(), exact, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_does_not_depend_on_threads(dtype):
    scene = soup((200, 150), 0.3, near=1.0).to("cpu", dtype)
    for texture, hard in itertools.product(TEXTURES, (False, True)):
        results = []
        for threads in (1, 3):
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                render, values = split(arguments(scene, "point", texture, (70, 50), hard=hard))
                results.append(values_and_grads(render, *values))
            finally:
                torch.set_num_threads(before)
        torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_atlas_of_other_faces(device):
    """Corners that lie anywhere in the faces that the texels belong to, as those of cut faces do."""
    args = list(arguments(soup((20,), 0.6, near=1.0).to(device, torch.float64), "point", "atlas"))
    inside = torch.rand(20, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 2
    args[6], args[8] = inside.to(device), torch.arange(20, device=device).flip(0) // 2
    check(*args)


def test_gradients_of_background_and_planes(device):
    """The kernel has none: they come from the reference."""
    args = list(arguments(soup((20,), 0.6, near=1.0).to(device, torch.float64), image_size=(6, 5)))

    def render(planes, background):
        return render_faces(*args[:10], planes, background, *args[12:])

    assert_matches_reference(render, args[10], args[11])
    torch.autograd.gradcheck(render, [args[10].requires_grad_(), args[11].requires_grad_()], atol=1e-5)


def test_empty(device):
    for scene in (soup((0, 0)), soup(())):
        for texture in TEXTURES:
            render, values = split(arguments(scene.to(device), "point", texture))
            (image,), grads = values_and_grads(render, *values)
            assert image.shape == (len(scene.first), 13, 16, 4)
            assert not image[..., 3].any()
            assert all(not g.any() for g in grads)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (5, torch.zeros(60, 8), r"attributes must have shape \(V, 9\), got \(60, 8\)"),
        (9, torch.zeros(1, 15), r"lights must have shape \(1, 16\), got \(1, 15\)"),
        (10, torch.zeros(2, 2), r"planes must have shape"),
        (12, (0, 5), "image_size must be > 0"),
        (18, "spot", "lighting must be one of"),
        (24, 0.0, "sigma must be > 0"),
    ],
)
def test_wrong_arguments_are_named(position, value, message, device):
    args = list(arguments(soup((20,)).to(device)))
    args[position] = value.to(device) if isinstance(value, Tensor) else value
    with pytest.raises(ValueError, match=message):
        render_faces(*args)


def test_wrong_tables_are_named():
    args = list(arguments(soup((20,)), "none", "image"))
    with pytest.raises(ValueError, match=r"uvs must have shape \(20, 3, 2\), got \(0, 3, 2\)"):
        render_faces(*args[:6], args[6][:0], args[7], args[8][:0], *args[9:])
    with pytest.raises(ValueError, match="map_of_face has index 7 in row"):
        render_faces(*args[:8], torch.full_like(args[8], 7), *args[9:])
    args = list(arguments(soup((20,)), "none", "atlas"))
    with pytest.raises(ValueError, match=r"maps must have shape \(20, R, R, 3\), got \(20, 4, 3, 3\)"):
        render_faces(*args[:7], args[7][:, :, :3], *args[8:])


def test_memory_does_not_grow_with_faces_per_pixel():
    """Nothing but the image and the gradients of the inputs is allocated by torch, whatever K is."""
    scene = soup((300,), 0.5, near=1.0)
    peaks = []
    for K in (1, 100):
        render, values = split(arguments(scene, "point", "vertex", (64, 64), K=K))
        leaves = [v.clone().requires_grad_() for v in values]
        with torch.profiler.profile(profile_memory=True) as profile:
            render(*leaves).sum().backward()
        peaks.append(sum(max(e.self_cpu_memory_usage, 0) for e in profile.key_averages()))
    assert peaks[1] < 2 * peaks[0]
