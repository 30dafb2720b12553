"""Recipe section -> object: a section is a call, its keys are the keyword arguments."""

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

Section = Mapping[str, Any]

SETTINGS = {"seed": int, "task": str}  # top-level values; all else is sections
OBJECTS = ("data", "eval_data", "mask", "target")  # sections that may be an object (in Python)

# Errors that mean a wrong path, not a failing disk.
_WRONG_PATH = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR}
_WRONG_PATH |= {errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}

_LARGEST = 2**63  # integers of a recipe must fit into 64 bits
_EXPECTED_SECTION = "expected a section (keys with values)"
_WORDS = {int: "an integer", float: "a finite number", str: "a string", bool: "True or False"}

Value = TypeVar("Value")


class RecipeError(ValueError):
    """A recipe asks for something that does not exist or does not fit."""


class Problems(list[str]):
    """Errors of a recipe, collected so that all are reported at once."""

    @contextlib.contextmanager
    def gather(self) -> Iterator[None]:
        """Records a `ValueError` of the block instead of raising it; equal ones once."""
        try:
            yield
        except ValueError as error:
            if str(error) not in self:
                self.append(str(error))

    def attempt(self, function: Callable[..., Value], *args: Any, **named: Any) -> Value:
        """Calls a function; returns None after recording a `ValueError`.

        After `stop`, the returned values are not None.
        """
        with self.gather():
            return function(*args, **named)
        return None  # type: ignore[return-value]  # recorded, and `stop` raises

    def stop(self) -> None:
        """Raises a `RecipeError` with all recorded problems, if there are any."""
        if len(self) == 1:
            raise RecipeError(self[0])
        if self:
            raise RecipeError(f"{len(self)} problems:\n" + "\n".join(f"- {p}" for p in self))


class Reader:
    """Reads a recipe: each section is a call; missing keys take the defaults of that call.

    Attributes:
      problems: errors found so far.
      resolved: the recipe, with defaults filled in for the sections read so far; JSON values.
    """

    def __init__(self, recipe: Section):
        """Raises RecipeError if `task` is missing, or `seed` or `task` is invalid."""
        self.problems = Problems()
        self._recipe = {"seed": 0, **recipe}
        for key, kind in SETTINGS.items():
            if key not in self._recipe:
                raise RecipeError(f"{key}: missing in the recipe")
            if not fits(self._recipe[key], kind):
                raise RecipeError(f"{key}={shorten(self._recipe[key])}: expected {expected(kind)}")
        if self._recipe["seed"] < 0:
            raise RecipeError(f"seed={self._recipe['seed']}: expected 0 or more")
        self.resolved = {key: as_json(value) for key, value in self._recipe.items()}

    def __getitem__(self, where: str) -> Any:
        """A top-level value or a section of the recipe; a missing section is empty."""
        value = self._recipe.get(where, {})
        valid = isinstance(value, Mapping) or (where in OBJECTS and is_object(value))
        if where not in SETTINGS and not valid:
            raise RecipeError(f"{where}={shorten(value)}: {_EXPECTED_SECTION}")
        return value

    def __contains__(self, where: str) -> bool:
        """Whether the recipe has this key."""
        return where in self._recipe

    def check_sections(self, known: Iterable[str]) -> None:
        """Records unknown keys, and sections that are not mappings."""
        known = (*SETTINGS, *known)
        for key in self._recipe:
            with self.problems.gather():
                if key not in known:
                    of = f" of task={shorten(self['task'])}"
                    raise RecipeError(f"{key}: no such section{of}{nearest(key, known)}")
                self[key]

    def call(
        self,
        where: str,
        function: Callable,
        section: Any = None,
        *,
        name: str = "",
        more: Sequence[str] = (),
        **given: Any,
    ) -> Any:
        """Calls a function with a section as its keyword arguments, and adds them to `resolved`.

        Args:
          where: name of the section.
          function: a class or function.
          section: the arguments; None for the section of the recipe.
          name: value of the key `name` of the section, if it has one.
          more: keys of the section that are not arguments, for messages.
          **given: arguments that do not come from the recipe.

        Raises:
          RecipeError: see `arguments`; or the function raises ValueError, or OSError for a wrong
            path.
          OSError: the function fails to read an existing file.
        """
        section = self[where] if section is None else section
        chosen = arguments(where, function, section, given, ("name",) if name else more)
        self.note(where, ({"name": name} if name else {}) | chosen)
        return _called(where, function, {**chosen, **given})

    def choose(
        self,
        where: str,
        table: Mapping[str, Callable],
        kind: type = object,
        section: Any = None,
        **given: Any,
    ) -> Any:
        """Calls `table[name]` with the other keys of the section; `name` is a key of it.

        Args:
          where: name of the section.
          table: functions or classes by name.
          kind: class of an object given instead of a section, which is returned unchanged.
          section: see `call`.
          **given: see `call`.

        Raises:
          RecipeError: the table has no such name, the object is of another class, or see `call`.
        """
        section = self[where] if section is None else section
        if is_object(section):
            if not isinstance(section, kind):
                raise RecipeError(
                    f"{where}: expected an object with the members of {kind.__name__}, got "
                    f"{shorten(section)}"
                )
            return section
        name, rest = named(where, table, section)
        return self.call(where, table[name], rest, name=name, **given)

    def note(self, where: str, keys: Section) -> None:
        """Adds keys of a section, or of a section in a section (`a.b`), to `resolved`."""
        tree, *path = self.resolved, *where.split(".")
        for word in path:
            if not isinstance(tree.get(word), dict):
                tree[word] = {}
            tree = tree[word]
        tree |= {key: as_json(value) for key, value in keys.items()}


