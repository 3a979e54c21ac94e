from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import recon_engine.ops
import recon_engine.structures
from recon_engine.ops import estimate_pointcloud_local_coord_frames, estimate_pointcloud_normals
from recon_engine.structures import Pointclouds
from recon_engine.transforms import random_rotations

REFERENCE = Path(__file__).parent.parent / "reference"
ESTIMATES = [estimate_pointcloud_local_coord_frames, estimate_pointcloud_normals]


def recorder():
    spec = importlib.util.spec_from_file_location("record_point_estimates", REFERENCE / "record_point_estimates.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _assert_same(theirs):
    """Signs are those of PyTorch3D too, which takes them from the same vote."""
    ours = recorder().normal_answers(recon_engine.ops, recon_engine.structures)
    for name, got in ours.items():
        expected = theirs[name]
        # PyTorch3D's eigenvectors in float32 have about four digits.
        tolerance = {"rtol": 2e-3, "atol": 2e-3 * expected.abs().max().item()}
        torch.testing.assert_close(got, expected, **tolerance, msg=lambda m, n=name: f"{n}: {m}")


def test_recorded():
    recorded = np.load(REFERENCE / "point_estimates.npz")
    _assert_same({name: torch.from_numpy(array) for name, array in recorded.items()})


def test_live():
    pytest.importorskip("pytorch3d")
    import pytorch3d.ops
    import pytorch3d.structures

    _assert_same(recorder().normal_answers(pytorch3d.ops, pytorch3d.structures))


def random(*shape, dtype=torch.float64, device="cpu"):
    return torch.randn(*shape, dtype=dtype, device=device)


def covariances(points, K):
    """Covariances of the K nearest points in float64, by the definition."""
    points = points.double()
    idx = torch.cdist(points, points).argsort(dim=-1, stable=True)[..., :K]
    neighbors = points[torch.arange(len(points))[:, None, None], idx]
    centred = neighbors - neighbors.mean(2, keepdim=True)
    return centred.mT @ centred / K, neighbors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("closed_form", [False, True])
def test_frames_are_eigenvectors_of_the_covariances(closed_form, dtype, device):
    points = random(2, 80, 3, dtype=dtype)
    expected, neighbors = covariances(points, 10)
    curvatures, frames = estimate_pointcloud_local_coord_frames(
        points.to(device), 10, use_symeig_workaround=closed_form
    )
    assert curvatures.dtype == frames.dtype == dtype
    curvatures, frames = curvatures.double().cpu(), frames.double().cpu()
    tolerance = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 1e-12}
    torch.testing.assert_close(curvatures, torch.linalg.eigvalsh(expected), **tolerance)
    torch.testing.assert_close(frames @ torch.diag_embed(curvatures) @ frames.mT, expected, **tolerance)
    normal, middle, last = frames.unbind(-1)
    torch.testing.assert_close(torch.linalg.cross(normal, last), middle, **tolerance)
    # Half of the neighbours or more are on the positive side of the first and the last direction.
    positive = (((neighbors - points.double()[:, :, None]) @ frames[..., ::2]) > 0).sum(2)
    assert (2 * positive >= 10).all()


def test_without_signs_only_signs_differ():
    points = random(2, 60, 3)
    curvatures, frames = estimate_pointcloud_local_coord_frames(points, 10)
    others = estimate_pointcloud_local_coord_frames(points, 10, disambiguate_directions=False)
    torch.testing.assert_close(curvatures, others[0])
    torch.testing.assert_close((frames * others[1]).sum(2).abs(), torch.ones_like(curvatures))
    assert ((frames * others[1]).sum(2) < 0).any()


def test_normals_of_a_sphere():
    """They point along the radius, all inwards or all outwards."""
    directions = F.normalize(random(3, 400, 3), dim=2)
    points = directions * torch.tensor([0.5, 1.0, 20.0]).double()[:, None, None] + random(3, 1, 3)
    normals = estimate_pointcloud_normals(points, 30)
    along = (normals * directions).sum(2)
    assert along.abs().mean() > 0.99
    assert (along < 0).double().mean() > 0.95
    torch.testing.assert_close(normals, estimate_pointcloud_local_coord_frames(points, 30)[1][..., 0])


def test_clouds_of_several_sizes(device):
    clouds = [random(n, 3, device=device) for n in (40, 12, 25)]
    curvatures, frames = estimate_pointcloud_local_coord_frames(Pointclouds(clouds), 11)
    assert frames.shape == (3, 40, 3, 3)
    for n, cloud in enumerate(clouds):
        alone = estimate_pointcloud_local_coord_frames(cloud[None], 11)
        torch.testing.assert_close(curvatures[n, : len(cloud)], alone[0][0])
        torch.testing.assert_close(frames[n, : len(cloud)], alone[1][0])
        assert (frames[n, len(cloud) :] == 0).all()
        assert (curvatures[n, len(cloud) :] == 0).all()


