"""Overhead of the guards of a run: time of an update with all of them and without any.

    python -m bench.guards
    python -m bench.guards --encoder=vit_b16 --batch=8 --rounds=20

Both sides run the same network on the same batch in this process, alternating. With guards: loss
and gradient are checked on the device and a non-finite update is skipped, signals are polled, the
watchdog is called, fault points are evaluated, the metrics are kept for the next report. Without:
the update alone. Then the time is measured for which a save blocks the loop.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from bench.cases import IMAGE, IMAGE_PATCH, MASKFEAT_RULE, maskfeat_task, start
from bench.run import in_turns, interval
from maskfeat_jax import steps
from maskfeat_jax.checkpoints.checkpointer import Checkpoints
from maskfeat_jax.distributed.collectives import Agreement
from maskfeat_jax.distributed.preemption import Signals
from maskfeat_jax.distributed.watchdog import Watchdog
from maskfeat_jax.faults import fault_point
from maskfeat_jax.masking import Block
from maskfeat_jax.state import TrainState
from maskfeat_jax.training.metrics import MetricBuffer

LOG_EVERY = 50  # updates between reports


def compiled(encoder: str, batch: int, guarded: bool) -> tuple[Any, TrainState, Any]:
    """A compiled pre-training step, the initial state and a batch."""
    task = maskfeat_task(encoder, IMAGE, IMAGE_PATCH, Block())
    optimizer, state, inputs = start(task, MASKFEAT_RULE, batch)
    step = functools.partial(task.train_step, optimizer=optimizer, accumulate=1)
    guard = steps._only_if
    try:
        if not guarded:
            steps._only_if = lambda condition, change, state: change(state)
        return jax.jit(step, donate_argnums=0).lower(state, inputs).compile(), state, inputs
    finally:
        steps._only_if = guard


class Side:
    """Updates without guards."""

    def __init__(self, step: Any, state: TrainState, batch: Any, clock: Callable[[], float]):
        self.state, self.clock = state, clock
        self._step, self._batch = step, batch
        self._done = 0

    def run(self, updates: int) -> float:
        """Seconds of `updates` updates."""
        start = self.clock()
        for _ in range(updates):
            self.update()
        jax.block_until_ready(self.state)
        return self.clock() - start

    def update(self) -> dict[str, jax.Array]:
        """Makes one update."""
        self.state, metrics = self._step(self.state, self._batch)
        self._done += 1
        return metrics


class Guarded(Side):
    """Updates with guards, as in `maskfeat_jax.training.loop`."""

    def __init__(self, *args: Any, agreement: Agreement, watchdog: Watchdog):
        super().__init__(*args)
        self._agreement, self._watchdog = agreement, watchdog
        self._metrics = MetricBuffer(5, 0.001)

    def update(self) -> dict[str, jax.Array]:
        """Makes one update with guards."""
        fault_point("data.wait")
        self._agreement.alone()
        self._agreement.asked()
        self._watchdog.beat(self._done)
        fault_point("step")
        metrics = super().update()
        self._metrics.add(self._done, metrics, self._batch["index"])
        if self._done % LOG_EVERY == 0:
            self._metrics.fetch()
            self._metrics.spikes()
            self._metrics.read()
        return metrics


def larger(guarded: Any, bare: Any) -> dict[str, float]:
    """Ratios of two compiled programs: bytes accessed, operations, temporary memory."""
    costs = [program.cost_analysis() for program in (guarded, bare)]
    found = {name: costs[0][name] / costs[1][name] for name in ("bytes accessed", "flops")}
    sizes = [program.memory_analysis().temp_size_in_bytes for program in (guarded, bare)]
    return {**found, "scratch": sizes[0] / sizes[1]}


def host_seconds(guarded: Guarded, calls: int = 20_000) -> float:
    """Seconds per update that the guards take on the host, without the update itself."""
    step, clock = guarded._step, guarded.clock
    guarded._step, guarded.clock = _no_update(guarded), time.thread_time
    try:
        return guarded.run(calls) / calls
    finally:
        guarded._step, guarded.clock = step, clock


def _no_update(guarded: Guarded) -> Callable[[Any, Any], tuple[Any, Any]]:
    metrics = jax.device_get(guarded.update())
    return lambda state, batch: (state, metrics)


def saving(state: TrainState, folder: Path, times: int = 5) -> tuple[list[float], list[float]]:
    """Seconds for which saves block the loop, and until they are on disk."""
    blocked, written = [], []
    checkpoints = Checkpoints(folder)
    for step in range(times):
        checkpoints.save(step, state, {})
        blocked.append(checkpoints.blocked_s)
        checkpoints.finish()
        written.append(checkpoints.written_s)
    return blocked, written


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default="vit_s16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15, help="measurements of each side")
    parser.add_argument("--updates", type=int, default=1, help="updates per measurement")
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU time of all threads, for a shared machine"
    )
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        signals = Signals()
        with Watchdog(Path(name)) as watchdog:
            clock = time.process_time if args.cpu_time else time.perf_counter
            bare_step, *rest = compiled(args.encoder, args.batch, guarded=False)
            bare = Side(bare_step, *rest, clock)
            guards = {"agreement": Agreement(signals), "watchdog": watchdog}
            step, *rest = compiled(args.encoder, args.batch, guarded=True)
            guarded = Guarded(step, *rest, clock, **guards)
            without, with_guards = in_turns([bare.run, guarded.run], args.rounds, args.updates)
            host_s = host_seconds(guarded)
        blocked, written = saving(guarded.state, Path(name) / "checkpoints")
        signals.restore()
    low, high = interval(with_guards, without)
    found = {
        "device": jax.devices()[0].device_kind,
        "encoder": args.encoder,
        "batch": args.batch,
        "clock": "CPU time" if args.cpu_time else "time",
        "without_s": statistics.median(without),
        "with_s": statistics.median(with_guards),
        "ratio": statistics.median(with_guards) / statistics.median(without),
        "ratio_95": [low, high],
        "host_s": host_s,
        "program": larger(step, bare_step),
        "save_blocks_s": statistics.median(blocked),
        "save_s": statistics.median(written),
    }
    print(report(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def report(found: dict[str, Any]) -> str:
    """The results as text."""
    low, high = found["ratio_95"]
    share = found["host_s"] / found["without_s"]
    more = ", ".join(f"{name} {value - 1:+.4%}" for name, value in found["program"].items())
    return (
        f"{found['encoder']}, batch {found['batch']}, {found['device']}\n"
        f"{found['clock']} of an update without guards {1e3 * found['without_s']:.2f} ms, "
        f"with them {1e3 * found['with_s']:.2f} ms: "
        f"x {found['ratio']:.4f} (95 %: {low:.4f} to {high:.4f})\n"
        f"host time of the guards {1e6 * found['host_s']:.0f} us per update, {share:.3%} of it\n"
        f"compiled program with guards: {more}\n"
        f"a save blocks the loop for {1e3 * found['save_blocks_s']:.0f} ms and is on disk after "
        f"{found['save_s']:.2f} s"
    )


if __name__ == "__main__":
    main()