def call(where: str, function: Callable, section: Any, **given: Any) -> Any:
    """Calls a function with a section as its keyword arguments; see `Reader.call`."""
    return _called(where, function, {**arguments(where, function, section, given), **given})


def _called(where: str, function: Callable, named: Section) -> Any:
    try:
        return function(**named)
    except (ValueError, OverflowError, MemoryError) as error:
        raise RecipeError(f"{where}: {error}") from error
    except OSError as error:
        if error.errno not in _WRONG_PATH:
            raise
        raise RecipeError(f"{where}: {error}") from error


def choose(where: str, table: Mapping[str, Callable], section: Any, **given: Any) -> Any:
    """Calls `table[name]` with the other keys of the section; see `Reader.choose`."""
    name, rest = named(where, table, section)
    return call(where, table[name], rest, **given)


def arguments(
    where: str, function: Callable, section: Any, given: Section, more: Sequence[str] = ()
) -> dict[str, Any]:
    """Arguments of a call from a section, with defaults filled in.

    Lists become tuples, and integers floats where a float is expected; None means the default.

    Raises:
      RecipeError: not a section, or an argument is unknown, missing or of another type.
    """
    if not isinstance(section, Mapping):
        raise RecipeError(f"{where}={shorten(section)}: {_EXPECTED_SECTION}")
    values = {key: _plain(value) for key, value in section.items() if value is not None}
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    free = [name for name in parameters if name not in given and name not in ("parent", "name")]
    for key in values:
        if key not in free:
            raise RecipeError(f"{where}.{key}: no such key{nearest(key, [*free, *more])}")
    hints = hints_of(function) if values else {}
    for key, value in values.items():
        if not fits(value, hints.get(key, Any)):
            raise RecipeError(f"{where}.{key}={shorten(value)}: expected {expected(hints[key])}")
        values[key] = _as_expected(value, hints.get(key, Any))
    for name in free:
        if name not in values:
            if parameters[name].default is inspect.Parameter.empty:
                raise RecipeError(f"{where}.{name}: missing")
            values[name] = parameters[name].default
    return {name: values[name] for name in free}


def named(where: str, table: Mapping[str, Any], section: Any) -> tuple[str, dict[str, Any]]:
    """The `name` of a section, checked against the table, and its other keys."""
    if not isinstance(section, Mapping):
        raise RecipeError(f"{where}={shorten(section)}: {_EXPECTED_SECTION}")
    rest = dict(section)
    name = rest.pop("name", None)
    if name is None:
        raise RecipeError(f"{where}.name: missing{nearest('', table)}")
    member(f"{where}.name", table, name)
    return name, rest


def is_object(section: Any) -> bool:
    """Whether a value is neither a section nor a plain value of a recipe file."""
    return not isinstance(section, Mapping | str | int | float | list | tuple | types.NoneType)


def as_json(value: Any) -> Any:
    """A value of a recipe as a JSON value; an object as its `repr` or class name."""
    if isinstance(value, Mapping):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    if is_object(value):
        kind = type(value)
        has_repr = kind.__repr__ is not object.__repr__  # the default one contains an address
        return repr(value) if has_repr else f"{kind.__module__}.{kind.__qualname__}"
    return value


def member(where: str, table: Mapping[str, Any], name: Any) -> Any:
    """`table[name]`; raises a `RecipeError` with the nearest name if there is none."""
    if not isinstance(name, str):
        raise RecipeError(f"{where}={shorten(name)}: expected one of {', '.join(sorted(table))}")
    if name not in table:
        raise RecipeError(f"{where}={name!r} does not exist{nearest(name, table)}")
    return table[name]


def flatten(tree: Any, prefix: str = "") -> dict[str, str]:
    """Dotted keys -> JSON text of the values; an empty section counts as a value."""
    if not isinstance(tree, Mapping) or not tree:
        return {prefix: json.dumps(tree, default=str)}
    flat: dict[str, str] = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """Differences of two flattened recipes: key -> a line `key: old -> new`."""
    return {
        key: f"{key}: {old.get(key, '(absent)')} -> {new.get(key, '(absent)')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }


def nearest(word: Any, known: Iterable[str]) -> str:
    """End of an error message: the nearest of the known words, and all of them."""
    known, word = sorted(known), str(word)
    close = difflib.get_close_matches(word, known, 1)
    hint = f"; did you mean {close[0]!r}? Choices" if close else "; choices"
    return f"{hint}: {', '.join(known)}" if known else ""


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _as_expected(value: Any, hint: Any) -> Any:
    """Integers become floats where the type is float, so that 100 and 100.0 are equal."""
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
    """Type annotations of the arguments of a function or class."""
    if isinstance(function, type) and not dataclasses.is_dataclass(function):
        function = inspect.getattr_static(function, "__init__")
    return typing.get_type_hints(function)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a recipe matches a type annotation.

    An int matches float; a bool matches neither. Numbers must be finite and fit into 64 bits.
    Unsupported annotations match any value.

    Args:
      value: of a recipe.
      hint: a type annotation, such as `tuple[int, ...] | None`.
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
    kind = origin or hint
    return hint is Any or not isinstance(kind, type) or isinstance(value, kind)


def expected(hint: Any) -> str:
    """A type annotation in words, for error messages."""
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
        return "a section (keys with values)"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def shorten(value: Any) -> str:
    """The `repr` of a value for a message, cut if it is long."""
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
