from __future__ import annotations

import math
import re
import warnings

import pytest
import torch

from recon_engine.ops import _render_spheres as spheres
from recon_engine.renderer.points.pulsar import Renderer, renderer
from recon_engine.transforms import axis_angle_to_matrix, matrix_to_rotation_6d

CASES = ["perspective", "perspective/right", "orthogonal", "orthogonal/right"]
# PyTorch3D approximates exponentials on a CPU, by up to 3 %: (relative, absolute).
APPROXIMATION = {"image": (0, 0.02), "stats": (0.06, 1e-3)}


def of_case(recorded, case):
    return {
        name.removeprefix(f"{case}/"): value for name, value in recorded.items() if re.fullmatch(f"{case}/\\w+", name)
    }


def compare(actual, expected, offset):
    for name in ("ids", "hits"):
        assert torch.equal(actual[name], expected[name]), name
    assert (expected["hits"] > 1).float().mean() > 0.4
    torch.testing.assert_close(actual["depths"], expected["depths"], rtol=0, atol=2e-3)
    torch.testing.assert_close(actual["nearest"], expected["nearest"], rtol=0, atol=2e-3)
    torch.testing.assert_close(actual["stats"][..., ::2], expected["stats"][..., ::2], rtol=1e-4, atol=1e-4)
    for name, (rtol, atol) in APPROXIMATION.items():
        torch.testing.assert_close(actual[name], expected[name], rtol=rtol, atol=atol)
    # PyTorch3D's gradient in the camera forgets that the first pixel moves with the principal point.
    for name in ("points", "colors", "radii", "opacity", *(() if any(offset) else ("camera",))):
        ours, theirs = actual[name].flatten(), expected[name].flatten()
        assert torch.cosine_similarity(ours, theirs, 0) > 0.998, name
        assert (ours.norm() / theirs.norm()).item() == pytest.approx(1, abs=0.03), name


@pytest.mark.parametrize("case", CASES)
def test_recorded(pulsar, recorded, case):
    compare(pulsar.outputs("recon_engine", case), of_case(recorded, case), pulsar.CASES[case][3])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", CASES)
def test_live(pulsar, case):
    pytest.importorskip("pytorch3d.renderer", exc_type=ImportError)
    compare(pulsar.outputs("recon_engine", case), pulsar.outputs("pytorch3d", case), pulsar.CASES[case][3])


def fast_exp(x):
    """PyTorch3D's exponential on a CPU: the bits of a float as a piecewise linear logarithm (Mineiro's fastapprox)."""
    power = (x * 1.442695040).clamp(min=-126)
    return ((power + 126.94269504) * (1 << 23)).int().view(torch.float32)


@pytest.mark.parametrize("case", CASES)
def test_the_approximate_exponential_is_all_that_differs(pulsar, recorded, case):
    """With it, sphere by sphere and rescaled at each new maximum, the reference gives PyTorch3D's image."""
    orthogonal, right_handed, gamma, offset = pulsar.CASES[case]
    points, colors, radii, camera, opacity = (a[None] for a in pulsar.scene(orthogonal, right_handed, offset))
    near, far = pulsar.DEPTHS["min_depth"], pulsar.DEPTHS["max_depth"]
    H, W = pulsar.HEIGHT, pulsar.WIDTH
    *vectors, _, shift = Renderer._transform_cam_params(camera, W, H, orthogonal, right_handed)
    four = torch.stack(vectors, 1)
    order = spheres._begin(points, radii, four, orthogonal, right_handed).argsort(dim=1)
    frame = spheres._Frame(points, four[:, None], shift, H, W, orthogonal, right_handed)
    hit, closeness, depth = spheres._hits(frame, radii, order, H, W, near, far, orthogonal, 1000)
    largest = torch.full((H, W), 1e-6 / gamma)
    total, image = torch.ones(H, W), torch.tensor(pulsar.BACKGROUND).expand(H, W, 3)
    for i in order[0].tolist():
        exponent = (far - depth[0, i]) / (far - near) / gamma * opacity[0, i]
        exponent = torch.where(hit[0, i], exponent, -torch.inf)
        larger = torch.maximum(largest, exponent)
        scale = torch.where(larger > largest, fast_exp(largest - larger), 1)
        weight = torch.where(hit[0, i], closeness[0, i] * opacity[0, i] * fast_exp(exponent - larger), 0)
        total, image = total * scale + weight, image * scale[..., None] + weight[..., None] * colors[0, i]
        largest = larger
    expected = recorded[f"{case}/image"]
    # A fraction of what the exact exponential differs by; depths in PyTorch3D are rounded to about 1e-4 of gamma.
    torch.testing.assert_close(image / total[..., None], expected, rtol=0, atol=2e-3)
    exact = pulsar.outputs("recon_engine", case)["image"]
    assert (exact - expected).abs().max() > 2 * (image / total[..., None] - expected).abs().max()


