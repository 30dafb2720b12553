"""The training loop of all tasks: iteration, timing and files; the algorithms are in `tasks/`."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from maskfeat_jax.checkpoints.checkpointer import Checkpoints
from maskfeat_jax.distributed.collectives import Agreement
from maskfeat_jax.distributed.preemption import Stopped
from maskfeat_jax.distributed.watchdog import Watchdog
from maskfeat_jax.faults import fault_point
from maskfeat_jax.state import TrainState
from maskfeat_jax.training.evaluate import Interrupted
from maskfeat_jax.training.experiment import Experiment
from maskfeat_jax.training.metrics import Diverged, MetricBuffer, StragglerDetector
from maskfeat_jax.training.prefetch import Batch, Prefetcher
from maskfeat_jax.training.usage import Profile, Usage
from maskfeat_jax.workdir.report import Report

Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


@dataclasses.dataclass
class Training:
    """Trains from the state's step to the end of the run.

    Attributes:
      experiment: what is trained.
      workdir: work directory of the run.
      state: the state to start from; after `train` the last one.
      batches: starting at the state's step.
      step: the compiled step of the experiment; donates the state.
      report: receives progress.
      checkpoints: stores states.
      agreement: requests to stop or save, the same in all processes.
      watchdog: notified of each step and phase.
      facts: stored with each checkpoint.
      unfinished: not yet reported when the state was saved: the metrics in `window`, see
        `MetricBuffer.rows`, and whether the `evaluation` of its step is still due.
    """

    experiment: Experiment
    workdir: pathlib.Path
    state: TrainState
    batches: Prefetcher
    step: Step
    report: Report
    checkpoints: Checkpoints
    agreement: Agreement
    watchdog: Watchdog
    facts: Mapping[str, Any]
    unfinished: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Initialises the counters."""
        self._run, self._total = self.experiment.run, self.experiment.total_steps
        self._done = int(self.state.step)
        self._results: dict[str, float] = {}
        limits = self._run.max_nonfinite, self._run.max_nonfinite_fraction
        self._metrics = MetricBuffer(*limits, self.unfinished["window"])
        self._evaluated_at = -1  # step of the last evaluation
        self._reported = self._done
        self._clock = Clock()
        self._stragglers = StragglerDetector()
        self._usage = Usage(self.experiment.task)
        if self._usage.missing:
            self.report.message(self._usage.missing)
        self._profile = Profile(
            self.workdir / "profile",
            self._run.profile,
            done=self._done,
            total=self._total,
            report=self.report.message,
        )

    def train(self) -> dict[str, float]:
        """Trains; returns the metrics of the last evaluation.

        Raises:
          Stopped: the run was asked to stop; its state is saved.
          Diverged: too many updates or the parameters are not finite.
        """
        if self.unfinished["evaluation"]:
            self._evaluate_and_draw()
        self._evaluated_at = self._done
        self._clock.lap()
        while self._done < self._total:
            with self._clock.waiting():
                batch = self.batches.next(self.agreement.alone)
            asked = self.agreement.asked()
            if batch is None or asked.stop:
                self._stop()
            if asked.save:
                self._save()
            self.watchdog.beat(self._done)
            fault_point("step")
            self._profile.before(self._done, self.state.step)
            self.state, metrics = self.step(self.state, batch)
            self._metrics.add(self._done, metrics, batch["index"])
            self._done += 1
            if self._done % self._run.log_every_steps == 0 or self._done == self._total:
                self._log()
            with self._clock.paused():
                if self._due(self._run.checkpoint_every_epochs):
                    self._save()  # before the evaluation, during which it is written
                self._evaluate_and_draw()
        self._profile.end(self.state.step)
        self.checkpoints.finish()
        self._report_checkpoints()
        fault_point("shutdown")
        if self.agreement.asked().stop:
            raise Stopped("training is complete and saved")
        if self._results:
            return self._results
        try:  # the run was complete before: evaluate again without reporting it twice
            return self._evaluate()
        except Interrupted:
            raise Stopped("training is complete and saved") from None

    def _due(self, every_epochs: float) -> bool:
        every = max(1, round(every_epochs * self.experiment.data.steps_per_epoch))
        return self._done == self._total or bool(every_epochs and self._done % every == 0)

    def _log(self) -> None:
        fault_point("report")
        self._fetch_metrics()
        for sentence in self._metrics.spikes():
            self.report.message(sentence)
        interval_s, waited_s = self._clock.lap()
        steps, self._reported = self._done - self._reported, self._done
        rates = self._usage.rates(self._run.batch_size * steps / interval_s)
        self.report.train(self._done, steps, self._metrics.read(), interval_s, waited_s, rates)
        if jax.process_count() > 1:
            waits = np.asarray(multihost_utils.process_allgather(np.float32(waited_s)))
            for sentence in self._stragglers.update(waits, interval_s, steps):
                self.report.message(sentence)

    def _fetch_metrics(self) -> None:
        for bad in self._metrics.fetch():
            self.report.nonfinite(bad.step, bad.loss, bad.grad_norm, bad.examples)

    def _evaluate(self) -> dict[str, float]:
        return self.experiment.evaluate(
            self.state, interrupted=self._interrupted, tables=self.workdir
        )

    def _evaluate_and_draw(self) -> None:
        """Evaluates and draws if due; saves and stops if asked to."""
        try:
            if self._due(self._run.evaluate_every_epochs):
                self._results = self._evaluate()
                if self._results:  # empty without evaluation data
                    self.report.evaluation(self._done, self._results)
            if self._due(self._run.pictures_every_epochs):
                self.watchdog.phase("drawing")
                for name, picture in self.experiment.draw(self.state).items():
                    self.report.pictures(self._done, name, picture)
        except Interrupted:
            self._stop()
        self._evaluated_at = self._done

    def _interrupted(self, waiting: bool) -> bool:
        self.watchdog.phase("evaluation")
        return self.agreement.alone() if waiting else self.agreement.asked().stop

    def _stop(self) -> NoReturn:
        self._save()
        self.watchdog.phase("saving")
        self.checkpoints.finish()
        raise Stopped(f"step {self._done} is saved")

    def _save(self) -> None:
        self.watchdog.phase("saving")
        self._fetch_metrics()
        if not _all_finite(self.state.params):
            raise Diverged(f"the parameters after step {self._done} are not finite; not saved")
        run = self._run
        due = self._due(run.evaluate_every_epochs) or self._due(run.pictures_every_epochs)
        unfinished = {
            "window": self._metrics.rows(),
            "evaluation": due and self._evaluated_at != self._done,
        }
        self.checkpoints.save(
            self._done, self.state.stored, {**self.facts, "unfinished": unfinished}
        )
        self._report_checkpoints()

    def _report_checkpoints(self) -> None:
        for sentence in self.checkpoints.messages():
            self.report.message(sentence)


class Clock:
    """Measures training time between two reports, and how much of it is waiting for input."""

    def __init__(self, now: Callable[[], float] = time.perf_counter):
        """Starts the clock; tests pass another `now`."""
        self._now = now
        self._since, self._waited_s = now(), 0.0

    def lap(self) -> tuple[float, float]:
        """Seconds since the last call, pauses excluded, and seconds of waiting among them."""
        now, waited_s = self._now(), self._waited_s
        interval_s = max(now - self._since, 1e-9)
        self._since, self._waited_s = now, 0.0
        return interval_s, waited_s

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time in this context does not count as training."""
        start = self._now()
        try:
            yield
        finally:
            self._since += self._now() - start

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time in this context counts as waiting for input."""
        start = self._now()
        try:
            yield
        finally:
            self._waited_s += self._now() - start


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))
