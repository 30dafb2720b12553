"""The command; see the package."""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import time

import bench.faults.files
from bench.faults import results
from bench.faults.files import names
from bench.faults.files.damage import WAYS
from bench.faults.files.fuzz import FORMATS, Series, jobs, series


def main() -> None:
    """Does what the command line says."""
    by_file = {file: name for name in ("videos", "images") for file in FORMATS[name].files}
    parser = argparse.ArgumentParser(
        description=bench.faults.files.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--format", required=True, choices=("names", *FORMATS, *by_file))
    parser.add_argument(
        "--n", type=int, default=0, help="damaged files, besides those made by hand"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first")
    parser.add_argument("--record", action="store_true", help="in docs/faults.jsonl")
    args = parser.parse_args()
    name, only = by_file.get(args.format, args.format), by_file and args.format in by_file
    if args.n and (name == "names" or not FORMATS[name].damaged):
        parser.error(f"files of {name} are tried as they are, not damaged")
    if name in by_file.values() and not args.n:
        parser.error(f"files of {name} are tried damaged: give --n")
    command = f"python -m bench.faults.files --format={args.format} --n={args.n} --seed={args.seed}"

    def tell(fault: str, what: str, note: str, outcomes: dict[str, int], details: dict) -> None:
        print(f"{fault} {what}: {json.dumps(outcomes)} {json.dumps(details)}", flush=True)
        if args.record:
            results.record(fault, what, outcomes, command=command, note=note, **details)

    start = time.monotonic()
    if name == "names":
        tell(names.FAULT, names.WHAT, names.NOTE, *names.series())
        return
    this = FORMATS[name]
    found = series(jobs(name, args.n, args.seed, args.format if only else None))
    minutes = round((time.monotonic() - start) / 60, 1)
    if this.whole:
        ways = f"damaged in {len(WAYS)} ways ({args.format if only else ', '.join(this.files)})"
        for door, of_door in found.items():
            details = {**_details(of_door), "minutes": minutes}
            tell(this.fault, f"{name}, {door}, {ways}", this.note, dict(of_door.outcomes), details)
        return
    whole = _summed(found)
    what = this.what + (f" at {len(this.doors)} places" if len(this.doors) > 1 else "")
    what += f", and {args.n} damaged" if args.n else ""
    if "weights" in this.doors:
        what += f", with{'' if importlib.util.find_spec('torch') else 'out'} PyTorch"
    tell(this.fault, what, this.note, dict(whole.outcomes), {**_details(whole), "minutes": minutes})


def _summed(found: dict[str, Series]) -> Series:
    whole = Series(collections.Counter(), collections.Counter(), [0.0], [0.0])
    for of_door in found.values():
        whole.outcomes.update(of_door.outcomes)
        whole.kinds.update(of_door.kinds)
        whole.seconds[0] = max(whole.seconds[0], of_door.seconds[0])
        whole.megabytes[0] = max(whole.megabytes[0], of_door.megabytes[0])
    return whole


def _details(found: Series) -> dict:
    return {
        "kinds": dict(found.kinds.most_common()),
        "seconds": round(found.seconds[0], 2),
        "megabytes": round(found.megabytes[0]),
    }


if __name__ == "__main__":
    main()
