"""A recipe of seconds for training processes that are killed. It has 48 steps; evaluations,
checkpoints and lines of metrics fall together as little as they can.

    python main.py --config=bench/faults/recipe.py:pretrain --workdir=...
"""

from __future__ import annotations

import sys
from pathlib import Path

from ml_collections import ConfigDict

sys.path.append(str(Path(__file__).parents[2]))  # main.py reads this file by its path

from tests.recipes import shrunken

RECIPES = {"pretrain": "maskfeat_vit_in1k:b16", "finetune": "finetune_mae_vit_in1k:b16"}
EXAMPLES, BATCH, EPOCHS = 48, 16, 16
STEPS_PER_EPOCH = EXAMPLES // BATCH
STEPS = STEPS_PER_EPOCH * EPOCHS
SAVE_EVERY, EVALUATE_EVERY, LOG_EVERY = 7, 12, 5


def get_config(name: str) -> ConfigDict:
    """`pretrain` or `finetune`: a small network on drawn shapes, 16 tokens of 8x8 pixels."""
    small = shrunken(RECIPES[name])
    small["model"].update(tubelet=(1, 8, 8), width=32, depth=1)
    small["eval_data"]["num_examples"] = 21
    if "target" in small:
        small["target"]["cell"] = 4
    small["optim"]["lr"] = 0.03  # what is lost must show
    if name == "finetune":
        small["optim"]["ema_decay"] = 0.9
    # What is below as without it, to be changed on the command line.
    small["mesh"] = {"parameters": 1, "tensor": 1}
    small["run"] = {
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "log_every_steps": LOG_EVERY,
        "checkpoint_every_epochs": SAVE_EVERY / STEPS_PER_EPOCH,
        "evaluate_every_epochs": EVALUATE_EVERY / STEPS_PER_EPOCH,
        "pictures_every_epochs": 0.0,
        "keep_checkpoints": 3,
        "max_nonfinite_fraction": 0.001,
        "grace_seconds": 25.0,
        "hang_seconds": 300.0,
        "hang_start_seconds": 1800.0,
    }
    return ConfigDict(small)
