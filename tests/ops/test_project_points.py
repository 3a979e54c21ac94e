from __future__ import annotations

import pytest
import torch

from recon_engine.ops._project_points import _project_points, project_points
from recon_engine.testing import assert_matches_reference


def _scene(N=2, P=5, views=2, projections=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)

    matrix = random(projections, 4, 4) + torch.eye(4, dtype=dtype)
    return random(N, P, 3) - 0.5, random(views, 3, 3), random(views, 3) + 1, matrix


@pytest.mark.parametrize(("views", "projections"), [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("P", [0, 1, 5, 700])  # 700 points of a camera are summed in several chunks
def test_values_and_gradients(views, projections, P, device):
    inputs = [a.to(device) for a in _scene(2, P, views, projections)]
    assert_matches_reference(_project_points, *inputs, 0.0, rtol=1e-9, atol=1e-9)


def test_equals_homogeneous_coordinates():
    points, R, T, matrix = _scene(projections=2)
    to_view = torch.zeros(2, 4, 4, dtype=torch.float64)
    to_view[:, :3, :3], to_view[:, 3, :3], to_view[:, 3, 3] = R, T, 1
    whole = torch.cat((points, torch.ones_like(points[..., :1])), -1)
    x, y, _, w = (whole @ to_view @ matrix).unbind(-1)
    expected = torch.stack((x / w, y / w, (whole @ to_view)[..., 2]), -1)
    torch.testing.assert_close(project_points(points, R, T, matrix), expected)


@pytest.mark.parametrize("eps", [None, 0.1, 2.5])  # 2.5 holds some of the divisors
def test_gradcheck(eps):
    inputs = [a.requires_grad_() for a in _scene()]
    assert torch.autograd.gradcheck(lambda *a: project_points(*a, eps=eps), inputs)


def test_eps_keeps_the_sign():
    matrix = torch.eye(4)[None].clone()
    matrix[0, 2, 3], matrix[0, 3, 3] = 1, 0  # w = z
    points = torch.tensor([[[1.0, 2.0, 0.01], [1.0, 2.0, -0.01], [1.0, 2.0, 0.0], [1.0, 2.0, 4.0]]])
    projected = project_points(points, torch.eye(3)[None], torch.zeros(1, 3), matrix, eps=0.5)
    expected = [[2.0, 4.0, 0.01], [-2.0, -4.0, -0.01], [2.0, 4.0, 1e-12], [0.25, 0.5, 4.0]]
    torch.testing.assert_close(projected[0], torch.tensor(expected))


def test_point_at_the_camera_is_finite(device):
    matrix = torch.eye(4, device=device)[None].clone()
    matrix[0, 2, 3], matrix[0, 3, 3] = 1, 0
    points = torch.tensor([[[1.0, 0.0, 0.0]]], device=device, requires_grad=True)
    projected = project_points(points, torch.eye(3, device=device)[None], torch.zeros(1, 3, device=device), matrix)
    (grad,) = torch.autograd.grad(projected.sum(), points)
    assert projected.isfinite().all()
    assert grad.isfinite().all()
    assert grad[0, 0, 2] == 0  # the depth that stands for 0 does not move


def test_nan_stays():
    points, R, T, matrix = _scene(N=1, views=1)
    points[0, 1] = torch.nan
    projected = project_points(points, R, T, matrix, eps=0.1)
    assert projected[0, 1].isnan().all()
    assert projected[0, [0, 2, 3, 4]].isfinite().all()


@pytest.mark.parametrize(("views", "projections", "name"), [(3, 1, "R"), (1, 3, "matrix")])
def test_other_numbers_of_cameras_are_refused(views, projections, name):
    with pytest.raises(ValueError, match=f"{name} must have a batch of 1, or of 2 like the points, got 3"):
        project_points(*_scene(2, 5, views, projections))


def test_gradients_do_not_depend_on_threads():
    inputs = [a.requires_grad_() for a in _scene(2, 20000, 1, 1, torch.float32)]
    before, grads = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            grads.append(torch.autograd.grad(project_points(*inputs).square().sum(), inputs))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=0)
