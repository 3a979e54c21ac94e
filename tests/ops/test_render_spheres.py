from __future__ import annotations

import itertools
import math

import pytest
import torch

from recon_engine._op import reference
from recon_engine.ops import render_spheres
from recon_engine.renderer.points.pulsar import Renderer
from recon_engine.testing import assert_matches_reference, values_and_grads
from recon_engine.transforms import axis_angle_to_matrix, matrix_to_rotation_6d

TOLERANCE = {torch.float32: {"rtol": 2e-3, "atol": 1e-4}, torch.float64: {"rtol": 1e-8, "atol": 1e-10}}
H, W = 11, 15
DEPTHS = {"max_depth": 9.0, "min_depth": 2.0}


def camera_vectors(B, orthogonal=False, dtype=torch.float64):
    """Position, rotation 6, focal length, sensor width of cameras that are turned a little."""
    rotation = matrix_to_rotation_6d(axis_angle_to_matrix(torch.rand(B, 3, dtype=torch.float64) * 0.2))
    position = torch.rand(B, 3, dtype=torch.float64) * 0.2
    focal = torch.zeros(B, 1) if orthogonal else torch.full((B, 1), 1.05)
    width = torch.full((B, 1), 3.5 if orthogonal else 0.6)
    return torch.cat([position, rotation, focal, width], 1).to(dtype)


def four_vectors(vectors, orthogonal=False, right_handed=False):
    return torch.stack(Renderer._transform_cam_params(vectors, W, H, orthogonal, right_handed)[:4], 1)


def scene(N=25, B=2, C=3, orthogonal=False, right_handed=False, dtype=torch.float64, small=3):
    """Centres, radii, colours, opacities; the first spheres are smaller than a pixel."""
    z = torch.tensor([0.0, 0.0, -6.0 if right_handed else 6.0])
    points = (torch.rand(B, N, 3, dtype=torch.float64) - 0.5) * torch.tensor([3.0, 2.0, 2.0]) + z
    radii = torch.rand(B, N, dtype=torch.float64) * 0.6 + 0.1
    radii[:, :small] = 0.005
    colors, opacity = torch.rand(B, N, C, dtype=torch.float64), torch.rand(B, N, dtype=torch.float64) * 0.8 + 0.2
    return [a.to(dtype) for a in (points, radii, colors, opacity)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("orthogonal", "right_handed", "average"), list(itertools.product([False, True], repeat=3)))
def test_matches_reference(orthogonal, right_handed, average, dtype, device):
    points, radii, colors, opacity = scene(orthogonal=orthogonal, right_handed=right_handed, dtype=dtype)
    camera = four_vectors(camera_vectors(2, orthogonal, dtype), orthogonal, right_handed)
    offset = torch.tensor([[2, -1], [0, 3]], dtype=torch.int32, device=device)

    for options in ({"track": 3}, {"track": 40, "max_hits": 2}):

        def run(points, radii, colors, opacity, camera, background, options=options):
            return render_spheres(
                *(points, radii, colors, camera, (H, W), 0.3),
                **DEPTHS,
                **options,
                opacity=opacity,
                background=background,
                offset=offset,
                background_depth=0.2,
                orthogonal=orthogonal,
                right_handed=right_handed,
                average=average,
            )

        inputs = [a.to(device) for a in (points, radii, colors, opacity, camera, torch.rand(3, dtype=dtype))]
        assert_matches_reference(run, *inputs, **TOLERANCE[dtype])


@pytest.mark.parametrize("orthogonal", [False, True])
def test_gradcheck(orthogonal, device):
    """In everything, through the vectors that users give."""
    points, radii, colors, opacity = scene(N=5, B=1, C=2, orthogonal=orthogonal, small=1)
    inputs = [points, radii, colors, opacity, camera_vectors(1, orthogonal), torch.rand(2, dtype=torch.float64)]

    def image(points, radii, colors, opacity, vectors, background):
        camera = four_vectors(vectors, orthogonal)
        return render_spheres(
            *(points, radii, colors, camera, (H, W), 0.5),
            **DEPTHS,
            opacity=opacity,
            background=background,
            orthogonal=orthogonal,
        )[0]

    inputs = [a.to(device).requires_grad_() for a in inputs]
    assert torch.autograd.gradcheck(image, inputs, eps=1e-7, atol=2e-5)


