"""The teacher's file of a target of features: described in the recipe, and refused if it does not
fit, before a device is used."""

from __future__ import annotations

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from maskfeat_jax import convert
from maskfeat_jax.augment import Normalise
from maskfeat_jax.convert import files
from maskfeat_jax.models.layers import stack_blocks
from maskfeat_jax.sections import Reader, RecipeError, differences
from maskfeat_jax.tasks import task_of
from maskfeat_jax.training import encoder_files
from maskfeat_jax.training.build import build
from maskfeat_jax.training.teachers import teacher_weights
from tests.convert.models import assert_same, small
from tests.recipes import shrunken

CLIP = (1, 48, 48)  # of `small`


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of teachers, and others."""
    folder = tmp_path_factory.mktemp("teachers")
    convert.write(small("class"), folder / "timm", "timm")
    files.write(folder / "bare.safetensors", convert.export(small("class"), "timm").state, None)
    convert.save(small("mean_mvit"), folder / "mvit", "pyslowfast")
    convert.save(small("maskfeat"), folder / "ours", "pyslowfast")
    files.write(folder / "other.safetensors", {"fc.weight": np.ones((3, 3), np.float32)}, None)
    (folder / "text.pth").write_text("no tensors")
    shutil.copytree(folder / "ours", folder / "damaged")
    damaged = folder.glob("damaged/checkpoints/0/**/d/*")
    largest = max(damaged, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    return folder


def recipe(**target):
    small = shrunken("maskfeat_vit_cifar10:hog")
    small["target"] = {"name": "features", **target}
    return small


@pytest.mark.parametrize("name", ["timm", "ours"])
def test_the_recipe_has_what_the_file_says(name, folder):
    trained = small("class" if name == "timm" else "maskfeat")
    experiment = build(recipe(file=str(folder / name)))
    section, target = experiment.recipe["target"], experiment.task.target
    assert section["model"] == {"encoder": "vit_ti16", "width": 32, "depth": 2, "heads": 2}
    assert (target.clip, target.mean, target.std) == (CLIP, *vars(Normalise()).values())
    assert section["sha256"] == target.sha256 == convert.sha256(folder / name)
    expected = {name: trained.params[name] for name in ("encoder", "norm")}
    expected["encoder"] = {k: v for k, v in expected["encoder"].items() if k != "mask_token"}
    expected = stack_blocks(expected, target.teacher)
    rounded = jax.tree.map(lambda x, shape: x.astype(shape.dtype), expected, target.teacher)
    assert_same(encoder_files.load(target), rounded)
    task = dataclasses.replace(experiment.task, target=dataclasses.replace(target, sha256="0" * 64))
    with pytest.raises(RecipeError, match="it has the SHA-256 .*, but sha256 is 0000"):
        teacher_weights(task)
    assert_same(jax.device_get(experiment.load_teacher()), encoder_files.load(target))
    # Without the file, as in `mf.load` of a run whose teacher is gone.
    reader = Reader({**experiment.recipe, "target": {**section, "file": "gone"}})
    again = task_of(reader).from_recipe(reader, experiment.task.clip)
    assert again.target.teacher == target.teacher


def test_what_the_recipe_says_decides(folder):
    """Settings that the file does not hold, the size of its clips and of its pixels."""
    given = {"clip": (1, 64, 64), "mean": (0.1, 0.1, 0.1), "block": 0, "dtype": "float32"}
    model = {"encoder": "vit_b16", "width": 32, "depth": 2, "heads": 4}
    with pytest.warns(UserWarning, match="not in the file, assumed: .*epsilon"):
        experiment = build(recipe(file=str(folder / "bare.safetensors"), model=model, **given))
    target = experiment.task.target
    assert (target.clip, target.mean, target.std) == (given["clip"], given["mean"], Normalise().std)
    assert target.model["heads"] == 4
    loaded = encoder_files.load(target)
    larger = convert.resized(small("class"), (1, 64, 64)).params["encoder"]
    np.testing.assert_array_equal(loaded["encoder"]["pos_embed"], larger["pos_embed"])
    assert loaded["encoder"]["blocks"].keys() == {"0"}


def test_each_state_has_its_own_teacher(folder):
    """A step donates it."""
    experiment = build(recipe(file=str(folder / "timm")))
    first = experiment.init()
    jax.tree.map(lambda leaf: leaf.delete(), first.teacher)
    assert np.isfinite(experiment.init().teacher["encoder"]["pos_embed"]).all()


def test_the_file_may_move_but_not_change(folder, tmp_path):
    moved = shutil.copytree(folder / "ours", tmp_path / "moved")
    here, there, other = (
        build(recipe(file=str(path))).fixed_recipe
        for path in (folder / "ours", moved, folder / "timm")
    )
    assert here == there
    assert differences(here, other).keys() == {"target.sha256"}


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({}, "file: missing; set it to the teacher"),
        ({"file": "absent.pth"}, "absent.pth: no such file"),
        ({"file": 3}, "target.file=3: expected a string"),
        ({"file": "text.pth"}, "text.pth is neither a safetensors file nor one that torch.save"),
        ({"file": "other.safetensors"}, "none of the layouts .* has names like fc.weight"),
        ({"file": "bare.safetensors"}, "not a standard size.*give heads"),
        ({"file": "damaged"}, "damaged"),
        ({"file": "timm", "sha256": "0" * 64}, "has the SHA-256 .*, but sha256 is 0000"),
        ({"file": "ours", "model": {"heads": 4}}, "has heads=2, but `model` 4"),
        ({"file": "ours", "model": {"encoder": "vit_b16"}}, "has width=32, but `model` 768"),
        ({"file": "timm", "projection": 6}, "projection=6, but its linear map has 5 outputs"),
        ({"file": "timm", "model": {"encoder": "vit_b61"}}, "vit_b61.*did you mean 'vit_b16'"),
        ({"file": "timm", "model": "vit_b16"}, "target.model='vit_b16': expected"),
        ({"file": "timm", "block": 2}, "block=2: the teacher has 2 blocks"),
        ({"file": "timm", "clip": (1, 50, 48)}, "target: .*50"),
        ({"file": "mvit"}, "takes clips of 4 frames, .* have 1; set target.clip"),
    ],
)
def test_refuses(target, words, folder):
    if isinstance(target.get("file"), str):
        target = {**target, "file": str(folder / target["file"])}
    with pytest.raises(RecipeError, match=words) as caught:
        build(recipe(**target))
    assert "problems:" not in str(caught.value)
