"""Parameters without the time that it takes to compile an initialisation."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from maskfeat_jax.models import BoxClassifier


def shapes_of(model: Any, clip: tuple[int, int, int]) -> Any:
    """Shapes of the parameters of a model for a clip."""
    inputs = [jax.ShapeDtypeStruct((1, *clip, 3), np.float32)]
    if hasattr(model, "dim"):  # of what it predicts of masked tokens
        inputs.append(jax.ShapeDtypeStruct((1, *model.encoder.grid(clip)), bool))
    if isinstance(model, BoxClassifier):
        inputs.append(jax.ShapeDtypeStruct((1, 1, 4), np.float32))
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]


def initial(model: Any, *inputs: Any, noise: float = 0.1) -> Any:
    """Normal numbers of standard deviation `noise`; scales are around one. None stays zero."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    random = np.random.default_rng(0)

    def fill(path: Any, leaf: Any) -> np.ndarray:
        values = noise * random.standard_normal(leaf.shape, np.float32)
        return values + (path[-1].key == "scale")

    return jax.tree_util.tree_map_with_path(fill, shapes)
