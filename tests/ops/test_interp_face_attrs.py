from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recon_engine._op import _C
from recon_engine.ops.interp_face_attrs import interpolate_face_attributes, interpolate_face_attributes_python
from recon_engine.testing import assert_as_accurate, assert_matches_reference, values_and_grads

RECORDED = Path(__file__).parent.parent / "reference" / "interpolation.npz"


def inputs(dtype=torch.float32, device="cpu", D=3, shape=(2, 3, 5, 2), F=4, empty=1):
    """Random slots, of which one of F + `empty` shows no face."""
    pix_to_face = torch.randint(-empty, F, shape, device=device)
    bary = torch.rand(*shape, 3, dtype=torch.float64).to(device, dtype)
    return pix_to_face, bary, torch.rand(F, 3, D, dtype=torch.float64).to(device, dtype)


def formula(pix_to_face, bary, attributes):
    return torch.einsum("nhwkv,nhwkvd->nhwkd", bary, attributes[pix_to_face]) * (pix_to_face >= 0)[..., None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("D", [1, 2, 3, 6, 9, 17, 64])
def test_matches_the_formula_and_the_reference(dtype, D, device):
    made = inputs(dtype, device, D, shape=(2, 9, 11, 7), empty=4)
    got = values_and_grads(interpolate_face_attributes, *made)
    assert all(t.dtype == dtype for group in got for t in group)
    exact = values_and_grads(formula, *[a.double() if a.is_floating_point() else a for a in made])
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(got, exact, check_dtype=False, rtol=tolerance, atol=tolerance)
    assert_matches_reference(interpolate_face_attributes, *made)


def test_as_accurate(device):
    made = inputs(device=device, D=5, shape=(1, 40, 50, 6))
    assert_as_accurate(interpolate_face_attributes, *made)


@pytest.mark.parametrize("D", [1, 3, 9])
def test_gradcheck(D, device):
    pix_to_face, bary, attributes = inputs(torch.float64, device, D)
    leaves = (bary.requires_grad_(), attributes.requires_grad_())
    assert torch.autograd.gradcheck(lambda b, a: interpolate_face_attributes(pix_to_face, b, a), leaves)


@pytest.mark.parametrize("F", [1, 2, 3, 700, 40000])
@pytest.mark.parametrize("D", [3, 7])
def test_many_slots_of_few_and_of_many_faces(F, D, device):
    """Faces with more slots than are summed at once, and more faces than slots."""
    made = inputs(torch.float64, device, D, shape=(1, 80, 60, 5), F=F, empty=F // 3)
    assert_matches_reference(interpolate_face_attributes, *made)


@pytest.mark.parametrize("face", [-1, 2])
def test_all_slots_empty_or_one_face(face, device):
    pix_to_face, bary, attributes = inputs(torch.float64, device, shape=(2, 30, 40, 3))
    pix_to_face.fill_(face)
    values, (grad_bary, grad_attributes) = values_and_grads(interpolate_face_attributes, pix_to_face, bary, attributes)
    assert bool(values[0].any()) == bool(grad_bary.any()) == bool(grad_attributes.any()) == (face >= 0)
    assert not grad_attributes[[0, 1, 3]].any()
    assert_matches_reference(interpolate_face_attributes, pix_to_face, bary, attributes)


def test_gradients_do_not_depend_on_threads_or_run():
    made = inputs(torch.float32, D=6, shape=(2, 90, 70, 4), F=37)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results += [values_and_grads(interpolate_face_attributes, *made) for _ in range(2)]
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("D", [3, 40])
def test_instruction_sets_agree(level, D):
    made = inputs(D=D, shape=(1, 20, 30, 5), F=9)
    expected = values_and_grads(interpolate_face_attributes, *made)
    before = _C.simd_level()
    if not _C.set_simd_level(level):
        pytest.skip(f"this CPU has no {level}")
    try:
        torch.testing.assert_close(values_and_grads(interpolate_face_attributes, *made), expected)
    finally:
        _C.set_simd_level(before)


def test_ordered_sums_are_repeatable(device):
    made = inputs(device=device, D=6, shape=(3, 33, 21, 5), F=11)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (values_and_grads(interpolate_face_attributes, *made) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, values_and_grads(formula, *made), rtol=1e-4, atol=1e-4)


def test_empty_slots_get_no_gradient_and_no_value(device):
    pix_to_face, bary, attributes = inputs(device=device)
    bary = torch.where((pix_to_face < 0)[..., None], float("nan"), bary).requires_grad_()
    out = interpolate_face_attributes(pix_to_face, bary, attributes)
    out.sum().backward()
    assert (out[pix_to_face < 0] == 0).all()
    assert (bary.grad[pix_to_face < 0] == 0).all()


def test_one_gradient_alone(device):
    pix_to_face, bary, attributes = inputs(torch.float64, device, shape=(1, 20, 30, 4))
    _, (grad_bary, grad_attributes) = values_and_grads(interpolate_face_attributes, pix_to_face, bary, attributes)
    _, (alone,) = values_and_grads(lambda b: interpolate_face_attributes(pix_to_face, b, attributes), bary)
    torch.testing.assert_close(alone, grad_bary)
    _, (alone,) = values_and_grads(lambda a: interpolate_face_attributes(pix_to_face, bary, a), attributes)
    torch.testing.assert_close(alone, grad_attributes)


def test_noncontiguous(device):
    pix_to_face, bary, attributes = inputs(device=device)
    strided = attributes.transpose(0, 1).contiguous().transpose(0, 1)
    got = interpolate_face_attributes(pix_to_face.mT, bary.transpose(2, 3), strided)
    want = interpolate_face_attributes(pix_to_face, bary, attributes)
    torch.testing.assert_close(got, want.transpose(2, 3))


def test_expanded(device):
    """Inputs that repeat through a stride of zero get the sum of the gradients of their copies."""
    pix_to_face, bary, attributes = inputs(torch.float64, device)

    def repeated(b, a):
        return interpolate_face_attributes(
            pix_to_face[:1].expand(3, -1, -1, -1), b[:1].expand(3, -1, -1, -1, -1), a[:, :1].expand(-1, 3, -1)
        )

    def copied(b, a):
        return interpolate_face_attributes(
            pix_to_face[:1].repeat(3, 1, 1, 1), b[:1].repeat(3, 1, 1, 1, 1), a[:, :1].repeat(1, 3, 1)
        )

    got, want = (values_and_grads(f, bary, attributes) for f in (repeated, copied))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("shape", [(0, 3, 3, 2), (2, 0, 3, 2), (2, 3, 0, 2), (2, 3, 3, 0)])
def test_no_slots(shape, device):
    made = inputs(device=device, shape=shape)
    values, (grad_bary, grad_attributes) = values_and_grads(interpolate_face_attributes, *made)
    assert values[0].shape == (*shape, 3)
    assert grad_bary.shape == (*shape, 3)
    assert grad_attributes.shape == (4, 3, 3)
    assert not grad_attributes.any()


def test_no_faces(device):
    pix_to_face = torch.full((1, 2, 2, 1), -1, device=device)
    bary = torch.full((1, 2, 2, 1, 3), -1.0, device=device)
    values, (grad_bary, grad_attributes) = values_and_grads(
        interpolate_face_attributes, pix_to_face, bary, torch.zeros(0, 3, 2, device=device)
    )
    assert values[0].shape == (1, 2, 2, 1, 2)
    assert not values[0].any()
    assert not grad_bary.any()
    assert grad_attributes.shape == (0, 3, 2)


def test_no_channels(device):
    values, (grad_bary, grad_attributes) = values_and_grads(interpolate_face_attributes, *inputs(device=device, D=0))
    assert values[0].shape == (2, 3, 5, 2, 0)
    assert not grad_bary.any()
    assert grad_attributes.shape == (4, 3, 0)


def test_dtypes_may_be_mixed(device):
    pix_to_face, bary, attributes = inputs(torch.float64, device)
    out = interpolate_face_attributes(pix_to_face, bary.float(), attributes)
    assert out.dtype == torch.float64
    torch.testing.assert_close(out, formula(pix_to_face, bary.float().double(), attributes))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_autocast(half, device):
    pix_to_face, bary, attributes = inputs(device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        out, grads = values_and_grads(interpolate_face_attributes, pix_to_face, bary.to(half), attributes.to(half))
    assert all(g.dtype == half for g in grads)
    torch.testing.assert_close(out[0], formula(pix_to_face, bary.to(half).float(), attributes.to(half).float()))


def test_python_version(device):
    made = inputs(torch.float64, device)
    got, want = (values_and_grads(f, *made) for f in (interpolate_face_attributes_python, interpolate_face_attributes))
    torch.testing.assert_close(got, want)


def test_second_derivatives_of_the_python_version():
    pix_to_face, bary, attributes = inputs(torch.float64, shape=(1, 2, 2, 1))
    leaves = (bary.requires_grad_(), attributes.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda b, a: interpolate_face_attributes_python(pix_to_face, b, a), leaves)


def test_index_beyond_the_faces():
    pix_to_face, bary, attributes = inputs()
    pix_to_face[1, 2, 3, 1] = 4
    with pytest.raises(ValueError, match="pix_to_face has index 4 but face_attributes has 4 faces"):
        interpolate_face_attributes(pix_to_face, bary, attributes)
    grad_attributes, grad_values = torch.empty_like(attributes), torch.ones_like(bary)
    with pytest.raises(ValueError, match="pix_to_face has index 4 but face_attributes has 4 faces"):
        _C.interpolate_face_attributes_backward(pix_to_face, bary, attributes, None, grad_values, None, grad_attributes)


def test_shape_error(device):
    pix_to_face, bary, attributes = inputs(device=device)
    for function in (interpolate_face_attributes, interpolate_face_attributes_python):
        with pytest.raises(ValueError, match="Faces can only have three vertices"):
            function(pix_to_face, bary, attributes[:, :2])
        with pytest.raises(ValueError, match=r"barycentric_coords must have shape \(N, H, W, K, 3\)"):
            function(pix_to_face, bary[..., :2], attributes)
        with pytest.raises(ValueError, match="pix_to_face must have shape"):
            function(pix_to_face[:1], bary, attributes)


def _recorded_inputs(recorded):
    return [torch.from_numpy(recorded[name]) for name in ("pix_to_face", "bary", "attributes")]


def test_recorded_answers(device):
    with np.load(RECORDED) as recorded:
        pix_to_face, bary, attributes = (t.to(device) for t in _recorded_inputs(recorded))
        bary.requires_grad_(), attributes.requires_grad_()
        values = interpolate_face_attributes(pix_to_face, bary, attributes)
        torch.testing.assert_close(values.detach().cpu(), torch.from_numpy(recorded["values"]))
        weights = torch.from_numpy(recorded["weights"]).to(device)
        grads = torch.autograd.grad((values * weights).sum(), (bary, attributes))
        for grad, name in zip(grads, ("grad_bary", "grad_attributes")):
            torch.testing.assert_close(grad.cpu(), torch.from_numpy(recorded[name]))


def test_against_pytorch3d():
    theirs = pytest.importorskip("pytorch3d.ops").interpolate_face_attributes
    for D in (1, 3, 17):
        made = inputs(torch.float64, D=D, shape=(2, 12, 9, 3), F=20, empty=10)
        got, want = (values_and_grads(f, *made) for f in (interpolate_face_attributes, theirs))
        torch.testing.assert_close(got, want)
