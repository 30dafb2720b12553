"""Every entry of every table does what its protocol says; each is asked what it can do.

What is added to a table is tested here without a line of its own, but for a dataset, of which a
small one must be made (`made`). Tests of numbers are beside the code.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import inspect
import json
import re
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from input_pipeline import DATASETS, EvalView, Example
from input_pipeline.boxes import LabelledBoxes, Truth
from input_pipeline.source import Video
from maskfeat_jax import sharding
from maskfeat_jax.augment import Normalise
from maskfeat_jax.masking import MASKERS, Masker
from maskfeat_jax.models import MODELS, VARIANTS, create_encoder
from maskfeat_jax.optim import OPTIMIZERS
from maskfeat_jax.sections import Reader, choose
from maskfeat_jax.state import TrainState
from maskfeat_jax.targets import TARGETS, Hog, Inputs, Pixels, Target
from maskfeat_jax.tasks import TASKS, task_of
from tests.input_pipeline.ava_samples import frame_list, write_ava, write_frames
from tests.input_pipeline.samples import encode, picture
from tests.input_pipeline.video_samples import encode_video
from tests.optim_test import LENGTH, STACKED, follow, waves
from tests.recipes import CONFIGS, ROOT, recipe, shrunken

TABLES = {
    "data": DATASETS,
    "head": MODELS,
    "mask": MASKERS,
    "optim": OPTIMIZERS,
    "target": TARGETS,
    "task": TASKS,
}
ENTRIES = [(section, name) for section, table in TABLES.items() for name in table]
KEY = jax.random.key(0)


def shapes(tree):
    return jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)


def zeros(tree):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree)


@pytest.mark.parametrize(("section", "name"), ENTRIES)
def test_entries_are_documented(section, name):
    assert TABLES[section][name].__doc__
    words = (f"`{name}`", f'"{name}"')
    assert any(word in (ROOT / "docs" / "usage.md").read_text() for word in words)


def batch(clip, rows=8):
    return {
        "video": np.random.default_rng(0).integers(0, 256, (rows, *clip, 3)).astype(np.uint8),
        "label": np.arange(rows, dtype=np.int32) % 3,
        "valid": np.ones(rows, bool),
        "index": np.arange(rows),
    }


# Targets


TEACHER = {
    "model": {"encoder": "vit_b16", "width": 16, "depth": 1, "heads": 2},
    "clip": (1, 16, 48),
    "dtype": "float32",
}
TARGET_FIELDS = {
    "dvae": {"hidden": 8, "blocks": 1, "vocabulary": 16, "dtype": "float32"},
    "features": TEACHER,
    "pseudo_label": {"classes": 5, **TEACHER},
    "sum": {"parts": {"hog": Hog((2, 8, 16)), "pixels": Pixels((2, 8, 16))}},
}


def check_target(make) -> None:
    """Checks the protocol of a target, made by `make(tubelet=...)`."""
    tubelet = (2, 8, 16)
    target = make(tubelet=tubelet)
    assert isinstance(target, Target)
    assert hash(target) == hash(make(tubelet=tubelet))  # part of what is compiled
    assert target.tubelet == tubelet
    normalise = Normalise()
    clips = normalise(batch((4, 16, 48), rows=2)["video"])
    inputs = Inputs(clips, normalise, jax.tree.map(some_weights, target.teacher))
    features = jax.jit(target)(inputs)
    some = target(inputs._replace(clips=clips[1:]))
    for each, alone in zip(*map(jax.tree.leaves, (features, some)), strict=True):
        assert each.shape[:4] == (2, 2, 2, 3)
        np.testing.assert_allclose(each[1:], alone, atol=1e-5)
    predicted = jax.random.normal(KEY, (2, 2, 2, 3, target.dim))
    values = jax.jit(lambda *given: target.loss(*given))(predicted, features)
    assert {(x.shape, x.dtype) for x in values.values()} == {((2, 2, 2, 3), np.dtype("float32"))}
    assert np.isfinite(values["loss"]).all()
    means = {name: x.mean((0, 1, 2, 3)) for name, x in target.loss.statistics(features).items()}
    constant = target.loss.best_constant(jax.device_get(means))
    assert 0 <= constant["loss"] < values["loss"].mean()
    assert set(constant) == set(values)
    shown = [
        target.restore(features, inputs, predicted=False),
        target.restore(predicted, inputs, predicted=True),
    ]
    for restored in shown:
        frame = jax.tree.map(lambda x: np.asarray(x[0, 1]), restored)
        drawn = target.draw(frame, normalise.mean, normalise.std)
        assert drawn.dtype == np.uint8
        assert drawn.shape[0] * 3 == drawn.shape[1] * len(getattr(target, "parts", "1"))
    assert len({jax.tree.structure(restored) for restored in shown}) == 1


def some_weights(shape):
    rng = np.random.default_rng(0)
    return jnp.asarray(0.05 * rng.standard_normal(shape.shape), shape.dtype)


@pytest.mark.parametrize("name", TARGETS)
def test_targets(name):
    check_target(functools.partial(TARGETS[name], **TARGET_FIELDS.get(name, {})))


def test_the_example_of_contributing_is_a_target_that_trains(tmp_path, monkeypatch):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    module, section = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert '"mean_colour": MeanColour,' in text
    file = tmp_path / "mean_colour.py"
    file.write_text(module)
    spec = importlib.util.spec_from_file_location("mean_colour", file)
    example = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mean_colour", example)
    spec.loader.exec_module(example)
    check_target(example.MeanColour)
    x = np.random.default_rng(0).random((1, 2, 8, 24, 3), np.float32)
    np.testing.assert_allclose(
        example.MeanColour((2, 8, 8))(Inputs(x))[0, 0, 0, 1],
        x[0, 0, :, 8:16].mean((0, 1)),
        rtol=1e-5,
    )
    monkeypatch.setitem(TARGETS, "mean_colour", example.MeanColour)
    config = ConfigDict(shrunken("smoke"))
    exec(section, {"config": config})
    task, optimizer = built(config.to_dict())
    assert isinstance(task.target, example.MeanColour)
    state = TrainState.create(jax.jit(task.init)(KEY), optimizer)
    step = jax.jit(functools.partial(task.train_step, optimizer=optimizer))
    after, metrics = step(state, batch(task.clip))
    assert np.isfinite(metrics["loss"])
    assert int(after.skipped) == 0
    before, kernel = (x.params["projection"]["kernel"] for x in (state, after))
    assert np.any(before != kernel)


# Masks

GRIDS = ((4, 6, 9), (1, 6, 8))


def variants(table):
    """An entry with default fields and, if it has that field, with `exact=True`."""
    for name, kind in table.items():
        yield pytest.param(kind(), id=name)
        if "exact" in {field.name for field in dataclasses.fields(kind)}:
            yield pytest.param(kind(exact=True), id=f"{name}-exact")


@pytest.mark.parametrize("masker", variants(MASKERS))
def test_masks(masker):
    assert isinstance(masker, Masker)
    draw = jax.jit(masker, static_argnums=(1, 2))
    possible = []
    for grid in GRIDS:
        try:
            masker.check(grid)
        except ValueError as error:
            with pytest.raises(ValueError, match=re.escape(str(error))):
                masker(KEY, 5, grid)
            continue
        possible.append(grid)
        masks = np.asarray(draw(KEY, 5, grid))
        assert masks.shape == (5, *grid)
        assert masks.dtype == bool
        counts = masks.sum((1, 2, 3))
        assert (counts > 0).all()
        assert 0 < masker.masked(grid) < np.prod(grid)
        if masker.exact:
            assert set(counts) == {masker.masked(grid)}
        assert counts.max() <= masker.masked(grid)
        assert len(np.unique(masks, axis=0)) > 1  # independent from clip to clip
        np.testing.assert_array_equal(masks, draw(KEY, 5, grid))
        assert (masks != np.asarray(draw(jax.random.key(1), 5, grid))).any()
    np.testing.assert_array_equal(masks, masker(KEY, 5, possible[-1]))


@pytest.mark.parametrize("name", MASKERS)
def test_mask_ratios(name):
    if "ratio" not in inspect.signature(MASKERS[name]).parameters:
        return
    for ratio in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"mask ratio {ratio} is not between 0 and 1"):
            MASKERS[name](ratio=ratio)


# Models


@pytest.mark.parametrize("name", VARIANTS)
def test_encoders_take_any_clip_of_whole_tubelets(name):
    encoder = create_encoder(name, scan=True)
    clip = tuple(n * m for n, m in zip((3, 2, 4), encoder.tubelet, strict=True))
    assert encoder.grid(clip) == (3, 2, 4)
    clips = jax.ShapeDtypeStruct((2, *clip, 3), jnp.float32)
    out = jax.eval_shape(encoder.init_with_output, KEY, clips)[0]
    assert out.shape == (2, 1 + 3 * 2 * 4, encoder.width * (8 if "mvit" in name else 1))


HEAD = {"dim": 5, "num_classes": 3, "visible": 2}
ENCODER = {"width": 24, "depth": 2, "heads": 1, "tubelet": (2, 8, 8)}
ENCODERS = {"ViT": ENCODER, "MViT": {**ENCODER, "stages": (1,)}}
FAMILIES = {family.__name__: family for family, _ in VARIANTS.values()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", MODELS)
def test_models(name, family):
    """On a small encoder, by shapes only, or an error that names the encoder."""
    assert len([task for task in TASKS.values() if name in task.heads]) == 1
    encoder = FAMILIES[family](**ENCODERS[family])
    required = [f.name for f in dataclasses.fields(MODELS[name]) if f.name in HEAD]
    head = {field: HEAD[field] for field in required}
    try:
        model = MODELS[name](encoder=encoder, **head)
    except ValueError as error:
        if family not in str(error):
            raise
        return
    grid = encoder.grid((4, 16, 24))
    more = {"mask": ((3, *grid), bool), "boxes": ((3, 2, 4), float)}
    taken = [x for name, x in more.items() if name in inspect.signature(model.__call__).parameters]
    inputs = [jnp.zeros((3, 4, 16, 24, 3)), *(jnp.zeros(*x) for x in taken)]
    out, variables = jax.eval_shape(model.init_with_output, KEY, *inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables["params"])} == {np.dtype("float32")}
    features = head.get("num_classes", head.get("dim", out.shape[-1]))
    lead = inputs[-1].shape[:-1] if "boxes" in name else inputs[-1].shape
    assert out.shape == ((*lead, features) if len(inputs) == 2 else (3, features))
    assert out.dtype == np.float32


# Optimisers


def kept(optimizer, params) -> int:
    """Number of values in the optimiser state."""
    return sum(leaf.size for leaf in jax.tree.leaves(optimizer.tx.init(params)) if leaf.ndim)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_optimisers_leave_frozen_parameters_and_treat_the_others_as_if_alone(name, layer_decay):
    settings = {"lr": 0.1, "weight_decay": 0.5, "clip_norm": 0.3}
    rule = OPTIMIZERS[name](**settings, layer_decay=layer_decay, no_decay=("cls_token",))
    optimizer = rule.optimizer(STACKED, **LENGTH, frozen=("^encoder/",))
    after = follow(optimizer, STACKED, waves, 3)
    jax.tree.map(np.testing.assert_array_equal, after["encoder"], STACKED["encoder"])
    head = {"projection": STACKED["projection"]}
    alone = OPTIMIZERS[name](**settings).optimizer(head, **LENGTH)
    expected = follow(alone, head, waves, 3)
    jax.tree.map(np.testing.assert_array_equal, after["projection"], expected["projection"])
    assert kept(optimizer, STACKED) == kept(alone, head) > 0
    assert not np.array_equal(expected["projection"]["kernel"], head["projection"]["kernel"])


# Tasks


def built(config):
    """The task of a recipe, and its optimiser if it trains."""
    reader = Reader(config)
    task = task_of(reader).from_recipe(reader, EvalView(**config["eval_view"]).shape[:3])
    reader.problems.stop()
    if not task.learns:
        return task, None
    rule = choose("optim", OPTIMIZERS, config["optim"])
    params = jax.eval_shape(task.init, KEY)
    return task, rule.optimizer(params, **LENGTH, frozen=task.model.frozen)


def config_of(name, head):
    """A small recipe of the task, with the head if one has it."""
    stems = [stem for stem in CONFIGS if recipe(stem)["task"] == name]
    config = shrunken(min(stems, key=lambda stem: recipe(stem)["head"]["name"] != head))
    fields = {field.name for field in dataclasses.fields(MODELS[head])} - {"name"}
    given = {"heads": 4, **config["head"], "name": head}
    config["head"] = {k: v for k, v in given.items() if k in fields | {"name"}}
    if "knn" in config:
        config["knn"]["k"] = 4
    return config


def labelled_boxes(examples, classes):
    """One box of all classes in each example."""
    keys = tuple(map(str, range(examples)))
    sides, all_classes = np.tile([0.1, 0.1, 0.9, 0.9], (examples, 1)), np.ones((examples, classes))
    truth = Truth(np.array(keys), sides, np.zeros(examples, int))
    first = np.arange(examples + 1)
    return LabelledBoxes(keys, first, sides, all_classes.astype(bool), truth)


@pytest.mark.parametrize(
    ("name", "head"), [(name, head) for name, task in TASKS.items() for head in task.heads]
)
def test_tasks(name, head):
    """By shapes only, except for the data that a task takes from the training set."""
    config = config_of(name, head)
    assert head in MODELS
    kinds = {task_of(Reader({**config, "task": task})) for task in (name, "evaluate")}
    assert kinds == {TASKS[name]}
    task, optimizer = built(config)
    rows = batch(task.clip)
    rows |= {k: np.zeros((len(rows["video"]), *s), d) for k, (s, d) in task.columns.items()}
    views = 1 if "boxes" in task.columns else 2
    params = jax.eval_shape(task.init, KEY)
    assert set(task.init_parts) <= set(params)
    evaluated = TrainState.frozen(params)
    task.check_batch(len(rows["video"]))
    if task.learns:
        state = jax.eval_shape(lambda key: TrainState.create(task.init(key), optimizer), KEY)
        step = functools.partial(task.train_step, optimizer=optimizer)
        after, metrics = jax.eval_shape(step, state, rows)
        assert shapes(after) == shapes(state)
        assert {"loss", "grad_norm", "nonfinite", "lr"} <= set(metrics)
        assert {leaf.shape for leaf in metrics.values()} == {()}
    if task.needs_data:
        mesh = sharding.create_mesh()
        params = task.with_data(task.init(KEY), iter([rows]), views=1, mesh=mesh)
        evaluated = TrainState.frozen(params)
    sums, each = jax.eval_shape(functools.partial(task.eval_step, views=views), evaluated, rows)
    assert sums["examples"].shape == ()
    examples = len(rows["video"]) // views
    assert all(len(leaf.shape) and leaf.shape[0] == examples for leaf in each.values())
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape), sums)
    classes = tuple(map(str, range(config.get("knn", config["head"]).get("num_classes", 3))))
    source = types.SimpleNamespace(class_names=classes, name_of=str)
    if "boxes" in task.columns:
        source.boxes = labelled_boxes(examples, len(classes))
    task.check_labels("data", source)
    results = task.results(ones, task.kept(zeros(each)), source)
    assert all(isinstance(value, float) for value in results.metrics.values())
    for file, table in results.tables.items():
        assert file.endswith(".csv")
        assert len({tuple(row) for row in table}) == 1
    outputs = zeros(jax.eval_shape(task.show_step, evaluated, rows))
    drawn = task.draw(rows["video"], outputs, classes)
    assert drawn
    assert {(p.dtype, p.shape[-1]) for p in drawn.values()} == {(np.dtype("uint8"), 3)}


# Datasets


def made(name, root) -> dict:
    """Writes a small dataset with two examples in its split "train"; returns its section."""
    pictures, videos = [encode(picture(i)) for i in range(2)], [encode_video(n) for n in (5, 6)]
    section, files = {"path": str(root)}, {}
    match name:
        case "image_folder":
            files = {f"train/{'ab'[i]}/{i}.jpg": pictures[i] for i in range(2)}
        case "video_folder":
            files = {f"train/{'ab'[i]}/{i}.mp4": videos[i] for i in range(2)}
        case "video_list":
            files = {f"{i}.mp4": videos[i] for i in range(2)}
            files["train.csv"] = b"0.mp4 0\n1.mp4 1\n"
        case "ssv2":
            prefix = "something-something-v2"
            labels = {f"Moving something {i}": str(i) for i in range(174)}
            records = [dict(id=str(i), template=f"Moving [something] {i}") for i in range(2)]
            files = {f"20bn-{prefix}/{i}.mp4": videos[i] for i in range(2)}
            files[f"{prefix}-labels.json"] = json.dumps(labels).encode()
            files[f"{prefix}-train.json"] = json.dumps(records).encode()
        case "ava":
            rows = "v1,0905,0.1,0.2,0.5,0.9,12,0\nv2,0905,0.6,0.1,0.9,0.9,1,0\n"
            counts = {"v1": 2, "v2": 3}
            write_ava(root, **{"ava_train_v2.2": rows, "train": frame_list(counts)})
            for video, count in counts.items():
                write_frames(root, video, range(count))
            section["start"] = 905.0
        case "video_records":
            pytest.importorskip("tensorflow")
            from tests.input_pipeline.datasets.video_records_test import example, write_shards

            write_shards(root, [[example(0), example(1)]])
        case "tfds":
            tfds = pytest.importorskip("tensorflow_datasets")
            tfds.disable_progress_bar()
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(num_classes=2),
                }
            )
            tfds.dataset_builders.store_as_tfds_dataset(
                name="two_pictures",
                version="1.0.0",
                features=features,
                split_datasets={
                    "train": [(i, {"image": picture(i), "label": i}) for i in range(2)]
                },
                data_dir=str(root),
                file_format="array_record",
            )
            section = {"dataset": "two_pictures", "data_dir": str(root)}
        case "shapes":
            section = {"num_examples": 2}
        case "acting_shapes" | "moving_shapes":
            section |= {"num_examples": 2, "size": 32, "frames": 3}
        case _:
            raise NotImplementedError(f"make two examples of {name} here")
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return section


def contents(example):
    """The content of an example, videos decoded."""
    if not isinstance(example.data, Video):
        return (
            np.frombuffer(example.data, np.uint8)
            if isinstance(example.data, bytes)
            else example.data
        )
    with example.data.open() as video:
        assert video.fps > 0
        frames = video.frames(range(video.num_frames))
        assert frames.shape == (video.num_frames, video.height, video.width, 3)
        return frames


@pytest.mark.parametrize("name", DATASETS)
def test_datasets(name, tmp_path):
    (tmp_path / "data").mkdir()
    section = made(name, tmp_path / "data")
    source = DATASETS[name]("train", **section)
    assert source.num_examples == 2
    assert len({source.name_of(index) for index in range(2)}) == 2
    examples = [source.read(index) for index in range(2)]
    for index in (1, 0):  # in any order, and again
        again = source.read(index)
        assert isinstance(again, Example)
        assert again.label == examples[index].label
        assert contents(again).dtype == np.uint8
        np.testing.assert_array_equal(contents(again), contents(examples[index]))
    assert not np.array_equal(*map(contents, examples))
    if source.class_names is None or getattr(source, "boxes", None):
        assert [example.label for example in examples] == [None, None]
    else:
        assert [example.label for example in examples] == [0, 1]
        assert all(isinstance(word, str) for word in source.class_names)
        assert len(source.class_names) >= 2
    # The list counts, not where it is.
    assert re.fullmatch("[0-9a-f]{16}", source.fingerprint)
    shutil.move(tmp_path / "data", tmp_path / "moved")
    moved = {
        k: v.replace(str(tmp_path / "data"), str(tmp_path / "moved")) if isinstance(v, str) else v
        for k, v in section.items()
    }
    assert DATASETS[name]("train", **moved).fingerprint == source.fingerprint
    with pytest.raises((ValueError, OSError), match="no_such"):
        DATASETS[name]("no_such_split", **moved)
