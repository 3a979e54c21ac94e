"""What settings have in common: presets, changes to them, and ranges of fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

_Settings = TypeVar("_Settings")

# What fields of these names are at most, in whatever settings: beyond, memory or time ends before the run does, and
# numbers leave the range of their kind.
_LARGEST: dict[str, float] = {
    "iterations": 10_000_000,
    "views": 10_000,
    "held_out": 10_000,
    "samples": 1_000_000,
    "hidden": 8192,
    "seed": 2**32 - 1,
}
_LARGEST_OF_ALL = 1e30  # single precision ends at 3.4e38


def with_changes(
    kind: type[_Settings], presets: Mapping[str, Mapping[str, Any]], preset: str, *changes: Mapping[str, Any]
) -> _Settings:
    """The settings of a preset with some fields changed.

    Args:
        kind: the dataclass of the settings.
        presets: for each name, the fields that differ from the defaults.
        preset: which of them.
        *changes: fields and their values, later ones over earlier ones; None keeps what was there before.

    Raises:
        ValueError: the preset is unknown, or a field is out of its range.
        TypeError: there is no such field.
    """
    if preset not in presets:
        raise ValueError(f"preset must be one of {', '.join(presets)}, got {preset!r}")
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    given = dict(presets[preset])
    for change in changes:
        unknown = sorted(set(change) - known)
        if unknown:
            raise TypeError(f"{kind.__name__} has no field {unknown[0]!r}")
        given.update({name: value for name, value in change.items() if value is not None})
    return replace(kind(), **given)  # type: ignore[type-var]


def choice(settings: object, name: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless the field is one of the words."""
    if getattr(settings, name) not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(settings, name)!r}")


def at_least(settings: object, low: float, *names: str) -> None:
    """Raises ValueError unless the fields are `low` or more, and not larger than makes sense."""
    for name in names:
        if not low <= getattr(settings, name) < math.inf:
            raise ValueError(f"{name} must be {low} or more, got {getattr(settings, name)}")
        at_most(settings, name, _LARGEST.get(name, _LARGEST_OF_ALL))


def at_most(settings: object, name: str, high: float) -> None:
    """Raises ValueError if the field is more than `high`."""
    if getattr(settings, name) > high:
        raise ValueError(f"{name} must be {high} or less, got {getattr(settings, name)}")


def above(settings: object, low: float, *names: str) -> None:
    """Raises ValueError unless the fields are more than `low`, and not larger than makes sense."""
    for name in names:
        if not low < getattr(settings, name) < math.inf:
            raise ValueError(f"{name} must be above {low}, got {getattr(settings, name)}")
        at_most(settings, name, _LARGEST.get(name, _LARGEST_OF_ALL))
