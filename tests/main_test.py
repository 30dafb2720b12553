"""Whole runs: every recipe, shrunken; resuming; errors for bad input."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from input_pipeline import BadInput
from maskfeat_jax.checkpoints.checkpointer import CheckpointError
from maskfeat_jax.checkpoints.pretrained import load_params
from maskfeat_jax.commands.train import run_recipe
from maskfeat_jax.masking import MASKERS
from maskfeat_jax.masking.block import Block
from maskfeat_jax.models.positions import sincos_table
from maskfeat_jax.sections import Reader, RecipeError
from maskfeat_jax.training.build import (
    build,
    build_computation,
    build_data,
    read_common,
    read_task,
    task_for,
)
from maskfeat_jax.workdir.workdir import RecipeChanged
from tests.recipes import CONFIGS, ROOT, path_of, recipe, shrunken

PRETRAIN, FINETUNE = "maskfeat_vit_in1k:b16", "finetune_vit_in1k:b16"


def json_lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def write_images(folder, count, suffix="png"):
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.{suffix}")


@pytest.fixture
def pretrained(finished_run):
    return finished_run(PRETRAIN)


@pytest.fixture
def autoencoder(finished_run):
    return finished_run("mae_vit_in1k:b16")


@pytest.fixture
def own_copy(pretrained, tmp_path):
    """Of a finished run, to be run again."""
    return shutil.copytree(pretrained[0], tmp_path / "copy"), pretrained[1]


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_recipe_names_exists(name):
    full = recipe(name)
    reader = Reader(full)
    task_class, trains = read_task(reader)
    common = read_common(reader, trains)
    if trains:
        build_computation(full)
    else:
        task = task_for(task_class, reader, common.eval_view)
        jax.eval_shape(task.init, jax.random.key(0))
    assert reader.problems == []


@pytest.mark.parametrize(
    ("name", "warmup_epochs", "peak", "end"),
    [
        ("mae_vit_kinetics:b16", 240, 1.6e-3, 1.6e-5),  # per node 1e-4 to 1e-6, 16 nodes
        ("mae_vit_kinetics:l16", 120, 1.6e-3, 1.6e-5),
        ("finetune_mae_vit_kinetics:l16", 10, 4.8e-3, 1.6e-4),  # mae_st: 2.4e-3 for 256, 512 clips
        ("finetune_mae_vit_kinetics:h16", 5, 4.8e-3, 1.6e-5),
        ("mae_vit_in1k:h14", 40, 2.4e-3, 0),
        ("finetune_mae_vit_in1k:b16", 5, 2e-3, 1e-6),
        ("finetune_mae_vit_in1k:h14", 5, 4e-3, 1e-6),
        ("linear_mae_vit_in1k:l16", 10, 6.4, 0),
    ],
)
def test_learning_rates_of_masked_autoencoders(name, warmup_epochs, peak, end):
    schedule = build_computation(recipe(name)).optimizer.schedule
    at = [warmup_epochs - 5, warmup_epochs, recipe(name)["run"]["epochs"]]
    rising, highest, last = (float(schedule(100 * epoch)) for epoch in at)
    assert rising < highest == pytest.approx(peak, rel=1e-6)
    assert last == pytest.approx(end, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("name", ["maskfeat_openmmlab_vit_in1k", "scratch_vit_in1k:b16"])
def test_shrunken_recipe_runs(name, tmp_path):
    results = run_recipe(shrunken(name), tmp_path / "run")
    assert results["used"] == results["expected"] == 21
    assert np.isfinite(list(results.values())).all()


@pytest.mark.slow
def test_videos_are_trained_on_and_evaluated_with_views(tmp_path):
    pretrained = run_recipe(shrunken("maskfeat_mvit_kinetics:s"), tmp_path / "pretrained")
    assert 0 < pretrained["loss"] < 1
    assert pretrained["used"] == pretrained["expected"] == 21
    moving = list((tmp_path / "pretrained" / "pictures").glob("*.gif"))
    assert len(moving) == 2
    tuned = shrunken("finetune_mvit_kinetics:s")
    tuned["model"]["init_from"] = str(tmp_path / "pretrained")
    results = run_recipe(tuned, tmp_path / "tuned")
    assert results["used"] == results["expected"] == 21
    assert 0 <= results["top1"] <= results["top5"] <= 1
    table = (tmp_path / "tuned" / "per_class.csv").read_text().splitlines()
    assert table[0] == "class,examples,top1"
    assert [line.split(",")[1] for line in table[1:]] == ["3"] * 5 + ["2"] * 3


def same(fresh, source):
    jax.tree.map(np.testing.assert_array_equal, fresh, {name: source[name] for name in fresh})


def test_a_linear_probe_does_not_change_the_encoder(autoencoder, tmp_path):
    source = load_params(autoencoder[0]).params
    table = source["encoder"]["pos_embed"]
    np.testing.assert_array_equal(table, sincos_table((1, 2, 2), 32))
    small = shrunken("linear_mae_vit_in1k:b16")
    with pytest.raises(
        RecipeError, match="model.init_from: missing; set it to the run or checkpoint"
    ):
        build(small)
    small["model"]["init_from"] = str(autoencoder[0])
    results = run_recipe(small, tmp_path / "probe")
    assert results["used"] == results["expected"] == 21
    assert 0 <= results["top1"] <= results["top5"] <= 1
    params = load_params(tmp_path / "probe").params
    for module in ("encoder", "norm"):
        same(params[module], source[module])
    assert np.any(params["projection"]["bias"] != 0)
    assert np.any(params["batch_norm"]["mean"] != 0)
    # Restored with its frozen parameters, and evaluated with its running statistics.
    assert run_recipe(copy.deepcopy(small), tmp_path / "probe") == results
    small["task"], small["model"]["init_from"] = "evaluate", str(tmp_path / "probe")
    assert run_recipe(small, tmp_path / "evaluated") == pytest.approx(results, rel=1e-6)


def test_neighbours_are_those_of_the_training_data(autoencoder, tmp_path):
    small = shrunken("knn_mae_vit_in1k:b16")
    small["model"]["init_from"] = str(autoencoder[0])
    small["knn"]["k"] = 1
    small["eval_data"] = small["data"]  # each is its own neighbour
    results = run_recipe(small, tmp_path / "knn")
    assert results["used"] == results["expected"] == 48
    assert results["top1"] == 1
    small["knn"]["k"] = 49
    with pytest.raises(RecipeError, match=r"knn\.k=49, but only 48 examples"):
        run_recipe(small, tmp_path / "too_many")


def test_finetuning_learns_on_from_the_positions_of_an_image_autoencoder(autoencoder, tmp_path):
    small = shrunken("finetune_mae_vit_in1k:b16")
    small["model"]["init_from"] = str(autoencoder[0])
    experiment = build(small)
    fresh = experiment.init().params
    source = load_params(autoencoder[0]).params
    same(fresh["encoder"], source["encoder"])
    assert "pos_embed" in fresh["encoder"]
    assert experiment.task.model.frozen == ()
    assert np.any(source["norm"]["bias"] != 0)
    assert np.all(fresh["norm"]["bias"] == 0)


def test_a_video_autoencoder_learns_and_finetuning_takes_its_norm_too(finished_run, tmp_path):
    workdir, results = finished_run("mae_vit_kinetics:b16")
    assert 0 < results["loss"] < 2
    assert results["used"] == results["expected"] == 21
    rows = json_lines(workdir / "metrics.jsonl")
    # Two epochs of 48 clips, which are two times 12 videos.
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6]
    assert len(list((workdir / "pictures").glob("*.gif"))) == 2
    small = shrunken("finetune_mae_vit_kinetics:b16")
    small["model"]["init_from"] = str(workdir)
    experiment = build(small)
    fresh = experiment.init().params
    source = load_params(workdir).params
    for module in ("encoder", "norm"):
        same(fresh[module], source[module])
    assert np.any(fresh["norm"]["bias"] != 0)


def test_boxes_are_trained_scored_and_drawn(tmp_path):
    config = shrunken("demo_actions")
    config["eval_view"]["resize"] = 32
    trained = run_recipe(config, tmp_path / "a")
    assert {"mAP", "mAP_motion", "mAP_outline", "mAP_company"} <= set(trained)
    assert trained["used"] == trained["expected"] == 21
    with (tmp_path / "a" / "per_class.csv").open() as file:
        known = [float(row["average_precision"] or "nan") for row in csv.DictReader(file)]
    np.testing.assert_allclose(np.nanmean(known), trained["mAP"])
    lines = (tmp_path / "a" / "detections.csv").read_text().splitlines()
    assert len(lines) % 11 == 0
    assert len(lines[0].split(",")) == 8
    assert list((tmp_path / "a" / "pictures").glob("predictions*.png"))
    # Frames are square, so that the whole frame is the centre crop.
    config["eval_view"]["full_frame"] = True
    evaluated = {**config, "task": "evaluate"}
    evaluated["model"] = {**config["model"], "init_from": str(tmp_path / "a")}
    again = run_recipe(evaluated, tmp_path / "b")
    assert again["mAP"] == pytest.approx(trained["mAP"])
    assert (tmp_path / "b" / "detections.csv").read_text().splitlines() == lines


def test_boxes_and_labels_do_not_take_the_place_of_each_other(tmp_path):
    boxes, labels = shrunken("demo_actions"), shrunken("demo_video:finetune")
    both = {**labels, "data": boxes["data"], "eval_data": boxes["eval_data"]}
    for view in ("view", "eval_view"):
        both[view] = {**labels[view], "sampling": "centred"}
    both["eval_view"]["clips"] = 1
    with pytest.raises(RecipeError, match="data: its examples have boxes with classes"):
        build(both)
    with pytest.raises(RecipeError, match="head.name='boxes' needs examples with boxes"):
        build({**boxes, **{k: labels[k] for k in ("data", "eval_data", "view", "eval_view")}})
    for section, key, value, words in (
        ("view", "rand_augment", "rand-m7-n4-mstd0.5-inc1", "data.boxes do not follow it"),
        ("augment", "flip", 0.5, "augment.flip must be 0"),
        ("score", "scorer", "coco", "score.scorer|scorer='coco'"),
        ("view", "sampling", "dense", 'needs "centred"'),
    ):
        wrong = copy.deepcopy(boxes)
        wrong.setdefault(section, {})[key] = value
        with pytest.raises(RecipeError, match=words):
            build(wrong)


def test_flips_that_change_classes_are_refused():
    small = shrunken("demo_video:finetune")
    assert small["augment"]["flip"] == 0
    small["augment"]["flip"] = 0.5
    small["data"]["outlines"] = True
    with pytest.raises(RecipeError, match="augment.flip must be 0"):
        build(small)


def test_files_of_a_pretraining_run(pretrained):
    workdir, results = pretrained
    assert 0 < results["loss"] < 1
    assert 0 < results["loss_of_best_constant"] < 1 / 9 + 1e-6
    rows = json_lines(workdir / "metrics.jsonl")
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "eval/loss" in row] == [3, 6]
    assert json.loads((workdir / "config.json").read_text())["target"]["name"] == "hog"
    assert json.loads((workdir / "STATUS.json").read_text())["state"] == "finished"
    assert "step 6/6 (100.0 %)" in (workdir / "log.txt").read_text()
    assert Image.open(workdir / "pictures" / "predictions_6.png").size[0] > 400
    assert list(workdir.glob("events.out.tfevents*"))
    assert not (workdir / "bad_inputs.jsonl").exists()


def test_evaluation_agrees_in_batches_of_any_size(finished_run, tmp_path):
    workdir, results = finished_run(FINETUNE, init_from=PRETRAIN)
    assert 0 <= results["top1"] <= results["top5"] <= 1
    small = shrunken(FINETUNE)
    small["task"], small["model"]["init_from"] = "evaluate", str(workdir)
    for batch_size in (24, 5):
        small["run"]["batch_size"] = batch_size
        again = run_recipe(copy.deepcopy(small), tmp_path / f"evaluated{batch_size}")
        assert again["top1"] == results["top1"]
        assert again["used"] == 21
        np.testing.assert_allclose(again["loss"], results["loss"], rtol=1e-5)
        workdir = tmp_path / f"evaluated{batch_size}"
        table = (workdir / "per_class.csv").read_text().splitlines()
        assert table[0] == "class,examples,top1"
        assert [line.split(",")[1] for line in table[1:]] == ["3"] + ["2"] * 9
        rows = list(csv.DictReader((workdir / "predictions.csv").open()))
        source = build(small).testing.source
        assert [row["file"] for row in rows] == [source.name_of(i) for i in range(21)]
        labels = [source.class_names[source.read(i).label] for i in range(21)]
        assert [row["label"] for row in rows] == labels
        assert sum(row["class_1"] == row["label"] for row in rows) / 21 == results["top1"]
        first = [float(rows[0][f"probability_{rank}"]) for rank in range(1, 6)]
        assert first == sorted(first, reverse=True)
        assert 0 < sum(first) <= 1


def test_rerunning_a_finished_run_changes_nothing(own_copy):
    workdir, results = own_copy
    before = (workdir / "metrics.jsonl").read_text()
    assert run_recipe(shrunken(PRETRAIN), workdir) == results
    assert (workdir / "metrics.jsonl").read_text() == before


def test_changed_recipe_stops_with_the_difference(pretrained):
    changed = shrunken(PRETRAIN)
    changed["mask"]["ratio"] = 0.5
    changed["run"]["log_every_steps"] = 2  # harmless
    with pytest.raises(RecipeChanged, match=r"mask\.ratio: 0\.4 -> 0\.5") as error:
        run_recipe(changed, pretrained[0])
    assert "log_every_steps: " not in str(error.value)


def test_a_default_that_changed_in_the_code_stops_a_resumed_run(own_copy, monkeypatch):
    workdir, _ = own_copy
    before = shrunken(PRETRAIN)
    assert "aspect" not in before["mask"]
    defaults = dataclasses.fields(Block)
    changed = [(f.name, f.type, 0.4 if f.name == "aspect" else f.default) for f in defaults]
    other = dataclasses.make_dataclass("Block", changed, bases=(Block,), frozen=True)
    monkeypatch.setitem(MASKERS, "block", other)
    with pytest.raises(RecipeChanged, match=r"\n  mask\.aspect: 0\.3 -> 0\.4\n"):
        run_recipe(before, workdir)


def test_evaluation_follows_training(tmp_path):
    small = shrunken(PRETRAIN)
    small["eval_view"] = {"resize": 36}
    small["eval_data"] = {"split": "validation", "num_examples": 21}
    experiment = build(small)
    assert experiment.recipe["eval_view"]["size"] == 32
    assert experiment.recipe["eval_data"] == {**experiment.recipe["data"], **small["eval_data"]}
    assert experiment.testing.source.num_examples == 21
    small["eval_data"] = {"name": "image_folder", "path": str(tmp_path), "split": "val"}
    with pytest.raises(RecipeError, match="eval_data: .*val"):
        build(small)
    small["eval_data"] = {"num_examples": 21}
    with pytest.raises(RecipeError, match=r"eval_data\.split: missing"):
        build(small)
    for without in ({"name": ""}, None):
        small = {**small, "eval_data": without}
        if without is None:
            del small["eval_data"]
        assert build(small).testing is None


def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(own_copy):
    workdir, results = own_copy
    largest = max(
        (workdir / "checkpoints/6").rglob("*"), key=lambda p: p.is_file() and p.stat().st_size
    )
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    assert run_recipe(shrunken(PRETRAIN), workdir) == results
    assert largest.name in (workdir / "log.txt").read_text()
    shutil.rmtree(workdir / "checkpoints/3")
    for step in (workdir / "checkpoints").iterdir():
        (step / "manifest.json").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="checkpoints"):
        run_recipe(shrunken(PRETRAIN), workdir)


SCRIPT = """
import json, os, sys
sys.path.insert(0, {root!r})
import pathlib, input_pipeline
from maskfeat_jax.commands.train import run_recipe
from tests.recipes import shrunken

