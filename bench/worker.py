"""One side of a comparison: prepares a case, then runs it for each line of input.

The side `product` runs matrix products by XLA instead of the case. Prints one JSON object with
facts about the case when it is ready, then for each line of input (a number of runs) their total
time in seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any


def main() -> None:
    """Prepares the case and answers until the end of the input."""
    args = _arguments()
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print to stdout
    if args.threads:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    run, facts = (_theirs if args.side == "theirs" else _ours)(args)
    for _ in range(3):  # compilation and warm-up of the allocator
        run(1)
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        print(run(int(line)), file=answers, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=("ours", "theirs", "product"))
    parser.add_argument("case")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--strong", action="store_true")
    return parser.parse_args()


def _ours(args: argparse.Namespace) -> tuple[Callable[[int], float], dict[str, Any]]:
    import jax

    jax.config.update("jax_platforms", {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}[args.device])
    from bench.cases import CASES, product_case

    product = args.side == "product"
    once, facts = product_case(args.dtype) if product else CASES[args.case](args.batch, args.dtype)
    return timed(once, jax.block_until_ready), facts


def _theirs(args: argparse.Namespace) -> tuple[Callable[[int], float], dict[str, Any]]:
    import torch

    from bench.original_cases import CASES, wait

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as XLA does
    device = "cuda" if args.device == "gpu" else args.device
    once, facts = CASES[args.case](args.batch, args.dtype, device, args.strong)
    return timed(once, lambda _: wait(device)), facts


def timed(once: Callable[[], Any], finish: Callable[[Any], Any]) -> Callable[[int], float]:
    """A function that times consecutive runs in seconds; `finish` waits for the last result."""

    def run(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            result = once()
        finish(result)
        return time.perf_counter() - start

    return run


if __name__ == "__main__":
    main()
