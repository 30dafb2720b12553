"""The command; see the package."""

from __future__ import annotations

import argparse
import importlib.util
import json
import time

import bench.faults.files
from bench.faults import results
from bench.faults.files import names
from bench.faults.files.damage import WAYS
from bench.faults.files.fuzz import FORMATS, Series, jobs, series


def main() -> None:
    by_file = {file: name for name in ("videos", "images") for file in FORMATS[name].files}
    parser = argparse.ArgumentParser(
        description=bench.faults.files.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--format", required=True, choices=("names", *FORMATS, *by_file))
    parser.add_argument(
        "--n", type=int, default=0, help="damaged files, in addition to those made by hand"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first")
    parser.add_argument("--record", action="store_true", help="in docs/faults.jsonl")
    args = parser.parse_args()
    name, only = by_file.get(args.format, args.format), args.format in by_file
    if args.n and (name == "names" or not FORMATS[name].damaged):
        parser.error(f"files of {name} are tried as they are, not damaged")
    if name in by_file.values() and not args.n:
        parser.error(f"files of {name} are tried damaged: give --n")

    def tell(fault: str, what: str, note: str, outcomes: dict[str, int], details: dict) -> None:
        print(f"{fault} {what}: {json.dumps(outcomes)} {json.dumps(details)}", flush=True)
        if args.record:
            results.record(fault, what, outcomes, note=note, **details)

    if name == "names":
        tell(names.FAULT, names.WHAT, names.NOTE, *names.series())
        return
    this, start = FORMATS[name], time.monotonic()
    found = series(jobs(name, args.n, args.seed, args.format if only else None), by_door=this.whole)
    minutes = round((time.monotonic() - start) / 60, 1)
    for door, some in found.items():
        what = f"{name}, {door}, damaged in {len(WAYS)} ways ("
        what += f"{args.format if only else ', '.join(this.files)})"
        if not this.whole:
            what = this.what + (f" at {len(this.doors)} places" if len(this.doors) > 1 else "")
            what += f", and {args.n} damaged" if args.n else ""
        if "weights" in this.doors:
            what += f", with{'' if importlib.util.find_spec('torch') else 'out'} PyTorch"
        tell(this.fault, what, this.note, dict(some.outcomes), _details(some, minutes))


def _details(found: Series, minutes: float) -> dict:
    return {
        "kinds": dict(found.kinds.most_common()),
        "seconds": round(found.seconds, 2),
        "megabytes": round(found.megabytes),
        "minutes": minutes,
    }


if __name__ == "__main__":
    main()
