"""Recipes small enough for tests."""

from __future__ import annotations

import importlib.util
import pathlib
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
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
    small["data"] = {"name": "shapes", "split": "train", "num_examples": 48, "size": 32}
    small["eval_data"] = {"name": "shapes", "split": "validation", "num_examples": 21, "size": 32}
    small["view"]["size"] = small["eval_view"]["size"] = 32
    small["eval_view"]["resize"] = 36
    small["input"]["workers"] = 2
    model = small["model"]
    small["model"] = {
        **model,
        **{"encoder": "vit_ti16", "width": 24, "depth": 2, "heads": 2, "tubelet": (1, 16, 16)},
    }
    if "num_classes" in model:
        small["model"] = {**small["model"], "num_classes": 10, "init_from": ""}
        small["mix"]["group"] = 4
    if "target" in small:
        small["target"]["cell"] = 8
    small["optim"]["warmup_epochs"] = 0.5
    small["run"] = {"epochs": 2, "batch_size": 16, "log_every_steps": 1}
    return small
