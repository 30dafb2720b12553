from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax.training.loop import Clock
from maskfeat_jax.training.metrics import MetricBuffer, StragglerDetector, TooManyBad


def fill(window: MetricBuffer, losses, start: int = 0, sigmas: float = 0) -> None:
    for step, loss in enumerate(losses, start):
        bad = not np.isfinite(loss)
        metrics = {"loss": jnp.float32(loss), "grad_norm": jnp.float32(2), "lr": jnp.float32(step)}
        metrics |= {f"{name}_sigmas": jnp.float32(sigmas) for name in ("loss", "grad_norm")}
        window.add(step, metrics | {"nonfinite": jnp.bool_(bad)}, np.array([step, step + 100]))


def test_means_are_over_the_finite_steps():
    window = MetricBuffer(5, 0.5)
    fill(window, [1, np.nan, 3])
    (bad,) = window.fetch()
    assert (bad.step, bad.examples) == (1, [1, 101])
    assert np.isnan(bad.loss)
    assert window.read() == {"loss": 2.0, "grad_norm": 2.0, "lr": 2.0, "nonfinite": 1.0}


def test_metrics_stored_in_json_are_restored_exactly():
    losses = np.random.default_rng(0).normal(size=37).astype(np.float32)
    losses[5] = np.inf
    whole, first = MetricBuffer(5, 0.5), MetricBuffer(5, 0.5)
    fill(whole, losses)
    fill(first, losses[:20])
    first.fetch()
    second = MetricBuffer(5, 0.5, json.loads(json.dumps(first.rows(), allow_nan=False)))
    fill(second, losses[20:], 20)
    whole.fetch()
    second.fetch()
    assert second.read() == whole.read()


def test_too_many_in_a_row_stop_and_are_named():
    window = MetricBuffer(3, 1.0)
    fill(window, [1, np.nan, np.nan, 1, np.nan, np.nan, np.nan, 1])
    with pytest.raises(TooManyBad, match="3 steps in a row") as caught:
        window.fetch()
    assert [bad.step for bad in caught.value.bad] == [4, 5, 6]


def test_too_large_a_share_stops_but_not_a_few_at_the_start():
    window = MetricBuffer(5, 0.001)
    for start in range(0, 50, 10):  # five in fifty
        fill(window, [np.nan] + [1] * 9, start)
    window.fetch()
    window = MetricBuffer(5, 0.001)
    fill(window, ([np.nan] + [1] * 9) * 12)
    with pytest.raises(TooManyBad, match=r"max_nonfinite_fraction"):
        window.fetch()


def test_a_spike_is_reported_once_and_noise_is_not():
    window = MetricBuffer(5, 0.5)
    fill(window, [1, 1.1], sigmas=5.9)
    window.fetch()
    assert window.spikes() == []
    window.read()
    fill(window, [1, 2])
    fill(window, [100], 2, sigmas=41)
    window.fetch()
    loss, grad_norm = window.spikes()
    assert "loss 100 is 41 standard deviations above its last 128 steps" in loss
    assert "grad_norm 2 is" in grad_norm


def test_the_clock_excludes_pauses_and_measures_waiting():
    now = 0.0
    clock = Clock(lambda: now)
    now = 3.0
    with clock.waiting():
        now = 5.0
    with clock.paused():
        now = 500.0
    now = 510.0
    assert clock.lap() == (15.0, 2.0)
    now = 511.0
    assert clock.lap() == (1.0, 0.0)


def test_the_process_that_keeps_others_waiting_is_named_after_a_hundred_steps():
    hosts = StragglerDetector()
    for _ in range(4):
        assert hosts.update(np.array([0.1, 4.0, 0.2, 0.1]), 10.0, 20) == []
    assert hosts.update(np.array([0.1, 0.1, 0.2, 0.1]), 10.0, 20) == []  # back in time
    warnings = [hosts.update(np.array([0.1, 4.0, 0.2, 0.1]), 10.0, 20) for _ in range(8)]
    assert [len(sentences) for sentences in warnings] == [0, 0, 0, 0, 1, 0, 0, 0]
    assert "process 1" in warnings[4][0]
    assert "40 %" in warnings[4][0]
