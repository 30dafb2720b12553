from __future__ import annotations

import numpy as np
import pytest

from maskfeat_jax.sections import Reader, RecipeError
from maskfeat_jax.targets import Hog, Inputs, Pixels, Sum
from maskfeat_jax.tasks.pretrain import target_of
from tests.targets.clips import clips

TUBELET = (2, 8, 16)


def read(section):
    reader = Reader({"task": "pretrain", "target": section})
    return target_of(reader, "target", section, TUBELET), reader.resolved["target"]


def test_a_sum_is_the_weighted_mean_of_its_parts():
    hog, pixels = Hog(TUBELET, cell=4), Pixels(TUBELET)
    both = Sum(TUBELET, {"hog": hog, "pixels": pixels}, {"hog": 3.0})
    inputs = Inputs(clips())
    targets = both(inputs)
    predicted = np.random.default_rng(0).standard_normal((*targets["hog"].shape[:4], both.dim))
    own = {"hog": predicted[..., : hog.dim], "pixels": predicted[..., hog.dim :]}
    losses = {
        name: target.loss(own[name], target(inputs))["loss"]
        for name, target in (("hog", hog), ("pixels", pixels))
    }
    found = both.loss(predicted, targets)
    np.testing.assert_allclose(found["loss_hog"], losses["hog"], rtol=1e-5)
    np.testing.assert_allclose(found["loss_pixels"], losses["pixels"], rtol=1e-5)
    mean = 0.75 * losses["hog"] + 0.25 * losses["pixels"]
    np.testing.assert_allclose(found["loss"], mean, rtol=1e-5)
    restored = both.restore(predicted, inputs, predicted=True)
    np.testing.assert_allclose(
        restored["pixels"], pixels.restore(own["pixels"], inputs, predicted=True), rtol=1e-5
    )


def test_a_sum_is_read_from_a_recipe():
    parts = {"hog": {"cell": 4}, "raw": {"name": "pixels", "normalise": False}}
    target, resolved = read({"name": "sum", "parts": parts, "weights": {"raw": 0.5}})
    hog, raw = Hog(TUBELET, cell=4), Pixels(TUBELET, normalise=False)
    assert target == Sum(TUBELET, {"hog": hog, "raw": raw}, {"raw": 0.5})
    assert hash(target) == hash(Sum(TUBELET, {"hog": hog, "raw": raw}, {"raw": 0.5}))
    assert resolved["parts"]["hog"]["bins"] == 9
    assert read(resolved)[0] == target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": {}}, "target: parts: empty"),
        ({"parts": 3}, "target.parts=3: expected sections by name"),
        ({"parts": {"hog": 3}}, "target.parts.hog=3: expected a section"),
        ({"parts": {"hogg": {}}}, "target.parts.hogg.name='hogg' does not exist; did you mean"),
        ({"parts": {"hog": {"cells": 4}}}, "target.parts.hog.cells: no such key; did you mean"),
        ({"weights": {"pixel": 1.0}}, "target: weights.pixel: no such part; there are hog, pixels"),
        ({"weights": {"hog": 0.0, "pixels": 0.0}}, "target: weights=.*: their sum is zero"),
        ({"weights": {"hog": float("nan")}}, "target: weights.hog=nan: expected a number"),
        ({"weights": {"hog": "1"}}, "target: weights.hog='1': expected a number"),
        ({"weights": {"hog": -1.0}}, "target: weights.hog=-1.0: expected a number of 0 or more"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(RecipeError, match=message):
        read({"name": "sum", "parts": {"hog": {}, "pixels": {}}, **change})
