"""Recipes: each file at each of its sizes, its docstring, its defaults, references to it."""

from __future__ import annotations

import inspect
import re

import pytest
from ml_collections import ConfigDict

from input_pipeline import DATASETS, BadInputs, EvalView, TrainView
from maskfeat_jax.augment import Augment, Mix, Normalise
from maskfeat_jax.masking import MASKERS
from maskfeat_jax.models import MODELS, VARIANTS
from maskfeat_jax.optim import OPTIMIZERS
from maskfeat_jax.recipes import load
from maskfeat_jax.sharding import create_mesh
from maskfeat_jax.targets import TARGETS
from maskfeat_jax.tasks import TASKS
from maskfeat_jax.tasks.knn import Vote
from maskfeat_jax.training.settings import Input, Run
from tests.recipes import CONFIGS, ROOT, STEMS, TABLES, module, names_of, recipe

SIZED = [stem for stem in STEMS if names_of(stem) != [stem]]
# Pages in which every recipe that is named must exist.
PAGES = ["README.md", "CONTRIBUTING.md", "Makefile", "main.py"]
PAGES += ["docs/**/*.md", "docs/**/*.sh", "configs/*.py", "bench/**/*.py", "maskfeat_jax/**/*.py"]


def first_table(stem):
    return next((getattr(module(stem), t) for t in TABLES if hasattr(module(stem), t)), {})


@pytest.mark.parametrize("stem", STEMS)
def test_each_size_of_a_recipe_loads(stem):
    for name in names_of(stem):
        config = load(f"configs/{stem}.py{name.removeprefix(stem)}")
        assert isinstance(config, ConfigDict)
        assert config.task in TASKS
    takes = inspect.signature(module(stem).get_config).parameters
    assert bool(takes) == (stem in SIZED), f"what get_config takes is a key of {TABLES}"


@pytest.mark.parametrize("stem", SIZED)
def test_without_a_size_it_is_the_first(stem):
    assert load(stem) == load(names_of(stem)[0])


@pytest.mark.parametrize("stem", SIZED)
def test_an_unknown_size_lists_the_sizes(stem):
    sizes = ", ".join(first_table(stem))
    with pytest.raises(LookupError, match=f"'tiny' is not one of {sizes}"):
        load(f"configs/{stem}.py:tiny")


def test_data_is_chosen_apart_from_the_size():
    whole = load("configs/finetune_mvit_kinetics.py:l,k600")
    assert whole.head.num_classes == 600
    assert whole.model.encoder == "mvit_v2_l"
    assert load("finetune_mvit_kinetics:l") == load("finetune_mvit_kinetics:l,k400")
    for stem in ("maskfeat_mvit_kinetics", "finetune_mvit_kinetics"):
        with pytest.raises(LookupError, match="'k500' is not one of k400, k600, k700"):
            load(f"{stem}:l,k500")


@pytest.mark.parametrize("stem", STEMS)
def test_a_recipe_documents_results_cost_and_command(stem):
    text = module(stem).__doc__
    commands = re.findall(r"python main\.py --config=configs/(\w+)\.py\S* --workdir=", text)
    assert commands
    assert set(commands) == {stem}
    for word in ("Run: python main.py", "expect: ", "cost: "):
        assert word.lower() in text.lower(), word
    for size in first_table(stem):
        assert re.search(rf"^    {size}\b", text, re.MULTILINE), f"no row for {size}"


# The functions that take a section; those of other sections are found by `name`.
CALLS = {"view": TrainView, "eval_view": EvalView, "input": Input, "bad_inputs": BadInputs}
CALLS |= {"normalise": Normalise, "augment": Augment, "mix": Mix, "knn": Vote}
CALLS |= {"mesh": create_mesh, "run": Run}
TABLE_OF = {"data": DATASETS, "eval_data": DATASETS, "mask": MASKERS, "target": TARGETS}
TABLE_OF |= {"head": MODELS, "optim": OPTIMIZERS}


def defaults(full, section):
    """Keys and values that a section may omit, because they are defaults."""
    values = full[section]
    if section == "model":
        function, sizes = VARIANTS[values["encoder"]]
        given = sizes | {"init_from": "", "init_resize": False}
    else:
        follows = {"eval_data": full["data"], "eval_view": full.get("view", {})}
        given = follows.get(section, {})
        names = TABLE_OF.get(section, {})
        function = CALLS.get(section) or names[{**given, **values}["name"]]
    parameters = inspect.signature(function).parameters
    return {name: each.default for name, each in parameters.items()} | given


@pytest.mark.parametrize("name", CONFIGS)
def test_a_recipe_restates_no_default(name):
    full = recipe(name)
    assert full.get("seed") != 0
    for section, values in full.items():
        if isinstance(values, dict):
            counts = defaults(full, section)
            restated = [key for key, value in values.items() if counts.get(key) == value]
            assert not restated, section
            assert values, section


def test_the_table_of_the_readme_names_the_recipes_that_exist_and_their_sizes():
    lines = (ROOT / "README.md").read_text().splitlines()
    rows = [set(re.findall(r"\w+", line)) for line in lines if line.startswith("|")]
    published = [stem for stem in STEMS if not stem.startswith(("demo", "smoke"))]
    for stem in published:
        sizes = {word for name in names_of(stem) for word in re.findall(r"\w+", name)}
        assert any(sizes <= row for row in rows), sizes
    endings = tuple({"_" + stem.rpartition("_")[2] for stem in published})
    assert {word for row in rows for word in row if word.endswith(endings)} <= set(STEMS)


def test_every_mentioned_recipe_exists():
    found = 0
    for file in (file for page in PAGES for file in ROOT.glob(page)):
        text = file.read_text()
        for name in re.findall(r"\bconfigs/[a-z]\w*\.py(?::[\w,]*\w)?", text):
            if name != "configs/common.py":
                load(name)
                found += 1
        # By its stem alone, as in the text of another recipe.
        for stem in re.findall(r"(?<![\w/.}])([a-z]\w*_(?:in1k|kinetics|ssv2|cifar10))\b", text):
            assert stem in STEMS, f"{file}: {stem}"
    assert found > len(STEMS)
