from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import maskfeat_jax as mf
from input_pipeline import Example
from maskfeat_jax import convert
from maskfeat_jax.convert import ConvertError
from maskfeat_jax.extract.__main__ import main as extract
from maskfeat_jax.recipes import RecipeNotFound
from maskfeat_jax.sections import RecipeError
from maskfeat_jax.targets.pixels import Pixels
from maskfeat_jax.workdir.workdir import RecipeChanged
from tests.extract.extract_test import a_run
from tests.recipes import ROOT, shrunken

PRETRAIN, FINETUNE = "maskfeat_vit_in1k:b16", "finetune_vit_in1k:b16"


def clips(count=3):
    return np.random.default_rng(0).integers(0, 256, (count, 1, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def run(finished_run):
    return finished_run(PRETRAIN)[0]


@pytest.fixture(scope="module")
def model(run):
    return mf.load(run)


@pytest.fixture(scope="module")
def classifier(finished_run):
    return mf.load(finished_run(FINETUNE, init_from=PRETRAIN)[0])


# Import


def test_import_is_cheap():
    code = (
        "import sys, maskfeat_jax; print({'jax', 'tensorflow', 'flax', 'numpy'} & {*sys.modules})"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    assert {*mf.__all__} == {"build", "load", "model", "train"}
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = mf.lode


# load


@pytest.mark.parametrize("name", ["model", "classifier"])
def test_an_exported_file_gives_the_same_features(request, tmp_path, name):
    model = request.getfixturevalue(name)
    convert.write(model.pretrained, tmp_path / "vit", "timm")
    expected = np.asarray(model.features(clips()))
    for path in (tmp_path / "vit", tmp_path / "vit" / "model.safetensors"):
        np.testing.assert_allclose(mf.load(path).features(clips()), expected, rtol=0, atol=1e-6)
    assert len(np.unique(expected, axis=0)) == len(clips())


def test_a_checkpoint_of_a_run_is_a_model(run, model):
    (step,) = {path.name for path in (run / "checkpoints").iterdir()} & {"6"}
    np.testing.assert_array_equal(
        mf.load(run / "checkpoints" / step).features(clips()), model.features(clips())
    )
    assert model.clip == (1, 32, 32)
    assert model.class_names is None


@pytest.mark.parametrize("path", ["configs/smoke.py", "configs/maskfeat_vit_in1k.py:b16"])
def test_load_takes_no_recipes(path):
    with pytest.raises(
        ConvertError, match="is a recipe; expected a work directory, a checkpoint or"
    ):
        mf.load(path)


def test_load_says_what_it_found(tmp_path, run):
    (tmp_path / "notes.txt").write_text("hello")
    for name, words in {
        "notes.txt": "neither a safetensors file nor one that torch.save wrote",
        ".": "neither a run .* nor a folder with a file of weights",
        "absent": "no such file or directory",
    }.items():
        with pytest.raises(ConvertError, match=words):
            mf.load(tmp_path / name)
    with pytest.raises(ConvertError, match="heads: only for PyTorch files"):
        mf.load(run, heads=3)


# features


@pytest.mark.parametrize("per", ["clip", "frame", "token"])
def test_features_are_those_of_the_command(tmp_path, run, model, per):
    (tmp_path / "images").mkdir()
    for number, clip in enumerate(clips()):
        Image.fromarray(clip[0]).resize((36, 36), 0).save(tmp_path / f"images/{number}.png")
    # What evaluation makes of them: shorter side 36, middle 32 x 32.
    images = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "images").iterdir())]
    video = np.stack(images)[:, None, 2:-2, 2:-2]
    extract([str(run), str(tmp_path / "images"), f"--out={tmp_path}/f.npz", f"--per={per}"])
    with np.load(tmp_path / "f.npz") as stored:
        np.testing.assert_allclose(model.features(video, per=per), stored["features"], atol=1e-6)
    shapes = {"clip": (3, 32), "frame": (3, 1, 32), "token": (3, 1, 2, 2, 32)}
    assert model.features(video, per=per).shape == shapes[per]
    assert model.features(video, per=per).dtype == np.float32


@pytest.mark.parametrize("method", ["features", "draw"])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda x: x[:, 0], r"got uint8 \(3, 32, 32, 3\)"),
        (lambda x: x[..., :16, :], r"got uint8 \(3, 1, 32, 16, 3\)"),
        (lambda x: x.astype(np.float32), "got float32"),
        (lambda x: x.tolist(), "got list"),
        (lambda x: x[:0], r"got uint8 \(0, 1, 32, 32, 3\)"),
    ],
)
def test_clips_of_another_kind_are_refused(model, method, wrong, words):
    with pytest.raises(ValueError, match=rf"expected uint8 clips \(b, 1, 32, 32, 3\), .*{words}"):
        getattr(model, method)(wrong(clips()))


