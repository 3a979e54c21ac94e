from __future__ import annotations

import itertools

import pytest
import torch

from recon_engine import _op
from recon_engine.ops._march_volume import _march_volume, march_volume
from recon_engine.testing import values_and_grads

SIZES = {"cube": (5, 4, 6), "flat": (1, 5, 4), "column": (5, 1, 1), "voxel": (1, 1, 1), "power of two": (8, 4, 16)}


def _inputs(C=3, size=(5, 4, 6), N=2, R=7, S=9, V=None, dtype=torch.float64, spread=1.3):
    """Rays that start anywhere and cross the volume or miss it."""
    V = N if V is None else V
    densities, features = torch.rand(V, *size, dtype=dtype), torch.rand(V, C, *size, dtype=dtype) - 0.3
    target, origins = ((torch.rand(N, R, 3, dtype=dtype) * 2 - 1) * spread for _ in range(2))
    lengths = torch.rand(N * R, S, dtype=dtype).sort(1).values * 2
    return densities, features, origins, target - origins, lengths


def _compare(inputs, *options, **tolerance):
    """Values and gradients against the reference."""
    actual = values_and_grads(lambda *a: march_volume(*a, *options), *inputs)
    with _op.reference():
        expected = values_and_grads(lambda *a: march_volume(*a, *options), *inputs)
    torch.testing.assert_close(actual, expected, **tolerance)
    return actual


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_equals_sampling_and_marching(size, mode, padding, align_corners, device):
    inputs = [a.to(device) for a in _inputs(size=size)]
    (value,), grads = _compare(inputs, 1e-3, 0.0, 1, mode, padding, align_corners)
    assert value.abs().max() > 0
    assert grads[0].abs().max() > 0


@pytest.mark.parametrize("shift", [0, 1, 2, 30])
@pytest.mark.parametrize("C", [0, 1, 2, 3, 4, 7, 8, 20])
def test_channels_and_thickness(C, shift):
    """Few rays read the planes of the tensors, many rays values that were laid side by side."""
    for R in (2, 40):
        _compare(_inputs(C=C, R=R), 1e-2, 0.0, shift)


def test_one_volume_for_all_rays():
    for R in (1, 40):
        inputs = _inputs(V=1, N=3, R=R)
        actual = _compare(inputs)[1]
        every = [a.expand(3, *a.shape[1:]) if i < 2 else a for i, a in enumerate(inputs)]
        apart = values_and_grads(march_volume, *every)[1]
        torch.testing.assert_close(actual[:2], [g.sum(0, keepdim=True) for g in apart[:2]])
        torch.testing.assert_close(actual[2:], apart[2:])


