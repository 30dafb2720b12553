"""Classes of a checkpoint and of the data are matched by name."""

from __future__ import annotations

import csv
import itertools
import warnings

import jax
import numpy as np
import pytest

import maskfeat_jax as mf
from input_pipeline import Shapes
from maskfeat_jax.convert import export, files, load, save, write
from maskfeat_jax.sections import Reader, RecipeError
from maskfeat_jax.tasks import TASKS
from maskfeat_jax.training.build import build, build_data
from maskfeat_jax.training.initial import InitFrom, initial_params, with_classes
from maskfeat_jax.transfer import TransferError
from tests.extract.extract_test import a_run
from tests.recipes import shrunken

PRETRAIN, FINETUNE = "maskfeat_vit_in1k:b16", "finetune_vit_in1k:b16"
NAMES = Shapes(num_examples=1).class_names


class Renamed:
    """Shapes whose class k has another name, and the classes in the order of these names."""

    def __init__(self, names, split="validation", sort=sorted):
        self._shapes = Shapes(split, num_examples=21, size=32)
        self._names, self.class_names = names, tuple(sort(names))
        self.num_examples, self.fingerprint = 21, "renamed"

    def name_of(self, index):
        return f"picture {index}"

    def read(self, index):
        example = self._shapes.read(index)
        return example._replace(label=self.class_names.index(self._names[example.label]))


@pytest.fixture
def classifier(finished_run):
    return finished_run(FINETUNE, init_from=PRETRAIN)


def evaluating(workdir, eval_data, **model):
    small = shrunken(FINETUNE) | {"task": "evaluate", "eval_data": eval_data}
    small["model"] |= {"init_from": str(workdir), **model}
    return small


def test_a_checkpoint_has_the_names_of_its_classes(classifier, tmp_path):
    assert mf.load(classifier[0]).class_names == NAMES
    save(load(classifier[0]), tmp_path / "copy", "maskfeat_jax")
    assert mf.load(tmp_path / "copy").class_names == NAMES


def test_the_same_classes_in_another_order(classifier, tmp_path):
    workdir, results = classifier
    backwards = Renamed(NAMES, sort=lambda names: sorted(names, reverse=True))
    assert backwards.class_names == NAMES[::-1]
    again = mf.train(build(evaluating(workdir, backwards)), tmp_path / "again")
    assert again == pytest.approx(results, rel=1e-6)
    rows = list(csv.DictReader((tmp_path / "again/predictions.csv").open()))
    right = sum(row["label"] == row["class_1"] for row in rows)
    assert right / len(rows) == pytest.approx(results["top1"])


def test_other_classes_are_an_error(classifier):
    workdir, _ = classifier
    wnids = [f"n{number:08d}" for number in range(10)]
    recipe = evaluating(workdir, Renamed(wnids))
    sentence = (
        rf"{workdir}: .* only in the checkpoint: 'arrow', .* in the data: 'n00000000', .*=number"
    )
    with pytest.raises(TransferError, match=sentence):
        build(recipe).init()
    with pytest.raises(TransferError, match=sentence):
        build_data(recipe)
    assert len(build_data(recipe | {"model": {**recipe["model"], "init_from": ""}})[0]) == 1