def straight_camera(B=1, focal=1.0, width=0.6, dtype=torch.float64):
    identity = torch.tensor([1.0, 0, 0, 0, 1, 0])
    return torch.cat([torch.zeros(3), identity, torch.tensor([focal, width])]).to(dtype).expand(B, -1)


def test_one_sphere_by_hand(device):
    """On the optical axis the central ray enters at distance - radius, as close to the middle as can be."""
    gamma, opacity, background_depth = 0.4, 0.7, 0.1
    image, stats, ids, depths = render_spheres(
        torch.tensor([[[0.0, 0, 5]]], dtype=torch.float64, device=device),
        torch.tensor([[0.8]], dtype=torch.float64, device=device),
        torch.tensor([[[0.9, 0.3]]], dtype=torch.float64, device=device),
        four_vectors(straight_camera()).to(device),
        (H, W),
        gamma,
        **DEPTHS,
        opacity=torch.tensor([[opacity]], dtype=torch.float64, device=device),
        background=torch.zeros(2, dtype=torch.float64, device=device),
        background_depth=background_depth,
        track=2,
    )
    middle = (0, H // 2, W // 2)
    sphere = opacity * math.exp((9.0 - 4.2) / 7.0 / gamma * opacity)
    share = sphere / (sphere + math.exp(background_depth / gamma))
    expected = share * torch.tensor([0.9, 0.3], dtype=torch.float64, device=device)
    torch.testing.assert_close(image[middle], expected)
    assert ids[middle].tolist() == [0, -1]
    assert depths[middle].tolist() == pytest.approx([4.2, -1])
    assert stats[middle][2:].tolist() == pytest.approx([4.2, 1])
    corner = (0, 0, 0)
    assert image[corner].tolist() == [0, 0]
    assert ids[corner].tolist() == [-1, -1]
    assert stats[corner].tolist() == pytest.approx([background_depth / gamma, 1, -1, 0])
    # Seen from the side a ray passes at the chord from the middle, and enters in front of the nearest point.
    beside = (0, H // 2, W // 2 + 2)
    angle = math.atan(2 * 0.6 / W)
    nearest, across = 5 * math.cos(angle), 5 * math.sin(angle)
    depth, closeness = nearest - math.sqrt(0.8**2 - across**2), 1 - 10 * math.sin(angle / 2) / 0.8
    assert depths[beside][0].item() == pytest.approx(depth)
    sphere = closeness * opacity * math.exp((9.0 - depth) / 7.0 / gamma * opacity)
    share = sphere / (sphere + math.exp(background_depth / gamma))
    torch.testing.assert_close(image[beside][0].item(), 0.9 * share)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [1e-5, 1e-2, 0.3])
def test_what_is_not_seen_is_not_drawn(gamma, dtype, device):
    """Going on to the last sphere changes nothing but the count of hits."""
    points, radii, colors, opacity = (a.to(device) for a in scene(N=4000, B=1, dtype=dtype))
    camera = four_vectors(camera_vectors(1, dtype=dtype)).to(device)
    results = [
        render_spheres(*(points, radii, colors, camera, (H, W), gamma), **DEPTHS, opacity=opacity, count_all=count_all)
        for count_all in (False, True)
    ]
    (image, stats, ids, depths), (all_image, all_stats, all_ids, all_depths) = results
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(image, all_image, rtol=30 * eps, atol=0)
    torch.testing.assert_close(stats[..., :2], all_stats[..., :2], rtol=30 * eps, atol=0)
    assert torch.equal(ids, all_ids)
    assert torch.equal(depths, all_depths)
    share = (stats[..., 3].mean() / all_stats[..., 3].mean()).item()
    assert share < 0.6 if gamma == 1e-5 else share <= 1.0


def test_any_number_of_threads_gives_the_same_bits():
    inputs = [*scene(N=700, C=4, dtype=torch.float32), camera_vectors(2, dtype=torch.float32)]

    def run(points, radii, colors, opacity, vectors):
        camera = four_vectors(vectors)
        return render_spheres(*(points, radii, colors, camera, (40, 50), 0.1), **DEPTHS, opacity=opacity)

    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(values_and_grads(run, *inputs))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)