@pytest.mark.parametrize("assign", [False, True])
def test_method_of_pointclouds(assign):
    clouds = Pointclouds([random(30, 3), random(20, 3)])
    normals = clouds.estimate_normals(8, assign_to_self=assign)
    torch.testing.assert_close(normals, estimate_pointcloud_normals(clouds, 8))
    if assign:
        torch.testing.assert_close(clouds.normals_padded(), normals)
    else:
        assert clouds.normals_padded() is None


def test_turned_and_moved_clouds_have_turned_normals():
    points, R = random(1, 50, 3), random_rotations(1, dtype=torch.float64)
    curvatures, frames = estimate_pointcloud_local_coord_frames(points, 10)
    turned = estimate_pointcloud_local_coord_frames(1e-3 * points @ R + 7, 10)
    torch.testing.assert_close(turned[0], 1e-6 * curvatures)
    torch.testing.assert_close(turned[1], R[:, None].mT @ frames)


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**-10, 2.0**20])
def test_frames_do_not_depend_on_the_unit(scale):
    points = random(2, 50, 3, dtype=torch.float32)
    curvatures, frames = estimate_pointcloud_local_coord_frames(points, 10)
    scaled = estimate_pointcloud_local_coord_frames(scale * points, 10)
    torch.testing.assert_close(scaled[0], scale**2 * curvatures, rtol=1e-4, atol=0)
    torch.testing.assert_close(scaled[1], frames, rtol=0, atol=1e-4)


@pytest.mark.parametrize("closed_form", [False, True])
def test_gradcheck(closed_form):
    """Also with padding, where `torch.linalg.eigh` has no gradient."""
    points = random(2, 14, 3).requires_grad_()

    def estimate(points):
        clouds = Pointclouds([points[0], points[1, :11]])
        return estimate_pointcloud_local_coord_frames(clouds, 6, use_symeig_workaround=closed_form)

    assert torch.autograd.gradcheck(estimate, (points,))


# ---- clouds that are hard ----

LINE = torch.linspace(-1, 1, 20).double()
SHAPES = {
    "equal": lambda: torch.ones(1, 20, 3).double(),
    "line": lambda: LINE[None, :, None] * torch.tensor([1.0, 2.0, -1.0]).double(),
    "plane": lambda: random(1, 20, 3) * torch.tensor([1.0, 1.0, 0.0]).double(),
    "lattice": lambda: torch.cartesian_prod(*[torch.arange(3.0).double()] * 3)[None],
    "pairs": lambda: random(1, 12, 3).repeat(1, 2, 1),
    "tiny": lambda: 1e-30 * random(1, 20, 3),
    "huge": lambda: 1e30 * random(1, 20, 3),
}


@pytest.mark.parametrize("shift", [0.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_frames_and_gradients_are_always_finite(shape, dtype, shift):
    points = (SHAPES[shape]() + shift).to(dtype).requires_grad_()
    curvatures, frames = estimate_pointcloud_local_coord_frames(points, 8)
    assert curvatures.isfinite().all() or shape == "huge"  # squares of 1e30 are no float32
    identity = torch.eye(3, dtype=dtype).expand_as(frames)
    torch.testing.assert_close(frames.mT @ frames, identity, rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad((frames * random(3, 3, dtype=dtype)).sum(), points)
    assert gradient.isfinite().all()


def test_normals_of_a_plane_and_of_a_line():
    normals = estimate_pointcloud_normals(SHAPES["plane"](), 8)
    expected = torch.tensor([0.0, 0.0, 1.0]).double().expand_as(normals)
    torch.testing.assert_close(normals.abs(), expected)
    curvatures, frames = estimate_pointcloud_local_coord_frames(SHAPES["line"](), 8)
    assert curvatures[..., :2].abs().max() < 1e-14
    along = F.normalize(torch.tensor([1.0, 2.0, -1.0]).double(), dim=0)
    torch.testing.assert_close((frames[..., 2] @ along).abs(), torch.ones(1, 20).double())


def test_far_from_the_origin():
    """A cloud whose coordinates are exact far away has the same frames there."""
    points = (random(1, 60, 3, dtype=torch.float32) * 64).round()
    near = estimate_pointcloud_local_coord_frames(points, 9)
    far = estimate_pointcloud_local_coord_frames(points + 2.0**20, 9)
    torch.testing.assert_close(far[0], near[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close((far[1] * near[1]).sum(2).abs(), torch.ones(1, 60, 3), rtol=0, atol=1e-4)


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_bad_input(estimate):
    points = random(2, 10, 3)
    with pytest.raises(ValueError, match=r"of shape \(minibatch, N, 3\), got \(2, 10, 2\)"):
        estimate(points[..., :2], 4)
    for K in (10, 11):
        with pytest.raises(ValueError, match=f"got neighborhood_size={K} and a cloud of 10 points"):
            estimate(points, K)
    with pytest.raises(ValueError, match="a cloud of 0 points"):
        estimate(Pointclouds([points[0], points[1, :0]]), 4)
    with pytest.raises(ValueError, match="either Pointclouds objects or tensors"):
        estimate([points], 4)
    for value in (float("nan"), float("inf")):
        points[1, 3, 2] = value
        with pytest.raises(ValueError, match=r"pointclouds must be finite, got (nan|inf) at \[1, 3, 2\]"):
            estimate(points, 4)
