"""Recipes small enough for tests."""

from __future__ import annotations

import importlib.util
import pathlib
import tempfile
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
_FOLDER = tempfile.TemporaryDirectory()  # goes away with the process
VIDEOS = pathlib.Path(_FOLDER.name)
CLASSES = {"shapes": range(10), "moving_shapes": range(8)}
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__")


def recipe(name: str) -> dict[str, Any]:
    """A recipe of `configs/` as main.py reads it."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config().to_dict()


def shrunken(name: str, *, depth: int = 1) -> dict[str, Any]:
    """The recipe with a small network on a few small shapes, for a few steps.

    What it starts from (`model.init_from`) is left to the test. Recipes of the same name are the
    same program, which is compiled once: tests change what does not matter to it.

    Args:
      name: of the recipe.
      depth: of a ViT; drop path drops nothing in the first block.
    """
    small = recipe(name)
    _shrink_data(small)
    model, head = small["model"], small["head"]
    video = small["eval_view"].get("frames", 1) > 1
    if model["encoder"].startswith("mvit"):
        last = 8 if "num_classes" in head else 4  # as published, the classifier halves once more
        sizes = {"width": 8, "depth": 2, "heads": 1, "stages": (1,), "tubelet": (2, last, last)}
    else:
        tubelet = (2, 8, 8) if video else (1, 16, 16)
        sizes = {"width": 32, "depth": depth, "heads": 2, "tubelet": tubelet}
    small["model"] = {**model, **sizes}
    if "init_from" in model:
        small["model"]["init_from"] = ""
    if head["name"] == "mae":
        small["head"] = {**head, "width": 32, "depth": 1, "heads": 2}
    for section in ("head", "knn"):
        if "num_classes" in small.get(section, {}):
            small[section]["num_classes"] = len(CLASSES[small["data"]["name"]])
    if "mix" in small:
        small["mix"]["group"] = 4
    if "cell" in small.get("target", {}):
        small["target"]["cell"] = min(8, sizes["tubelet"][1] // 2)
    if "optim" in small:
        small["optim"]["warmup_epochs"] = 0.5
    small["run"] = {"epochs": 2, "batch_size": 16, "log_every_steps": 1}
    return small


def _shrink_data(small: dict[str, Any]) -> None:
    views = [small[view] for view in ("view", "eval_view") if view in small]
    for where, split, count in (("data", "train", 48), ("eval_data", "validation", 21)):
        small[where] = {"name": "shapes", "split": split, "num_examples": count, "size": 32}
    side = 32
    if small["eval_view"].get("frames", 1) > 1:
        for view in views:
            view["frames"] = 4
        for where in ("data", "eval_data"):
            small[where].update(name="moving_shapes", path=str(VIDEOS), size=side, frames=16)
        small["eval_view"]["clips"] = 2
    for view in views:
        view["size"] = side
        for key, smaller in (("short_side", side + 4), ("scale_jitter", (side, side + 8))):
            if key in view:
                view[key] = smaller
    small["eval_view"]["resize"] = side + 4
    small["input"]["workers"] = 2
    if small.get("mask", {}).get("window"):
        small["mask"]["window"] = (2, 4, 4)
