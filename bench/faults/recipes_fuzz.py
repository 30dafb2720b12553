"""Recipes with random mistakes: built and compiled, or refused in time with the place named.

python -m bench.faults.recipes_fuzz --edits=5000
"""

from __future__ import annotations

import argparse
import collections
import copy
import functools
import json
import pathlib
import random
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from bench.faults import isolation, results
from input_pipeline import DATASETS, BadInput
from maskfeat_jax.commands.estimate import batch_shapes
from maskfeat_jax.sections import RecipeError
from maskfeat_jax.tasks import TASKS
from maskfeat_jax.training.build import build
from tests.recipes import CONFIGS, shrunken

SECONDS = 120.0  # for a hang; the machine may be shared
LIMIT = 5.0  # seconds of the processor; what the catalogue allows
MEMORY = 6 << 30
NUMBERS: tuple[Any, ...] = (0, -1, 1, 2, 3, 7, 10**6, 2**31, 2**63, -(2**63), 10**30)
NUMBERS += (0.5, -0.5, 1e-30, 1e30, 1.5)
NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
OTHER_TYPES: tuple[Any, ...] = ("", "a", "1", "nan", True, (), ("x",), (1, 2, 3, 4, 5), {})
OTHER_TYPES += ({"a": 1}, (None,), ((1,),), 1.5, 3, "\0", "x" * 10_000)
FOREIGN = ("augment", "knn", "mask", "mix", "optim", "target", "view")  # not of every task
PATHS = (("data", "path"), ("eval_data", "path"), ("model", "init_from"))
DTYPES = ("float16", "fp16", "half", "bf16", "float64", "int8", "", "Float32")
WHOLE = (*OTHER_TYPES, None, -1, 10**30, [{}])


class Edit(NamedTuple):
    """A recipe of `configs/` with mistakes."""

    recipe: str
    words: tuple[str, ...]  # what was done
    places: tuple[str, ...]  # sections and keys it was done to; a refusal names one of them
    wrong: bool  # whether it cannot be valid
    edited: dict[str, Any]


def edit(seed: int) -> Edit:
    """One to three mistakes in one of the recipes; the same for the same seed."""
    draws = random.Random(seed)
    name = draws.choice(CONFIGS)
    recipe = copy.deepcopy(draws.choice((valid, resolved))(name))
    words, places, wrong = [], [], False
    for _ in range(draws.choice((1, 1, 1, 2, 3))):
        change = draws.choice(CHANGES)
        place, said, is_wrong = change(recipe, draws)
        words.append(said)
        places += place
        wrong |= is_wrong
    return Edit(name, tuple(words), tuple(places), wrong, recipe)


def valid(name: str) -> dict[str, Any]:
    """A recipe without mistakes."""
    recipe = shrunken(name)
    if recipe["task"] != "pretrain":
        recipe["model"]["init_from"] = str(pathlib.Path(__file__).parent)
    return recipe


@functools.cache
def resolved(name: str) -> dict[str, Any]:
    """A recipe without mistakes, all keys with their defaults."""
    return build(valid(name)).recipe


def _key(recipe: dict, draws: random.Random) -> tuple[str, str]:
    """A section and a key of it; not the size of a data set of videos, which would be made."""
    sections = [name for name, value in recipe.items() if isinstance(value, dict) and value]
    sections = [n for n in sections if recipe[n].get("name") != "moving_shapes"]
    section = draws.choice(sorted(sections))
    return section, draws.choice(sorted(recipe[section]))


def _misspelt(word: str, draws: random.Random) -> str:
    at = draws.randrange(len(word))
    return draws.choice(
        (word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:], word + "s", word.upper())
    )


def misspell_key(recipe: dict, draws: random.Random) -> tuple:
    section, key = _key(recipe, draws)
    other = _misspelt(key, draws)
    if other in recipe[section] or not other:
        return (), "nothing", False
    recipe[section][other] = recipe[section].pop(key)
    return (section, key), f"{section}.{key} is called {other}", True


