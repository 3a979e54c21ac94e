from __future__ import annotations

import pytest
import torch

from recon_engine.transforms import Rotate, RotateAxisAngle, Scale, Transform3d, Translate, random_rotations

F64 = torch.float64


def homogeneous(points: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Points (N, P, 3) by matrices (N, 4, 4), by the definition."""
    points = torch.cat([points, torch.ones_like(points[..., :1])], -1) @ matrix
    return points[..., :3] / points[..., 3:]


def parts(N: int = 4) -> list[Transform3d]:
    return [
        Rotate(random_rotations(N, dtype=F64), dtype=F64),
        Translate(torch.randn(N, 3, dtype=F64), dtype=F64),
        Scale(torch.rand(N, 3, dtype=F64) + 0.5, dtype=F64),
        Transform3d(matrix=torch.eye(4, dtype=F64) + 0.1 * torch.randn(N, 4, 4, dtype=F64)),
        RotateAxisAngle(torch.rand(N, dtype=F64), axis="z", degrees=False, dtype=F64),
    ]


def test_parts_have_the_documented_matrices():
    t = Translate(1.0, torch.tensor([2.0, 3.0]), 4).get_matrix()
    torch.testing.assert_close(t[:, 3], torch.tensor([[1.0, 2, 4, 1], [1, 3, 4, 1]]))
    torch.testing.assert_close(t[:, :3], torch.eye(4)[:3].expand(2, 3, 4))
    torch.testing.assert_close(Scale(2.0).get_matrix()[0], torch.diag(torch.tensor([2.0, 2, 2, 1])))
    torch.testing.assert_close(Scale(1, 2, 3).get_matrix()[0], torch.diag(torch.tensor([1.0, 2, 3, 1])))
    R = random_rotations(3)
    torch.testing.assert_close(Rotate(R).get_matrix()[:, :3, :3], R)
    torch.testing.assert_close(Rotate(R).get_matrix()[:, 3], torch.eye(4)[3].expand(3, 4))
    # A positive angle turns counter-clockwise: x becomes y about z.
    x = torch.eye(3)[:1]
    torch.testing.assert_close(RotateAxisAngle(90, "Z").transform_points(x), torch.eye(3)[1:2], atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_compose_is_one_after_the_other(dtype, device):
    ts = [t.to(device, dtype=dtype) for t in parts()]
    points = torch.randn(4, 9, 3, dtype=dtype, device=device)
    expected = points
    for t in ts:
        expected = homogeneous(expected, t.get_matrix())
    composed = ts[0].compose(*ts[1:])
    torch.testing.assert_close(composed.transform_points(points), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(homogeneous(points, composed.get_matrix()), expected, rtol=1e-4, atol=1e-4)
    nested = ts[0].compose(ts[1].compose(ts[2], ts[3]), ts[4])
    torch.testing.assert_close(nested.get_matrix(), composed.get_matrix(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_affine_points_need_no_division(count):
    affine = parts()[0].compose(*list(parts()[1:3] + parts()[4:])[: count - 1])
    points = torch.randn(4, 9, 3, dtype=F64)
    assert affine._is_affine_product()
    torch.testing.assert_close(affine.transform_points(points), homogeneous(points, affine.get_matrix()))
    torch.testing.assert_close(affine.transform_points(points, eps=0.1), homogeneous(points, affine.get_matrix()))


def test_builders_follow_the_transform():
    R = random_rotations(2, dtype=F64)
    t = Transform3d(dtype=F64).rotate(R).translate(1, 2, 3).scale(2.0).rotate_axis_angle(30, "Y")
    expected = Rotate(R, dtype=F64).compose(
        Translate(1, 2, 3, dtype=F64), Scale(2.0, dtype=F64), RotateAxisAngle(30, "Y", dtype=F64)
    )
    torch.testing.assert_close(t.get_matrix(), expected.get_matrix())
    assert len(t) == 2
    assert t.dtype == F64


@pytest.mark.parametrize("invert_composed", [False, True])
def test_inverse(invert_composed):
    for t in [*parts(), parts()[0].compose(*parts()[1:]), parts()[1].compose(parts()[0].compose(parts()[2]))]:
        inverse = t.inverse(invert_composed)
        identity = torch.eye(4, dtype=F64).expand(4, 4, 4)
        torch.testing.assert_close(inverse.get_matrix() @ t.get_matrix(), identity, atol=1e-10, rtol=0)
        torch.testing.assert_close(inverse.inverse().get_matrix(), t.get_matrix(), atol=1e-10, rtol=0)


def test_inverse_keeps_closed_forms():
    R = random_rotations(1)
    inverse = Rotate(R).translate(1, 2, 3).inverse()
    torch.testing.assert_close(inverse.get_matrix()[:, :3, :3], R.transpose(1, 2), rtol=0, atol=0)
    assert isinstance(RotateAxisAngle(30).inverse(), Rotate)
    assert isinstance(Translate(1, 2, 3).inverse(), Translate)


def test_normals_stay_at_right_angles():
    t = parts()[0].compose(*parts()[1:3])
    corners = torch.randn(4, 3, 3, dtype=F64)

    def normal(c: torch.Tensor) -> torch.Tensor:
        return torch.linalg.cross(c[:, 1] - c[:, 0], c[:, 2] - c[:, 0])

    moved = t.transform_points(corners)
    transformed = t.transform_normals(normal(corners)[:, None])[:, 0]
    torch.testing.assert_close(torch.linalg.cross(transformed, normal(moved)), torch.zeros(4, 3, dtype=F64))
    expected = corners @ torch.linalg.inv(t.get_matrix()[:, :3, :3]).transpose(1, 2)
    torch.testing.assert_close(t.transform_normals(corners), expected)


def test_broadcasting():
    one, many = Translate(1.0, 2.0, 3.0), Translate(torch.randn(4, 3))
    points = torch.randn(5, 3)
    assert one.transform_points(points).shape == (5, 3)
    assert one.transform_points(points[None]).shape == (1, 5, 3)
    assert one.transform_points(points.expand(7, 5, 3)).shape == (7, 5, 3)
    assert many.transform_points(points).shape == (4, 5, 3)
    assert many.transform_points(points[None]).shape == (4, 5, 3)
    assert many.transform_normals(points).shape == (4, 5, 3)
    assert len(one.compose(many)) == len(many.compose(one)) == 4
    torch.testing.assert_close(many.transform_points(points)[2], many[2].transform_points(points))
    assert one.transform_points(points[:0]).shape == (0, 3)
    with pytest.raises(ValueError, match="batch dim"):
        many.transform_points(points.expand(3, 5, 3))
    with pytest.raises(ValueError, match="batch dim"):
        len(many.compose(Translate(torch.randn(3, 3))))


def test_eps_keeps_the_divisor_away_from_zero():
    perspective = torch.zeros(1, 4, 4)
    perspective[0, [0, 1, 2, 3], [0, 1, 3, 2]] = 1.0
    points = torch.tensor([[1.0, 1, 0], [1, 1, 1e-6], [1, 1, -1e-6], [1, 1, 2]])
    out = Transform3d(matrix=perspective).transform_points(points, eps=1e-2)
    torch.testing.assert_close(out[:, 0], torch.tensor([100.0, 100, -100, 0.5]))
    # Other matrices may be put into a transform that was affine.
    t = Transform3d()
    t._matrix = perspective
    torch.testing.assert_close(t.transform_points(points, eps=1e-2), out)


def test_indexing_keeps_dtype_and_class():
    t = Translate(torch.randn(5, 3, dtype=F64), dtype=F64)
    for index in (2, -1, slice(1, 4), [0, 3], torch.tensor([1, 1]), torch.tensor([True, False, True, False, False])):
        chosen = t[index]
        assert isinstance(chosen, Translate)
        assert chosen.dtype == F64
        expected = t.get_matrix()[index]
        torch.testing.assert_close(chosen.get_matrix(), expected if expected.ndim == 3 else expected[None])
    rotations = RotateAxisAngle(torch.tensor([10.0, 20.0]))
    torch.testing.assert_close(rotations[1].get_matrix(), rotations.get_matrix()[1:])
    composed = t.scale(2.0)[1:3]
    torch.testing.assert_close(composed.get_matrix(), t.scale(2.0).get_matrix()[1:3])


def test_stack_clone_to(device):
    a, b = parts()[0], parts()[1].compose(parts()[2])
    stacked = a.stack(b)
    torch.testing.assert_close(stacked.get_matrix(), torch.cat([a.get_matrix(), b.get_matrix()]))
    copy = b.clone()
    copy.get_matrix().zero_()
    copy._matrix.zero_()
    assert b.get_matrix().abs().sum() > 0
    assert b.to(b.device) is b
    assert b.to(b.device, copy=True) is not b
    moved = b.to(device, dtype=torch.float32)
    assert (moved.device, moved.dtype) == (device, torch.float32)
    torch.testing.assert_close(moved.cpu().get_matrix(), b.get_matrix().float())


def test_gradients_reach_every_parameter():
    R, xyz, s, points = (
        random_rotations(2, dtype=F64),
        torch.randn(2, 3, dtype=F64),
        torch.rand(2, 3, dtype=F64) + 0.5,
        torch.randn(2, 4, 3, dtype=F64),
    )
    angle = torch.rand(2, dtype=F64)
    inputs = [x.requires_grad_() for x in (R, xyz, s, angle, points)]

    def transformed(R, xyz, s, angle, points):
        t = Rotate(R, dtype=F64).translate(xyz).scale(s).rotate_axis_angle(angle)
        back = t.inverse(invert_composed=True)
        return t.transform_points(points), t.transform_normals(points), back.transform_points(points)

    assert torch.autograd.gradcheck(transformed, inputs)


def test_no_gradient_is_lost_after_a_use_without_gradients():
    xyz = torch.randn(1, 3, requires_grad=True)
    t = Rotate(random_rotations(1)).translate(xyz)
    with torch.no_grad():
        t.get_matrix()
    for _ in range(2):
        (gradient,) = torch.autograd.grad(t.transform_points(torch.zeros(1, 3)).sum(), xyz)
        torch.testing.assert_close(gradient, torch.ones(1, 3))


def test_autocast_does_not_lower_the_precision():
    t, points = parts()[0].compose(parts()[1]).to("cpu", dtype=torch.float32), torch.randn(4, 9, 3)
    expected = t.transform_points(points)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(t.transform_points(points), expected)
        assert t.get_matrix().dtype == torch.float32


def test_rotation_check(monkeypatch):
    Rotate(2 * torch.eye(3))
    monkeypatch.setenv("PYTORCH3D_CHECK_ROTATION_MATRICES", "1")
    Rotate(random_rotations(2))
    with pytest.warns(UserWarning, match="not a valid rotation matrix"):
        Rotate(2 * torch.eye(3))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Transform3d(matrix=torch.eye(3)), "shape \\(minibatch, 4, 4\\)"),
        (lambda: Transform3d(matrix=torch.zeros(4)), "2- or a 3-dimensional"),
        (lambda: Translate(torch.zeros(2, 4)), "shape \\(N, 3\\)"),
        (lambda: Translate(torch.zeros(2, 3), y=1.0), "y and z to be None"),
        (lambda: Translate(1.0), "y is None"),
        (lambda: Translate(torch.zeros(2), torch.zeros(3), 0.0), "non-broadcastable"),
        (lambda: Rotate(torch.zeros(2, 2)), "R must have shape"),
        (lambda: RotateAxisAngle(1.0, axis="W"), "axis"),
        (lambda: RotateAxisAngle(torch.zeros(2, 2)), "\\(N,\\)"),
        (lambda: Transform3d().compose(torch.eye(4)), "Transform3d objects"),
        (lambda: Transform3d().transform_points(torch.zeros(3)), "dim = 2 or dim = 3"),
        (lambda: Transform3d().transform_normals(torch.zeros(2, 4)), "3 coordinates"),
        (lambda: Transform3d().transform_points(torch.zeros(2, 3, dtype=F64)), "float64 on cpu but the transform"),
    ],
)
def test_wrong_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_float32_points_in_a_float64_transform():
    points = torch.rand(5, 3)
    transform = Rotate(random_rotations(2, dtype=torch.float64), dtype=torch.float64).compose(Translate(1, 2, 3))
    assert transform.get_matrix().dtype == torch.float64
    for method in (transform.transform_points, transform.transform_normals):
        assert method(points).dtype == torch.float32
        torch.testing.assert_close(method(points), method(points.double()).float())
    with pytest.raises(ValueError, match=r"points are torch\.float64 on cpu but the transform is torch\.float32"):
        Translate(1, 2, 3).transform_points(points.double())
    with pytest.raises(ValueError, match=r"points are torch\.float16"):
        transform.transform_points(points.half())
