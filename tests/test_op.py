"""What holds for every op: the same tests run over all of them, on the small inputs of `_samples`."""

from __future__ import annotations

import re

import pytest
import torch

import recon_engine
from recon_engine import _op, _samples
from recon_engine._load import load
from recon_engine._op import is_float
from recon_engine.testing import assert_matches_reference, values_and_grads

_C = load()
OPS = _samples.all_ops()
TOLERANCE = {torch.float32: {"rtol": 1e-3, "atol": 1e-4}, torch.float64: {"rtol": 1e-7, "atol": 1e-9}}

# torch's own: the rules of forward mode and parts of inductor are scripts
uses_scripts = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
every_op = pytest.mark.parametrize("name", sorted(OPS))


def _first_float(inputs):
    return next(i for i, a in enumerate(inputs) if is_float(a))


def _differentiable(name):
    return hasattr(_C, name + "_backward")


def test_every_op_has_samples():
    assert set(OPS) == set(_samples._makers)


def test_every_kernel_has_an_op():
    kernels = {name for name in dir(_C) if not name.startswith("_") and name.endswith("_backward")}
    assert {k.removesuffix("_backward") for k in kernels} <= set(OPS)


@every_op
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference(name, dtype, device):
    assert_matches_reference(OPS[name], *_samples.sample_inputs(name, device, dtype), **TOLERANCE[dtype])


@every_op
def test_noncontiguous(name, device):
    inputs = _samples.sample_inputs(name, device, torch.float64)
    strided = [torch.stack([a, a], -1)[..., 0] if isinstance(a, torch.Tensor) and a.ndim else a for a in inputs]
    assert any(not a.is_contiguous() for a in strided if isinstance(a, torch.Tensor))
    torch.testing.assert_close(values_and_grads(OPS[name], *strided), values_and_grads(OPS[name], *inputs))


@every_op
def test_exchange_api_and_attributes_agree(name, device):
    if not _C.exchange_api():
        pytest.skip("this torch has no C exchange API")
    inputs = _samples.sample_inputs(name, device)
    through_exchange = values_and_grads(OPS[name], *inputs)
    try:
        assert not _C.use_exchange_api(False)
        through_attributes = values_and_grads(OPS[name], *inputs)
    finally:
        _C.use_exchange_api(True)
    torch.testing.assert_close(through_attributes, through_exchange, rtol=0, atol=0)


@every_op
@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_instruction_sets_agree(name, level):
    inputs = _samples.sample_inputs(name)
    before = _C.simd_level()
    expected = values_and_grads(OPS[name], *inputs)
    if not _C.set_simd_level(level):
        pytest.skip(f"this CPU has no {level}")
    try:
        torch.testing.assert_close(values_and_grads(OPS[name], *inputs), expected)
    finally:
        _C.set_simd_level(before)


