"""Chains of fine-tunings in docs/usage.md: each command, and what a run takes from another."""

from __future__ import annotations

import re
import shlex

import jax
import numpy as np
import pytest

from maskfeat_jax import recipes
from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert import save
from maskfeat_jax.ops.relative_position import resize_table
from maskfeat_jax.training.build import build
from maskfeat_jax.training.check import check
from maskfeat_jax.training.initial import initial_params
from tests.recipes import ROOT, shrunken

FRAMES, SIDE = 8, 40  # of clips of 40 frames, larger than those of `shrunken`
PAGE = (ROOT / "docs" / "usage.md").read_text()
CHAINS = re.findall("```\n(.*?)```", PAGE.split("## Chains\n")[1].split("\n## ")[0], re.DOTALL)


def commands(text):
    """Of each command: name of the recipe, work directory, changes by key."""
    for line in text.replace("\\\n", " ").splitlines():
        python, main, *flags = shlex.split(line)
        assert (python, main) == ("python", "main.py")
        given = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
        yield given.pop("config"), given.pop("workdir"), given


@pytest.mark.parametrize("text", CHAINS)
def test_each_command_starts_from_an_earlier_one(text):
    runs = []
    for name, workdir, given in commands(text):
        changes = {key.removeprefix("config."): value for key, value in given.items()}
        check(recipes.override(recipes.load(name), changes).to_dict(), later=runs)
        assert bool(runs) == ("model.init_from" in changes)
        runs.append(workdir)


def small_recipe(name):
    """See `shrunken`; clips of 40 frames are larger than the others."""
    small = shrunken(re.sub(r"^configs/|\.py", "", name))
    if re.search("40x3|312", name):
        for view in ("view", "eval_view"):
            small[view] |= {"frames": FRAMES, "size": SIDE}
        small["view"].update(scale_jitter=(SIDE, SIDE + 8))
        small["eval_view"].update(resize=SIDE)
    return small


def leaves(tree):
    """Parameters by path; those of blocks, which may be stacked, end with their names."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in found}


@pytest.mark.slow
@pytest.mark.parametrize("text", CHAINS)
def test_each_run_has_the_parameters_of_the_one_that_it_starts_from(text, tmp_path):
    params = {}
    for seed, (name, workdir, given) in enumerate(commands(text)):
        small, source = small_recipe(name) | {"seed": seed}, given.get("config.model.init_from", "")
        small["model"]["init_from"] = str(tmp_path / source) if source else ""
        experiment = build(small)
        names = experiment.class_names
        params[workdir] = initial_params(experiment.task, seed, experiment.init_from, names)
        if source:
            compare(experiment.init_from.parts, params[workdir], params[source])
        store(experiment, params[workdir], tmp_path / workdir)


def store(experiment, params, folder):
    """The parameters as a checkpoint, without having trained them."""
    task, recipe = experiment.task, experiment.recipe
    names = experiment.training.source.class_names if recipe["task"] == "finetune" else None
    trained = Pretrained(task.model, params, task.clip, task.normalise, recipe, folder.name, names)
    save(trained, folder, "maskfeat_jax")


def compare(parts, found, source):
    """What is taken is the same, or interpolated; the rest is that of another seed."""
    before = leaves(source)
    for path, leaf in leaves(found).items():
        if path.partition("/")[0] not in parts:
            same = path in before and leaf.shape == before[path].shape and leaf.ndim > 1
            assert not (same and np.array_equal(leaf, before[path])), path
        elif "/rel_pos_" in path:
            rows = resize(before[path], leaf.shape[-2])
            np.testing.assert_allclose(leaf, rows, rtol=1e-6, err_msg=path)
        else:
            np.testing.assert_array_equal(leaf, before[path], err_msg=path)


def resize(table, rows):
    """A table of relative positions, or those of several blocks, with another number of rows."""
    each = table.reshape(-1, *table.shape[-2:])
    resized = np.stack([resize_table(one, rows) for one in each])
    return resized.reshape(*table.shape[:-2], *resized.shape[-2:])
