"""Whether values of a recipe are what the annotations of a function say."""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

_LARGEST = 2**63  # of whole numbers; what comes of a recipe is counted in 64 bits
_WORDS = {int: "a whole number", float: "a finite number", str: "text", bool: "True or False"}


def hints_of(function: Callable) -> dict[str, Any]:
    """Types of the arguments of a function or class."""
    if isinstance(function, type) and not dataclasses.is_dataclass(function):
        function = inspect.getattr_static(function, "__init__")
    return typing.get_type_hints(function)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is what a type says.

    Whole numbers are numbers, truth values are not. Numbers are finite and of 64 bits. What is not
    understood of a type counts as anything.

    Args:
      value: of a recipe.
      hint: a type, such as `tuple[int, ...] | None`.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in arguments)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in arguments)
    if _is_sequence(origin or hint):
        return isinstance(value, list | tuple) and _elements_fit(value, origin, arguments)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST
    if hint is float:
        return fits(value, int) or (isinstance(value, float) and math.isfinite(value))
    wanted = origin or hint
    return hint is Any or not isinstance(wanted, type) or isinstance(value, wanted)


def expected(hint: Any) -> str:
    """A type in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(expected, arguments))
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if hint is types.NoneType:
        return "None"
    if _is_sequence(origin or hint):
        if len(arguments) == 2 and arguments[1] is not Ellipsis:
            return f"a pair: {expected(arguments[0])} and {expected(arguments[1])}"
        if origin is tuple and Ellipsis not in arguments:
            return f"{len(arguments)} values, each {expected(arguments[0])}"
        return "a list" + (f", each {expected(arguments[0])}" if arguments else "")
    if inspect.isclass(origin or hint) and issubclass(origin or hint, Mapping):
        return "a section, that is keys with values"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}... ({len(text)} characters)"


def _is_sequence(kind: Any) -> bool:
    return kind in (tuple, list, collections.abc.Sequence)


def _elements_fit(value: collections.abc.Sequence, kind: Any, hints: tuple[Any, ...]) -> bool:
    if not hints:
        return True
    if kind is not tuple or hints[-1] is Ellipsis:
        return all(fits(each, hints[0]) for each in value)
    return len(value) == len(hints) and all(map(fits, value, hints))