def test_means_over_pixels(device):
    """With `average` the gradients of a sphere are divided by the pixels that track it."""
    points, radii, colors, opacity = (a.to(device) for a in scene(N=8, B=1))
    camera = four_vectors(camera_vectors(1)).to(device)

    def run(average, *inputs):
        return render_spheres(
            *(inputs[0], inputs[1], inputs[2], camera, (H, W), 0.3),
            **DEPTHS,
            opacity=inputs[3],
            track=2,
            average=average,
        )

    (image, _, ids, _), sums = values_and_grads(lambda *a: run(False, *a), points, radii, colors, opacity)
    (same, *_), means = values_and_grads(lambda *a: run(True, *a), points, radii, colors, opacity)
    assert torch.equal(image, same)
    pixels = torch.stack([(ids == i).sum() for i in range(8)])[None].clamp(min=1)
    assert pixels.max() > 3
    for a, b in zip(means, sums, strict=True):
        torch.testing.assert_close(a, b / pixels.reshape(1, 8, *[1] * (b.ndim - 2)))


def test_gradients_reach_the_tracked_spheres_only(device):
    points, radii, colors, opacity = (a.to(device) for a in scene(N=30, B=1))
    camera = four_vectors(camera_vectors(1)).to(device)

    def run(colors, track):
        return render_spheres(*(points, radii, colors, camera, (H, W), 1.0), **DEPTHS, opacity=opacity, track=track)

    for track in (0, 1, 3):
        (_, _, ids, _), (grad,) = values_and_grads(lambda c, track=track: run(c, track), colors)
        tracked = {i for i in ids.unique().tolist() if i >= 0}
        assert ids.shape[-1] == track
        assert {i for i in range(30) if grad[0, i].any()} == tracked
    assert len(tracked) > 5


@pytest.mark.parametrize("orthogonal", [False, True])
def test_equal_spheres_are_tracked_by_index(orthogonal, device):
    """All at one place: the weights are equal, the image is the mean, and the first K are tracked in order."""
    N, dtype = 7, torch.float64
    points = torch.tensor([0.0, 0, 5], dtype=dtype, device=device).expand(1, N, 3)
    colors = torch.rand(1, N, 2, dtype=dtype).to(device)
    camera = four_vectors(straight_camera(focal=0.0 if orthogonal else 1.0), orthogonal).to(device)
    image, stats, ids, depths = render_spheres(
        *(points, torch.full((1, N), 2.0, dtype=dtype, device=device), colors, camera, (H, W), 1e-3),
        max_depth=9.0,
        min_depth=2.0,
        orthogonal=orthogonal,
        track=4,
    )
    assert (stats[..., 3] == N).all()
    assert (ids == torch.arange(4, device=device)).all()
    assert (depths == depths[..., :1]).all()
    torch.testing.assert_close(image, colors.mean(1)[:, None, None].expand_as(image))


def test_spheres_that_are_not_drawn(device):
    """The camera inside of one, one behind it, one that begins too far away, one beside the image."""
    points = torch.tensor([[[0.0, 0, 1], [0, 0, -5], [0, 0, 20], [40, 0, 5]]], device=device)
    radii = torch.tensor([[3.0, 1, 1, 1]], device=device)
    colors = torch.rand(1, 4, 3).to(device).requires_grad_()
    camera = four_vectors(straight_camera(dtype=torch.float32)).to(device)
    image, stats, ids, _ = render_spheres(points, radii, colors, camera, (H, W), 0.1, **DEPTHS)
    assert (image == 1).all()
    assert (stats[..., 3] == 0).all()
    assert (ids == -1).all()
    assert not torch.autograd.grad(image.sum(), colors)[0].any()