def misspell_section(recipe: dict, draws: random.Random) -> tuple:
    section = draws.choice(sorted(recipe))
    other = _misspelt(section, draws)
    if other in recipe or not other:
        return (), "nothing", False
    recipe[other] = recipe.pop(section)
    return (section, other), f"{section} is called {other}", True


def drop_section(recipe: dict, draws: random.Random) -> tuple:
    section = draws.choice(sorted(recipe))
    del recipe[section]
    return (section,), f"no {section}", section == "task"


def drop_key(recipe: dict, draws: random.Random) -> tuple:
    section, key = _key(recipe, draws)
    del recipe[section][key]
    return (section, key), f"no {section}.{key}", False


def whole_section(recipe: dict, draws: random.Random) -> tuple:
    section, value = draws.choice(sorted(recipe)), draws.choice(WHOLE)
    recipe[section] = value
    wrong = section not in ("seed", "task") and not isinstance(value, dict)
    return (section, *_others(section)), f"{section}={_short(value)}", wrong


def foreign_section(recipe: dict, draws: random.Random) -> tuple:
    """A section that another task reads."""
    section = draws.choice(FOREIGN)
    task = TASKS.get(str(recipe.get("task")))
    if section in recipe or task is None:
        return (), "nothing", False
    recipe[section] = draws.choice(({}, {"size": 3}, {"ratio": 0.5}, {"lr": 1.0}, None, 3))
    wrong = section not in task.sections
    return (section,), f"{section}={_short(recipe[section])} (foreign)", wrong


def other_task(recipe: dict, draws: random.Random) -> tuple:
    recipe["task"] = draws.choice((*sorted(TASKS), "evaluate"))
    task = TASKS.get(recipe["task"], TASKS["finetune"])
    return ("task", *task.sections), f"task={recipe['task']}", False


def foreign_key(recipe: dict, draws: random.Random) -> tuple:
    """A key of another section."""
    (section, _), (other, key) = _key(recipe, draws), _key(recipe, draws)
    recipe[section][key] = recipe[other][key]
    return (section, key), f"{section}.{key} of {other}", False


def other_length(recipe: dict, draws: random.Random) -> tuple:
    section, key = _key(recipe, draws)
    old = recipe[section][key]
    if isinstance(old, list | tuple):
        recipe[section][key] = draws.choice(((), tuple(old[1:]), (*old, *old[:1]), [*old, *old]))
    return (section, key), f"{section}.{key}={_short(recipe[section][key])} (length)", False


def url(recipe: dict, draws: random.Random) -> tuple:
    section, key = draws.choice(PATHS)
    if not isinstance(recipe.get(section), dict):
        return (), "nothing", False
    recipe[section][key] = draws.choice(("gs://bucket/a", "file:///a", "s3://bucket"))
    return (section, key), f"{section}.{key}={recipe[section][key]}", True


def other_dtype(recipe: dict, draws: random.Random) -> tuple:
    if not isinstance(recipe.get("model"), dict):
        return (), "nothing", False
    recipe["model"]["dtype"] = draws.choice(DTYPES)
    return ("model", "dtype"), f"model.dtype={recipe['model']['dtype']!r}", True


def _others(section: str) -> tuple[str, ...]:
    return ("heads", "finetune", "pretrain") if section == "task" else ()


def _put(kind: str, values: tuple, wrong: bool = False):
    def change(recipe: dict, draws: random.Random) -> tuple:
        section, key = _key(recipe, draws)
        old, value = recipe[section][key], draws.choice(values)
        recipe[section][key] = value
        numeric = isinstance(old, int | float) and not isinstance(old, bool)
        return (section, key), f"{section}.{key}={_short(value)} ({kind})", wrong and numeric

    return change


def as_text(recipe: dict, draws: random.Random) -> tuple:
    section, key = _key(recipe, draws)
    value = recipe[section][key]
    recipe[section][key] = str(value)
    changed = not isinstance(value, str) and value is not None
    return (section, key), f"{section}.{key}={str(value)!r} (text)", changed