@every_op
def test_deterministic(name, device):
    inputs = _samples.sample_inputs(name, device)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (values_and_grads(OPS[name], *inputs) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@every_op
def test_gradient_of_one_input_alone(name, device):
    """An input that needs no gradient changes nothing for the others."""
    if not _differentiable(name):
        pytest.skip("no gradients")
    inputs = _samples.sample_inputs(name, device, torch.float64)
    _, all_grads = values_and_grads(OPS[name], *inputs)
    variables = [i for i, a in enumerate(inputs) if is_float(a) and i not in OPS[name].constants]
    for i, expected in zip(variables, all_grads, strict=True):

        def alone(a, i=i):
            return OPS[name](*inputs[:i], a, *inputs[i + 1 :])

        torch.testing.assert_close(values_and_grads(alone, inputs[i])[1], [expected])


@every_op
def test_gradient_of_one_output_alone(name, device):
    """An output that nobody uses counts like one whose gradient is zero."""
    if not _differentiable(name):
        pytest.skip("no gradients")
    inputs = _samples.sample_inputs(name, device, torch.float64)

    def with_other_outputs(weight):
        def first(*a):
            out = OPS[name](*a)
            one, *others = [o for o in (out if isinstance(out, tuple) else (out,)) if o.requires_grad]
            return one if weight is None else one + sum((weight * o.sum() for o in others), torch.zeros_like(one))

        first.constants = OPS[name].constants
        return values_and_grads(first, *inputs)[1]

    torch.testing.assert_close(with_other_outputs(None), with_other_outputs(0.0))


def _compiled_result(name, inputs, backend):
    torch._dynamo.reset()
    compiled = torch.compile(lambda *a: OPS[name](*a), fullgraph=True, backend=backend)
    compiled.constants = OPS[name].constants
    return values_and_grads(compiled, *inputs)


@every_op
def test_compile(name, device):
    inputs = _samples.sample_inputs(name, device)
    expected = values_and_grads(OPS[name], *inputs)
    torch.testing.assert_close(_compiled_result(name, inputs, "aot_eager"), expected)


@every_op
def test_opcheck(name, device):
    inputs = _samples.sample_inputs(name, device)
    torch.library.opcheck(getattr(torch.ops.recon, name).default, inputs)


@every_op
def test_half_precision_is_computed_in_float32_under_autocast(name, device):
    inputs = _samples.sample_inputs(name, device)
    half = [a.to(torch.bfloat16) if is_float(a) else a for a in inputs]
    with torch.autocast(device.type, dtype=torch.bfloat16):
        values, grads = values_and_grads(OPS[name], *half)
    expected, _ = values_and_grads(OPS[name], *[a.float() if is_float(a) else a for a in half])
    torch.testing.assert_close(values, expected)
    assert all(g.dtype == torch.bfloat16 for g in grads)


@every_op
def test_half_precision_outside_autocast_is_refused(name, device):
    half = [a.half() if is_float(a) else a for a in _samples.sample_inputs(name, device)]
    with pytest.raises(ValueError, match=r"float32 or float64, got float16"):
        OPS[name](*half)


@every_op
def test_wrong_inputs_name_the_argument(name, device):
    inputs = list(_samples.sample_inputs(name, device))
    first = _first_float(inputs)
    wrong = [*inputs[:first], inputs[first][None], *inputs[first + 1 :]]
    with pytest.raises((ValueError, TypeError), match=rf"{name}: \w+ must "):
        _kernel_call(name, wrong, inputs)


def _kernel_call(name, inputs, good):
    """Calls the kernel directly with outputs made for `good` inputs: the check must not rest on the allocation."""
    out = OPS[name]._forward(*good)
    getattr(_C, name)(*inputs, *(out if isinstance(out, tuple) else (out,)))


def test_reference_mode_gives_second_derivatives():
    dists, pix_to_face, sigma = _samples.sample_inputs("sigmoid_alpha_blend", dtype=torch.float64)
    dists.requires_grad_()
    with recon_engine.reference():
        assert torch.autograd.gradgradcheck(lambda d: OPS["sigmoid_alpha_blend"](d, pix_to_face, sigma), dists)
    assert not _op._use_reference


def _sum_of(name, inputs):
    out = OPS[name](*inputs)
    return sum(o.sum() for o in (out if isinstance(out, tuple) else (out,)) if o.is_floating_point())


@every_op
def test_second_derivatives_are_refused(name, device):
    if not _differentiable(name):
        pytest.skip("no gradients")
    inputs = list(_samples.sample_inputs(name, device))
    x = inputs[_first_float(inputs)].requires_grad_()
    # Also where the gradient that comes in is a constant, and the one that comes out would look like one.
    (grad,) = torch.autograd.grad(_sum_of(name, inputs), x, create_graph=True)
    with pytest.raises(RuntimeError, match=rf"{name} has no second derivatives: .*recon_engine.reference"):
        grad.sum().backward()


@every_op
def test_vmap_is_refused(name, device):
    inputs = list(_samples.sample_inputs(name, device))
    first = _first_float(inputs)

    def call(x):
        return OPS[name](*inputs[:first], x, *inputs[first + 1 :])

    with pytest.raises(RuntimeError, match=rf"{name} cannot be called under torch.vmap: .*batch"):
        torch.vmap(call)(torch.stack([inputs[first], inputs[first]]))


@uses_scripts
@every_op
def test_forward_mode_derivatives_are_refused(name, device):
    inputs = list(_samples.sample_inputs(name, device))
    first = _first_float(inputs)

    def call(x):
        return OPS[name](*inputs[:first], x, *inputs[first + 1 :])

    x, message = inputs[first], rf"{name} has no forward-mode derivatives .*recon_engine.reference"
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match=message):
        call(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
    with pytest.raises(RuntimeError, match=message):
        torch.func.jvp(call, (x,), (torch.ones_like(x),))


@uses_scripts
@every_op
def test_func_transforms_are_refused(name, device):
    inputs = list(_samples.sample_inputs(name, device))
    first = _first_float(inputs)

    def call(x):
        return _sum_of(name, [*inputs[:first], x, *inputs[first + 1 :]])

    for transform in (torch.func.grad, torch.func.jacrev, torch.func.hessian):
        with pytest.raises(RuntimeError, match=rf"{name} .*recon_engine.reference"):
            transform(call)(inputs[first])


@uses_scripts
def test_transforms_of_what_an_op_is_not_called_with():
    dists, pix_to_face, sigma = _samples.sample_inputs("sigmoid_alpha_blend")
    op = OPS["sigmoid_alpha_blend"]
    expected = op(dists, pix_to_face, sigma)
    scaled = torch.vmap(lambda factor: factor * op(dists, pix_to_face, sigma))(torch.arange(2.0))
    torch.testing.assert_close(scaled, torch.stack([0 * expected, expected]))
    with torch.autograd.forward_ad.dual_level():
        torch.testing.assert_close(op(dists, pix_to_face, sigma), expected, rtol=0, atol=0)


@uses_scripts
def test_reference_mode_knows_all_transforms():
    dists, pix_to_face, sigma = _samples.sample_inputs("sigmoid_alpha_blend", dtype=torch.float64)

    def call(x):
        return OPS["sigmoid_alpha_blend"](x, pix_to_face, sigma)

    leaf = dists.clone().requires_grad_()
    expected = torch.autograd.grad(call(leaf).sum(), leaf)[0]
    with recon_engine.reference():
        torch.testing.assert_close(torch.func.grad(lambda x: call(x).sum())(dists), expected)
        _, tangent = torch.func.jvp(call, (dists,), (torch.ones_like(dists),))
    torch.testing.assert_close(tangent.sum(), expected.sum())


def test_reference_mode_ends_with_an_exception():
    with pytest.raises(KeyError), recon_engine.reference():
        raise KeyError
    assert not _op._use_reference


def test_unsupported_dtype_and_kind():
    dists, pix_to_face, sigma = _samples.sample_inputs("sigmoid_alpha_blend")
    clear = dists.new_empty(dists.shape[:-1])
    with pytest.raises(TypeError, match="unsupported dtype"):
        _C.sigmoid_alpha_blend(dists.to(torch.complex64), pix_to_face, sigma, clear)
    with pytest.raises(TypeError, match=r"arguments are tensors, numbers, strings, lists of ints or None, got dict"):
        _C.sigmoid_alpha_blend({}, pix_to_face, sigma, clear)
    with pytest.raises(TypeError, match=re.escape("sigmoid_alpha_blend takes 4 arguments, got 2")):
        _C.sigmoid_alpha_blend(dists, pix_to_face)
    with pytest.raises(ValueError, match=r"clear is float64 but dists is float32"):
        _C.sigmoid_alpha_blend(dists, pix_to_face, sigma, clear.double())


@pytest.mark.parametrize("by_exchange", [True, False])
def test_other_devices_are_refused(by_exchange):
    inputs = [a.to("meta") if isinstance(a, torch.Tensor) else a for a in _samples.sample_inputs("sigmoid_alpha_blend")]
    before = _C.exchange_api()
    try:
        _C.use_exchange_api(by_exchange)
        with pytest.raises(ValueError, match=r"tensors must be on the CPU or on a CUDA GPU, got one on meta"):
            OPS["sigmoid_alpha_blend"](*inputs)
    finally:
        _C.use_exchange_api(before)


def test_tensors_without_memory_are_refused():
    with torch._subclasses.FakeTensorMode():
        inputs = torch.empty(2, 5, 7, 6), torch.zeros(2, 5, 7, 6, dtype=torch.long), 0.5
        with pytest.raises((ValueError, RuntimeError, UserWarning), match=r"must have memory|data.ptr|data pointer"):
            OPS["sigmoid_alpha_blend"](*inputs)


@uses_scripts
def test_inductor():
    """The default backend of torch.compile, which needs a C++ compiler: one op is enough, kernels are opaque to it."""
    inputs = _samples.sample_inputs("sigmoid_alpha_blend")
    expected = values_and_grads(OPS["sigmoid_alpha_blend"], *inputs)
    try:
        result = _compiled_result("sigmoid_alpha_blend", inputs, "inductor")
    except torch._dynamo.exc.BackendCompilerFailed as error:
        pytest.skip(f"inductor does not work here: {error}")
    torch.testing.assert_close(result, expected)