def test_sphere_that_reaches_beside_the_eye(device):
    """It crosses the plane of the eye, so its outline is open: PyTorch3D's bounding box wraps around."""
    points = torch.tensor([[[2.6, 0.1, 1.0], [-2.4, -1.0, 1.2]]], dtype=torch.float64, device=device)
    radii = torch.tensor([[1.5, 1.6]], dtype=torch.float64, device=device)
    camera = four_vectors(straight_camera(focal=0.5, width=3.0)).to(device)
    inputs = (points, radii, torch.rand(1, 2, 3, dtype=torch.float64).to(device), camera)

    def run(*inputs):
        return render_spheres(*inputs, (H, W), 0.3, max_depth=9.0, min_depth=0.6)

    assert run(*inputs)[1][..., 3].sum() > 20
    assert_matches_reference(run, *inputs, rtol=1e-9, atol=1e-10)


def test_small_spheres_at_the_border(device):
    """Near the centre of a pixel of the border, inside of it or outside: PyTorch3D shows them on two sides only."""
    size = 0.6 / W  # of a pixel at distance 1
    right, low = (W - 1) / 2, (H - 1) / 2
    places = [
        (s * (x + d), t * (y + d)) for s in (-1, 1) for t in (-1, 1) for d in (-0.2, 0.2) for x, y in [(right, low)]
    ]
    points = torch.tensor([[[5 * size * x, 5 * size * y, 5.0] for x, y in places]], device=device)
    radii = torch.full(points.shape[:2], 0.01, device=device)
    camera = four_vectors(straight_camera(dtype=torch.float32)).to(device)
    _, stats, ids, _ = render_spheres(*(points, radii, torch.rand_like(points), camera, (H, W), 0.1), **DEPTHS)
    assert stats[0, ..., 3].nonzero().tolist() == [[0, 0], [0, W - 1], [H - 1, 0], [H - 1, W - 1]]
    assert sorted(i for i in ids.flatten().tolist() if i >= 0) == list(range(8))


def test_small_spheres_fill_the_pixels_around_them_in_wide_pictures(device):
    """At 64 degrees from the optical axis rays lie five times closer than in the middle of the picture."""
    size = 6.0 / W  # of a pixel at distance 1
    column, row = 2.3, 0.6
    point = torch.tensor([[[(column - (W - 1) / 2) * size, ((H - 1) / 2 - row) * size, 1.0]]], dtype=torch.float64)
    assert point[0, 0, :2].norm() > math.tan(math.radians(60))

    def run(points):
        radii = torch.full(points.shape[:2], 1e-3, dtype=points.dtype, device=points.device)
        vectors = four_vectors(straight_camera(width=6.0)).to(points)
        return render_spheres(points, radii, torch.ones_like(points), vectors, (H, W), 0.1, **DEPTHS)[1]

    drawn = run(point.to(device))[0, ..., 3].nonzero().tolist()
    assert drawn == [[0, 2], [0, 3], [1, 2], [1, 3]]
    assert_matches_reference(run, point.to(device))


@pytest.mark.parametrize("orthogonal", [False, True])
def test_ray_through_the_middle_has_finite_gradients(orthogonal, device):
    """PyTorch3D divides by the distance from the middle, which is 0."""
    points = torch.tensor([[[0.0, 0, 5]]], dtype=torch.float64, device=device)
    if orthogonal:
        points = points + torch.tensor([-0.5, 0.5, 0], dtype=torch.float64, device=device) * 0.6 / W
    inputs = [points, torch.tensor([[0.8]], dtype=torch.float64, device=device)]
    camera = four_vectors(straight_camera(focal=0.0 if orthogonal else 1.0), orthogonal).to(device)
    colors = torch.rand(1, 1, 3, dtype=torch.float64).to(device)

    def run(points, radii):
        return render_spheres(points, radii, colors, camera, (H, W), 0.3, **DEPTHS, orthogonal=orthogonal)

    (_, _, _, depths), grads = values_and_grads(run, *inputs)
    assert (depths[0, ..., 0] - 4.2).abs().min() < 1e-12
    assert all(g.isfinite().all() and g.any() for g in grads)
    assert_matches_reference(run, *inputs, rtol=1e-8, atol=1e-10)


