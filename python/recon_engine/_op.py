"""From a C++ kernel pair to a differentiable torch function. The only place that knows autograd and torch.compile."""

from __future__ import annotations

import contextlib
import math
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from recon_engine._load import load

_C = load()
_library = torch.library.Library("recon", "DEF")
_LARGE = 2 << 20  # bytes of a huge page
_use_reference = False
_ops: dict[str, Op] = {}

Outputs = Callable[..., "Tensor | tuple[Tensor, ...]"]


@contextlib.contextmanager
def reference() -> Iterator[None]:
    """Inside this context every op runs its plain-torch reference (any device, double backward, easy to debug)."""
    global _use_reference
    before, _use_reference = _use_reference, True
    try:
        yield
    finally:
        _use_reference = before


def ops() -> dict[str, Op]:
    """Every op by name, for self-tests."""
    return dict(_ops)


def is_float(a: object) -> bool:
    """Whether `a` is a floating-point tensor: only those take part in differentiation."""
    return isinstance(a, Tensor) and a.is_floating_point()


def empty_output(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised output on the device of `like`, and of its dtype where none is given.

    Large ones on the CPU lie in memory that earlier outputs have left: filling it costs a fraction of what fresh pages
    cost. At most 256 MiB are kept in between (`recon_engine._C.set_page_limit`).
    """
    dtype = like.dtype if dtype is None else dtype
    # Only plain tensors have memory: those that torch.compile traces with are of other classes.
    if type(like) is Tensor and (size := math.prod(shape) * dtype.itemsize) >= _LARGE and like.device.type == "cpu":
        return torch.frombuffer(_C.Pages(size), dtype=dtype).resize_(shape)
    return like.new_empty(shape, dtype=dtype)


class Op:
    """The kernels `_C.<name>` and `_C.<name>_backward`, called as one differentiable function.

    By convention the kernels take, in this order,
        forward:   inputs, outputs
        backward:  inputs, outputs, grad of each float output, grad of each float input (zeroed: accumulate into it;
                   see `reads`, `writes_all` and `constants` for what an op may leave out)
    The last `kept` outputs are notes of the forward kernel to the backward kernel: they have no gradient, and neither
    the caller nor the reference sees them.
    All tensors reach the kernels contiguous. A gradient that nobody needs is None in the backward kernel's arguments
    when `optional_grads` is set (its signature then says `grad_x?: ...`), and computed and dropped otherwise.

    Args:
        name: the kernels' name in C++; the backward kernel may be absent for an op without gradients.
        outputs: allocates the outputs from the inputs: shapes and dtypes only. Its type hints are the op's schema and
            it is also the fake kernel of torch.compile.
        reference: the same function in plain torch: the specification, and the oracle of the tests.
        optional_grads: pass None for the gradient of an input that does not require one.
        kept: how many outputs are only for the backward kernel.
        reads: the positions of the outputs that the backward kernel reads; it gets None for the others, which may be
            changed in place and whose memory is not held. All by default.
        writes_all: the backward kernel writes every entry of the gradients, which it gets uninitialised.
        constants: names of floating-point inputs in which the kernel has no gradient. Where one requires a gradient the
            reference computes the op.
        kernels: forward and backward in Python, instead of the compiled ones; such an op is not one of `ops()`.

    Half-precision inputs are computed in float32 under autocast, with outputs in float32, and refused outside it.

    Kernels know first derivatives by `backward` and nothing else. Second and forward-mode derivatives, `torch.vmap` and
    `torch.func.grad` with its like raise a RuntimeError that names the op and what to do instead.
    """

    def __init__(
        self,
        name: str,
        outputs: Outputs,
        reference: Callable[..., Any],
        *,
        optional_grads: bool = False,
        kept: int = 0,
        reads: Sequence[int] | None = None,
        writes_all: bool = False,
        constants: Sequence[str] = (),
        kernels: tuple[Callable[..., None], Callable[..., None]] | None = None,
    ) -> None:
        forward_kernel = kernels[0] if kernels else getattr(_C, name)
        backward_kernel = kernels[1] if kernels else getattr(_C, name + "_backward", None)
        hints = typing.get_type_hints(outputs)
        single = hints.pop("return") is Tensor
        count = 1 if single else len(_tuple_hint(outputs))
        shown = count - kept
        read = list(range(count)) if reads is None else list(reads)
        constant = [list(hints).index(argument) for argument in constants]

        def has_gradient(inputs: Sequence[Any]) -> list[bool]:
            return [is_float(a) and i not in constant for i, a in enumerate(inputs)]

        def variables(inputs: Sequence[Any]) -> list[Tensor]:
            return [a for a, differentiable in zip(inputs, has_gradient(inputs)) if differentiable]

        self._has_gradient = has_gradient

        def forward(*inputs: Any) -> Any:
            packed = _contiguous(inputs)
            out = outputs(*packed)
            forward_kernel(*packed, *((out,) if single else out))
            return out

        def backward(inputs: Sequence[Any], out: list[Tensor], grad_out: list[Tensor], needed: list[bool]) -> list[Any]:
            inputs = _contiguous(inputs)
            grads = [
                None if optional_grads and not need else empty_output(a, a.shape) if writes_all else torch.zeros_like(a)
                for a, need in zip(variables(inputs), needed)
            ]
            every: list[Tensor | None] = [None] * count
            for i, o in zip(read, out):
                every[i] = o
            assert backward_kernel is not None
            backward_kernel(*inputs, *every, *_contiguous(grad_out), *grads)
            return grads

        # torch.compile sees the kernels as two library ops. A schema has no list of optional tensors, so a gradient
        # that is not needed comes back as an empty tensor there.
        def compiled_backward(*args: Any) -> list[Tensor]:
            *inputs, out, grad_out, needed = args
            grads = backward(inputs, out, grad_out, needed)
            return [a.new_empty(0) if g is None else g for a, g in zip(variables(inputs), grads)]

        def fake_backward(*args: Any) -> list[Tensor]:
            *inputs, _, _, needed = args
            return [
                torch.zeros_like(a) if need or not optional_grads else a.new_empty(0)
                for a, need in zip(variables(inputs), needed)
            ]

        arguments = ", ".join(f"{_SCHEMA_TYPES[hint]} {arg}" for arg, hint in hints.items())
        returns = "Tensor" if single else "(" + ", ".join(["Tensor"] * count) + ")"
        forward_op = _register(name, f"({arguments}) -> {returns}", forward, outputs)
        more = "Tensor[] outputs, Tensor[] grad_outputs, bool[] needed"
        backward_op = _register(
            name + "_backward", f"({arguments}, {more}) -> Tensor[]", compiled_backward, fake_backward
        )

        def remember(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
            outs = (output,) if single else output
            ctx.save_for_backward(*[a for a in inputs if isinstance(a, Tensor)], *[outs[i] for i in read])
            ctx.differentiable = [i for i in range(shown) if is_float(outs[i])]
            ctx.is_tensor = [isinstance(a, Tensor) for a in inputs]
            ctx.others = [None if isinstance(a, Tensor) else a for a in inputs]
            if not single:
                ctx.mark_non_differentiable(*[o for i, o in enumerate(outs) if i not in ctx.differentiable])

        def gradients_of(backward: Callable[..., Any], ctx: Any, grad_out: Sequence[Tensor]) -> tuple[Any, ...]:
            saved = list(ctx.saved_tensors)
            inputs = [saved.pop(0) if is_tensor else a for is_tensor, a in zip(ctx.is_tensor, ctx.others)]
            grads_of_floats = [grad_out[i] for i in ctx.differentiable]
            differentiable = has_gradient(inputs)
            needed = [need for need, a in zip(ctx.needs_input_grad, differentiable) if a]
            with torch.no_grad():
                grads = iter(backward(inputs, saved, grads_of_floats, needed))
            every = [next(grads) if a else None for a in differentiable]
            return tuple(g if need else None for g, need in zip(every, ctx.needs_input_grad))

        # What is compiled gets its gradients here and not by `Function`: a tensor into which something was written that
        # requires a gradient still looks like a constant to torch.compile.
        def op_backward(ctx: Any, *grad_out: Tensor) -> tuple[Any, ...]:
            return gradients_of(lambda inputs, *others: backward_op(*inputs, *others), ctx, grad_out)

        if backward_kernel is not None:
            torch.library.register_autograd(f"recon::{name}", op_backward, setup_context=remember, lib=_library)

        class Function(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Any) -> Any:
                out = forward(*inputs)
                remember(ctx, inputs, out)
                # Of outputs without a gradient, indices above all, nobody reads the zeros that autograd would write.
                ctx.set_materialize_grads(False)
                outs = (out,) if single else out
                ctx.blanks = {i: (outs[i].shape, outs[i].dtype) for i in ctx.differentiable}
                return out

            @staticmethod
            def backward(ctx: Any, *grads_or_none: Tensor | None) -> Any:
                like, blanks = ctx.saved_tensors[0], ctx.blanks
                grad_out: list[Any] = [
                    like.new_zeros(blanks[i][0], dtype=blanks[i][1]) if g is None and i in blanks else g
                    for i, g in enumerate(grads_or_none)
                ]
                if torch.compiler.is_compiling():  # compiled autograd
                    return op_backward(ctx, *grad_out)
                grads = gradients_of(backward, ctx, grad_out)
                if torch.is_grad_enabled():  # backward(create_graph=True)
                    return _without_gradient(name, grads)
                return grads

        self.name, self.reference = name, reference
        self._forward, self._backward, self._forward_op, self._function = forward, backward, forward_op, Function
        self._differentiable = backward_kernel is not None
        self._shown = shown if kept else None
        self.constants = constant
        self._outputs, self._hints = outputs, hints
        self._kernels, self._count = (forward_kernel, backward_kernel), count
        self._options: dict[str, Any] = {
            "optional_grads": optional_grads,
            "kept": kept,
            "reads": reads,
            "writes_all": writes_all,
            "constants": constants,
        }
        if kernels is None:
            _ops[name] = self

    def __call__(self, *inputs: Any) -> Any:
        """The op's outputs: from the kernels, or from the reference inside `with reference():`."""
        if _use_reference:
            return self.reference(*inputs)
        tensors = [a for a in inputs if isinstance(a, Tensor)]
        device = tensors[0].device.type if tensors else "cpu"
        if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
            inputs = tuple(a.float() if is_float(a) and a.dtype.itemsize < 4 else a for a in inputs)
        is_compiling = torch.compiler.is_compiling()
        if not is_compiling and (_transforms_active() or forward_ad._current_level >= 0):
            _check_plain(self.name, inputs)
        if self._differentiable and torch.is_grad_enabled() and any([a.requires_grad for a in tensors]):  # noqa: C419
            if any(is_float(inputs[i]) and inputs[i].requires_grad for i in self.constants):
                with torch.autocast(device, enabled=False):
                    return self.reference(*inputs)
            if not is_compiling:
                return self._without_kept(self._function.apply(*inputs))
        return self._without_kept((self._forward_op if is_compiling else self._forward)(*inputs))

    def gradients(
        self, inputs: Sequence[Any], outputs: Sequence[Tensor], grad_outputs: Sequence[Tensor], needed: Sequence[bool]
    ) -> list[Tensor | None]:
        """What the backward kernel computes, for a caller that keeps inputs and outputs itself and not in autograd.

        Args:
            inputs: all of them, as in a call.
            outputs: those that the backward kernel reads.
            grad_outputs: the gradient of each float output.
            needed: for each float input with a gradient, whether it is wanted.

        Returns:
            The gradient of each of those inputs; None or anything where it is not wanted.
        """
        return self._backward(inputs, list(outputs), list(grad_outputs), list(needed))

    def unless(self, name: str, holds: Callable[..., bool], alternative: Callable[..., Any]) -> Op:
        """This op with one more tensor in front of its inputs, by which another function takes its place.

        For choices that depend on values, which a graph of torch.compile cannot make: an op makes them when it runs.

        Args:
            name: the new op's.
            holds: called with the tensor and the inputs; whether the alternative is to be taken.
            alternative: called in the same way; differentiable, with this op's outputs but for those that are kept.

        Returns:
            The op. It has no gradient in the tensor.
        """
        forward_kernel, backward_kernel = self._kernels
        size, shown = len(self._hints), self._count - self._options["kept"]

        def results_of(inputs: Sequence[Any]) -> Sequence[Tensor]:
            out = alternative(*inputs)
            return out if isinstance(out, tuple) else (out,)

        def outputs(choice: Tensor, *inputs: Any) -> Any:
            return self._outputs(*inputs)

        def forward(*arguments: Any) -> None:
            inputs = arguments[: 1 + size]
            if not holds(*inputs):
                forward_kernel(*arguments[1:])
                return
            for out, value in zip(arguments[1 + size :], results_of(inputs)):
                out.copy_(value)

        def backward(*arguments: Any) -> None:
            inputs = list(arguments[: 1 + size])
            if not holds(*inputs):
                assert backward_kernel is not None
                backward_kernel(*arguments[1:])
                return
            differentiable = self._has_gradient(inputs[1:])
            leaves = [a.detach().requires_grad_() if d else a for a, d in zip(inputs[1:], differentiable)]
            with torch.enable_grad():
                results = [value for value in results_of([inputs[0], *leaves])[:shown] if is_float(value)]
            rest = arguments[1 + size + self._count :]
            grad_outputs, grads = rest[: len(results)], rest[len(results) :]
            variables = [a for a, d in zip(leaves, differentiable) if d]
            found = torch.autograd.grad(results, variables, grad_outputs, allow_unused=True)
            for grad, value in zip(grads, found):
                if grad is not None:
                    grad.zero_() if value is None else grad.copy_(value)

        outputs.__annotations__ = {"choice": Tensor, **typing.get_type_hints(self._outputs)}
        options = self._options | {"constants": ("choice", *self._options["constants"])}
        return Op(name, outputs, alternative, kernels=(forward, backward), **options)

    def _without_kept(self, out: Any) -> Any:
        if self._shown is None:
            return out
        return out[0] if self._shown == 1 else out[: self._shown]


_transforms_active = torch._C._are_functorch_transforms_active


def _check_plain(name: str, inputs: Sequence[Any]) -> None:
    """Raises RuntimeError for tensors that stand for others: a kernel would miss or lose what they carry."""
    reference = "call it inside `with recon_engine.reference():`, which is slow"
    for a in inputs:
        if not isinstance(a, Tensor):
            continue
        if torch._C._functorch.is_batchedtensor(a):
            raise RuntimeError(
                f"{name} cannot be called under torch.vmap: give it the whole batch in its own batch dimension, or a "
                "batch of meshes or clouds, in one call"
            )
        if forward_ad.unpack_dual(a).tangent is not None:
            raise RuntimeError(
                f"{name} has no forward-mode derivatives (torch.autograd.forward_ad, torch.func.jvp): take those of "
                f"backward(), or {reference}"
            )
        if torch._C._functorch.is_functorch_wrapped_tensor(a):
            raise RuntimeError(
                f"{name} cannot be called inside torch.func.grad, vjp, jacrev or hessian: use torch.autograd.grad or "
                f"backward(), or {reference}"
            )


def _without_gradient(name: str, grads: tuple[Tensor | None, ...]) -> Any:
    """The same gradients, which raise a RuntimeError where they are differentiated."""

    class SecondDerivative(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *values: Tensor | None) -> Any:
            return values

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            raise RuntimeError(
                f"{name} has no second derivatives: call it inside `with recon_engine.reference():`, which is slow and "
                "has derivatives of any order"
            )

    return SecondDerivative.apply(*[None if g is None else g.requires_grad_() for g in grads])


_SCHEMA_TYPES: dict[Any, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    int: "int",
    float: "float",
    bool: "bool",
    str: "str",
    list[int]: "int[]",
}


def _tuple_hint(outputs: Outputs) -> tuple[Any, ...]:
    return typing.get_args(typing.get_type_hints(outputs)["return"])


def _contiguous(args: Sequence[Any]) -> list[Any]:
    return [a.contiguous() if isinstance(a, Tensor) else a for a in args]


def _register(name: str, schema: str, impl: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    _library.define(name + schema)
    _library.impl(name, impl, "CompositeExplicitAutograd")
    torch.library.register_fake(f"recon::{name}", fake, lib=_library)
    return getattr(torch.ops.recon, name).default
