from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest

from maskfeat_jax.checkpoints.pretrained import load_params
from maskfeat_jax.training.build import build
from tests.recipes import shrunken

PRETRAIN, FINETUNE = "maskfeat_vit_in1k:b16", "finetune_vit_in1k:b16"


def test_a_custom_loop_equals_the_run(finished_run, tmp_path):
    workdir, results = finished_run(PRETRAIN)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    experiment = build(shrunken(PRETRAIN))
    state, losses = experiment.init(), []
    with contextlib.closing(experiment.batches(state)) as batches:
        for batch in batches:
            state, metrics = experiment.step(state, batch)
            losses.append(float(metrics["loss"]))
            if len(losses) == experiment.total_steps:
                break
    np.testing.assert_allclose(losses, [x["train/loss"] for x in lines if "train/loss" in x], 1e-6)
    assert experiment.evaluate(state) == pytest.approx(results, rel=1e-6)
    drawn = {path.stem.rsplit("_", 1)[0] for path in (workdir / "pictures").iterdir()}
    assert set(experiment.draw(state)) == drawn
    assert not (tmp_path / "not_made").exists()


def test_an_evaluation_starts_from_all_parameters_of_the_run(finished_run, tmp_path):
    workdir, results = finished_run(FINETUNE, init_from=PRETRAIN)
    recipe = shrunken(FINETUNE) | {"task": "evaluate"}
    recipe["model"]["init_from"] = str(workdir)
    experiment = build(recipe)
    assert experiment.optimizer is None
    state = experiment.init()
    trained = load_params(workdir).evaluated
    np.testing.assert_array_equal(
        state.params["projection"]["kernel"], trained["projection"]["kernel"]
    )
    assert experiment.evaluate(state) == pytest.approx(results, rel=1e-6)
