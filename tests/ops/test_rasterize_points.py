from __future__ import annotations

import point_scenes
import pytest
import torch
from point_scenes import Points, clouds, lattice

from recon_engine._op import reference
from recon_engine.ops._rasterize_points import rasterize_points
from recon_engine.testing import values_and_grads

SETTINGS = [((9, 14), 3), ((33, 20), 8), ((1, 40), 1), ((40, 1), 17), ((16, 16), 70), ((18, 35), 200)]
SCENES = {
    "three": clouds((50, 0, 30)),
    "lattice": lattice(80),
    "large": clouds((200,), radius=2.0),
    "tiny": clouds((300,), radius=1e-3),
    "one": Points(torch.tensor([[0.1, 0.1, 1.0]]), torch.tensor([0]), torch.tensor([1]), torch.tensor([0.3])),
    "equal": lattice(1)._replace(
        points=torch.tensor([[0.25, -0.25, 0.5]]).expand(60, 3).contiguous(),
        count=torch.tensor([60]),
        radius=torch.full((60,), 0.4),
    ),
    "line": clouds((40,))._replace(points=torch.linspace(0, 1, 40)[:, None] * torch.tensor([1.0, 0.5, 0.0])),
    "far": clouds((40,))._replace(points=clouds((40,)).points + torch.tensor([1e6, 0.0, 0.0])),
    "behind": clouds((40,))._replace(points=clouds((40,)).points - torch.tensor([0.0, 0.0, 5.0])),
    "shared": clouds((30,))._replace(first=torch.tensor([0, 10, 5]), count=torch.tensor([30, 20, 0])),
    "empty": clouds((0, 0)),
    "none": clouds(()),
}


def rasterize(scene, image_size, K):
    return rasterize_points(*scene, image_size, K)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SCENES)
def test_matches_reference(name, dtype, device):
    scene = SCENES[name].to(device, dtype)
    for image_size, K in SETTINGS[:4]:

        def run(points, image_size=image_size, K=K):
            return rasterize_points(points, *scene[1:], image_size, K)

        actual = values_and_grads(run, scene.points)
        with reference():
            expected = values_and_grads(run, scene.points)
        assert torch.equal(actual[0][0], expected[0][0])
        largest = max(1.0, scene.points.abs().max().item() if len(scene.points) else 1.0)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4 if dtype == torch.float32 else 1e-9 * largest)


