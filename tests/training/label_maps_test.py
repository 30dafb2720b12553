"""Recipes with pseudo-labels: what `build` refuses, and a few steps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from maskfeat_jax import convert
from maskfeat_jax.sections import RecipeError
from maskfeat_jax.training.build import build
from tests.convert.models import small
from tests.input_pipeline.label_maps_test import label_map
from tests.input_pipeline.samples import encode, picture, tensor_file
from tests.recipes import shrunken


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """16 images to train on and 8 to validate, with label maps of 10 classes."""
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", 16), ("val", 8)):
        for folder in ("images", "maps"):
            (root / folder / split).mkdir(parents=True)
        for number in range(count):
            image = encode(picture(number, 40, 56), "png")
            (root / "images" / split / f"{number}.png").write_bytes(image)
            content = tensor_file(label_map(number, shape=(2, 6, 6)))
            (root / "maps" / split / f"{number}.pt").write_bytes(content)
    return {"name": "image_folder", "path": str(root / "images"), "label_maps": str(root / "maps")}


def recipe_of(data, name="maskfeat_vit_in1k:b16", **target):
    recipe = shrunken(name)
    recipe["target"] = {"name": "pseudo_label", **target}
    if "label_maps" in data:
        data = {"map_classes": 10, **data}
    return {**recipe, "data": data, "eval_data": {"split": "val"}}


def refused(recipe):
    with pytest.raises(RecipeError) as caught:
        build(recipe)
    return str(caught.value)


def test_pseudo_labels_are_trained_evaluated_and_drawn(data):
    experiment = build(recipe_of(data, classes=10))
    state = experiment.init()
    before = experiment.evaluate(state)
    assert before["loss_of_best_constant"] < np.log(10) < before["loss"] * 1.1
    batches = experiment.batches(state)
    state, metrics = experiment.step(state, next(batches))
    batches.close()
    assert np.isfinite(metrics["loss"])
    drawn = experiment.draw(state)["predictions"]
    assert drawn.ndim == 3


def test_what_does_not_fit_is_refused(data):
    plain = {key: value for key, value in data.items() if key != "label_maps"}
    assert "data.label_maps: missing; set it to the folder" in refused(recipe_of(plain))
    assert "data.map_classes=10 differs from target.classes=1000" in refused(recipe_of(data))
    augmented = recipe_of(data, classes=10)
    augmented["view"]["rand_augment"] = "rand-m9-mstd0.5-inc1"
    assert (
        refused(augmented) == 'view.rand_augment must be "none": data.label_maps do not follow it'
    )
    videos = recipe_of({"name": "moving_shapes"}, "maskfeat_mvit_kinetics:s")
    assert "label maps are of images, but the clips are videos" in refused(videos)
    videos["data"]["label_maps"] = "maps"
    assert "data.label_maps: no such key" in refused(videos)


def test_a_classifier_makes_them_in_the_step(data, tmp_path):
    trained = dataclasses.replace(small("mean"), class_names=tuple("abcde"))
    convert.write(trained, tmp_path / "classifier", "timm")
    recipe = recipe_of({"name": "shapes"}, file=str(tmp_path / "classifier"))
    recipe["eval_data"]["split"] = "validation"
    experiment = build(recipe)
    target = experiment.task.target
    assert (target.classes, target.names, target.clip) == (5, tuple("abcde"), trained.clip)
    described = experiment.recipe["target"]
    assert described["sha256"] == convert.sha256(tmp_path / "classifier")
    state = experiment.init()
    np.testing.assert_allclose(
        state.teacher["projection"]["kernel"], trained.params["projection"]["kernel"], rtol=1e-2
    )
    assert "label_maps" not in experiment.samples
    assert "predictions" in experiment.draw(state)
    for wrong, words in (
        ({"classes": 7}, "it has 5 classes, but `classes` is 7"),
        ({"sha256": "0" * 64}, "give the file that has it"),
    ):
        assert words in refused(recipe | {"target": recipe["target"] | wrong})


def test_a_file_without_class_head_is_refused(data, tmp_path):
    convert.write(small("features"), tmp_path / "features", "timm")
    words = refused(recipe_of({"name": "shapes"}, file=str(tmp_path / "features")))
    assert words.startswith("target.file='")
    assert "it has no class head, but is a Features; give the file of a classifier" in words
