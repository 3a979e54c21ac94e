"""Objects that keep what they have computed, under torch.compile; and what a CUDA graph cannot record.

A function that is compiled is traced once, and again whenever something that it has read from an outside object has
changed. Objects from outside therefore must not keep what is computed inside; and what looks at the values of tensors,
as the search for the edges of a mesh does, cannot be traced at all. Both are solved by `ahead`: what a traced function
needs of an outside object is computed while it is traced, and stays with the object.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, overload

import torch
from torch import Tensor

T = TypeVar("T")

_runs_ahead = False


def is_traced() -> bool:
    """Whether torch.compile traces, so that tensors have no values."""
    return torch.compiler.is_compiling() and not _runs_ahead


def can_look(tensor: Tensor) -> bool:
    """Whether values of a tensor can be read: not while torch.compile traces or a CUDA graph is recorded.

    On CUDA reading them waits for the device. It is done there only to check what the user gives.
    """
    if is_traced():
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def integers(values: Sequence[int], device: torch.device) -> Tensor:
    """Numbers as an int64 tensor. Evenly spaced ones are made on the device: to copy them there would wait for it."""
    steps = {b - a for a, b in itertools.pairwise(values)}
    if len(values) == 0 or len(steps) > 1:
        return torch.tensor(values, dtype=torch.int64, device=device)
    step = steps.pop() if steps else 0
    if step == 0:
        return torch.full((len(values),), values[0], dtype=torch.int64, device=device)
    return torch.arange(values[0], values[0] + len(values) * step, step, device=device)


class computed(Generic[T]):
    """A property that is computed when it is first read, and an attribute from then on.

    As `functools.cached_property`, but without its lock, which cannot be traced.
    """

    def __init__(self, function: Callable[[Any], T]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> computed[T]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> Any:
        if instance is None:
            return self
        value = self.function(instance)
        setattr(instance, self.name, value)
        return value


def read(owner: object, name: str) -> Any:
    """The attribute `name` of an object that may be from outside, where it is kept once it is computed."""
    if is_traced():
        ahead(getattr, owner, name)
    return getattr(owner, name)


def keep(owner: object, name: str, value: T) -> T:
    """Makes `value` an attribute of an object and returns it; while torch.compile traces, it is returned only."""
    if not is_traced():
        setattr(owner, name, value)
    return value


def ahead(function: Callable[..., object], *arguments: object) -> None:
    """While torch.compile traces: calls a function now, which leaves in an object from outside what is read from it.

    To be called before any of that is read: torch.compile takes note of what is not there yet.

    Args:
        function: a function of a module.
        *arguments: objects, numbers, strings and dtypes. Where one is made in the traced function, nothing is called.
    """
    from torch._dynamo.comptime import comptime

    comptime(_ahead)


def _ahead(context: Any) -> None:
    function, arguments = (
        context.get_local(name)._i_will_not_complain_if_bc_breaks_VariableTracker()
        for name in ("function", "arguments")
    )
    values = [_outside(variable) for variable in arguments.items]
    if any(value is _INSIDE for value in values):
        return
    global _runs_ahead
    _runs_ahead = True
    try:
        with torch.no_grad():
            function.as_python_constant()(*values)
    finally:
        _runs_ahead = False


_INSIDE = object()


def _outside(variable: Any) -> Any:
    """The object that torch.compile knows as `variable`, `_INSIDE` where the traced function makes it."""
    if variable.is_python_constant():
        return variable.as_python_constant()
    return variable.value if variable.source is not None and hasattr(variable, "value") else _INSIDE
