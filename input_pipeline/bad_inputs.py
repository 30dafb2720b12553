"""Files that cannot be used: their kinds, the list of them, and the limits at which training stops.

Large datasets usually contain some files that cannot be decoded; a lost mount makes all unreadable.
Training leaves the row of a bad file empty (`valid` is False), lists the file once, and stops when
there are too many. Evaluation stops at the first, or skips them if the recipe allows it.
"""

from __future__ import annotations

import collections
import contextlib
import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline.texts import printable

CLASSES = (
    "missing",
    "unreadable",
    "empty",
    "not_media",
    "no_video",
    "decode_error",
    "short",
    "too_large",
    "timeout",
    "stale",  # not the file that was indexed; training uses it nevertheless
)


class BadMedia(Exception):
    """One example cannot be decoded: one of `CLASSES`, and the decoder's message in one line."""

    def __init__(self, kind: str, reason: str):
        super().__init__(f"{kind}: {reason}")
        self.kind, self.reason = kind, reason


def refuse_larger(width: int, height: int, max_pixels: int) -> None:
    """Raises BadMedia if a picture has more than `max_pixels`."""
    if width * height > max_pixels:
        raise BadMedia(
            "too_large", f"{width}x{height} pixels, the limit is {max_pixels} (max_pixels)"
        )


class BadInput(ValueError):
    """Evaluation met a file that cannot be used."""


class TooManyBadInputs(RuntimeError):
    """Training met more unusable files than the limits allow."""


@contextlib.contextmanager
def media_boundary() -> Iterator[None]:
    """Turns any exception of reading or decoding into `BadMedia`.

    Only this function catches everything: decoders raise many kinds of errors on malformed data.
    """
    try:
        yield
    except BadMedia:
        raise
    except (Exception, MemoryError) as error:
        words = " ".join(str(error).split())[:300]
        raise BadMedia(_kind_of(error), f"{type(error).__name__}: {words}") from error


def _kind_of(error: Exception) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "missing"
    if isinstance(error, OSError) and error.errno is not None:
        return "unreadable"  # decoders raise OSError too, but without an errno
    return "decode_error"


class Problem(NamedTuple):
    """Why the slot of an example is empty; `num_bytes` is None if the file could not be read."""

    kind: str
    reason: str
    num_bytes: int | None


class BadInputs:
    """Counts bad files, lists each once, and stops training when there are too many."""

    def __init__(
        self,
        max_fraction: float = 0.01,
        max_consecutive: int = 64,
        window: int = 100_000,
        min_seen: int = 1000,
    ):
        """Starts with no bad files and no list; `list_in` adds a list.

        Args:
          max_fraction: fraction of clips that may be bad. Training stops when the last `window`
            clips exceed it by more than three standard deviations, so a fraction right at the limit
            does not stop a run by chance. 0 stops at the first bad file.
          max_consecutive: training stops when this many clips in a row are bad.
          window: number of most recent clips that `max_fraction` applies to.
          min_seen: number of clips before `max_fraction` applies.

        Raises:
          ValueError: a limit is out of range.
        """
        if not 0 <= max_fraction <= 1:
            raise ValueError(f"max_fraction is {max_fraction}; it must be from 0 to 1")
        for name, value in dict(
            max_consecutive=max_consecutive, window=window, min_seen=min_seen
        ).items():
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        self.path: Path | None = None
        self.max_fraction, self.max_consecutive = max_fraction, max_consecutive
        self.window, self.min_seen = window, min_seen
        self.skipped = 0  # clips left out so far; a file counts each time it is read
        self._seen = self._consecutive = 0
        self._recent: collections.deque[int] = collections.deque()  # when, in clips seen
        self._listed, self._stale = set[str](), set[str]()
        self._first: dict[str, str] = {}  # of this run: file -> what is wrong

    def list_in(self, path: str | Path) -> BadInputs:
        """Appends bad files to a list from now on: JSON lines, one per distinct file."""
        self.path = Path(path)
        for entry in self._read_list():
            (self._stale if entry["class"] == "stale" else self._listed).add(entry["file"])
        return self

    @property
    def files(self) -> int:
        """Distinct bad files so far, including those that `path` listed at the start."""
        return len(self._listed)

    def record(self, name: str, index: int, problem: Problem | None) -> None:
        """Counts one clip, in the order of training; `problem` is None if it is fine.

        Stale files are listed and counted apart, as their clips are used.

        Raises:
          TooManyBadInputs: this clip exceeds a limit.
        """
        self._seen += 1
        while self._recent and self._recent[0] <= self._seen - self.window:
            self._recent.popleft()
        if problem is None or problem.kind == "stale":
            self._consecutive = 0
            if problem is not None:
                self._note_stale(name, index, problem)
            return
        self._consecutive += 1
        self._recent.append(self._seen)
        self.note(name, index, problem)
        self._check()

    def note(self, name: str, index: int, problem: Problem) -> None:
        """Counts and lists a bad file, without a limit (evaluation)."""
        self.skipped += 1
        if len(self._first) < 3:
            self._first.setdefault(name, f"{problem.kind}: {problem.reason}")
        if name in self._listed:
            return
        self._listed.add(name)
        self._append(name, index, problem)

    def _note_stale(self, name: str, index: int, problem: Problem) -> None:
        """Lists a file once; warns of the 1st, 10th, 100th, ..."""
        if name in self._stale:
            return
        self._stale.add(name)
        self._append(name, index, problem)
        count = len(self._stale)
        if count == 10 ** (len(str(count)) - 1):
            warnings.warn(
                f"{count} files so far are not those of the index, and are read without it; the "
                f"last is {printable(name)}: {problem.reason}",
                RuntimeWarning,
                stacklevel=2,
            )

    def _append(self, name: str, index: int, problem: Problem) -> None:
        if self.path is None:
            return
        line = {"file": name, "index": index, "class": problem.kind, "reason": problem.reason}
        line["bytes"] = problem.num_bytes
        try:
            with self.path.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(line) + "\n")
        except OSError as error:  # a full disk is no reason to stop: the file is counted
            warnings.warn(f"cannot write {self.path}: {error}", RuntimeWarning, stacklevel=2)

    def _check(self) -> None:
        seen = min(self._seen, self.window)
        expected = self.max_fraction * seen
        too_many = len(self._recent) > expected + 3 * math.sqrt(expected)
        if self._consecutive >= self.max_consecutive:
            what = f"{self._consecutive} clips in a row cannot be read (max_consecutive)"
        elif too_many and (seen >= self.min_seen or self.max_fraction == 0):
            what = (
                f"{len(self._recent)} of the last {seen} clips cannot be read, "
                f"more than the allowed fraction of {self.max_fraction:g} (max_fraction)"
            )
        else:
            return
        where = "no list is kept" if self.path is None else f"all are listed in {self.path}"
        first = "; ".join(f"{printable(name)} ({words})" for name, words in self._first.items())
        raise TooManyBadInputs(f"{what}. First files: {first}. {self.files} files so far, {where}.")

    def _read_list(self) -> list[dict[str, Any]]:
        assert self.path is not None
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8")
        if not text.endswith("\n"):  # a killed run left half a line: the file is listed again
            text = text[: text.rfind("\n") + 1]
            self.path.write_text(text, encoding="utf-8")
        return [json.loads(line) for line in text.split("\n")[:-1]]