@pytest.mark.parametrize("C", [0, 3, 5])
@pytest.mark.parametrize("R", [2, 12])
def test_gradcheck(C, R):
    inputs = _inputs(C=C, R=R, N=1, S=4, size=(2, 3, 2))
    for padding, align_corners in itertools.product(("zeros", "border"), (True, False)):

        def function(*a, padding=padding, align_corners=align_corners):
            return march_volume(*a, 1e-3, 0.0, 1, "bilinear", padding, align_corners)

        assert torch.autograd.gradcheck(function, [a.requires_grad_() for a in inputs], fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("R", [3, 60])
def test_threads_change_nothing(R, dtype):
    """Of the sums in a voxel neither, which several rays add to."""
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(values_and_grads(_march, *_inputs_with_seed(R, dtype)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)


def _inputs_with_seed(R, dtype):
    torch.manual_seed(3)
    return _inputs(R=R, S=40, size=(9, 8, 7), dtype=dtype)


def _march(*inputs):
    return march_volume(*inputs, 1e-10, 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opaque_voxels_have_exact_gradients(dtype):
    """Nothing is divided by what a sample lets through, and what lies behind one opaque sample is still seen by it."""
    densities, *rest = _inputs(R=30, S=20, dtype=dtype)
    densities = torch.where(densities > 0.5, torch.ones_like(densities), torch.zeros_like(densities))
    least = torch.finfo(dtype).eps / 64
    for mode in ("nearest", "bilinear"):
        _compare((densities, *rest), 1e-10, least, 1, mode)


def test_rays_end_behind_opaque_voxels():
    """What lies there is not read: it could be anything."""
    z = torch.linspace(-1, 1, 200, dtype=torch.float64)
    for R in (1, 50):
        densities, features = torch.zeros(1, 20, 4, 4).double(), torch.rand(1, 3, 20, 4, 4).double()
        densities[:, 3:] = 1
        features[:, :, 12:] = torch.nan
        origins = torch.zeros(1, R, 3).double()
        directions = torch.tensor([0.0, 0.0, 1.0]).double().expand(1, R, 3)
        inputs = [densities.requires_grad_(), features.requires_grad_(), origins, directions, z.expand(R, -1)]
        image = march_volume(*inputs, 1e-10, 1e-18)
        grads = torch.autograd.grad(image.sum(), inputs[:2])
        assert image.isfinite().all()
        assert all(g.isfinite().all() for g in grads)
        assert (image[..., 3] == 1).all()
        assert march_volume(*inputs).isnan().any()


def test_lengths_for_all_rays():
    densities, features, origins, directions, lengths = _inputs()
    row = lengths[:1].clone().requires_grad_()
    same = march_volume(densities, features, origins, directions, row.detach())
    expected = march_volume(densities, features, origins, directions, row.detach().expand_as(lengths))
    assert torch.equal(same, expected)
    grad = torch.autograd.grad(march_volume(densities, features, origins, directions, row).sum(), row)[0]
    with _op.reference():
        expected = torch.autograd.grad(march_volume(densities, features, origins, directions, row).sum(), row)[0]
    torch.testing.assert_close(grad, expected)
    options = 0.0, 0.0, 1, "bilinear", "zeros", True
    with pytest.raises(ValueError, match="have no gradient here"):
        torch.autograd.grad(_march_volume(densities, features, origins, directions, row, *options).sum(), row)


def test_float32_is_as_accurate_as_torch():
    inputs = _inputs(R=50, S=40, size=(16, 16, 16))
    exact = values_and_grads(march_volume, *inputs)
    single = [a.float() for a in inputs]
    ours = values_and_grads(march_volume, *single)
    with _op.reference():
        theirs = values_and_grads(march_volume, *single)
    for a, b, c in zip(*((*values, *grads[:2]) for values, grads in (ours, theirs, exact)), strict=True):
        assert (a - c).abs().max() <= 2 * (b - c).abs().max() + 1e-6 * c.abs().max()


@pytest.mark.parametrize("R", [4, 80])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_rays_that_are_far_away(R, padding):
    inputs = _inputs(R=R, dtype=torch.float32)
    for shift in (1e6, -1e6, 1e30, torch.inf, torch.nan):
        inputs[2][:, 0] = shift
        (image,), grads = values_and_grads(lambda *a, p=padding: march_volume(*a, padding_mode=p), *inputs)
        assert image.isfinite().all()
        assert all(g.isfinite().all() for g in grads[:2])
        if padding == "zeros":
            assert (image[:, 0] == 0).all()


@pytest.mark.parametrize(("N", "R", "S"), [(0, 5, 4), (2, 0, 4), (2, 5, 0)])
def test_nothing_to_march(N, R, S):
    for V in {1, N}:
        inputs = _inputs(N=N, R=R, S=S, V=V)
        (image,), grads = values_and_grads(march_volume, *inputs)
        assert image.shape == (N, R, 4)
        assert [g.shape for g in grads] == [a.shape for a in inputs]
        assert all((g == 0).all() for g in (image, *grads))


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, torch.rand(3, 5, 4, 6), r"features must have shape \(V, C, D, H, W\), got .* \(V=3"),
        (4, torch.rand(5, 9), "lengths must have one row, or one for each of the 14 rays, got 5"),
        (2, torch.rand(2, 7, 2), "origins"),
        (3, torch.rand(2, 6, 3), "directions"),
    ],
)
def test_wrong_shapes(position, value, message):
    inputs = list(_inputs(dtype=torch.float32))
    inputs[position] = value
    with pytest.raises(ValueError, match=message):
        march_volume(*inputs)


def test_wrong_volumes():
    densities, features, *rays = _inputs(N=3)
    with pytest.raises(ValueError, match="one volume, or one for each of the 3 sets of rays, got 2"):
        march_volume(densities[:2], features[:2], *rays)
    with pytest.raises(ValueError, match="volumes must have voxels"):
        march_volume(densities[:, :0], features[:, :, :0], *rays)
    with pytest.raises(ValueError, match="bicubic"):
        march_volume(densities, features, *rays, mode="bicubic")
    long = torch.rand(1, 1, (1 << 22) + 1)
    with pytest.raises(ValueError, match="float32 cannot tell more than 4194304 voxels along an axis apart"):
        march_volume(long[None], long[None, None], *(torch.rand(1, 1, 3),) * 2, torch.rand(1, 4))
