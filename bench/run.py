"""Times our code against PySlowFast and mae_st on this machine.

    python -m bench.run hog vit_b
    SLOWFAST_DIR=<checkout> python -m bench.run hog vit_b --threads 2 --json times.json
    MAE_ST_DIR=<checkout> python -m bench.run mae_b

Each side runs in its own process, and they alternate: only one works at a time. Without torch or
the checkout that a case needs, only our code is timed. See README.md.

On a CPU, matrix products by XLA take turns with the steps, as a practical limit. The share is the
operations per second of a step divided by those of the products. Counted are the products of the
model, forward and backward (see `maskfeat_jax.flops.training_flops`): time for all else that a step
computes, such as attention weights again, norms, pooling, HOG and AdamW, lowers it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.originals import available

BATCHES = {"hog": 8, "vit_b": 8, "vit_l": 4, "mvit_s": 1, "mvit_l": 1, "mae_b": 1, "mae_l": 1}
ORIGINALS = {case: "MAE_ST_DIR" if case.startswith("mae") else "SLOWFAST_DIR" for case in BATCHES}
SIDES = ("ours", "theirs")
# glibc returns large blocks to the system after each use, and page faults then dominate small
# operators (PyTorch's HOG takes twice as long): both sides keep freed memory instead. XLA's threads
# do so with one arena only, and aligned blocks are found again only without caches of threads.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
}


class Worker:
    """A process that runs a case on request."""

    def __init__(self, side: str, case: str, args: argparse.Namespace):
        """Starts the process and waits until it is ready to run."""
        command = [sys.executable, "-m", "bench.worker", side, case, f"--batch={args.batch}"]
        command += [f"--dtype={args.dtype}", f"--device={args.device}"]
        command += [f"--threads={args.threads}", *(["--strong"] if args.strong else [])]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[1],
            env={**os.environ, **MALLOC, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        )
        self.facts = json.loads(self._answer())

    def seconds(self, runs: int) -> float:
        """Time of consecutive runs, in seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{runs}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"a worker process ended with code {self._process.wait()}; see its output above"
            )
        return line


def compare(case: str, args: argparse.Namespace) -> dict[str, Any]:
    """Times a case on both sides, or only in our code; on a CPU also products."""
    sides = ["ours", *(["theirs"] if available(ORIGINALS[case]) else [])]
    if args.device == "cpu" and case != "hog":
        sides.append("product")
    workers = {side: Worker(side, case, args) for side in sides}
    timed = in_turns([worker.seconds for worker in workers.values()], args.rounds, args.runs)
    times = dict(zip(sides, timed, strict=True))
    result = {"case": case, **{k: v for k, v in vars(args).items() if k not in ("cases", "json")}}
    for side, worker in workers.items():
        worker.close()
        result[side] = {**worker.facts, "median_s": statistics.median(times[side])}
        result[side]["seconds"] = times[side]
    if "theirs" in times:
        result["ratio"] = result["theirs"]["median_s"] / result["ours"]["median_s"]
        result["ratio_95"] = interval(times["theirs"], times["ours"])
    flops, peak = (workers["ours"].facts.get(name) for name in ("flops", "peak_flops"))
    if flops and peak and args.dtype == "bfloat16":
        result["ours"]["utilisation"] = flops / peak / result["ours"]["median_s"]
    if "product" in times:
        product = result["product"]
        product["flops_per_s"] = product["flops"] / product["median_s"]
        for side in sides[:-1]:
            result[side]["share"] = flops / result[side]["median_s"] / product["flops_per_s"]
    return result


def in_turns(sides: Sequence[Callable[[int], float]], rounds: int, runs: int) -> list[list[float]]:
    """Seconds per run of each side; a side maps a number of runs to their total seconds."""
    times: list[list[float]] = [[] for _ in sides]
    order = list(range(len(sides)))
    for _ in range(rounds):
        order.reverse()
        for number in order:
            sides[number](1)  # warm up: caches contain data of the other side
            times[number].append(sides[number](runs) / runs)
    return times


def interval(above: Sequence[float], below: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the ratio of medians of pairs of times."""
    rng, pairs = random.Random(0), list(zip(above, below, strict=True))
    ratios = []
    for _ in range(2000):
        a, b = zip(*rng.choices(pairs, k=len(pairs)), strict=True)
        ratios.append(statistics.median(a) / statistics.median(b))
    ratios.sort()
    return ratios[50], ratios[-51]


def report(result: dict[str, Any]) -> str:
    """The result as text."""
    batch, lines = result["batch"], []
    for side in SIDES:
        if side in result:
            row = result[side]
            seconds = sorted(row["seconds"])
            lines.append(
                f"{result['case']:6s} {side:6s} {row['median_s'] * 1e3:9.2f} ms "
                f"({seconds[0] * 1e3:.2f} to {seconds[-1] * 1e3:.2f})  "
                f"{batch / row['median_s']:8.2f} samples/s  {row['framework']}, {row['device']}"
            )
            if "compile_s" in row:
                lines[-1] += f", compiled in {row['compile_s']:.1f} s"
    if "utilisation" in result["ours"]:
        lines.append(f"{result['case']:6s} utilisation {result['ours']['utilisation']:.1%}")
    if "ratio" in result:
        low, high = result["ratio_95"]
        lines.append(
            f"{result['case']:6s} theirs / ours {result['ratio']:.2f} (95 %: {low:.2f}-{high:.2f})"
        )
    if "product" in result:
        shares = (f"{side} {result[side]['share']:.0%}" for side in SIDES if side in result)
        limit = result["product"]["flops_per_s"] / 1e9
        lines.append(
            f"{result['case']:6s} {', '.join(shares)} of the {limit:.0f} GFLOP/s of products"
        )
    return "\n".join(lines)


def device_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options for device and dtype."""
    parser.add_argument("--device", choices=("cpu", "gpu", "tpu"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="+", choices=sorted(BATCHES))
    parser.add_argument(
        "--batch", type=int, help="images or clips (default: 8; vit_l 4; mvit, mae 1)"
    )
    device_options(parser)
    parser.add_argument("--threads", type=int, default=0, help="CPU cores; 0 for all (Linux)")
    parser.add_argument(
        "--strong", action="store_true", help="optimise the PyTorch side, see README.md"
    )
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each side")
    parser.add_argument(
        "--runs", type=int, help="steps per measurement (default: 1; hog 50; 10 on a GPU or TPU)"
    )
    parser.add_argument("--json", type=Path, help="file for the results")
    return parser.parse_args(arguments)


def main() -> None:
    """Measures and prints."""
    args = parse()
    results = []
    for case in args.cases:
        mine = argparse.Namespace(**vars(args))
        mine.batch = args.batch or BATCHES[case]
        mine.runs = args.runs or (50 if case == "hog" else 1 if args.device == "cpu" else 10)
        results.append(compare(case, mine))
        print(report(results[-1]), flush=True)
    if args.json:
        machine = {"processor": platform.processor(), "processors": os.cpu_count()}
        args.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