@pytest.mark.parametrize("name", SCENES)
def test_is_pytorch3ds_bit_for_bit(name):
    pytest.importorskip("pytorch3d._C", exc_type=ImportError)
    scene = SCENES[name]
    for image_size, K in SETTINGS:
        actual = rasterize(scene, image_size, K)
        expected = point_scenes.pytorch3d_forward(scene, image_size, K)
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_gradient_is_pytorch3ds():
    pytest.importorskip("pytorch3d._C", exc_type=ImportError)
    scene = SCENES["three"]
    points = scene.points.clone().requires_grad_()
    idx, zbuf, dists = rasterize(scene._replace(points=points), (31, 24), 6)
    grads = torch.randn(2, *zbuf.shape)
    (grad,) = torch.autograd.grad([zbuf, dists], points, list(grads))
    torch.testing.assert_close(grad, point_scenes.pytorch3d_backward(scene, idx, *grads), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("K", [1, 4, 30])
def test_gradcheck(K, device):
    scene = clouds((12, 0, 9), radius=0.5).to(device, torch.float64)
    assert (rasterize(scene, (5, 7), K)[0] >= 0).sum() > 20
    assert torch.autograd.gradcheck(
        lambda p: rasterize(scene._replace(points=p), (5, 7), K)[1:], scene.points.clone().requires_grad_()
    )


def test_by_hand(device):
    """The centres of a 2 x 2 image lie at +-0.5; x points left and y up."""
    points = torch.tensor([[0.5, 0.5, 3.0], [0.5, 0.5, 1.0], [-0.5, 0.25, 1.0], [0.0, 0.0, -1.0]], device=device)
    radius = torch.tensor([0.1, 0.1, 0.3, 9.0], device=device)
    first, count = torch.tensor([0], device=device), torch.tensor([4], device=device)
    idx, zbuf, dists = rasterize_points(points, first, count, radius, (2, 2), 3)
    assert idx.dtype == torch.int32
    assert idx[0].tolist() == [[[1, 0, -1], [2, -1, -1]], [[-1] * 3, [-1] * 3]]
    assert zbuf[0, 0].tolist() == [[1.0, 3.0, -1.0], [1.0, -1.0, -1.0]]
    assert dists[0, 0].tolist() == [[0.0, 0.0, -1.0], [0.0625, -1.0, -1.0]]


def test_a_centre_on_the_border_is_outside(device):
    scene = Points(torch.tensor([[0.25, 0.5, 1.0]]), torch.tensor([0]), torch.tensor([1]), torch.tensor([0.25]))
    for radius, hits in ((0.25, 0), (0.2500001, 1)):
        moved = scene._replace(radius=torch.tensor([radius])).to(device, torch.float32)
        assert (rasterize(moved, (2, 2), 1)[0] >= 0).sum() == hits


def test_points_of_equal_depth_come_by_index(device):
    scene = SCENES["equal"].to(device, torch.float32)
    idx = rasterize(scene, (8, 8), 20)[0]
    row = idx[idx[..., 0] >= 0][0]
    assert row.tolist() == list(range(20))


def test_the_nearest_are_kept_in_any_order_of_the_points(device):
    scene = clouds((150,), radius=0.6).to(device, torch.float32)
    order = torch.randperm(150)
    shuffled = scene._replace(points=scene.points[order], radius=scene.radius[order])
    idx, zbuf, dists = rasterize(scene, (12, 12), 5)
    other = rasterize(shuffled, (12, 12), 5)
    torch.testing.assert_close(other[1:], (zbuf, dists), rtol=0, atol=0)
    assert torch.equal(order.to(device)[other[0].clamp(min=0).long()][idx >= 0], idx[idx >= 0].long())


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_do_not_matter(threads):
    scene = clouds((20000, 15000), radius=0.05)
    before = torch.get_num_threads()
    results = []
    try:
        for n in (1, threads):
            torch.set_num_threads(n)
            results.append(values_and_grads(lambda p: rasterize(scene._replace(points=p), (70, 90), 12), scene.points))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_image_larger_than_the_cache():
    """Outputs of that size are written around the caches."""
    scene = clouds((500,), radius=0.1)
    large = rasterize(scene, (256, 256), 24)
    small = rasterize(scene, (256, 256), 2)
    torch.testing.assert_close(tuple(a[..., :2] for a in large), small, rtol=0, atol=0)
    assert all((a == -1).all() for a in (large[1][large[0] < 0], large[2][large[0] < 0]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("component", [0, 1, 2])
def test_points_that_are_not_finite(value, component):
    scene = clouds((20,))
    points = scene.points.clone()
    points[7] = torch.tensor([0.1, 0.1, 1.0])
    points[7, component] = value
    if component == 2 and value < 0:
        assert (rasterize(scene._replace(points=points), (8, 8), 9)[0] != 7).all()
    else:
        with pytest.raises(ValueError, match=r"points must be finite in front of the camera, .* in point 7"):
            rasterize(scene._replace(points=points), (8, 8), 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1])
def test_radii_that_are_none(value):
    scene = clouds((20,))
    scene.radius[3] = value
    with pytest.raises(ValueError, match=r"radius must be finite and >= 0, got .* for point 3"):
        rasterize(scene, (8, 8), 2)


def test_bad_input():
    scene = clouds((20,))
    with pytest.raises(ValueError, match="cloud 0 claims 30 points from point 0"):
        rasterize(scene._replace(count=torch.tensor([30])), (8, 8), 2)
    with pytest.raises(ValueError, match="image_size and points_per_pixel must be positive"):
        rasterize(scene, (8, 8), 0)
    with pytest.raises(ValueError, match="radius must have shape"):
        rasterize(scene._replace(radius=scene.radius[:3]), (8, 8), 2)
    with pytest.raises(ValueError, match="image_size and points_per_pixel must be positive"):
        rasterize(scene, (8, -1), 1)
