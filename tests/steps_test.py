from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax import steps
from maskfeat_jax.augment import Augment, Mix, Normalise
from maskfeat_jax.masking import Block, Random
from maskfeat_jax.models import create_model
from maskfeat_jax.optim import AdamW, Lars
from maskfeat_jax.state import TrainState
from maskfeat_jax.targets import Hog, Inputs, Pixels
from maskfeat_jax.tasks import Detect, Finetune, Pretrain, Probe
from maskfeat_jax.tasks.detect import Score

FIELDS = {"encoder": "vit_ti16", "width": 24, "depth": 2, "heads": 2, "tubelet": (1, 8, 8)}
SETTINGS = {"lr": 3e-3, "warmup_lr": 1e-3}
LENGTH = {"steps_per_epoch": 10, "epochs": 10, "batch_size": 256}


def batch(b=8, seed=0, side=32):
    rng = np.random.default_rng(seed)
    # Blurred noise: what is hidden can be guessed from what is seen.
    noise = rng.normal(size=(b, 1, side // 8, side // 8, 3))
    video = (
        np.kron(noise, np.ones((1, 1, 8, 8, 1))) * 50 + 128 + rng.normal(size=(b, 1, side, side, 3))
    )
    return {
        "video": video.clip(0, 255).astype(np.uint8),
        "label": rng.integers(0, 5, b).astype(np.int32),
        "valid": np.ones(b, bool),
        "index": np.arange(b),
        "boxes": np.sort(rng.uniform(0, side, (b, 3, 2, 2)), 2).reshape(b, 3, 4).astype(np.float32),
        "box_classes": rng.uniform(size=(b, 3, 5)) < 0.5,
        "box_valid": rng.uniform(size=(b, 3)) < 0.7,
    }


def trained(task, rule):
    """The state before the first step, the task and its optimiser."""
    params = jax.jit(task.init)(jax.random.key(0))
    optimizer = rule.optimizer(params, **LENGTH, frozen=task.model.frozen)
    return TrainState.create(params, optimizer), task, optimizer


COMMON = {"normalise": Normalise(), "clip": (1, 32, 32), "seed": 3}


def pretraining(drop_path=0.0, **changes):
    target = Hog((1, 8, 8), cell=4)
    model = create_model("maskfeat", head={"dim": target.dim}, drop_path=drop_path, **FIELDS)
    task = Pretrain(model=model, masker=Block(0.4), target=target, **COMMON)
    return trained(task, AdamW(**SETTINGS, clip_norm=1.0, **changes))


def finetuning(group=4, ema_decay=0.0):
    model = create_model("classifier", head={"num_classes": 5}, drop_path=0.1, **FIELDS)
    task = Finetune(model=model, augment=Augment(erase=0.25), mix=Mix(group=group), **COMMON)
    return trained(task, AdamW(**SETTINGS, layer_decay=0.75, ema_decay=ema_decay))


def autoencoding():
    target = Pixels((1, 8, 8), channels="last")
    head = {"dim": target.dim, "visible": 4, "width": 16, "depth": 1, "heads": 2}
    model = create_model("mae", head=head, positions="sincos", **{**FIELDS, "width": 32})
    task = Pretrain(model=model, masker=Random(0.75), target=target, **COMMON)
    return trained(task, AdamW(**SETTINGS))


def probing():
    model = create_model("linear_probe", head={"num_classes": 5}, **FIELDS)
    state, task, optimizer = trained(Probe(model=model, **COMMON), Lars(lr=3.0))
    # With initial parameters, tokens are too similar to detect differences.
    encoder = jax.tree.map(lambda x: 10 * x, state.params["encoder"])
    return state.replace(params={**state.params, "encoder": encoder}), task, optimizer


def detecting():
    model = create_model("boxes", head={"num_classes": 5, "dropout": 0.1}, **FIELDS)
    return trained(Detect(model=model, score=Score(), **COMMON), AdamW(**SETTINGS))


STEPS = [pretraining, autoencoding, finetuning, probing, detecting]


def compiled(task, optimizer, accumulate=1):
    return jax.jit(functools.partial(task.train_step, optimizer=optimizer, accumulate=accumulate))


def assert_close(a, b, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("make", STEPS)
def test_loss_falls_and_steps_are_pure(make):
    state, task, optimizer = make()
    run = compiled(task, optimizer)
    assert_equal(run(state, batch()), run(state, batch()))
    history = []
    for _ in range(30):
        state, metrics = run(state, batch())
        history.append(float(metrics["loss"]))
    assert np.mean(history[-5:]) < np.mean(history[:3])
    assert int(state.step) == 30
    assert int(state.skipped) == 0
    assert metrics["lr"] == optimizer.schedule(29)
    assert metrics["grad_norm"] > 0


def test_every_step_draws_anew():
    state, task, optimizer = pretraining()
    run = compiled(task, optimizer)
    later = state.replace(step=state.step + 1)
    assert run(state, batch())[1]["loss"] != run(later, batch())[1]["loss"]


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_is_exactly_the_big_batch(accumulate):
    state, task, optimizer = pretraining()
    examples = batch()
    examples["valid"][[1, 6]] = False
    whole, metrics = compiled(task, optimizer)(state, examples)
    split, others = compiled(task, optimizer, accumulate)(state, examples)
    np.testing.assert_allclose(metrics["loss"], others["loss"], rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], others["grad_norm"], rtol=1e-4)
    assert_close(whole.params, split.params, atol=2e-5)


@pytest.mark.parametrize("make", STEPS)
def test_invalid_rows_have_no_influence(make):
    state, task, optimizer = make()
    run = compiled(task, optimizer)
    one, other = batch(), batch()
    one["valid"][[0, 5]] = other["valid"][[0, 5]] = False
    other["video"][[0, 5]] = 255 - other["video"][[0, 5]]
    other["label"][[0, 5]] = 0
    other["boxes"][[0, 5]] = 1
    other["box_classes"][[0, 5]] = True
    other["boxes"][~other["box_valid"]] = 2
    other["box_classes"][~other["box_valid"]] = False
    if make is finetuning:  # their partners are mixed with them and do not count either
        other["video"][[3, 6]] //= 2
    assert_equal(run(state, one), run(state, other))
    none = batch()
    none["valid"][:] = False
    assert run(state, none)[1]["loss"] == 0


def test_a_step_that_is_not_finite_changes_nothing_but_the_count():
    state, task, optimizer = pretraining(ema_decay=0.9)
    run = compiled(task, optimizer)
    state, _ = run(state, batch())
    poisoned = state.replace(
        params={**state.params, "norm": jax.tree.map(lambda x: x * jnp.nan, state.params["norm"])}
    )
    after, metrics = run(poisoned, batch())
    assert bool(metrics["nonfinite"])
    assert (int(after.step), int(after.skipped)) == (2, 1)
    for name in ("params", "opt_state", "ema"):
        assert_equal(getattr(after, name), getattr(poisoned, name))
    healed = after.replace(params=state.params)
    _, metrics = run(healed, batch())
    np.testing.assert_allclose(metrics["lr"], optimizer.schedule(1))  # not advanced by it


@pytest.mark.parametrize(("usual", "spike"), [(0.01, True), (100.0, False), (np.nan, False)])
@pytest.mark.parametrize("skip_spikes", [6.0, 0.0])
def test_a_spike_is_measured_and_left_out_where_the_optimiser_asks(usual, spike, skip_spikes):
    state, task, optimizer = pretraining(skip_spikes=skip_spikes)
    noise = 1 + 0.1 * np.random.default_rng(0).standard_normal((128, 2), np.float32)
    before = state.replace(recent=jnp.asarray(usual * noise))
    after, metrics = compiled(task, optimizer)(before, batch())
    assert (metrics["loss_sigmas"] > 6) == spike
    left_out = spike and skip_spikes > 0
    assert int(after.skipped) == left_out
    same = jax.tree.map(lambda a, b: bool((a == b).all()), before.params, after.params)
    assert all(jax.tree.leaves(same)) == left_out
    np.testing.assert_allclose(after.recent[0], [metrics["loss"], metrics["grad_norm"]])
    np.testing.assert_array_equal(after.recent[1:], before.recent[1:])


def test_deviations_by_hand():
    recent = np.array([[1.0, 5.0], [3.0, 5.0]])
    np.testing.assert_allclose(steps.deviations(np.array([6.0, 5.5]), recent), [4.0, 0.5])
    recent[0, 0] = np.nan  # fewer than n so far
    np.testing.assert_array_equal(steps.deviations(np.array([6.0, 5.5]), recent), 0)


@pytest.mark.parametrize("valid", [True, False])
def test_a_probe_changes_itself_and_its_running_statistics_only(valid):
    state, task, optimizer = probing()
    examples = batch()
    examples["valid"][:] = valid
    after, _ = compiled(task, optimizer)(state, examples)
    assert_equal(after.params["encoder"], state.params["encoder"])
    assert_equal(after.params["norm"], state.params["norm"])
    moved = {
        name: bool(np.any(after.params[name][leaf] != state.params[name][leaf]))
        for name, leaf in (("batch_norm", "mean"), ("batch_norm", "var"), ("projection", "kernel"))
    }
    assert set(moved.values()) == {valid}


def test_a_probe_that_is_not_finite_keeps_its_statistics():
    state, task, optimizer = probing()
    params = {**state.params, "norm": {**state.params["norm"]}}
    params["norm"]["bias"] = params["norm"]["bias"] * jnp.nan
    after, metrics = compiled(task, optimizer)(state.replace(params=params), batch())
    assert bool(metrics["nonfinite"])
    assert_equal(after.params, params)


def test_moving_average():
    state, task, optimizer = finetuning(ema_decay=0.75)
    after, _ = compiled(task, optimizer)(state, batch())
    expected = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, state.params, after.params)
    assert_close(after.ema, expected)
    assert after.evaluated is after.ema
    assert finetuning()[0].ema is None


def test_evaluation_sums_over_valid_rows_only():
    state, task, _ = finetuning()
    examples = batch()
    sums, _ = jax.jit(task.eval_step)(state, examples)
    logits = np.asarray(
        task.model.apply({"params": state.params}, task.normalise(examples["video"]))
    )
    best = logits.argmax(-1) == examples["label"]
    assert int(sums["top1"]) == best.sum()
    assert int(sums["top5"]) == 8
    assert float(sums["examples"]) == 8
    examples["valid"][:3] = False
    examples["label"][:3] = -1
    sums, _ = jax.jit(task.eval_step)(state, examples)
    assert (int(sums["top1"]), float(sums["examples"])) == (best[3:].sum(), 5)
    assert np.isfinite(float(sums["loss"]))


def test_views_of_an_example_are_averaged_and_count_once():
    state, task, _ = finetuning()
    views = batch(b=12)
    views["label"] = np.repeat(np.array([0, 1, 1, 3], np.int32), 3)
    views["valid"][7] = (
        False  # one view of the third example is missing: the example does not count
    )
    step = functools.partial(task.eval_step, views=3)
    sums, each = jax.device_get(jax.jit(step)(state, views))
    logits = task.model.apply({"params": state.params}, task.normalise(views["video"]))
    scores = np.asarray(jax.nn.softmax(logits)).reshape(4, 3, 5).mean(1)
    right = scores.argmax(-1) == [0, 1, 1, 3]
    counted = np.array([True, True, False, True])
    assert sums["examples"] == 3
    assert sums["top1"] == (right & counted).sum()
    np.testing.assert_allclose(sums["loss"], -np.log(scores[[0, 1, 3], [0, 1, 3]]).sum(), rtol=1e-5)
    assert sums["class_examples"].tolist() == [1, 1, 0, 1, 0]
    assert sums["class_top1"].tolist() == [right[0], right[1], 0, right[3], 0]
    assert each["valid"].tolist() == counted.tolist()
    np.testing.assert_array_equal(each["best"], (-scores).argsort(-1))
    np.testing.assert_allclose(each["probability"], -np.sort(-scores), rtol=1e-5)


def test_pretraining_evaluation_knows_the_best_constant():
    state, task, _ = autoencoding()
    sums, each = jax.device_get(jax.jit(task.eval_step)(state, batch()))
    assert each == {}
    clips = task.normalise(batch()["video"])
    mask = np.asarray(task.masker(jax.random.key(3), 8, (1, 4, 4)))
    targets = np.asarray(task.target(Inputs(clips)))[mask]
    predicted = np.asarray(task.model.apply({"params": state.params}, clips, mask))[mask]
    assert (sums["tokens"], sums["examples"]) == (mask.sum(), 8)
    error = np.square(predicted - targets).mean()
    np.testing.assert_allclose(sums["loss"] / sums["tokens"], error, rtol=1e-5)
    np.testing.assert_allclose(
        task.results(sums, each, None).metrics["loss_of_best_constant"],
        targets.var(0).mean(),
        rtol=1e-5,
    )