def test_features_that_do_not_exist(model):
    for settings, words in (
        ({"per": "image"}, "per='image': expected one of clip, frame, token"),
        ({"pool": "max"}, "pool='max' is not one of"),
        ({"per": "token", "pool": "class"}, "pool='class' is only for per='clip', not per='token'"),
    ):
        with pytest.raises(ValueError, match=words):
            model.features(clips(), **settings)
    mean, token = model.features(clips()), model.features(clips(), pool="class")
    assert np.abs(mean - token).max() > 1e-3


# draw and to_torch


def test_pictures_are_those_of_the_run(model, classifier):
    drawn = model.draw(clips())["predictions"]
    assert drawn.dtype == np.uint8
    assert np.array_equal(drawn, model.draw(clips())["predictions"])
    assert not np.array_equal(drawn, model.draw(clips(), seed=5)["predictions"])
    assert "star" in classifier.class_names
    assert classifier.draw(clips())["predictions"].ndim == 3


def test_a_file_without_a_task_is_not_drawn(tmp_path, model):
    convert.write(model.pretrained, tmp_path / "vit", "timm")
    with pytest.raises(ValueError, match="holds the encoder alone: nothing to draw"):
        mf.load(tmp_path / "vit").draw(clips())
    (tmp_path / "vit" / "maskfeat_jax.json").unlink()
    with pytest.raises(ValueError, match="is no run, so there is no task to draw"):
        mf.load(tmp_path / "vit" / "model.safetensors").draw(clips())


def test_boxes_are_given_and_drawn_with_their_classes(tmp_path, model):
    detector = mf.load(a_run(tmp_path / "run", "demo_actions"))
    video = np.zeros((2, *detector.clip, 3), np.uint8)
    boxes = np.array([[[2, 2, 20, 30], [0, 0, 31, 31]], [[5, 1, 9, 9], [4, 4, 8, 8]]])
    drawn = detector.draw(video, boxes)["predictions"]
    assert drawn.dtype == np.uint8
    assert not np.array_equal(drawn, detector.draw(video, boxes[:, :1])["predictions"])
    for wrong in (None, boxes[0], boxes[:1], boxes[..., :3]):
        with pytest.raises(ValueError, match=r"classifies boxes: expected boxes \(2, n, 4\), left"):
            detector.draw(video, wrong)
    with pytest.raises(ValueError, match="is no classifier of boxes"):
        model.draw(clips(), np.zeros((3, 1, 4)))


def test_weights_under_other_names(classifier):
    state = classifier.to_torch("timm")
    expected = classifier.pretrained.params["projection"]["kernel"].T
    np.testing.assert_array_equal(state["head.weight"], expected)
    with pytest.raises(ConvertError, match="layout='tim' does not exist; did you mean 'timm'"):
        classifier.to_torch("tim")


# build


def test_build_takes_no_runs(run):
    with pytest.raises(RecipeNotFound, match="is a directory; build takes a recipe, and load"):
        mf.build(run)