def test_opacity_of_zero(device):
    """Weighs nothing, but counts as a hit, and its gradient says what it would show."""
    points, radii, colors, opacity = (a.to(device) for a in scene(N=6, B=1, small=0))
    opacity[:, ::2] = 0
    camera = four_vectors(camera_vectors(1)).to(device)

    def run(opacity):
        return render_spheres(*(points, radii, colors, camera, (H, W), 0.05), **DEPTHS, opacity=opacity, track=6)

    assert_matches_reference(run, opacity, rtol=1e-8, atol=1e-10)
    (image, stats, _, _), (grad,) = values_and_grads(run, opacity)
    half = render_spheres(
        *(points[:, 1::2], radii[:, 1::2], colors[:, 1::2], camera, (H, W), 0.05), **DEPTHS, opacity=opacity[:, 1::2]
    )
    torch.testing.assert_close(image, half[0])
    assert stats[..., 3].sum() > half[1][..., 3].sum()
    assert (grad[:, ::2] != 0).any()


@pytest.mark.parametrize("C", [1, 17])
@pytest.mark.parametrize(("N", "B"), [(0, 2), (1, 1), (3, 0)])
def test_any_number_of_channels_and_spheres(N, B, C, device):
    inputs = [a.to(device) for a in (*scene(N=N, B=B, C=C, small=0), torch.rand(C, dtype=torch.float64))]
    camera = four_vectors(camera_vectors(B)).to(device)

    def run(points, radii, colors, opacity, background):
        return render_spheres(
            *(points, radii, colors, camera, (H, W), 0.3), **DEPTHS, opacity=opacity, background=background, track=4
        )

    image = run(*inputs)[0]
    assert image.shape == (B, H, W, C)
    if N == 0:
        assert (image == inputs[-1]).all()
    assert_matches_reference(run, *inputs, rtol=1e-8, atol=1e-10)


def test_bad_input():
    points, radii, colors, opacity = scene(N=4, B=1)
    camera = four_vectors(camera_vectors(1))

    def run(points=points, radii=radii, colors=colors, opacity=opacity, camera=camera, **options):
        return render_spheres(*(points, radii, colors, camera, (H, W), 0.3), **{**DEPTHS, **options}, opacity=opacity)

    def changed(a, value):
        a = a.clone()
        a.view(-1)[-1] = value
        return a

    with pytest.raises(ValueError, match=r"points must be finite, got nan in sphere 3"):
        run(points=changed(points, math.nan))
    with pytest.raises(ValueError, match=r"points must be finite, got -inf in sphere 3"):
        run(points=changed(points, -math.inf))
    for radius in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"radii must be finite and > 0, got .* in sphere 3"):
            run(radii=changed(radii, radius))
    for value in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"opacity must be in \[0, 1\], got .* in sphere 3"):
            run(opacity=changed(opacity, value))
    with pytest.raises(ValueError, match="camera must be finite"):
        run(camera=changed(camera, math.nan))
    with pytest.raises(ValueError, match="max_depth must be above min_depth"):
        run(max_depth=2.0)
    with pytest.raises(ValueError, match="colors"):
        run(colors=colors[:, :3])


def test_second_derivatives_come_from_the_reference():
    points, radii, colors, _ = scene(N=3, B=1, small=0)
    camera = four_vectors(camera_vectors(1))

    def image(points):
        with reference():
            return render_spheres(points, radii, colors, camera, (4, 5), 0.5, **DEPTHS)[0]

    assert torch.autograd.gradgradcheck(image, points.requires_grad_(), atol=1e-4)
