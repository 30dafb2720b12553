"""The loop: one for every task. Iteration, time and files; the algorithm is in `steps`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
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
from maskfeat_jax.train.evaluate import Interrupted
from maskfeat_jax.train.metrics import Diverged, Window
from maskfeat_jax.train.prefetch import Feed
from maskfeat_jax.train.run import Run
from maskfeat_jax.train.stragglers import SlowHosts
from maskfeat_jax.workdir.report import Report

Batch = dict[str, Any]
Interrupt = Callable[[bool], bool]


@dataclasses.dataclass
class Training:
    """Trains from the state's step to the end.

    Attributes:
      state: where to begin; after `to_the_end` where it ended.
      feed: batches, from that of the state's step on.
      run: the section of the recipe.
      steps_per_epoch: updates in an epoch; may be a fraction.
      step: the compiled step; takes the state over.
      evaluate: metrics of parameters; the second argument says whether to leave, see `evaluate`.
      draw: pictures of parameters by name.
      report: where progress goes.
      checkpoints: where states go.
      agreement: what signals ask of any process.
      watchdog: is told that the run goes on.
      facts: stored with each checkpoint.
      unfinished: what was not reported yet when the state was saved: `window`, see `Window.rows`,
        and whether the `evaluation` of its step is still to come.
    """

    state: TrainState
    feed: Feed
    run: Run
    steps_per_epoch: float
    step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]
    evaluate: Callable[[Any, Interrupt], dict[str, float]]
    draw: Callable[[Any], dict[str, np.ndarray]]
    report: Report
    checkpoints: Checkpoints
    agreement: Agreement
    watchdog: Watchdog
    facts: Mapping[str, Any]
    unfinished: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Nothing is done yet."""
        self._total = round(self.run.epochs * self.steps_per_epoch)
        self._done = int(self.state.step)
        self._results: dict[str, float] = {}
        limits = self.run.max_nonfinite, self.run.max_nonfinite_fraction
        self._window = Window(*limits, self.unfinished["window"])
        self._shown = -1  # step of the last evaluation
        self._waited_s = 0.0
        self._slow_hosts = SlowHosts()

    def to_the_end(self) -> dict[str, float]:
        """Trains; the metrics of the last evaluation.

        Raises:
          Stopped: the run was asked to stop, and everything is saved.
          Diverged: too many steps were not finite, or the parameters are not.
        """
        if self.unfinished["evaluation"]:
            self._show()
        self._shown = self._done
        while self._done < self._total:
            batch = self._next_batch()
            asked = self.agreement.asked()
            if batch is None or asked.stop:
                self._stop()
            if asked.save:
                self._save()
            self.watchdog.beat(self._done)
            fault_point("step")
            self.state, metrics = self.step(self.state, batch)
            self._window.add(self._done, metrics, batch["index"])
            self._done += 1
            if self._done % self.run.log_every_steps == 0 or self._done == self._total:
                self._log()
            with self.report.pausing():
                if self._due(self.run.checkpoint_every_epochs):
                    self._save()  # first: it is written while the evaluation runs
                self._show()
        self.checkpoints.finish()
        self._tell_of_checkpoints()
        fault_point("shutdown")
        if self.agreement.asked().stop:
            raise Stopped("everything is done and saved")
        if self._results:
            return self._results
        try:  # nothing was left to do; not reported a second time
            return self.evaluate(self.state.evaluated, self._interrupted)
        except Interrupted:
            raise Stopped("everything is done and saved") from None

    def _due(self, every_epochs: float) -> bool:
        every = max(1, round(every_epochs * self.steps_per_epoch))
        return self._done == self._total or bool(every_epochs and self._done % every == 0)

    def _next_batch(self) -> Batch | None:
        start = time.perf_counter()
        batch = self.feed.next(self.agreement.alone)
        self._waited_s += time.perf_counter() - start
        return batch

    def _log(self) -> None:
        fault_point("report")
        self._settle()
        for sentence in self._window.spiked():
            self.report.message(sentence)
        waited_s, self._waited_s = self._waited_s, 0.0
        interval_s, steps = self.report.train(self._done, self._window.read(), waited_s)
        if jax.process_count() > 1:
            waits = np.asarray(multihost_utils.process_allgather(np.float32(waited_s)))
            for sentence in self._slow_hosts.look(waits, interval_s, steps):
                self.report.message(sentence)

    def _settle(self) -> None:
        for bad in self._window.settle():
            self.report.nonfinite(bad.step, bad.loss, bad.grad_norm, bad.examples)

    def _show(self) -> None:
        """Evaluation and pictures, where they are due; saves and stops when asked to."""
        try:
            if self._due(self.run.evaluate_every_epochs):
                self._results = self.evaluate(self.state.evaluated, self._interrupted)
                if self._results:  # else there is nothing to evaluate on
                    self.report.evaluation(self._done, self._results)
            if self._due(self.run.pictures_every_epochs):
                self.watchdog.phase("drawing")
                for name, picture in self.draw(self.state.evaluated).items():
                    self.report.pictures(self._done, name, picture)
        except Interrupted:
            self._stop()
        self._shown = self._done

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
        self._settle()
        if not _all_finite(self.state.params):
            raise Diverged(f"the parameters after step {self._done} are not finite; not saved")
        run = self.run
        due = self._due(run.evaluate_every_epochs) or self._due(run.pictures_every_epochs)
        unfinished = {
            "window": self._window.rows(),
            "evaluation": due and self._shown != self._done,
        }
        self.checkpoints.save(self._done, self.state, {**self.facts, "unfinished": unfinished})
        self._tell_of_checkpoints()

    def _tell_of_checkpoints(self) -> None:
        for sentence in self.checkpoints.messages():
            self.report.message(sentence)


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))
