"""Recipe section -> object. A section is a call: its keys are the arguments."""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Section = Mapping[str, Any]


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

    def stop(self) -> None:
        """Raises `RecipeError` with every problem, if there are any."""
        if len(self) == 1:
            raise RecipeError(self[0])
        if self:
            raise RecipeError(f"{len(self)} problems:\n" + "\n".join(f"- {p}" for p in self))


def call(where: str, function: Callable, section: Section, **given: Any) -> Any:
    """Calls a function with a section as its keyword arguments.

    Args:
      where: name of the section, for messages.
      function: a class or function.
      section: arguments from the recipe; lists become tuples, None counts as not given.
      **given: arguments that do not come from the recipe.

    Raises:
      RecipeError: an argument is unknown or missing, or the function raises ValueError.
    """
    arguments = {key: _plain(value) for key, value in section.items() if value is not None}
    parameters = inspect.signature(function).parameters
    free = [name for name in parameters if name not in given and name not in ("parent", "name")]
    for key in arguments:
        if key not in free:
            raise RecipeError(f"{where}.{key}: no such key{nearest(key, free)}")
    for name in free:
        if parameters[name].default is inspect.Parameter.empty and name not in arguments:
            raise RecipeError(f"{where}.{name}: missing")
    try:
        return function(**arguments, **given)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from error


def choose(where: str, table: Mapping[str, Callable], section: Section, **given: Any) -> Any:
    """Calls the member of a table that the section's `name` names, with the rest of the section.

    Raises:
      RecipeError: there is no such member, or see `call`.
    """
    rest = dict(section)
    return call(where, member(f"{where}.name", table, rest.pop("name", "")), rest, **given)


def member(where: str, table: Mapping[str, Any], name: str) -> Any:
    """`table[name]`, or a `RecipeError` that names the nearest."""
    if name not in table:
        raise RecipeError(f"{where}={name!r} does not exist{nearest(name, table)}")
    return table[name]


def check_sections(recipe: Section, known: Iterable[str]) -> None:
    """Raises RecipeError for the first section or setting that nothing reads."""
    for key in recipe:
        if key not in known:
            raise RecipeError(f"{key}: no such section{nearest(key, known)}")


def require_sections(recipe: Section, wanted: Iterable[str]) -> None:
    """Raises RecipeError where sections or settings are missing."""
    missing = [key for key in wanted if key not in recipe]
    if missing:
        raise RecipeError(f"{', '.join(missing)}: missing in the recipe")


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...? ` and what there is."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{hint} There are: {', '.join(known)}" if known else ""


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value