def simple(dtype=torch.float32, N=6, device="cpu"):
    points = torch.rand(N, 3, dtype=dtype) + torch.tensor([-0.5, -0.5, 4.5], dtype=dtype)
    camera = torch.tensor([0.0, 0, 0, 0.02, 0.03, 0, 1, 0.5], dtype=dtype)
    return [
        a.to(device) for a in (points, torch.rand(N, 3, dtype=dtype), torch.rand(N, dtype=dtype) * 0.3 + 0.1, camera)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_is_its_members(dtype, device):
    """Also in the opacities: PyTorch3D takes those of the first member for all."""
    members = [simple(dtype, device=device) for _ in range(3)]
    opacity = torch.rand(3, 6, dtype=dtype).to(device)
    render = Renderer(12, 9, 100).to(device)
    images, infos = render(
        *(torch.stack(a) for a in zip(*members)), 0.1, 8.0, opacity=opacity, return_forward_info=True
    )
    assert images.shape == (3, 9, 12, 3)
    assert infos.shape == (3, 9, 12, 13)
    assert images.dtype == dtype
    ids = Renderer.sphere_ids_from_result_info_nograd(infos)
    for i, member in enumerate(members):
        image, info = render(*member, 0.1, 8.0, opacity=opacity[i], return_forward_info=True)
        torch.testing.assert_close(image, images[i], rtol=0, atol=0)
        torch.testing.assert_close(info[..., :3], infos[i, ..., :3], rtol=0, atol=0)
        assert torch.equal(Renderer.sphere_ids_from_result_info_nograd(info), ids[i : i + 1])
        assert torch.equal(Renderer.depth_map_from_result_info_nograd(info), infos[i, ..., 4])
    assert ids.max() > 1
    assert ids.min() == -1


@pytest.mark.parametrize("extra", [(), (1.6, -1.2)])
def test_both_forms_of_a_rotation(extra, device):
    """The offset of the principal point counts in whole pixels, towards 0."""
    points, colors, radii, camera = simple(device=device)
    matrix = axis_angle_to_matrix(camera[3:6])
    six = torch.cat([camera[:3], matrix_to_rotation_6d(matrix), camera[6:], camera.new_tensor(extra)])
    angles = torch.cat([camera, camera.new_tensor(extra)])
    render = Renderer(12, 9, 100).to(device)
    images = [render(points, colors, radii, c, 0.1, 8.0) for c in (angles, six)]
    torch.testing.assert_close(*images)
    whole = torch.cat([camera, camera.new_tensor([math.trunc(e) for e in extra])])
    assert torch.equal(render(points, colors, radii, whole, 0.1, 8.0), images[0])
    if extra:
        plain = render(points, colors, radii, camera, 0.1, 8.0)
        torch.testing.assert_close(plain[:-1, 1:], images[0][1:, :-1])


def test_first_rotation_then_translation(device):
    points, colors, radii, camera = simple(device=device)
    camera[:3] = torch.tensor([0.1, -0.2, 0.3])
    turned = camera.clone()
    turned[:3] = axis_angle_to_matrix(camera[3:6]) @ camera[:3]
    render = Renderer(12, 9, 100).to(device)
    torch.testing.assert_close(
        render(points, colors, radii, camera, 0.1, 8.0, first_R_then_T=True),
        render(points, colors, radii, turned, 0.1, 8.0),
    )


def test_hits(device):
    """Mode 1 counts what a ray meets; `max_n_hits` ends it, nearest first."""
    points, colors, radii, camera = simple(N=40, device=device)
    render = Renderer(12, 9, 100, n_track=40).to(device)
    hits, none = render(points, colors, radii, camera, 1e-4, 8.0, mode=1, return_forward_info=True)
    assert none is None
    assert hits.shape == (9, 12, 1)
    _, info = render(points, colors, radii, camera, 1e-4, 8.0, return_forward_info=True)
    ids = Renderer.sphere_ids_from_result_info_nograd(info)
    assert torch.equal(hits[..., 0], (ids[0] >= 0).sum(-1).to(hits))
    assert hits.max() > 4
    capped = render(points, colors, radii, camera, 1e-4, 8.0, mode=1, max_n_hits=2)
    assert torch.equal(capped, hits.clamp(max=2))


def test_any_number_of_spheres_and_of_tracked_ones(device):
    """PyTorch3D refuses no spheres, more than `max_num_balls`, and tracks at most 128."""
    points, colors, radii, camera = simple(N=200, device=device)
    image, info = Renderer(12, 9, 10, n_track=150)(points, colors, radii, camera, 0.5, 8.0, return_forward_info=True)
    assert info.shape == (9, 12, 303)
    assert image.isfinite().all()
    empty = Renderer(12, 9, 10)(points[:0], colors[:0], radii[:0], camera, 0.5, 8.0)
    assert (empty == 1).all()
    for orthogonal in (False, True):
        none = [a[None][:0] for a in (points, colors, radii, camera)]
        assert Renderer(12, 9, 10, orthogonal)(*none, 0.5, 8.0).shape == (0, 9, 12, 3)


def test_optimising_a_scene(device):
    """Averaged gradients and plain steps, as PyTorch3D's examples have it, bring spheres to their target."""
    points, colors, radii, camera = simple(N=8, device=device)
    render = Renderer(24, 20, 8).to(device)
    with torch.no_grad():
        target = render(points, colors, radii, camera, 0.1, 8.0)
    learned = [(a + 0.05 * torch.randn_like(a)).requires_grad_() for a in (points, colors, radii)]
    steps = torch.optim.SGD([{"params": [a], "lr": lr} for a, lr in zip(learned, (1e-2, 0.1, 5e-3))])
    losses = []
    for _ in range(40):
        loss = (render(*learned, camera, 0.1, 8.0) - target).square().sum()
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("offset", [(), (2.0, -1.0)])
def test_camera_gradients_by_differences(offset, device):
    """Also where the principal point is not in the middle: PyTorch3D's are wrong there."""
    points, colors, radii, _ = simple(torch.float64, device=device)
    numbers = [0.0, 0, 0, 1, 0.02, 0, 0, 1, 0.03, 1, 0.5]
    camera = torch.tensor(numbers, dtype=torch.float64, device=device)
    render = Renderer(9, 7, 10, n_track=10, average_gradients=False)
    assert torch.autograd.gradcheck(
        lambda c: render(points, colors, radii, torch.cat([c, c.new_tensor(offset)]), 0.5, 8.0, 2.0),
        camera.requires_grad_(),
        eps=1e-7,
        atol=1e-5,
    )


def test_warnings(device):
    points, colors, radii, camera = simple(device=device)
    render = Renderer(12, 9, 100).to(device)
    with pytest.warns(UserWarning, match="10000 times the focal length"):
        render(points, colors, radii, camera, 0.1, 2e4)
    for call, message in (
        (lambda: render(points, colors, radii, camera.clone().requires_grad_(), 0.1, 8.0), "axis and angle"),
        (lambda: render(points.clone().requires_grad_(), colors, radii, camera, 1e-4, 8.0), "gamma below 1e-3"),
    ):
        renderer._warned.clear()
        with pytest.warns(UserWarning, match=message):
            call()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call()  # once is enough


def test_bad_input():
    points, colors, radii, camera = simple()
    render = Renderer(12, 9, 100)
    call = {
        "vert_pos": points,
        "vert_col": colors,
        "vert_rad": radii,
        "cam_params": camera,
        "gamma": 0.1,
        "max_depth": 8.0,
    }
    for change, message in (
        ({"vert_pos": points[:, :2]}, "vert_pos must have shape"),
        ({"vert_col": colors[:, :2]}, r"vert_col must have shape \(6, 3\)"),
        ({"vert_rad": radii[None]}, r"vert_rad must have shape \(6,\)"),
        ({"opacity": radii[:3]}, r"opacity must have shape \(6,\)"),
        ({"bg_col": radii[:2]}, r"bg_col must have shape \(3,\)"),
        ({"cam_params": camera[None]}, "cam_params must have one vector for each"),
        ({"cam_params": camera[:7]}, "cam_params must have shape"),
        ({"gamma": 0.0}, r"gamma must be in \[1e-5, 1\], got 0.0"),
        ({"gamma": 1.5}, "gamma must be in"),
        ({"gamma": math.nan}, "gamma must be in"),
        ({"min_depth": 0.5}, "min_depth must be 0 or above the focal length"),
        ({"max_depth": 1.0}, "max_depth must be above min_depth"),
        ({"percent_allowed_difference": 1.0}, "percent_allowed_difference"),
        ({"max_n_hits": 0}, "max_n_hits must be > 0"),
        ({"mode": 2}, "mode must be 0 or 1"),
        ({"vert_rad": radii * 0}, "radii must be finite and > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            render(**(call | change))
    with pytest.raises(ValueError, match="focal length must be 0 for an orthogonal"):
        Renderer(12, 9, 100, orthogonal_projection=True)(**call)
    with pytest.raises(ValueError, match="focal length must be > 1e-06 for a perspective"):
        render(**(call | {"cam_params": camera * torch.tensor([1.0, 1, 1, 1, 1, 1, 0, 1])}))
    for name in ("width", "height", "max_num_balls", "n_channels", "n_track"):
        with pytest.raises(ValueError, match=f"{name} must be > 0, got 0"):
            Renderer(**({"width": 2, "height": 2, "max_num_balls": 1} | {name: 0}))
    with pytest.raises(ValueError, match="background_normalized_depth must be between 0 and 1"):
        Renderer(2, 2, 1, background_normalized_depth=1.0)


def test_representation():
    assert repr(Renderer(12, 9, 100)) == "Renderer(width=12, height=9, max_num_balls=100)"
