"""Commands as their help shows them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from recon_engine._extra import extra

_CONTINUED = "\n" + 12 * " "  # a line of a docstring that goes on with an argument


def shown(command: Callable[..., int]) -> Callable[..., int]:
    """A command whose help leaves out defaults that say nothing: `--iters INT`, and its text has the default.

    Args:
        command: options that nobody has to give are `X | None`.
    """
    arg = extra("tyro", "cli").conf.arg
    hints = get_type_hints(command, include_extras=True)
    signature = inspect.signature(command)

    @functools.wraps(command)
    def same(*arguments: Any, **options: Any) -> int:
        return command(*arguments, **options)

    for name, parameter in signature.parameters.items():
        if parameter.default is None:
            hints[name] = Annotated[hints[name], arg(metavar=_metavar(hints[name]), help_behavior_hint="")]
        elif parameter.default in ((), False):
            hints[name] = Annotated[hints[name], arg(help_behavior_hint="")]
    parameters = [each.replace(annotation=hints[name]) for name, each in signature.parameters.items()]
    same.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    same.__annotations__ = hints
    same.__doc__ = (command.__doc__ or "").replace(_CONTINUED, " ")
    del same.__wrapped__  # what tyro would look at instead
    return same


def _metavar(hint: Any) -> str:
    """What stands for a value of type `X | None`."""
    kind = next(each for each in get_args(hint) if each is not type(None))
    if get_origin(kind) is Literal:
        return "{" + ",".join(get_args(kind)) + "}"
    if get_origin(kind) is tuple:
        return " ".join(each.__name__.upper() for each in get_args(kind))
    return str(kind.__name__).upper()
