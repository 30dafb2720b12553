"""Clips of one colour: no gradient to take a histogram of, no variance to divide by."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax.augment import Normalise
from maskfeat_jax.targets import TARGETS, Inputs

TUBELET = (2, 8, 8)
SETTINGS = {"hog": ({"cell": 4}, {"cell": 8, "normalise": "l1"}, {"cell": 4, "window": 16})}
SETTINGS["pixels"] = ({}, {"normalise": False})
CASES = [(name, settings) for name, each in SETTINGS.items() for settings in each]


# With the same mean and deviation for all colours, a grey token is one number everywhere.
@pytest.mark.parametrize("normalise", [Normalise(), Normalise((0.5,) * 3, (0.25,) * 3)])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 7)])
@pytest.mark.parametrize(("name", "settings"), CASES)
def test_features_and_their_gradient_are_finite(name, settings, colour, normalise):
    target = TARGETS[name](tubelet=TUBELET, **settings)
    video = np.broadcast_to(np.array(colour, np.uint8), (2, 4, 16, 32, 3))
    clips = normalise(video)

    def loss(clips):
        return jnp.mean((target(Inputs(clips)) - 0.3) ** 2)

    value, gradient = jax.value_and_grad(loss)(clips)
    assert np.isfinite(target(Inputs(clips))).all()
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
