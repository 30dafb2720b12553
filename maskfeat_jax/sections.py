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

SETTINGS = {"seed": int, "task": str}  # what is said in a recipe by itself; all else is sections
OBJECTS = ("data", "eval_data", "mask", "target")  # sections that may be an object, in Python

# Errors of the system that say that a path is wrong, not that a disk is.
_WRONG_PATH = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR}
_WRONG_PATH |= {errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}

_LARGEST = 2**63  # of whole numbers; what comes of a recipe is counted in 64 bits
_NOT_A_SECTION = "expected a section, that is keys with values"
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


class Reader:
    """Reads a recipe: each section is a call, and what is not said is that call's default.

    Attributes:
      problems: what is wrong with the recipe.
      resolved: the recipe with the defaults of all that was read written out; what JSON can hold.
    """

    def __init__(self, recipe: Section):
        """Raises RecipeError where seed, task or a section is something else."""
        self.problems = Problems()
        self._recipe = {"seed": 0, **recipe}
        for key, kind in SETTINGS.items():
            if key not in self._recipe:
                raise RecipeError(f"{key}: missing in the recipe")
            if not fits(self._recipe[key], kind):
                raise RecipeError(f"{key}={shown(self._recipe[key])}: expected {expected(kind)}")
        self.resolved = {key: as_json(value) for key, value in self._recipe.items()}

    def __getitem__(self, where: str) -> Any:
        """A setting or a section as it was given; a missing section is empty."""
        value = self._recipe.get(where, {})
        right = isinstance(value, Mapping) or (where in OBJECTS and is_object(value))
        if where not in SETTINGS and not right:
            raise RecipeError(f"{where}={shown(value)}: {_NOT_A_SECTION}")
        return value

    def __contains__(self, where: str) -> bool:
        """Whether it was given."""
        return where in self._recipe

    def check_sections(self, known: Iterable[str]) -> None:
        """Notes sections and settings that nothing reads, and sections that are something else."""
        known = (*SETTINGS, *known)
        for key in self._recipe:
            with self.problems.gather():
                if key not in known:
                    raise RecipeError(f"{key}: no such section{nearest(key, known)}")
                self[key]

    def call(
        self, where: str, function: Callable, section: Any = None, *, name: str = "", **given: Any
    ) -> Any:
        """Calls a function with a section as its keyword arguments, and notes them as resolved.

        Args:
          where: the section.
          function: a class or function.
          section: its arguments, where they are not the section as it was given.
          name: of the function, where a key of the section says it.
          **given: arguments that do not come from the recipe.

        Raises:
          RecipeError: see `arguments`; or the function raises ValueError, or OSError for a path
            that cannot be.
          OSError: the function cannot read what is there.
        """
        section = self[where] if section is None else section
        chosen = arguments(where, function, section, given)
        self.note(where, ({"name": name} if name else {}) | chosen)
        return call(where, function, section, **given)

    def choose(
        self,
        where: str,
        table: Mapping[str, Callable],
        kind: type = object,
        section: Any = None,
        **given: Any,
    ) -> Any:
        """Calls the member of a table that the section's `name` names, with the rest of it.

        Args:
          where: the section.
          table: functions or classes by name.
          kind: what an object that stands for the section must be; it is returned as it is.
          section: see `call`.
          **given: see `call`.

        Raises:
          RecipeError: there is no such member, the object is of another kind, or see `call`.
        """
        section = self[where] if section is None else section
        if is_object(section):
            if not isinstance(section, kind):
                raise RecipeError(f"{where}: {shown(section)} is no {kind.__name__}")
            return section
        name, rest = named(where, table, section)
        return self.call(where, table[name], rest, name=name, **given)

    def note(self, where: str, keys: Section) -> None:
        """Writes keys of a section down as resolved."""
        section = self.resolved.get(where)
        kept = section if isinstance(section, Mapping) else {}
        self.resolved[where] = {**kept, **{key: as_json(value) for key, value in keys.items()}}


def call(where: str, function: Callable, section: Any, **given: Any) -> Any:
    """Calls a function with a section as its keyword arguments; see `Reader.call`."""
    chosen = arguments(where, function, section, given)
    try:
        return function(**chosen, **given)
    except (ValueError, OverflowError) as error:
        raise RecipeError(f"{where}: {error}") from error
    except OSError as error:
        if error.errno not in _WRONG_PATH:
            raise
        raise RecipeError(f"{where}: {error}") from error


