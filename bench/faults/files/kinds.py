"""What a format is: files, ways to open them, and what may come of it."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from input_pipeline import Loader
from input_pipeline.bad_inputs import CLASSES, BadMedia
from maskfeat_jax.convert import ConvertError
from maskfeat_jax.sections import RecipeError

ERRORS = (ConvertError, RecipeError, SystemExit)
REFUSED = frozenset((*CLASSES, *(error.__name__ for error in ERRORS)))
Door = Callable[[pathlib.Path, str], str]


class File(NamedTuple):
    """A file that can be made."""

    suffix: str
    make: Callable[[], bytes]
    expected: frozenset[str] = REFUSED  # and of what a door returns


class Format(NamedTuple):
    """Files of one kind.

    Attributes:
      fault: number in the catalogue.
      what: words for the table.
      note: more of them.
      files: by name.
      doors: ways to open a path that holds the file of a name, by name of the door. They return
        what was read, and raise `BadMedia` or one of `ERRORS`.
      whole: the files are sound, and of interest only when damaged; else each is tried as it is.
      damaged: names of the files that can be damaged.
      warm: names of files that are opened before, for what is loaded on first use.
    """

    fault: str
    what: str
    note: str
    files: Mapping[str, File]
    doors: Mapping[str, Door]
    whole: bool = False
    damaged: tuple[str, ...] = ()
    warm: tuple[str, ...] = ()


def load(source, view, index: int = 0):
    """An example as training reads it; raises `BadMedia`."""
    read = Loader(source, view, batch_size=view.clips_per_read).load(0, index)
    if read.problem is not None:
        raise BadMedia(read.problem.kind, read.problem.reason)
    return read.video
