"""What `build` says of a recipe with a mistake: a sentence that names the section."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from input_pipeline import BadInput
from input_pipeline.bad_inputs import Problem
from input_pipeline.loader import Loaded
from maskfeat_jax.sections import RecipeError
from maskfeat_jax.training.build import build, build_data, check_heads, first_clips
from tests.recipes import shrunken

PRETRAIN, FINETUNE = "maskfeat_vit_in1k:b16", "finetune_vit_in1k:b16"
KNN, VIDEO = "knn_mae_vit_in1k:b16", "maskfeat_mvit_kinetics:s"


def changed(name, root, **changes):
    """A recipe that starts from a folder; keys `section__key`, "..." stands for the folder."""
    recipe = copy.deepcopy(shrunken(name))
    if recipe["task"] != "pretrain":
        recipe["model"]["init_from"] = str(root)
    for key, value in changes.items():
        section, _, key = key.partition("__")
        if isinstance(value, dict) and "path" in value:
            value = {**value, "path": value["path"].replace("...", str(root))}
        if key:
            recipe.setdefault(section, {})[key] = value
        else:
            recipe[section] = value
    return recipe


def problems(recipe, read=build):
    """The sentences that refuse a recipe."""
    with pytest.raises((RecipeError, BadInput)) as refused:
        read(recipe)
    return str(refused.value).split("problems:\n- ")[-1].split("\n- ")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """16 pictures of each class in train, and validation folders that do not fit."""
    root = tmp_path_factory.mktemp("images")
    folders = {f"train/{name}": 16 for name in ("ant", "bee", "cat")}
    folders |= {"val": 4, "test/ant": 1, "test/bee": 1}
    for folder, count in folders.items():
        (root / folder).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (20, 20), (index, 0, 0)).save(root / folder / f"{index}.png")
    return root


TREE = {"name": "image_folder", "path": "..."}


@pytest.mark.parametrize("read", [build, build_data])
@pytest.mark.parametrize(
    ("name", "changes", "sentences"),
    [
        (
            FINETUNE,
            {"data": TREE, "eval_data": {"split": "val"}, "head__num_classes": 3},
            ["eval_data: this task needs labels, but its examples have none, such as {}/val/0.png"],
        ),
        (
            FINETUNE,
            {"data": TREE, "eval_data": {"split": "test"}, "head__num_classes": 3},
            ["data and eval_data have different classes, 3 and 2; only in data: 'cat'"],
        ),
        (
            FINETUNE,
            {"data": TREE, "eval_data": {"name": ""}, "head__num_classes": 2},
            ["head.num_classes=2, but data has 3 classes: 'ant', 'bee', 'cat'"],
        ),
        (
            FINETUNE,
            {"data": TREE, "eval_data": {"split": "train"}},
            ["head.num_classes=10, but data has 3", "head.num_classes=10, but eval_data has 3"],
        ),
        (
            KNN,
            {"knn__num_classes": 3},
            [
                "knn.num_classes=3, but data has 10 classes: ",
                "knn.num_classes=3, but eval_data has",
            ],
        ),
        (
            FINETUNE,
            {"data": {**TREE, "path": ".../a"}, "eval_data": {"split": "val", "path": ".../b"}},
            [
                "data: {}/a is not a folder; set path to the root of the images",
                "eval_data: {}/b is not a folder; set path to the root of the images",
            ],
        ),
        # A mistake in `data` that `eval_data` follows is one mistake.
        (
            FINETUNE,
            {"data": {**TREE, "path": ".../a"}, "eval_data": {"split": "val"}},
            ["data: {}/a is not a folder"],
        ),
        (PRETRAIN, {"run__batch_size": 64}, ["run.batch_size=64 clips, but data has only 48"]),
        (FINETUNE, {"mix__group": 3}, ["mix.group=3 does not divide run.batch_size=16"]),
        (FINETUNE, {"view__max_pixels": 0}, ["view: max_pixels is 0; it must be at least 1"]),
        (FINETUNE, {"eval_view__max_pixels": 0}, ["eval_view: max_pixels is 0"]),
        (FINETUNE, {"task": "evaluate", "view__sise": 0}, ["view.sise: no such key; did you"]),
    ],
)
def test_data_and_views_are_named(read, name, changes, sentences, images):
    found = problems(changed(name, images, **changes), read)
    assert len(found) == len(sentences), found
    for sentence, start in zip(found, sentences, strict=True):
        assert sentence.startswith(start.format(images))


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        (PRETRAIN, {"view__repeats": 3}, "run.batch_size and view: batch_size 16 is not"),
        (PRETRAIN, {"seed": -1}, "seed=-1: expected 0 or more"),
        (PRETRAIN, {"input__workers": -1}, "input: workers=-1 must not be negative"),
        (KNN, {"view__size": 64}, "view: no such section of task='knn'; did you mean 'eval_view'"),
        (FINETUNE, {"task": "evaluate", "optim__rl": 1}, "optim.rl: no such key"),
        (VIDEO, {"data__path": "gs://b/a"}, "data: gs://b/a is a URL; expected a path"),
        (PRETRAIN, {"model__init_from": "gs://b/a"}, "model: gs://b/a is a URL; expected a path"),
        (PRETRAIN, {"model__depth": 0}, "model, head and eval_view: no parameter matches"),
        (PRETRAIN, {"model__depth": -1}, "model: depth=-1 must be 0 or more"),
        (PRETRAIN, {"model__heads": 0}, "model: heads=0 must be 1 or more"),
        (VIDEO, {"model__width": -1}, "model: width=-1 must be 1 or more"),
        (VIDEO, {"model__mlp_ratio": 0}, "model: mlp_ratio=0.0 leaves an MLP of width 8 no ch"),
        ("mae_vit_in1k:b16", {"head__heads": 0}, "head: heads=0 must be 1 or more"),
        (PRETRAIN, {"model__tubelet": (0, 0, 0)}, "view, eval_view and model.tubelet: clip 1x32"),
        (
            PRETRAIN,
            {"model__attention": "cudnn"},
            "model, head and eval_view: attention='cudnn' needs an NVIDIA GPU, not cpu; use 'auto'",
        ),
        (PRETRAIN, {"target__window": 3}, "target, view and eval_view: image 32x32 is not a wh"),
        *(
            (name, {"model__dtype": dtype}, f"model: dtype={dtype!r}: expected 'float32' or 'bfl")
            for name in (PRETRAIN, KNN)
            for dtype in ("float16", "fp16", "half", "bf16", "float64", "int8", "")
        ),
    ],
)
def test_one_mistake_is_one_sentence(name, changes, sentence, tmp_path):
    [found] = problems(changed(name, tmp_path, **changes))
    assert found.startswith(sentence)


def test_a_view_that_is_too_small_for_an_example_names_the_file(images):
    data = {"name": "image_folder", "path": str(images)}
    recipe = changed(PRETRAIN, images, data=data, eval_data={"split": "val"})
    recipe["view"]["max_pixels"] = 1
    [found] = problems(recipe)
    assert "val/0.png: 20x20 pixels, the limit is 1 (max_pixels)" in found


def test_clips_for_pictures_may_be_of_files_that_are_not_those_of_the_index():
    class Data:
        source = SimpleNamespace(num_examples=3, name_of="{}\n.mp4".format)

        def load(self, pass_index, index):
            problem = Problem("stale" if index == 1 else "short", "replaced", None)
            return Loaded(np.full((1, 2), index), 0, index, 0, problem, {})

    data = Data()
    assert first_clips(data)["video"].tolist() == [[1, 1]]
    data.source.num_examples = 1
    with pytest.raises(BadInput, match=r"none of the first 1 examples can be read; 0\\n\.mp4: rep"):
        first_clips(data)


@pytest.mark.parametrize(
    ("encoder", "tensor", "heads"),
    [({"heads": 12}, 8, 12), ({"heads": 1, "stages": (1, 3, 14)}, 16, 8)],
)
def test_a_mesh_that_splits_no_heads_is_refused(encoder, tensor, heads):
    task = SimpleNamespace(model=SimpleNamespace(encoder=SimpleNamespace(**encoder)))
    message = f"mesh.tensor={tensor} does not divide the attention heads of model.encoder, {heads}:"
    with pytest.raises(RecipeError, match=message):
        check_heads(task, SimpleNamespace(shape={"tensor": tensor}))
    check_heads(task, SimpleNamespace(shape={"tensor": 4}))
