"""The score of detections against both originals, on seeded random boxes and scores."""

from __future__ import annotations

import importlib
import io
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from bench.originals import original
from maskfeat_jax.detection import average_precisions, mean_ap
from tests.detection_test import scene

SCENES = [dict(seed=seed, classes=classes) for seed in range(4) for classes in (7, 20)]
VIDEO = "-5KQ66BBWC4"


def equal(true, found, scorer, theirs):
    """Whether our score is that in the dictionary of an original."""
    ours = average_precisions(true, found, scorer)
    prefix = "PascalBoxes_PerformanceByCategory/AP@0.5IOU/"
    by_class = [theirs.pop(f"{prefix}{k}") for k in true.scored]
    np.testing.assert_allclose(ours[list(true.scored)], by_class, rtol=1e-12)
    assert mean_ap(ours, {})["mAP"] == pytest.approx(theirs.pop("PascalBoxes_Precision/mAP@0.5IOU"))
    assert not theirs
    print(f"{scorer}: mAP {mean_ap(ours, {})['mAP']:.4f}")
    assert 0.02 < mean_ap(ours, {})["mAP"] < 0.98


@pytest.mark.original("SLOWFAST_DIR")
@pytest.mark.parametrize("settings", SCENES)
def test_pyslowfast(settings, monkeypatch):
    # They import their own folder by the name that it has elsewhere.
    for name in ("vision", "vision.fair", "vision.fair.slowfast"):
        package = types.ModuleType(name)
        package.__path__ = [os.environ["SLOWFAST_DIR"]]
        monkeypatch.setitem(sys.modules, name, package)
    scorer = original("slowfast.utils.ava_eval_helper")
    true, found = scene(**settings)
    boxes = [(-1, *sides) for sides in found.sides]
    metadata = np.stack([np.zeros(len(boxes)), found.keys.astype(float)], 1)
    white = {k + 1 for k in true.scored}
    detections = scorer.get_ava_eval_data(
        found.scores, np.array(boxes), metadata, white, video_idx_to_name=[VIDEO]
    )
    sides, labels = {}, {}
    for key, (left, top, right, bottom), k in zip(*true[:3], strict=True):
        if k in true.scored:
            key = f"{VIDEO},{int(key):04d}"
            sides.setdefault(key, []).append([top, left, bottom, right])
            labels.setdefault(key, []).append(k + 1)
    categories = [{"id": k + 1, "name": f"{k}"} for k in true.scored]
    excluded = {f"{VIDEO},{int(key):04d}" for key in true.excluded}
    theirs = scorer.run_evaluation(categories, (sides, labels, None), detections, excluded)
    equal(true, found, "slowfast", theirs)


@pytest.mark.original("ACTIVITYNET_DIR")
@pytest.mark.parametrize("settings", SCENES)
def test_activitynet(settings, monkeypatch):
    folder = Path(os.environ["ACTIVITYNET_DIR"]) / "Evaluation"
    monkeypatch.setattr(np, "float", float, raising=False)  # until NumPy 1.24
    monkeypatch.syspath_prepend(folder / "ava")
    monkeypatch.syspath_prepend(folder)
    scorer = importlib.import_module("get_ava_performance")
    printed = []
    shown = types.SimpleNamespace(
        pprint=lambda metrics, **_: printed.append(metrics), pformat=lambda *_, **__: ""
    )
    monkeypatch.setattr(scorer, "pprint", shown)
    true, found = scene(**settings)
    items = "".join(f'item {{\n  name: "{k}"\n  id: {k + 1}\n}}\n' for k in true.scored)
    truths = [[VIDEO, key, *sides, k + 1] for key, sides, k in zip(*true[:3], strict=True)]
    detections = [
        [VIDEO, key, *sides, k + 1, float(score)]
        for key, sides, scores in zip(*found, strict=True)
        for k, score in enumerate(scores)
    ]
    files = [
        io.StringIO("".join(",".join(map(str, row)) + "\n" for row in rows))
        for rows in (truths, detections)
    ]
    for file in files:
        file.name = "a file"
    scorer.run_evaluation(io.StringIO(items), *files)
    equal(true, found, "activitynet", *printed)
