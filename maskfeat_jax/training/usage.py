"""How well a run uses its devices: model FLOP utilisation, memory, and a trace of some steps."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import jax

from maskfeat_jax.flops import peak_flops, training_flops
from maskfeat_jax.tasks import Task

_GIB = 2**30


class Usage:
    """Utilisation and memory of the devices."""

    def __init__(self, task: Task):
        """Counts the operations of a clip."""
        device = jax.local_devices()[0]
        self._flops = training_flops(task.model, task.clip) + 2.0 * task.teacher_products
        self._peak = peak_flops(device.device_kind)
        self._device = device

    @property
    def missing(self) -> str:
        """A sentence if the utilisation of an accelerator is not known."""
        if self._peak or self._device.platform == "cpu":
            return ""
        kind = self._device.device_kind
        return f"the peak of {kind!r} is not known (maskfeat_jax/flops.py): no utilisation is shown"

    def rates(self, clips_per_second: float) -> dict[str, float]:
        """What is known of: `mfu`, the operations of the model as a share of the peak in bfloat16.

        And of the first device `device_gib`, its memory in use, and `device_peak_gib`, the most
        that was; see `flops.training_flops` for what counts.
        """
        rates = {}
        if self._peak:
            rates["mfu"] = clips_per_second * self._flops / (jax.device_count() * self._peak)
        memory = self._device.memory_stats() or {}
        for name, key in (("device_gib", "bytes_in_use"), ("device_peak_gib", "peak_bytes_in_use")):
            if key in memory:
                rates[name] = memory[key] / _GIB
        return rates


class Profile:
    """Writes a trace of the steps of `run.profile` for XProf, in `<workdir>/profile`.

    What goes wrong is reported, and the run goes on.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        steps: tuple[int, int] | None,
        *,
        done: int,
        total: int,
        report: Callable[[str], None],
    ):
        """Reports steps that will not be made.

        Args:
          folder: of the trace.
          steps: number of the first, from 0, and how many; None for no trace.
          done: steps made before.
          total: of the whole run.
          report: gets sentences.
        """
        self._folder, self._report, self._running = folder, report, False
        self._first, self._last = (-1, -1) if steps is None else (steps[0], sum(steps))
        if steps is not None and not done <= self._first < total:
            report(
                f"warning: run.profile={steps}: no trace is written, as step {self._first} is not "
                f"among {done} to {total - 1}"
            )

    def before(self, step: int, wait_for: jax.Array) -> None:
        """Begins before the first step, and ends after the last, when `wait_for` is computed."""
        if step == self._first:
            try:
                self._folder.mkdir(exist_ok=True)  # fails now, not when the trace is complete
                jax.profiler.start_trace(self._folder)
                self._running = True
            except Exception as error:  # of the profiler, the file system, or another trace
                self._report(f"warning: run.profile: no trace is written: {error}")
        elif step == self._last:
            self.end(wait_for)

    def end(self, wait_for: jax.Array) -> None:
        """Ends the trace, if one is written."""
        if not self._running:
            return
        self._running = False
        try:
            jax.block_until_ready(wait_for)
            jax.profiler.stop_trace()
            self._report(f"a trace for XProf is in {self._folder}")
        except Exception as error:
            self._report(f"warning: run.profile: the trace is not written: {error}")
