"""Odd, wrong and explosive media: each has the result that it must have, and costs little.

    python -m bench.faults.odd_media --record

Each is read by the real pipeline in another process, which says how much memory and time it took.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import tempfile
import time
from typing import Any, NamedTuple

from bench.faults import isolation, results
from bench.faults.isolation import peak_megabytes
from bench.faults.odd_files import ODD, Odd
from input_pipeline import EvalView, ImageFolder, Loader, VideoFolder
from input_pipeline.decode.video import EXTENSIONS, VideoFile
from tests.input_pipeline.samples import encode, picture
from tests.input_pipeline.video_samples import encode_video

SECONDS, MEMORY = 30.0, 4 << 30
MOST_SECONDS, MOST_MEGABYTES = 3.0, 200.0  # for what is refused; the machine may be shared


class Read(NamedTuple):
    """What became of it: class of failure, "image" or number of frames; and what it cost."""

    result: str | int
    words: str
    seconds: float
    megabytes: float


def attempt(job: tuple[str, str]) -> Read:
    """Makes a file and reads it."""
    name, folder = job
    odd = ODD[name]
    place = pathlib.Path(folder) / str(list(ODD).index(name))
    place.mkdir()
    is_video = f".{odd.suffix}" in EXTENSIONS
    view = EvalView(size=32, resize=36, frames=16 if is_video else 1)
    _warm_up(view)
    (place / f"x.{odd.suffix}").write_bytes(odd.make())
    source = (VideoFolder if is_video else ImageFolder)(path=str(place))
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # the peak begins anew
    before, start = peak_megabytes(), time.perf_counter()
    part = Loader(source, view, batch_size=1).load(0, 0)
    seconds, rise = time.perf_counter() - start, peak_megabytes() - before
    if part.problem is not None:
        return Read(part.problem.kind, part.problem.reason, seconds, rise)
    if not is_video:
        return Read("image", "", seconds, rise)
    with VideoFile(source.name_of(0)).open() as opened:
        return Read(opened.num_frames, "", seconds, rise)


def _warm_up(view: Any) -> None:
    """What is loaded on first use does not count."""
    view(VideoFile(encode_video(2)) if view.frames > 1 else encode(picture(0), "png"), None)


def verdict(odd: Odd, outcome: Any) -> str:
    """One of the five outcomes."""
    if not isinstance(outcome, Read):
        return "hang or damage"
    if outcome.result != odd.expected:
        return "wrong in silence"
    if isinstance(odd.expected, int) or odd.expected == "image":
        return "recovered"
    cheap = outcome.seconds < MOST_SECONDS and outcome.megabytes < MOST_MEGABYTES
    return "clean stop" if cheap else "noticed late"


def series(fault: str) -> tuple[dict[str, int], dict[str, Any], list[str]]:
    """Outcomes, details, and a line for each that is not good."""
    outcomes: collections.Counter[str] = collections.Counter()
    most, bad, found = [0.0, 0.0], [], {}
    with tempfile.TemporaryDirectory() as folder:
        jobs = ((name, folder) for name, odd in ODD.items() if odd.fault == fault)
        for (name, _), outcome in isolation.each(attempt, jobs, SECONDS, MEMORY):
            judged = verdict(ODD[name], outcome)
            outcomes[judged] += 1
            if judged not in results.GOOD:
                bad.append(f"{name}: expected {ODD[name].expected}, {outcome}")
            if isinstance(outcome, Read):
                found[name] = outcome.result
                most = [max(most[0], outcome.seconds), max(most[1], outcome.megabytes)]
    details = {"results": found, "seconds": round(most[0], 2), "megabytes": round(most[1])}
    return dict(outcomes), details, bad


WHAT = {
    "E3": "odd and wrong videos and images made by hand, each with its documented result",
    "E4": "bombs: sizes, frames, streams, scans, text and nesting far beyond what is there",
}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="in docs/faults.jsonl")
    chosen = parser.parse_args()
    for fault, what in WHAT.items():
        outcomes, details, bad = series(fault)
        print(fault, outcomes, details, *bad, sep="\n  ")
        if chosen.record:
            results.record(
                fault,
                what,
                outcomes,
                command="python -m bench.faults.odd_media --record",
                note=f"at most {details['seconds']} s and {details['megabytes']} MB more each",
                **details,
            )


if __name__ == "__main__":
    main()