original = input_pipeline.Loader.train_batches
def noted(self, start_step=0):
    for step, batch in enumerate(original(self, start_step), start_step):
        with open({ids!r}, "a") as f:
            f.write(json.dumps([step, batch["index"].tolist()]) + "\\n")
        yield batch
input_pipeline.Loader.train_batches = noted
small = shrunken({recipe!r}, depth=2)
small["run"] = dict(epochs=8, batch_size=16, log_every_steps=1, checkpoint_every_epochs=1.0,
                    evaluate_every_epochs=0.0, pictures_every_epochs=0.0)
run_recipe(small, pathlib.Path({workdir!r}))
"""


def start(workdir: pathlib.Path) -> subprocess.Popen:
    script = SCRIPT.format(
        root=str(ROOT), ids=str(workdir) + ".ids", recipe=FINETUNE, workdir=str(workdir)
    )
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def examples(workdir: pathlib.Path) -> dict[int, list[int]]:
    lines = pathlib.Path(str(workdir) + ".ids").read_text().splitlines()
    return dict(json.loads(line) for line in lines)


def test_killed_and_resumed_equals_uninterrupted_to_the_bit(tmp_path):
    whole = start(tmp_path / "whole")
    assert whole.wait(timeout=300) == 0, whole.stderr.read().decode()
    killed = start(tmp_path / "killed")
    deadline = time.time() + 120
    log = tmp_path / "killed" / "metrics.jsonl"
    while time.time() < deadline and killed.poll() is None:
        if log.exists() and len(log.read_text().splitlines()) > 3 * 2 + 1:
            break  # two checkpoints seen: somewhere in the next epoch
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    last = start(tmp_path / "killed")
    assert last.wait(timeout=300) == 0, last.stderr.read().decode()
    a, b = load_params(tmp_path / "whole"), load_params(tmp_path / "killed")
    assert a.step == b.step == 24
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
    ids = examples(tmp_path / "whole")
    consumed = {step: ids[step] for step in range(24)}
    assert {step: examples(tmp_path / "killed")[step] for step in range(24)} == consumed
    for epoch in range(8):  # no example twice in an epoch
        seen = [i for step in range(3 * epoch, 3 * epoch + 3) for i in consumed[step]]
        assert len(set(seen)) == len(seen) == 48


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("mask", "ratoi", 0.4, r"mask\.ratoi: no such key; did you mean 'ratio'\?"),
        ("optim", "clipnorm", 0.4, r"optim\.clipnorm: no such key; did you mean 'clip_norm'\?"),
        ("model", "widht", 3, r"model\.widht: no such key; did you mean 'width'\?"),
        ("model", "encodr", "", r"model\.encodr: no such key; did you mean 'encoder'\?"),
        ("model", "encoder", "vit_t16", r"'vit_t16' does not exist; did you mean 'vit_ti16'\?"),
        ("target", "name", "hogs", r"target\.name='hogs' does not exist; did you mean 'hog'\?"),
        ("data", "name", "image_folders", "did you mean 'image_folder'"),
        ("eval_view", "size", 36, "clip 1x36x36 is not a whole number of 1x16x16 tubelets"),
        ("target", "cell", 6, "patch 16x16 is not a whole number of 6x6 HOG cells"),
        ("mask", "ratio", 0.0, "mask ratio 0.0 is not between 0 and 1"),
        ("run", "batch_size", 64, "data has only 48"),
        ("run", "accumulate", 3, "16 is not divisible by 1 devices x 3 slices"),
        ("run", "epochs", -1, r"epochs=-1\.0 must be positive"),
        ("optim", "warmup_epochs", 2, r"warmup_epochs=2\.0 is not below epochs=2\.0"),
        ("augment", "flip", 2, r"flip=2\.0 is not a probability"),
        (
            "head",
            "name",
            "linear_probe",
            "'linear_probe' does not fit task='pretrain', which takes",
        ),
        ("head", "name", "maskfaet", "'maskfaet' does not exist; did you mean 'maskfeat'"),
        ("data", "name", "", "data.name: missing; set the dataset to train on"),
        (
            "model",
            "init_parts",
            "encoder",
            r"model\.init_parts='encoder': expected a list, each a string",
        ),
    ],
)
def test_bad_recipe_gets_one_clear_sentence(section, key, value, words, tmp_path):
    small = shrunken(PRETRAIN)
    small[section][key] = value
    with pytest.raises(RecipeError, match=words):
        build(small)


def test_all_problems_are_reported_at_once(tmp_path):
    small = shrunken(PRETRAIN)
    small["mask"]["ratio"] = 2.0
    small["run"]["epoch"] = 3
    small["optim"]["layer_decay"] = 0.0
    small["data"] = {"name": "image_folder", "path": str(tmp_path / "nowhere"), "split": "train"}
    small["extra"] = {}
    with pytest.raises(RecipeError, match="5 problems") as error:
        run_recipe(small, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for words in (
        "mask ratio 2.0",
        "run.epoch: no such key",
        "optim: layer_decay=0.0 is not",
        "nowhere",
        "extra: no such section",
    ):
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("data", r"data\.name: missing; set the dataset to train on"),
        ("mask", r"mask\.name: missing; choices: block, cube"),
        ("model", r"model\.encoder='' does not exist"),
        ("optim", r"optim\.name: missing"),
        ("run", r"run\.batch_size: missing"),
        ("task", "task: missing in the recipe"),
    ],
)
def test_required_keys(section, words):
    small = shrunken(PRETRAIN)
    del small[section]
    with pytest.raises(RecipeError, match=words):
        build(small)


def test_labels_must_fit(tmp_path):
    small = shrunken(FINETUNE)
    small["head"]["num_classes"] = 11
    for read in (build, build_data):
        with pytest.raises(RecipeError, match="num_classes=11, but data has 10 classes"):
            read(small)
    write_images(tmp_path / "images", 20)
    small["data"] = {"name": "image_folder", "path": str(tmp_path / "images")}
    with pytest.raises(
        RecipeError, match="data: this task needs labels, but its examples have none"
    ):
        build(small)


def test_init_from_must_fit(pretrained, tmp_path):
    small = shrunken(FINETUNE)
    small["model"]["init_from"] = str(tmp_path / "nowhere")
    with pytest.raises(RecipeError, match="nowhere'?: no such file or directory"):
        build(small)
    small["model"].update(init_from=str(pretrained[0]), width=48)
    with pytest.raises(ValueError, match="parameters do not fit the model: encoder/"):
        build(small).init()
    small["model"]["init_parts"] = ("encoder", "nrom")
    with pytest.raises(ValueError, match="init_parts names 'nrom'; the model has encoder, norm"):
        build(small).init()


def test_an_autoencoder_needs_the_same_number_of_tokens_in_each_clip(tmp_path):
    small = shrunken("mae_vit_in1k:b16")
    small["mask"] = {"name": "block", "ratio": 0.5}
    with pytest.raises(RecipeError, match=r"Block masks a varying number .* set mask\.exact=True"):
        build(small)
    small["mask"]["exact"] = True
    assert build(small).task.model.visible == 2


def test_classes_must_be_the_same(tmp_path):
    small = shrunken(FINETUNE)
    for split, last in (("train", "cat"), ("test", "dog")):
        for name in ("bird", last):
            write_images(tmp_path / split / name, 16)
        where = "data" if split == "train" else "eval_data"
        small[where] = {"name": "image_folder", "path": str(tmp_path), "split": split}
    small["head"]["num_classes"] = 2
    with pytest.raises(RecipeError, match="different classes, 2 and 2; only in data: 'cat'"):
        build(small)


def test_folder_without_a_readable_image(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(20):
        (tmp_path / "images" / f"{i}.jpg").write_bytes(b"<html>" * i)
    small = shrunken(PRETRAIN)
    small["data"] = {"name": "image_folder", "path": str(tmp_path / "images")}
    small["eval_data"] = {"name": ""}
    with pytest.raises(BadInput, match=r"none of the first 20 examples can be read; .*0\.jpg"):
        run_recipe(small, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pretraining_needs_no_labels_and_no_evaluation(tmp_path):
    write_images(tmp_path / "images" / "deep", 48)
    small = shrunken(PRETRAIN)
    small["data"] = {"name": "image_folder", "path": str(tmp_path / "images")}
    small["eval_data"] = {"name": ""}
    assert run_recipe(small, tmp_path / "run") == {}
    assert (tmp_path / "run" / "checkpoints" / "6").is_dir()


def test_bad_images_are_skipped_in_training_and_an_error_in_evaluation(tmp_path):
    for split, count in (("train", 5), ("val", 2)):
        for name in "abcdefghij":
            write_images(tmp_path / "images" / split / name, count, "jpg")
    (tmp_path / "images/train/a/3.jpg").write_bytes(b"<html>")
    small = shrunken(FINETUNE)
    small["data"] = {"name": "image_folder", "path": str(tmp_path / "images"), "split": "train"}
    small["eval_data"] = {**small["data"], "split": "val"}
    small["bad_inputs"]["max_fraction"] = 0.2
    results = run_recipe(small, tmp_path / "run")
    assert results["used"] == 20
    bad = json_lines(tmp_path / "run/bad_inputs.jsonl")
    assert [pathlib.Path(row["file"]).parts[-2:] for row in bad] == [("a", "3.jpg")]
    (tmp_path / "images/val/b/1.jpg").write_bytes(b"")
    with pytest.raises(BadInput, match=r"val/b/1\.jpg"):
        run_recipe(small, tmp_path / "run2")
    small["input"]["on_bad_in_evaluation"] = "skip"
    results = run_recipe(small, tmp_path / "run3")
    assert (results["used"], results["expected"]) == (19, 20)


def command(*words, **env):
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *words],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        timeout=300,
        check=False,
    )


def test_command_line(tmp_path):
    config = f"--config={path_of(PRETRAIN)}"
    done = command(config, f"--workdir={tmp_path}/run", "--config.data.path=/nowhere")
    assert done.returncode == 78
    assert "Traceback" not in done.stderr
    assert "/nowhere" in done.stderr
    done = command(config, f"--workdir={tmp_path}/run", "--config.maks.ratio=0.1")
    assert done.returncode != 0
    assert "maks" in done.stderr
    assert "mask" in done.stderr
    done = command("--help")
    assert "--workdir" in done.stdout + done.stderr
    assert os.listdir(tmp_path) == []
