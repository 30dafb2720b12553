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


def shrunken(name: str) -> dict[str, Any]:
    """The recipe with a small network on a few small shapes, for a few steps."""
    small = recipe(name)
    _shrink_data(small)
    model, head = small["model"], small["head"]
    if small["view"].get("frames", 1) == 1:
        sizes = {"encoder": "vit_ti16", "width": 24, "depth": 2, "heads": 2, "tubelet": (1, 16, 16)}
    else:  # as published, the classifier halves the grid once more
        last = 8 if "num_classes" in head else 4
        sizes = {"width": 8, "depth": 2, "heads": 1, "stages": (1,), "tubelet": (2, last, last)}
    small["model"] = {**model, **sizes}
    if "num_classes" in head:
        small["head"] = {**head, "num_classes": len(CLASSES[small["data"]["name"]])}
        small["model"]["init_from"] = ""
        small["mix"]["group"] = 4
    if "target" in small:
        small["target"]["cell"] = min(8, sizes["tubelet"][1] // 2)
    small["optim"]["warmup_epochs"] = 0.5
    small["run"] = {"epochs": 2, "batch_size": 16, "log_every_steps": 1}
    return small


def _shrink_data(small: dict[str, Any]) -> None:
    for where, split, count in (("data", "train", 48), ("eval_data", "validation", 21)):
        small[where] = {"name": "shapes", "split": split, "num_examples": count, "size": 32}
    side = 32
    if small["view"].get("frames", 1) > 1:
        small["view"]["frames"] = small["eval_view"]["frames"] = 4
        for where in ("data", "eval_data"):
            small[where].update(name="moving_shapes", path=str(VIDEOS), size=side, frames=16)
        small["eval_view"]["clips"] = 2
    small["view"]["size"] = small["eval_view"]["size"] = side
    small["eval_view"]["resize"] = side + 4
    small["input"]["workers"] = 2
    if "short_side" in small["view"]:
        small["view"]["short_side"] = side + 4
    if "scale_jitter" in small["view"]:
        small["view"]["scale_jitter"] = (side, side + 8)
    if small.get("mask", {}).get("window"):
        small["mask"]["window"] = (2, 4, 4)
