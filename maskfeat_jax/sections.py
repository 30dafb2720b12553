"""Recipe section -> object. A section is a call: its keys are the arguments."""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import difflib
import errno
import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar

Section = Mapping[str, Any]

# What stands in a recipe by itself; all else are sections.
SETTINGS: dict[str, Any] = {"seed": int, "task": str}
# Keys that are no argument of a call, and what they may be.
KEYS: dict[str, Any] = {
    "data.name": str,
    "eval_data.name": str,
    "model.init_from": str | None,
    "model.init_parts": tuple[str, ...] | str | None,
    "model.init_resize": bool | None,
}
# Errors of the system that say that a path is wrong, not that a disk is.
_WRONG_PATH = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR}
_WRONG_PATH |= {errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}

_LARGEST = 2**63  # of whole numbers; what comes of a recipe is counted in 64 bits
_WORDS = {int: "a whole number", float: "a finite number", str: "text", bool: "True or False"}

Value = TypeVar("Value")


class RecipeError(ValueError):
    """A recipe asks for something that does not exist or does not fit."""


class Problems(list[str]):
    """What is wrong with a recipe, gathered so that all of it is reported at once."""

    @contextlib.contextmanager
    def gather(self) -> Iterator[None]:
        """Notes a `ValueError` of the block instead of raising it; the same one only once."""
        try:
            yield
        except ValueError as error:
            if str(error) not in self:
                self.append(str(error))

    def attempt(self, function: Callable[..., Value], *args: Any, **named: Any) -> Value:
        """What a function returns; after noting a `ValueError` that it raised, None.

        So a value is used where it is known not to be None: after `stop`.
        """
        with self.gather():
            return function(*args, **named)
        return None  # type: ignore[return-value]  # noted, and `stop` will raise

    def stop(self) -> None:
        """Raises `RecipeError` with every problem, if there are any."""
        if len(self) == 1:
            raise RecipeError(self[0])
        if self:
            raise RecipeError(f"{len(self)} problems:\n" + "\n".join(f"- {p}" for p in self))


def call(where: str, function: Callable, section: Any, **given: Any) -> Any:
    """Calls a function with a section as its keyword arguments.

    Args:
      where: name of the section, for messages.
      function: a class or function.
      section: arguments from the recipe; lists become tuples, None counts as not given.
      **given: arguments that do not come from the recipe.

    Raises:
      RecipeError: an argument is unknown, missing or of another type than the function says, or the
        function raises ValueError, or OSError for a path that cannot be.
      OSError: the function cannot read what is there.
    """
    if not isinstance(section, Mapping):
        raise RecipeError(f"{where}={shown(section)}: expected a section, that is keys with values")
    arguments = {key: _plain(value) for key, value in section.items() if value is not None}
    parameters = inspect.signature(function).parameters
    free = [name for name in parameters if name not in given and name not in ("parent", "name")]
    for key in arguments:
        if key not in free:
            raise RecipeError(f"{where}.{key}: no such key{nearest(key, free)}")
    for name in free:
        if parameters[name].default is inspect.Parameter.empty and name not in arguments:
            raise RecipeError(f"{where}.{name}: missing")
    hints = hints_of(function) if arguments else {}
    for key, value in arguments.items():
        if not fits(value, hints.get(key, Any)):
            raise RecipeError(f"{where}.{key}={shown(value)}: expected {expected(hints[key])}")
    try:
        return function(**arguments, **given)
    except (ValueError, OverflowError) as error:
        raise RecipeError(f"{where}: {error}") from error
    except OSError as error:
        if error.errno not in _WRONG_PATH:
            raise
        raise RecipeError(f"{where}: {error}") from error


def choose(where: str, table: Mapping[str, Callable], section: Any, **given: Any) -> Any:
    """Calls the member of a table that the section's `name` names, with the rest of the section.

    Raises:
      RecipeError: there is no such member, or see `call`.
    """
    if not isinstance(section, Mapping):
        raise RecipeError(f"{where}={shown(section)}: expected a section, that is keys with values")
    rest = dict(section)
    return call(where, member(f"{where}.name", table, rest.pop("name", "")), rest, **given)


def member(where: str, table: Mapping[str, Any], name: Any) -> Any:
    """`table[name]`, or a `RecipeError` that names the nearest."""
    if not isinstance(name, str):
        raise RecipeError(f"{where}={shown(name)}: expected one of {', '.join(sorted(table))}")
    if name not in table:
        raise RecipeError(f"{where}={name!r} does not exist{nearest(name, table)}")
    return table[name]


def check_sections(recipe: Section, known: Iterable[str]) -> None:
    """Raises RecipeError for the first section or setting that nothing reads."""
    for key in recipe:
        if key not in known:
            raise RecipeError(f"{key}: no such section{nearest(key, known)}")


def require_sections(recipe: Section, wanted: Iterable[str]) -> None:
    """Raises RecipeError where sections or settings are missing, or are something else."""
    wanted = tuple(wanted)
    missing = [key for key in wanted if key not in recipe]
    if missing:
        raise RecipeError(f"{', '.join(missing)}: missing in the recipe")
    for key in wanted:
        kind = SETTINGS.get(key, Mapping)
        if not fits(recipe[key], kind):
            raise RecipeError(f"{key}={shown(recipe[key])}: expected {expected(kind)}")
    for place, kind in KEYS.items():
        section, key = place.split(".")
        value = recipe[section].get(key) if section in wanted else None
        if section in wanted and not fits(value, kind):
            what = "missing" if value is None else f"{shown(value)} is not {expected(kind)}"
            raise RecipeError(f"{place}: {what}")


def flatten(tree: Any, prefix: str = "") -> dict[str, str]:
    """Dotted keys to the JSON text of their values; an empty section is a value."""
    if not isinstance(tree, Mapping) or not tree:
        return {prefix: json.dumps(tree, default=str)}
    flat: dict[str, str] = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def nearest(word: Any, known: Iterable[str]) -> str:
    """`; did you mean ...? ` and what there is."""
    known, word = sorted(known), str(word)
    close = difflib.get_close_matches(word, known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{hint} There are: {', '.join(known)}" if known else ""


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


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