def scaled(recipe: dict, draws: random.Random) -> tuple:
    """What a user might try: the half, the double, one more, the other word."""
    section, key = _key(recipe, draws)
    value = recipe[section][key]
    if isinstance(value, bool):
        recipe[section][key] = not value
    elif isinstance(value, int):
        recipe[section][key] = draws.choice((value // 2, 2 * value, value + 1, value - 1))
    elif isinstance(value, float):
        recipe[section][key] = value * draws.choice((0.5, 2.0, 0.9))
    return (section, key), f"{section}.{key}={_short(recipe[section][key])} (near)", False


def another(recipe: dict, draws: random.Random) -> tuple:
    section, key = _key(recipe, draws)
    other, name = _key(recipe, draws)
    recipe[section][key] = recipe[other][name]
    return (section, key), f"{section}.{key}={_short(recipe[section][key])} ({other}.{name})", False


CHANGES = (
    misspell_key,
    misspell_section,
    drop_section,
    drop_key,
    whole_section,
    _put("number", NUMBERS),
    _put("number", NUMBERS),
    _put("not finite", NOT_FINITE, wrong=True),
    _put("type", OTHER_TYPES),
    _put("none", (None,)),
    as_text,
    scaled,
    scaled,
    another,
    foreign_section,
    foreign_key,
    other_task,
    other_length,
    url,
    other_dtype,
)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:50]}... ({len(text)})"


def attempt(seed: int) -> tuple[str, str, float]:
    """What becomes of one recipe: class, message, seconds until built or refused."""
    tried = edit(seed)
    make_videos()
    start = time.process_time()
    try:
        experiment = build(tried.edited)
    except (RecipeError, BadInput) as error:
        return "refused", str(error), time.process_time() - start
    seconds = time.process_time() - start
    if experiment.optimizer is not None:
        batch = batch_shapes(experiment.task, experiment.mesh, experiment.run.batch_size)
        jax.eval_shape(experiment.step, experiment.abstract_state, batch)
    return "built", "", seconds


@functools.cache
def make_videos() -> None:
    """The videos of the shrunken recipes, which are made on first use."""
    for where in ("data", "eval_data"):
        section = dict(shrunken("maskfeat_mvit_kinetics:s")[where])
        DATASETS[section.pop("name")](**section)


def verdict(tried: Edit, outcome: Any) -> str:
    if isinstance(outcome, isolation.Died | isolation.Hung | str):
        return "hang or damage"
    kind, message, seconds = outcome
    if kind == "built":
        return "wrong in silence" if tried.wrong else "recovered"
    places = [*tried.places, *tried.edited]  # a contradiction may be reported for either key
    named = any(re.search(rf"\b{re.escape(str(place))}", message) for place in places)
    return "clean stop" if named and seconds < LIMIT else "noticed late"


def series(
    seeds: range, log: Callable[[str], None] = print
) -> tuple[dict[str, int], dict[str, Any]]:
    """Outcomes of many seeds; details: the longest time of one."""
    outcomes: collections.Counter[str] = collections.Counter()
    longest = 0.0
    for seed, outcome in isolation.each(attempt, seeds, SECONDS, MEMORY):
        tried = edit(seed)
        judged = verdict(tried, outcome)
        outcomes[judged] += 1
        if isinstance(outcome, tuple) and len(outcome) == 3:
            longest = max(longest, outcome[2])
        if judged not in results.GOOD:
            log(f"{seed} {tried.recipe} {'; '.join(tried.words)}: {judged}: {outcome!s:.300}")
    return dict(outcomes), {"longest_seconds": round(longest, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0, help="seed")
    parser.add_argument("--record", action="store_true", help="in docs/faults.jsonl")
    chosen = parser.parse_args()
    outcomes, details = series(range(chosen.first, chosen.first + chosen.edits))
    print(json.dumps(outcomes), details)
    if chosen.record:
        results.record(
            "J1",
            "one to three random mistakes in a recipe of configs/, shrunken",
            outcomes,
            note="recovered: still valid, built, and its step traced. Clean stop: refused "
            "within 5 s (code 78) with the section or key named",
            **details,
        )


if __name__ == "__main__":
    main()