def choose(where: str, table: Mapping[str, Callable], section: Any, **given: Any) -> Any:
    """Calls the member of a table that the section's `name` names; see `Reader.choose`."""
    name, rest = named(where, table, section)
    return call(where, table[name], rest, **given)


def arguments(where: str, function: Callable, section: Any, given: Section) -> dict[str, Any]:
    """All arguments of a call that its section decides, defaults included.

    Lists become tuples, whole numbers floats where a float is expected; None counts as not said.

    Raises:
      RecipeError: the section is none, or an argument is unknown, missing or of another type.
    """
    if not isinstance(section, Mapping):
        raise RecipeError(f"{where}={shown(section)}: {_NOT_A_SECTION}")
    said = {key: _plain(value) for key, value in section.items() if value is not None}
    parameters = inspect.signature(function).parameters
    free = [name for name in parameters if name not in given and name not in ("parent", "name")]
    for key in said:
        if key not in free:
            raise RecipeError(f"{where}.{key}: no such key{nearest(key, free)}")
    hints = hints_of(function) if said else {}
    for key, value in said.items():
        if not fits(value, hints.get(key, Any)):
            raise RecipeError(f"{where}.{key}={shown(value)}: expected {expected(hints[key])}")
        said[key] = _as_expected(value, hints.get(key, Any))
    for name in free:
        if name not in said:
            if parameters[name].default is inspect.Parameter.empty:
                raise RecipeError(f"{where}.{name}: missing")
            said[name] = parameters[name].default
    return {name: said[name] for name in free}


def named(where: str, table: Mapping[str, Any], section: Any) -> tuple[str, dict[str, Any]]:
    """The `name` of a section, which is a key of the table, and the rest of the section."""
    if not isinstance(section, Mapping):
        raise RecipeError(f"{where}={shown(section)}: {_NOT_A_SECTION}")
    rest = dict(section)
    name = rest.pop("name", None)
    if name is None:
        raise RecipeError(f"{where}.name: missing{nearest('', table)}")
    member(f"{where}.name", table, name)
    return name, rest


def is_object(section: Any) -> bool:
    """Whether it is no section, nor anything else that can be written in a recipe's file."""
    return not isinstance(section, Mapping | str | int | float | list | tuple | types.NoneType)


def as_json(value: Any) -> Any:
    """A value of a recipe as JSON has it; an object as text."""
    if isinstance(value, Mapping):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    if is_object(value):
        kind = type(value)
        own = kind.__repr__ is not object.__repr__  # the default one has an address
        return repr(value) if own else f"{kind.__module__}.{kind.__qualname__}"
    return value


def member(where: str, table: Mapping[str, Any], name: Any) -> Any:
    """`table[name]`, or a `RecipeError` that names the nearest."""
    if not isinstance(name, str):
        raise RecipeError(f"{where}={shown(name)}: expected one of {', '.join(sorted(table))}")
    if name not in table:
        raise RecipeError(f"{where}={name!r} does not exist{nearest(name, table)}")
    return table[name]


def flatten(tree: Any, prefix: str = "") -> dict[str, str]:
    """Dotted keys to the JSON text of their values; an empty section is a value."""
    if not isinstance(tree, Mapping) or not tree:
        return {prefix: json.dumps(tree, default=str)}
    flat: dict[str, str] = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """By key a line on how two recipes differ that were flattened."""
    return {
        key: f"{key}: {old.get(key, '(absent)')} -> {new.get(key, '(absent)')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }


def nearest(word: Any, known: Iterable[str]) -> str:
    """`; did you mean ...? ` and what there is."""
    known, word = sorted(known), str(word)
    close = difflib.get_close_matches(word, known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{hint} There are: {', '.join(known)}" if known else ""


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _as_expected(value: Any, hint: Any) -> Any:
    """Whole numbers as floats where a type says so, so that 100 and 100.0 are the same."""
    origin, kinds = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _as_expected(value, next(kind for kind in kinds if fits(value, kind)))
    if isinstance(value, tuple) and kinds:
        each = (
            kinds if len(kinds) == len(value) and Ellipsis not in kinds else kinds[:1] * len(value)
        )
        return tuple(map(_as_expected, value, each))
    return float(value) if hint is float else value


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
