"""Masked feature prediction for images and video in JAX.

import maskfeat_jax as mf

model = mf.load("runs/a")  # or a checkpoint of timm, transformers, PySlowFast, ...
model.features(video)  # uint8 (b, t, h, w, 3) -> float32 (b, d)
experiment = mf.build("configs/smoke.py")
mf.train(experiment, "runs/b")
"""

from __future__ import annotations

from typing import Any

__all__ = ["build", "load", "model", "train"]


def __getattr__(name: str) -> Any:
    """These functions are imported when they are asked for: they need all the rest."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from maskfeat_jax import api

    return getattr(api, name)
