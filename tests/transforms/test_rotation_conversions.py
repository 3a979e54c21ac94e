from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch

from recon_engine import transforms as T

CONVENTIONS = ["".join(c) for c in itertools.product("XYZ", repeat=3) if c[1] not in (c[0], c[2])]
DTYPES = [torch.float32, torch.float64]


def exponential(axis_angle: torch.Tensor) -> torch.Tensor:
    """The rotation by its definition, the matrix exponential, in float64."""
    x, y, z = axis_angle.double().unbind(-1)
    zero = torch.zeros_like(x)
    hat = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).reshape(*x.shape, 3, 3)
    return torch.linalg.matrix_exp(hat)


def special_axis_angles(dtype: torch.dtype) -> torch.Tensor:
    """The identity, tiny rotations, half turns about every kind of axis and rotations close to them."""
    axes = torch.tensor([[1, 0, 0], [0, -1, 0], [0, 0, 1], [1, 1, 0], [-1, 2, 3]], dtype=torch.float64)
    axes = axes / axes.norm(dim=1, keepdim=True)
    angles = torch.tensor([0, 1e-30, 1e-8, 1e-4, 1e-2, 1, 3, math.pi - 1e-3, math.pi - 1e-7, math.pi])
    return (angles[:, None, None] * axes).reshape(-1, 3).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_axis_angle_to_matrix_is_the_exponential(dtype, device):
    axis_angle = torch.cat([special_axis_angles(dtype), torch.randn(50, 3).to(dtype)]).to(device)
    expected = exponential(axis_angle).to(dtype)
    for fast in (False, True):
        torch.testing.assert_close(T.axis_angle_to_matrix(axis_angle, fast=fast), expected)
    torch.testing.assert_close(T.quaternion_to_matrix(T.axis_angle_to_quaternion(axis_angle)), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fast", [False, True])
def test_matrix_to_axis_angle_gives_back_the_matrix(dtype, fast, device):
    R = exponential(torch.cat([special_axis_angles(dtype), torch.randn(50, 3).to(dtype)])).to(device, dtype)
    axis_angle = T.matrix_to_axis_angle(R, fast=fast)
    assert axis_angle.dtype == dtype
    assert (axis_angle.norm(dim=-1) <= math.pi + 1e-5).all()
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(exponential(axis_angle).to(dtype), R, atol=tolerance, rtol=0)


def test_small_angles_keep_their_relative_accuracy():
    axis_angle = 10.0 ** torch.arange(-18, -1, dtype=torch.float64)[:, None] * torch.tensor([[0.6, 0.0, -0.8]])
    torch.testing.assert_close(
        T.matrix_to_axis_angle(T.axis_angle_to_matrix(axis_angle)), axis_angle, rtol=1e-7, atol=0
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_matrix_to_quaternion_round_trip(dtype, device):
    q = T.random_quaternions(200, dtype=dtype, device=device)
    assert (q[:, 0] >= 0).all()
    torch.testing.assert_close(q.norm(dim=1), torch.ones_like(q[:, 0]))
    torch.testing.assert_close(T.matrix_to_quaternion(T.quaternion_to_matrix(q)), q, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(T.quaternion_to_matrix(-3.0 * q), T.quaternion_to_matrix(q))


def test_quaternion_algebra():
    a, b = T.random_quaternions(20, dtype=torch.float64), T.random_quaternions(20, dtype=torch.float64)
    p = torch.randn(20, 3, dtype=torch.float64)
    A, B = T.quaternion_to_matrix(a), T.quaternion_to_matrix(b)
    torch.testing.assert_close(T.quaternion_to_matrix(T.quaternion_multiply(a, b)), A @ B)
    torch.testing.assert_close(T.quaternion_to_matrix(T.quaternion_invert(a)), A.transpose(1, 2))
    torch.testing.assert_close(T.quaternion_apply(a, p), (A @ p[..., None])[..., 0])
    # A quaternion of length l scales by l^2, as the product q p q* does.
    torch.testing.assert_close(T.quaternion_apply(2.0 * a, p), 4.0 * T.quaternion_apply(a, p))
    assert T.quaternion_apply(a[:, None], p[None]).shape == (20, 20, 3)


def test_quaternion_to_axis_angle_beyond_half_a_turn():
    angle = torch.tensor([1.5 * math.pi, math.pi], dtype=torch.float64)[:, None]
    axis = torch.tensor([[0.0, 0.6, 0.8]], dtype=torch.float64)
    q = torch.cat([torch.cos(angle / 2), torch.sin(angle / 2) * axis], 1)
    torch.testing.assert_close(T.quaternion_to_axis_angle(q), angle * axis)
    torch.testing.assert_close(T.quaternion_to_axis_angle(5.0 * q), angle * axis)
    assert T.quaternion_to_axis_angle(torch.tensor([-1.0, 0, 0, 0])).isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_euler_angles_round_trip(convention, dtype):
    angles = (torch.rand(100, 3, dtype=dtype) - 0.5) * torch.tensor([2 * math.pi, math.pi, 2 * math.pi])
    if convention[0] == convention[2]:
        angles[:, 1] = angles[:, 1].abs() * 2
    angles[:, 1] = 0.05 + 0.9 * angles[:, 1]
    R = T.euler_angles_to_matrix(angles, convention)
    expected = torch.eye(3, dtype=torch.float64)
    for letter, angle in zip(convention, angles.double().unbind(1), strict=True):
        axis = torch.eye(3, dtype=torch.float64)["XYZ".index(letter)]
        expected = expected @ exponential(angle[:, None] * axis)
    torch.testing.assert_close(R, expected.to(dtype), atol=1e-6, rtol=0)
    recovered = T.matrix_to_euler_angles(R, convention)
    torch.testing.assert_close(recovered, angles, atol=1e-4 if dtype == torch.float32 else 1e-10, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_euler_angles_at_gimbal_lock(convention, dtype):
    """Only a sum of two angles is determined there: PyTorch3D returns 0 for both and loses the rotation."""
    locked = [0.0, math.pi] if convention[0] == convention[2] else [-math.pi / 2, math.pi / 2]
    angles = torch.tensor(
        [[0.7, beta + step, -0.4] for beta in locked for step in (0.0, 1e-9, -1e-4)], dtype=torch.float64
    )
    R = T.euler_angles_to_matrix(angles, convention).to(dtype).requires_grad_()
    recovered = T.matrix_to_euler_angles(R, convention)
    again = T.euler_angles_to_matrix(recovered, convention)
    torch.testing.assert_close(again, R, atol=1e-6 if dtype == torch.float32 else 1e-12, rtol=0)
    again.square().sum().backward()
    recovered = T.matrix_to_euler_angles(torch.eye(3, dtype=dtype, requires_grad=True), convention)
    assert recovered.isfinite().all()


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_euler_gradients_are_finite_at_the_identity_and_at_gimbal_lock(convention):
    quarter = T.euler_angles_to_matrix(torch.tensor([0.0, math.pi / 2, 0.0], dtype=torch.float64), convention)
    R = torch.stack([torch.eye(3, dtype=torch.float64), quarter.round()]).requires_grad_()
    T.matrix_to_euler_angles(R, convention).sum().backward()
    assert R.grad.isfinite().all()


def test_6d_round_trip(device):
    R = T.random_rotations(30, dtype=torch.float64, device=device)
    d6 = T.matrix_to_rotation_6d(R)
    torch.testing.assert_close(T.rotation_6d_to_matrix(d6), R)
    any_d6 = torch.randn(30, 6, dtype=torch.float64, device=device)
    M = T.rotation_6d_to_matrix(any_d6)
    torch.testing.assert_close(M @ M.transpose(1, 2), torch.eye(3, dtype=M.dtype, device=device).expand_as(M))
    torch.testing.assert_close(torch.linalg.det(M), torch.ones(30, dtype=M.dtype, device=device))
    d6[:] = 0
    assert R.abs().sum() > 0  # the representation is a copy


def test_random_rotations_are_rotations(device):
    R = T.random_rotations(500, dtype=torch.float64, device=device)
    torch.testing.assert_close(R @ R.transpose(1, 2), torch.eye(3, dtype=R.dtype, device=device).expand_as(R))
    assert R.mean(0).abs().max() < 0.12  # uniform rotations have mean 0
    assert T.random_rotation(device=device).shape == (3, 3)
    assert T.random_quaternions(0).shape == (0, 4)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (T.axis_angle_to_matrix, (3,)),
        (T.axis_angle_to_quaternion, (3,)),
        (lambda angles: T.euler_angles_to_matrix(angles, "XYZ"), (3,)),
        (T.quaternion_to_matrix, (4,)),
        (T.quaternion_to_axis_angle, (4,)),
        (T.quaternion_invert, (4,)),
        (T.standardize_quaternion, (4,)),
        (lambda q: T.quaternion_multiply(q, q.flip(-1) + 1), (4,)),
        (lambda q: T.quaternion_raw_multiply(q, q.flip(-1) + 1), (4,)),
        (lambda q: T.quaternion_apply(q, q[..., :3] + 1), (4,)),
        (T.rotation_6d_to_matrix, (6,)),
        (T.matrix_to_quaternion, (3, 3)),
        (T.matrix_to_axis_angle, (3, 3)),
        (T.matrix_to_rotation_6d, (3, 3)),
        (lambda R: T.matrix_to_euler_angles(R, "ZXY"), (3, 3)),
    ],
)
def test_batches_gradients_and_strides(function, shape):
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    if shape == (3, 3):
        x = T.random_rotations(6, dtype=torch.float64).reshape(2, 3, 3, 3)
    x.requires_grad_()
    assert torch.autograd.gradcheck(function, (x,))
    torch.testing.assert_close(function(x)[1, 2], function(x[1, 2]))
    torch.testing.assert_close(function(x.transpose(0, 1)), function(x.transpose(0, 1).contiguous()))
    assert function(x[:0]).shape[0] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_finite_at_special_rotations(dtype):
    axis_angle = special_axis_angles(dtype).requires_grad_()
    for chain in (
        T.axis_angle_to_matrix,
        T.axis_angle_to_quaternion,
        lambda a: T.matrix_to_axis_angle(T.axis_angle_to_matrix(a)),
        lambda a: T.quaternion_to_axis_angle(T.axis_angle_to_quaternion(a)),
        lambda a: T.matrix_to_quaternion(T.axis_angle_to_matrix(a)),
    ):
        (gradient,) = torch.autograd.grad(chain(axis_angle).sum(), axis_angle)
        assert gradient.isfinite().all()
    # d R / d w at the identity is the hat operator
    jacobian = torch.autograd.functional.jacobian(T.axis_angle_to_matrix, torch.zeros(3, dtype=dtype))
    expected = torch.zeros(3, 3, 3, dtype=dtype)
    for i, j, k in ((2, 1, 0), (0, 2, 1), (1, 0, 2)):
        expected[i, j, k], expected[j, i, k] = 1.0, -1.0
    torch.testing.assert_close(jacobian, expected)


def test_scriptable():
    R = T.random_rotations(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DeprecationWarning or FutureWarning, by the version of torch
        euler, log = torch.jit.script(T.matrix_to_euler_angles), torch.jit.script(T.so3_log_map)
    torch.testing.assert_close(euler(R, "XYZ"), T.matrix_to_euler_angles(R, "XYZ"))
    torch.testing.assert_close(log(R), T.so3_log_map(R))


def test_wrong_input():
    with pytest.raises(ValueError, match="Invalid rotation matrix shape"):
        T.matrix_to_quaternion(torch.eye(4))
    with pytest.raises(ValueError, match="Invalid input euler angles"):
        T.euler_angles_to_matrix(torch.zeros(2), "XYZ")
    with pytest.raises(ValueError, match="3 letters"):
        T.euler_angles_to_matrix(torch.zeros(3), "XY")
    with pytest.raises(ValueError, match="Invalid convention XXY"):
        T.matrix_to_euler_angles(torch.eye(3), "XXY")
    with pytest.raises(ValueError, match="Invalid letter A"):
        T.euler_angles_to_matrix(torch.zeros(3), "AYZ")
    with pytest.raises(ValueError, match="not in 3D"):
        T.quaternion_apply(torch.zeros(4), torch.zeros(2))
    with pytest.raises(ValueError, match=r"\(\.\.\., 6\)"):
        T.rotation_6d_to_matrix(torch.zeros(5))
