"""Faults for which the suite has tests of their own: how many of them pass.

python -m bench.faults.by_tests --record
"""

from __future__ import annotations

import argparse
import collections
import re
import subprocess
import sys
from typing import NamedTuple

from bench.faults import results


class Tests(NamedTuple):
    """Tests that put a fault in.

    Attributes:
      what: is put in.
      good: outcome of a test that passes.
      nodes: files and, after `::`, tests; parameters are counted one by one.
    """

    what: str
    good: str
    nodes: tuple[str, ...]


MEDIA = "tests/input_pipeline/decode/damaged_videos_test.py"
MAIN, BUILD = "tests/main_test.py", "tests/sections_test.py"
FAULTS = {
    "E5": Tests(
        "a decoder that never returns, asleep or with Python's lock, or is slow",
        "clean stop",
        (
            f"{MEDIA}::test_a_decoder_that_never_returns_is_left_behind",
            f"{MEDIA}::test_slow_decoding_ends_itself",
            f"{MEDIA}::test_a_stuck_decoder_does_not_keep_the_program_from_ending",
        ),
    ),
    "E9": Tests(
        "clips of one colour, all targets",
        "recovered",
        ("tests/faults/one_colour_test.py",),
    ),
    "J2": Tests(
        "misspelt keys, names and sections, in a recipe and on the command line",
        "clean stop",
        (
            f"{MAIN}::test_bad_recipe_gets_one_clear_sentence",
            f"{BUILD}",
            f"{MAIN}::test_command_line",
        ),
    ),
    "J3": Tests(
        "every truth value of the recipes set both ways on the command line",
        "recovered",
        ("tests/faults/truth_values_test.py",),
    ),
    "K2": Tests(
        "hostile and damaged headers of safetensors",
        "clean stop",
        (
            "tests/convert/files_test.py::test_hostile_safetensors_are_refused_in_little_memory",
            "tests/convert/files_test.py::test_of_two_tensors_of_one_name_none_is_taken_for_another",
            "tests/convert/files_test.py::test_damaged_headers_are_refused_or_read_as_they_say",
        ),
    ),
}


def counted(nodes: tuple[str, ...]) -> dict[str, int]:
    """How many tests passed and failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *nodes]
    run = subprocess.run(command, cwd=results.ROOT, capture_output=True, text=True, check=False)
    last = run.stdout.strip().splitlines()[-1]
    counts = collections.Counter({word: int(n) for n, word in re.findall(r"(\d+) (\w+)", last)})
    return {"passed": counts["passed"], "failed": counts["failed"] + counts["errors"]}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="in docs/faults.jsonl")
    parser.add_argument("--only", choices=FAULTS)
    chosen = parser.parse_args()
    for fault, tests in FAULTS.items():
        if chosen.only not in (None, fault):
            continue
        found = counted(tests.nodes)
        print(fault, found, flush=True)
        outcomes = {tests.good: found["passed"], "hang or damage": found["failed"]}
        if chosen.record:
            results.record(
                fault,
                tests.what,
                {name: count for name, count in outcomes.items() if count},
                command=f"python -m bench.faults.by_tests --only={fault} --record",
                note="tests of the suite, each parameter one",
                tests=list(tests.nodes),
            )


if __name__ == "__main__":
    main()
