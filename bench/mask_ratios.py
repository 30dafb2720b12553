"""Times a step of our masked autoencoder at several mask ratios.

    python -m bench.mask_ratios [vit_b16 vit_l16] [--ratios 0 0.5 0.75 0.9]
    python -m bench.mask_ratios vit_l16 --device=gpu --dtype=bfloat16 --batch 32

Clips of 16x224x224, the whole step as in `bench.run mae_b`. The ratios alternate and train the same
parameters. The output has the multiply-adds of matrix products per clip (`flops.py`), the
median time, and the reduction of both relative to the first ratio. See README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from bench.cases import CLIP, MAE_RULE, mae_task, pretraining
from bench.run import MALLOC, device_options, in_turns, interval
from bench.worker import timed
from maskfeat_jax.ops.patches import Size3


def measure(
    encoder: str, ratios: Sequence[float], clip: Size3, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Times a step at each ratio; the others are compared with the first."""
    tasks = [mae_task(encoder, clip, ratio, args.dtype) for ratio in ratios]
    cases = pretraining(tasks, MAE_RULE, args.batch)
    runs = [timed(once, jax.block_until_ready) for once, _ in cases]
    times = in_turns(runs, args.rounds, args.runs)
    rows = []
    for ratio, task, (_, facts), seconds in zip(ratios, tasks, cases, times, strict=True):
        rows.append({"encoder": encoder, "ratio": ratio, "visible": task.model.visible, **facts})
        rows[-1] |= {"seconds": seconds, "median_s": statistics.median(seconds)}
        rows[-1]["faster"] = rows[0]["median_s"] / rows[-1]["median_s"]
        rows[-1]["faster_95"] = interval(times[0], seconds)
    return rows


def table(rows: Sequence[dict[str, Any]], batch: int) -> str:
    """The rows as text."""
    lines = [f"{rows[0]['encoder']}, {rows[0]['framework']}, {rows[0]['device']}, batch {batch}"]
    lines += ["ratio  visible      GMAC  fewer        ms  faster (95 %)"]
    for row in rows:
        low, high = row["faster_95"]
        lines.append(
            f"{row['ratio']:5.2f}  {row['visible']:7d}  {row['flops'] / batch / 2e9:8.1f}  "
            f"{rows[0]['flops'] / row['flops']:5.2f}  {row['median_s'] * 1e3:8.1f}  "
            f"{row['faster']:6.2f} ({low:.2f}-{high:.2f})"
        )
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("encoders", nargs="*", default=["vit_b16", "vit_l16"])
    parser.add_argument("--ratios", nargs="+", type=float, default=[0, 0.5, 0.75, 0.9])
    parser.add_argument("--batch", type=int, default=1, help="clips")
    device_options(parser)
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each ratio")
    parser.add_argument(
        "--runs", type=int, help="steps per measurement (default: 1; 10 on a GPU or TPU)"
    )
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args(arguments)
    args.runs = args.runs or (1 if args.device == "cpu" else 10)
    return args


def main() -> None:
    """Measures and prints."""
    args = parse()
    if not MALLOC.items() <= os.environ.items():  # glibc reads them when a process starts
        command = [sys.executable, "-m", "bench.mask_ratios", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **MALLOC})
    jax.config.update("jax_platforms", {"gpu": "cuda"}.get(args.device, args.device))
    results = []
    for encoder in args.encoders:
        results += measure(encoder, args.ratios, CLIP, args)
        print(table(results[-len(args.ratios) :], args.batch), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