def test_urls_are_refused_and_nothing_is_written(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for refused in (
        lambda: mf.load("gs://bucket/run"),
        lambda: convert.write(model.pretrained, "gs://bucket/vit", "timm"),
        lambda: mf.train(mf.build(shrunken(PRETRAIN)), "gs://bucket/run"),
    ):
        with pytest.raises(ValueError, match="gs://bucket/.* is a URL; expected a path"):
            refused()
    assert not list(tmp_path.iterdir())


def test_build_names_what_there_is(tmp_path):
    with pytest.raises(RecipeNotFound, match="smok.py does not exist; .*smoke"):
        mf.build("configs/smok.py")
    with pytest.raises(LookupError, match="b17.*b16, l16"):
        mf.build("configs/maskfeat_vit_in1k.py:b17")
    with pytest.raises(RecipeError, match="mask.ration: no such key; did you mean 'ratio'"):
        mf.build("configs/smoke.py", {"mask.ration": 0.5})
    with pytest.raises(
        RecipeError, match="masks: no such section of task='pretrain'; did you mean 'mask'"
    ):
        mf.build("configs/smoke.py", {"masks.ratio": 0.5})


def test_a_recipe_may_be_a_file_its_name_or_sections():
    changes = {"data.num_examples": 64, "eval_data.num_examples": 8}
    recipes = [
        mf.build(recipe, changes).recipe
        for recipe in (ROOT / "configs/smoke.py", "smoke", mf.build("smoke", changes).recipe)
    ]
    assert recipes[0] == recipes[1] == recipes[2]
    assert recipes[0]["data"]["num_examples"] == 64


# The model of a state


def test_the_model_of_a_state_is_that_of_the_run(tmp_path):
    experiment = mf.build(shrunken("smoke"), {"run.epochs": 1})
    state = experiment.init()
    first = mf.model(experiment, state).features(experiment.sample_clips)
    for batch in experiment.batches(state):
        state, _ = experiment.step(state, batch)
    mf.train(experiment, tmp_path / "run")
    model, loaded = mf.model(experiment, state), mf.load(tmp_path / "run")
    features = model.features(experiment.sample_clips)
    assert np.abs(features - first).max() > 1e-3
    np.testing.assert_allclose(features, loaded.features(experiment.sample_clips), atol=1e-5)
    assert model.to_torch("timm").keys() == loaded.to_torch("timm").keys()
    assert model.draw(experiment.sample_clips)["predictions"].dtype == np.uint8


# Objects in a recipe


class Grey:
    """Images of one brightness each; a dataset with nothing but what it must have."""

    class_names = ("dark", "bright")
    num_examples = 32

    def __init__(self, fingerprint="grey"):
        self.fingerprint = fingerprint

    def name_of(self, index):
        return f"grey {index}"

    def read(self, index):
        label = index % 2
        return Example(np.full((40, 40, 3), 60 + 120 * label, np.uint8), label)


@dataclasses.dataclass(frozen=True)
class Scaled(Pixels):
    """Another target."""

    factor: float = 0.5

    def __call__(self, clips):
        return self.factor * super().__call__(clips)


def own(target, data):
    changes = {"target": target, "data": data, "eval_data": data}
    return mf.build({**shrunken("smoke"), **changes}, {"run.epochs": 1})


def test_objects_train_and_resume(tmp_path):
    target = Scaled(tubelet=(1, 16, 16))
    experiment = own(target, Grey())
    assert experiment.task.target is target
    results = mf.train(experiment, tmp_path / "run")
    assert results["used"] == Grey.num_examples
    before = (tmp_path / "run/metrics.jsonl").read_text()
    again = mf.train(own(Scaled(tubelet=(1, 16, 16)), Grey()), tmp_path / "run")
    assert again == pytest.approx(results, rel=1e-6)
    assert (tmp_path / "run/metrics.jsonl").read_text() == before
    with pytest.raises(RecipeChanged, match=r"target: .*factor=0.5\)\" -> .*factor=0.25\)"):
        mf.train(own(Scaled(tubelet=(1, 16, 16), factor=0.25), Grey()), tmp_path / "run")
    with pytest.raises(RecipeError, match="data: the list of examples differs"):
        mf.train(own(target, Grey("another list")), tmp_path / "run")
    # The file has only its name.
    with pytest.raises(RecipeError, match=r"an object, target=Scaled\(.*sections={'target'"):
        mf.load(tmp_path / "run")
    loaded = mf.load(tmp_path / "run", sections={"target": target})
    video = experiment.sample_clips
    assert loaded.draw(video).keys() == experiment.draw(experiment.init()).keys()
    # What was learned is used by a run with other objects.
    tuned = {**shrunken("finetune_vit_in1k:b16"), "data": Grey(), "eval_data": Grey()}
    changes = {"model.init_from": str(tmp_path / "run"), "head.num_classes": 2, "run.epochs": 1}
    tuned["model"] = shrunken("smoke")["model"]
    begun = mf.build(tuned, changes).init().params["encoder"]["pos_embed"]
    fresh = mf.build(tuned, {**changes, "model.init_from": ""}).init().params["encoder"]
    assert np.abs(begun - fresh["pos_embed"]).max() > 0


def test_objects_that_are_no_dataset_or_target():
    with pytest.raises(RecipeError, match="target: expected .* members of Target"):
        own(object(), Grey())
    with pytest.raises(RecipeError, match="2 problems:\n- data: .* of Source, .*\n- eval_data: "):
        own(Scaled(tubelet=(1, 16, 16)), object())
    with pytest.raises(RecipeError, match=r"target: tubelet \(1, 8, 8\) differs from"):
        own(Scaled(tubelet=(1, 8, 8)), Grey())
    with pytest.raises(RecipeError, match="eval_data.name: missing; it cannot follow `data`"):
        mf.build("configs/smoke.py", {"data": Grey()})


def test_the_example_of_the_readme(run):
    """With a small run and recipe in the place of those for ImageNet."""
    text = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    small, recipe = shrunken(FINETUNE), '"configs/finetune_vit_in1k.py:b16"'
    small["run"]["epochs"] = 1
    for old, new in ((recipe, "small"), ('{"data.path": "/data/imagenet"}', "{}")):
        assert old in example
        example = example.replace(old, new)
    names = {"small": small, "video": clips()}
    exec(example.replace('"runs/a"', repr(str(run))), names)
    assert names["features"].shape == (3, 32)
    assert "blocks.0.attn.qkv.weight" in names["weights"]
    assert int(names["state"].step) == names["experiment"].total_steps > 0
