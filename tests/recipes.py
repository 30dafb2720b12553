"""Recipes small enough for tests."""

from __future__ import annotations

import importlib
import itertools
import pathlib
import tempfile
from types import ModuleType
from typing import Any

from maskfeat_jax import recipes

ROOT = pathlib.Path(__file__).parents[1]
_FOLDER = tempfile.TemporaryDirectory()  # deleted when the process ends
VIDEOS = pathlib.Path(_FOLDER.name)
CLASSES = {"shapes": range(10), "moving_shapes": range(8), "acting_shapes": range(11)}
TABLES = ("SIZES", "STAGES", "TARGETS", "DATA")  # what may follow the colon, in order
STEMS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "common")


def module(stem: str) -> ModuleType:
    """A file of `configs/`."""
    return importlib.import_module(f"maskfeat_jax.configs.{stem}")


def names_of(stem: str) -> list[str]:
    """Names that can be loaded from a file: `name:size` for each size, or `name` without sizes."""
    tables = [list(getattr(module(stem), table, ())) for table in TABLES]
    chosen = itertools.product(*filter(None, tables))
    return [":".join(filter(None, (stem, ",".join(words)))) for words in chosen]


CONFIGS = [name for stem in STEMS for name in names_of(stem)]


def path_of(name: str) -> str:
    """The value of `--config` for a name of `CONFIGS`."""
    stem, colon, size = name.partition(":")
    return f"{ROOT}/configs/{stem}.py{colon}{size}"


def recipe(name: str) -> dict[str, Any]:
    """A recipe of `configs/`, as `CONFIGS` names it."""
    return recipes.load(name).to_dict()


def shrunken(name: str, *, depth: int = 1) -> dict[str, Any]:
    """The recipe with a small network on a few small shapes, in float32, for a few steps.

    What it starts from (`model.init_from`) is left to the test. Recipes of the same name are the
    same program, which is compiled once: tests change what does not matter to it.

    Args:
      name: of the recipe.
      depth: of a ViT; drop path drops nothing in the first block.
    """
    small = recipe(name)
    trains = small["task"] != "knn"
    for section in ("input", "bad_inputs", "eval_view", *(("view", "augment") if trains else ())):
        small.setdefault(section, {})
    _shrink_data(small)
    model, head = small["model"], small["head"]
    video = small["data"]["name"] != "shapes"
    if model["encoder"].startswith("mvit"):
        last = 8 if "num_classes" in head else 4  # as published, the classifier halves once more
        sizes = {"width": 8, "depth": 2, "heads": 1, "stages": (1,), "tubelet": (2, last, last)}
    else:
        tubelet = (2, 8, 8) if video else (1, 16, 16)
        sizes = {"width": 32, "depth": depth, "heads": 2, "tubelet": tubelet}
    small["model"] = {**model, **sizes, "dtype": "float32"}
    if "init_from" in model:
        small["model"]["init_from"] = ""
    if head["name"] == "mae":
        small["head"] = {**head, "width": 32, "depth": 1, "heads": 2}
    for section in ("head", "knn"):
        if "num_classes" in small.get(section, {}):
            small[section]["num_classes"] = len(CLASSES[small["data"]["name"]])
    if small["task"] == "detect":
        small["augment"]["flip"] = 0.0  # left and right tell motions apart
    if small["task"] == "finetune":
        small.setdefault("mix", {})["group"] = 4
    if small.get("target", {}).get("name") == "hog":
        small["target"]["cell"] = min(8, sizes["tubelet"][1] // 2)
    if trains:
        small["optim"]["warmup_epochs"] = 0.5
    small["run"] = {"epochs": 2, "batch_size": 16, "log_every_steps": 1}
    return small


def _shrink_data(small: dict[str, Any]) -> None:
    side, view = 32, small.get("view", {})
    same = {key: view[key] for key in ("frames", "stride", "sampling") if key in view}
    small["eval_view"] = {**same, **small["eval_view"], "resize": side + 4}
    views = [small[view] for view in ("view", "eval_view") if view in small]
    for where, split, count in (("data", "train", 48), ("eval_data", "validation", 21)):
        small[where] = {"name": "shapes", "split": split, "num_examples": count, "size": side}
    if small["eval_view"].get("frames", 1) > 1:
        for view in views:
            view["frames"] = 4
        for where in ("data", "eval_data"):
            boxes = small["task"] == "detect"
            name, frames = ("acting_shapes", 8) if boxes else ("moving_shapes", 16)
            small[where].update(name=name, path=str(VIDEOS), frames=frames)
        small["eval_view"]["clips"] = 1 if boxes else 2
    for view in views:
        view["size"] = side
        for key, smaller in (("short_side", side + 4), ("scale_jitter", (side, side + 8))):
            if key in view:
                view[key] = smaller
    small["input"]["workers"] = 2
    if small.get("mask", {}).get("window"):
        small["mask"]["window"] = (2, 4, 4)
