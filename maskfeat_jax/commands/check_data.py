"""Reads every example of a recipe's data once, as a run would, and reports unusable files.

Needs neither a model nor a device. Unusable files are reported by kind of failure, with what a run
would do about them.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from tqdm import tqdm

from input_pipeline.texts import printable
from maskfeat_jax.commands.options import Options
from maskfeat_jax.distributed.preemption import Signals
from maskfeat_jax.files import write_atomically
from maskfeat_jax.training.build import build_data

USABLE, TOO_MANY_BAD = 0, 65  # exit codes
_EXAMPLES = 3  # files printed for each kind of failure
_AHEAD = 4  # reads in progress, per thread


@runtime_checkable
class Readable(Protocol):
    """Data with random access to examples, such as `input_pipeline.Loader`.

    Attributes:
      source: the dataset, with `num_examples`, `class_names`, `name_of(index)`.
      view: an example is read `reads` times, with `clips_per_read` clips each.
      workers: number of threads.
      bad_inputs: limit of unusable files, `max_fraction`.
    """

    source: Any
    view: Any
    workers: int
    bad_inputs: Any

    def load(self, turn: int, index: int, part: int) -> Any:
        """Clips of an example, with `label` and `problem`: None, or kind, reason and bytes."""


@dataclasses.dataclass(frozen=True)
class Bad:
    """An example that cannot be used, or only in training as its file is not that of the index."""

    data: str
    file: str
    index: int
    kind: str
    reason: str
    num_bytes: int | None

    @property
    def used(self) -> bool:
        """Whether a run uses it nevertheless."""
        return self.kind == "stale" and self.data == "data"


def command(options: Options, signals: Signals) -> int:
    """`python main.py check-data --config=…`."""
    with signals.nothing_to_lose():
        data, on_bad = build_data(options.recipe)
        # Next to the work directory: a run refuses a directory with other files in it.
        listed = f"{options.directory}.bad_data.jsonl" if options.workdir else None
        return check_data(data, on_bad=on_bad, list_path=listed)


def check_data(
    data: Mapping[str, Readable],
    *,
    on_bad: str,
    list_path: str | os.PathLike[str] | None = None,
    report: Callable[[str], object] = print,
) -> int:
    """Reads all examples, with a progress bar on a terminal.

    Args:
      data: by section of the recipe, `data` and `eval_data`.
      on_bad: what evaluation does with unusable files, "fail" or "skip".
      list_path: file for JSON lines of all unusable files, as in `bad_inputs.jsonl` and with the
        section; None for no list.
      report: called with each line of the result.

    Returns:
      The exit code: 0 if a run would reach its end; 65 if more of `data` than
      `bad_inputs.max_fraction` is unusable, or any of `eval_data` and evaluation does not skip it,
      or all of it.
    """
    found: list[Bad] = []
    good = True
    for section, readable in data.items():
        bad, labels, seconds = _read(section, readable)
        found += bad
        for line in _lines(section, readable, bad, labels, seconds):
            report(line)
        verdict = _verdict(section, readable, _unusable(bad), on_bad)
        good &= not verdict
        report(f"  {verdict or 'a run would not stop'}")
    if list_path is not None:
        write_atomically(Path(list_path), "".join(_line(bad) + "\n" for bad in found))
        report(f"{len(found)} files are listed in {printable(str(list_path))}")
    return USABLE if good else TOO_MANY_BAD


def _read(section: str, data: Readable) -> tuple[list[Bad], collections.Counter[int], float]:
    """Unusable examples, number of usable ones by class, and the seconds it took."""
    count, per_example = data.source.num_examples, data.view.reads
    bad: dict[int, Bad] = {}
    labels: collections.Counter[int] = collections.Counter()
    start = time.monotonic()
    reads = _in_order(data, itertools.product(range(count), range(per_example)))
    for index, part, loaded in tqdm(reads, section, count * per_example, disable=None):
        problem = loaded.problem
        if problem is not None and index not in bad:
            bad[index] = Bad(section, data.source.name_of(index), index, *problem)
        if part == per_example - 1 and (index not in bad or bad[index].used):
            labels.update(_classes_of(loaded))
    return list(bad.values()), labels, time.monotonic() - start


def _classes_of(loaded: Any) -> list[int]:
    """The label of an example, or all classes of its boxes."""
    boxes = loaded.columns.get("box_classes")
    return [int(loaded.label)] if boxes is None else np.flatnonzero(boxes[0].any(0)).tolist()


def _in_order(data: Readable, reads: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int, Any]]:
    """Reads in threads with bounded look-ahead, and drops the clips."""

    def read(index: int, part: int) -> tuple[int, int, Any]:
        return index, part, data.load(0, index, part)._replace(video=None)

    with concurrent.futures.ThreadPoolExecutor(data.workers) as pool:
        pending: collections.deque[concurrent.futures.Future] = collections.deque()
        try:
            for index, part in reads:
                pending.append(pool.submit(read, index, part))
                if len(pending) > _AHEAD * data.workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _lines(
    section: str,
    data: Readable,
    bad: list[Bad],
    labels: collections.Counter[int],
    seconds: float,
) -> Iterator[str]:
    """The lines that report a section."""
    source, view = data.source, data.view
    clips = source.num_examples * view.reads * view.clips_per_read
    yield f"{section}: {source.num_examples} examples, {clips} clips"
    if others := str(getattr(source, "left_out", "")):
        yield f"  {others}"
    rate = clips / max(seconds, 1e-9)
    yield f"  {source.num_examples - _unusable(bad)} usable; {seconds:.1f} s, {rate:.0f} clips/s"
    by_kind: dict[str, list[Bad]] = {}
    for each in bad:
        by_kind.setdefault(each.kind, []).append(each)
    for kind, group in sorted(by_kind.items(), key=lambda item: -len(item[1])):
        yield f"  {len(group)} {kind}, such as"
        for each in group[:_EXAMPLES]:
            yield f"    {printable(each.file)} ({printable(each.reason)})"
    if source.class_names is not None and labels:
        yield f"  {_about_labels(source.class_names, labels)}"


def _unusable(bad: list[Bad]) -> int:
    return sum(not each.used for each in bad)


def _about_labels(names: tuple[str, ...], labels: collections.Counter[int]) -> str:
    counts = np.array([labels[number] for number in range(len(names))])
    none = [name for name, number in zip(names, counts, strict=True) if not number]
    first = ", ".join(map(printable, none[:_EXAMPLES]))
    lacking = f"; {len(none)} without any, such as {first}" if none else ""
    return (
        f"{len(names)} classes of {counts.min()} to {counts.max()} usable examples, "
        f"median {np.median(counts):g}{lacking}"
    )


def _verdict(section: str, data: Readable, bad: int, on_bad: str) -> str:
    """Why a run would stop; empty if it would not."""
    count, allowed = data.source.num_examples, data.bad_inputs.max_fraction
    if bad == count:
        return "no example is usable"
    if section == "eval_data":
        if not bad or on_bad == "skip":
            return ""
        return 'evaluation would stop; repair them or set input.on_bad_in_evaluation="skip"'
    if bad <= allowed * count:
        return ""
    return (
        f"{bad / count:.2%} are unusable, more than bad_inputs.max_fraction={allowed:g}: "
        "training would stop"
    )


def _line(bad: Bad) -> str:
    line = {"file": bad.file, "index": bad.index, "class": bad.kind, "reason": bad.reason}
    return json.dumps({**line, "bytes": bad.num_bytes, "section": bad.data})