@pytest.mark.parametrize("names", [[f"n{n:08d}" for n in range(10)], list(map(str, range(10)))])
def test_classes_matched_by_number(classifier, names):
    """Folders may be named by the numbers of the classes, as those of ImageNetV2."""
    workdir, results = classifier
    experiment = build(evaluating(workdir, Renamed(names), init_classes="number"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert experiment.evaluate(experiment.init()) == pytest.approx(results, rel=1e-6)


def test_an_evaluation_takes_all_parts(classifier):
    """A recipe of fine-tuning that names parts, such as of MAE on Kinetics, is evaluated, too."""
    workdir, results = classifier
    experiment = build(evaluating(workdir, Renamed(NAMES), init_parts=("encoder", "norm")))
    assert experiment.evaluate(experiment.init()) == pytest.approx(results, rel=1e-6)


def test_numbers_of_more_than_ten_classes_are_not_those_of_their_order():
    names = list(map(str, range(11)))
    head = {"kernel": np.eye(11), "bias": np.arange(11.0)}
    source = InitFrom("a file", classes="number")
    moved = with_classes({"projection": head}, source, None, sorted(names))["projection"]
    assert moved["bias"].tolist() == [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9]
    with pytest.warns(UserWarning, match="a file does not hold .*0 as '0', 1 as '1', 10 as '10'"):
        with_classes({"projection": head}, InitFrom("a file"), None, sorted(names))
    words = [f"n{number:02d}" for number in range(11)]  # the order of the checkpoint counts, too
    for known, wanted in itertools.product([names, sorted(names), words], repeat=2):
        moved = with_classes({"projection": head}, source, known, wanted)["projection"]
        numbers = list(map(int, sorted(names)))
        ours, theirs = (numbers if x == sorted(names) else range(11) for x in (wanted, known))
        assert [theirs[int(column)] for column in moved["bias"]] == list(ours)


def test_fine_tuning_from_a_classifier(classifier):
    workdir, _ = classifier
    small = shrunken(FINETUNE) | {"data": Renamed(NAMES, "train", sort=lambda x: x[::-1])}
    small["eval_data"] = Renamed(NAMES)
    small["model"] |= {"init_from": str(workdir), "init_parts": ("encoder", "norm", "projection")}
    experiment = build(small)
    trained = load(workdir).params["projection"]["kernel"]
    begun = np.asarray(experiment.init().params["projection"]["kernel"])
    np.testing.assert_array_equal(begun, trained[:, ::-1])
    # eval_data has its own order, and the numbers of data.
    source = experiment.testing.source
    assert source.class_names == NAMES[::-1]
    assert source.class_names[source.read(0).label] == NAMES[Shapes("validation").read(0).label]
    small["data"] = Renamed([f"a {name}" for name in NAMES], "train")
    with pytest.raises(RecipeError, match=r"data and eval_data .* only in data: 'a arrow'"):
        build(small)
    small["eval_data"] = small["data"]
    with pytest.raises(TransferError, match="different classes, 10 and 10"):
        build(small).init()
    small["model"]["init_parts"] = ("encoder", "norm")  # the classes of the checkpoint are not used
    build(small).init()


def test_neighbours_vote_for_classes_of_the_same_name(finished_run):
    autoencoder, _ = finished_run("mae_vit_in1k:b16")
    small, found = shrunken("knn_mae_vit_in1k:b16"), []
    small["model"]["init_from"], small["knn"]["k"] = str(autoencoder), 5
    for eval_data in (Renamed(NAMES), Renamed(NAMES, sort=lambda names: names[::-1])):
        experiment = build(small | {"eval_data": eval_data})
        found.append(experiment.evaluate(experiment.init()))
    assert found[0] == found[1]


def test_neighbours_may_have_other_classes_than_the_checkpoint(classifier):
    small, others = shrunken("knn_mae_vit_in1k:b16"), [f"a {name}" for name in NAMES]
    small |= {"data": Renamed(others, "train"), "eval_data": Renamed(others)}
    small["model"]["init_from"] = str(classifier[0])
    loaders, _ = build_data(small)
    assert list(loaders) == ["data", "eval_data"]


@pytest.mark.parametrize(
    ("section", "changes", "refused_by"),
    [
        ("model", {"heads": 4}, "both"),
        ("model", {"epsilon": 1e-5}, "both"),
        ("head", {"pool": "class"}, "evaluation"),
        ("head", {"norm_of": "tokens"}, "evaluation"),
        ("normalise", {"mean": (0.5, 0.5, 0.5)}, "evaluation"),
    ],
)
def test_settings_that_parameters_do_not_show(classifier, tmp_path, section, changes, refused_by):
    """Fine-tuning from a classifier may pool and normalise otherwise."""
    write(load(classifier[0]), tmp_path / "timm", "timm")
    (key,) = changes
    for source in (classifier[0], tmp_path / "timm"):
        recipe = evaluating(source, Renamed(NAMES))
        recipe[section] = {**recipe.get(section, {}), **changes}
        with pytest.raises(TransferError, match=rf"{section}\.{key}=.* model\.init_from has "):
            build(recipe).init()
        tuning = build(recipe | {"task": "finetune"})
        if refused_by == "evaluation":
            tuning.init()
            continue
        with pytest.raises(TransferError, match=rf"{section}\.{key}=.* model\.init_from has "):
            tuning.init()


def test_heads_of_the_same_parameters_are_not_the_same(classifier):
    """A linear probe has all parameters of a classifier, and a norm of its own."""
    recipe = evaluating(classifier[0], Renamed(NAMES))
    del recipe["mix"]
    recipe["head"] = {"name": "linear_probe", "num_classes": 10, "pool": "mean"}
    with pytest.raises(TransferError, match="head.name='linear_probe', .* has 'classifier'"):
        build(recipe).init()


def test_a_frozen_encoder_has_the_tokens_that_it_was_trained_with(classifier):
    small = shrunken("knn_mae_vit_in1k:b16")
    small["model"] |= {"init_from": str(classifier[0]), "class_token": False}
    small["head"]["pool"] = "mean"
    with pytest.raises(TransferError, match="model.class_token=False, .* has True"):
        build(small).init()


def test_what_a_file_does_not_hold_is_said_by_the_recipe(classifier, tmp_path):
    write(load(classifier[0]), tmp_path / "timm", "timm")
    (tmp_path / "timm" / "maskfeat_jax.json").unlink()
    (tmp_path / "timm" / "config.json").write_text('{"model_args": {"num_heads": 2}}')
    recipe = evaluating(tmp_path / "timm", Renamed(NAMES))
    recipe["normalise"] = {"mean": (0.5, 0.5, 0.5)}
    names = pytest.warns(UserWarning, match="does not hold the names of its classes")
    with names, pytest.warns(UserWarning, match="not in the file, assumed: .*normalise"):
        build(recipe).init()


@pytest.mark.filterwarnings("ignore:.* not in the file, assumed:UserWarning")
def test_the_pooling_of_a_recipe_implies_where_the_norm_is(classifier, tmp_path):
    """With these names timm takes the mean after the norm, see `models.Classifier`."""
    state = {
        name.replace("fc_norm", "norm"): x
        for name, x in export(load(classifier[0]), "timm").state.items()
    }
    files.write(tmp_path / "model.safetensors", state, None)
    (tmp_path / "config.json").write_text('{"model_args": {"num_heads": 2}}')
    recipe = evaluating(tmp_path, Renamed(NAMES), init_classes="number")
    with pytest.raises(TransferError, match="head.norm_of='pooled', but .* has 'tokens'"):
        build(recipe).init()
    recipe["head"]["norm_of"] = "tokens"
    build(recipe).init()


def task_of(recipe):
    """Its task, with clips as in `shrunken`."""
    reader = Reader(recipe)
    task = TASKS[recipe["task"]].from_recipe(reader, (4, 32, 32))
    reader.problems.stop()
    return task


def test_a_classifier_of_boxes_and_one_of_clips(tmp_path):
    """They have the same parameters, but take from each other only what is below the head."""
    names = {"boxes": "finetune_mvit_ava:l", "classifier": "finetune_mvit_kinetics:l,k400"}
    runs = {head: a_run(tmp_path / head, name) for head, name in names.items()}
    for head, other in itertools.permutations(names):
        recipe = shrunken(names[head])
        recipe["head"]["num_classes"] = shrunken(names[other])["head"]["num_classes"]
        task, params = task_of(recipe), load(runs[other]).params
        kernel = params["projection"]["kernel"]
        with pytest.raises(TransferError, match=f"head.name='{head}', but .* has '{other}'"):
            initial_params(task, 0, InitFrom(str(runs[other])))
        # Tensors do not tell which of them they are of, so that the recipe does.
        path = tmp_path / f"{other}.safetensors"
        files.write(path, export(load(runs[other]), "pyslowfast").state, None)
        with pytest.warns(UserWarning, match="not in the file, assumed: .*head=classifier"):
            found = initial_params(task, 0, InitFrom(str(path)))
        np.testing.assert_array_equal(found["projection"]["kernel"], kernel)
    # The last task classifies clips.
    found = initial_params(task, 0, InitFrom(str(runs["boxes"]), ("encoder", "norm")))
    for part in ("encoder", "norm"):
        jax.tree.map(np.testing.assert_array_equal, found[part], params[part])
    assert np.abs(found["projection"]["kernel"] - kernel).max() > 0.1


def test_how_classes_are_matched_is_one_of_two():
    small = shrunken(FINETUNE)
    small["model"]["init_classes"] = "order"
    with pytest.raises(RecipeError, match="model: init_classes='order': expected name or number"):
        build(small)
