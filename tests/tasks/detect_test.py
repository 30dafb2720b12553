from __future__ import annotations

import dataclasses
import types

import jax
import numpy as np
import pytest

from input_pipeline.boxes import LabelledBoxes, Truth
from maskfeat_jax.augment import Augment
from maskfeat_jax.losses import binary_cross_entropy
from maskfeat_jax.sections import RecipeError
from maskfeat_jax.tasks.detect import Score, mirrored
from tests.steps_test import batch, compiled, detecting


def test_loss_by_hand():
    """-ln 0.9 and -ln 0.8, averaged."""
    p, y = np.array([0.9, 0.2]), np.array([True, False])
    loss = binary_cross_entropy(np.log(p / (1 - p)), y)
    np.testing.assert_allclose(loss, 0.164252, atol=1e-6)
    logits = np.array([500.0, -500.0])
    np.testing.assert_allclose(binary_cross_entropy(logits, y), 0, atol=1e-6)
    np.testing.assert_allclose(binary_cross_entropy(logits, ~y), 500)


def test_boxes_are_flipped_as_in_slowfast():
    boxes = np.array([[[10.0, 20, 100, 200]]], np.float32)
    np.testing.assert_array_equal(mirrored(boxes, 224), [[[123, 20, 213, 200]]])
    np.testing.assert_array_equal(mirrored(mirrored(boxes, 224), 224), boxes)


def test_boxes_move_with_the_flip_of_their_clip():
    """A clip that is always flipped trains as its mirror image that never is."""
    state, task, optimizer = detecting()
    still = dataclasses.replace(task.model, dropout=0.0)
    both = [
        dataclasses.replace(task, model=still, augment=Augment(flip=flip)) for flip in (1.0, 0.0)
    ]
    examples = batch()
    mirror = {**examples, "video": examples["video"][..., ::-1, :].copy()}
    mirror["boxes"] = np.asarray(mirrored(examples["boxes"], 32))
    (one, a), (other, b) = (
        compiled(each, optimizer)(state, rows)
        for each, rows in zip(both, (examples, mirror), strict=True)
    )
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), one.params, other.params)


def test_every_box_counts_the_same():
    state, task, optimizer = detecting()
    still = dataclasses.replace(
        task, model=dataclasses.replace(task.model, dropout=0.0), augment=Augment(flip=0.0)
    )
    examples = batch()
    _, metrics = compiled(still, optimizer)(state, examples)
    logits = still.model.apply(
        {"params": state.params}, still.normalise(examples["video"]), examples["boxes"]
    )
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    of_box = -np.where(examples["box_classes"], np.log(p), np.log(1 - p)).mean(-1)
    np.testing.assert_allclose(metrics["loss"], of_box[examples["box_valid"]].mean(), rtol=1e-5)


def labelled(classes=5):
    """Boxes of three examples: two, none, one; a key without example has a true box, too."""
    sides = np.array([[0.1, 0.1, 0.4, 0.6], [0.5, 0.2, 0.9, 0.9], [0.2, 0.2, 0.8, 0.8]])
    hold = np.zeros((3, classes), bool)
    hold[[0, 1, 1, 2], [0, 1, 2, 0]] = True
    row, number = np.nonzero(hold)
    keys = np.array(["a,0902", "a,0902", "b,0904"])
    truth = Truth(keys[row], sides[row], number, groups={"first": (0,), "others": (1, 2, 3, 4)})
    first = np.array([0, 2, 2, 3])
    boxes = LabelledBoxes(("a,0902", "a,0903", "b,0904"), first, sides, hold, truth)
    names = tuple("abcde"[:classes])
    return types.SimpleNamespace(
        boxes=boxes, class_names=names, num_examples=3, name_of=boxes.keys.__getitem__
    )


def results(task, source, unread=()):
    """Of a model that knows the classes of all boxes, in two batches."""
    boxes, kept = source.boxes, []
    for rows in ([0, 1], [2, -1]):
        examples = [range(boxes.first[i], boxes.first[i + 1]) if i >= 0 else () for i in rows]
        probabilities = np.full((2, 2, 5), 0.5, np.float32)  # of padding: never counted
        box_valid = np.zeros((2, 2), bool)
        for row, own in enumerate(examples):
            probabilities[row, : len(own)] = boxes.classes[list(own)] * 0.8 + 0.1
            box_valid[row, : len(own)] = True
        index = np.array(rows)
        valid = (index >= 0) & ~np.isin(index, unread)
        by_example = {"index": index, "valid": valid, "box_valid": box_valid}
        kept.append(task.kept({**by_example, "probabilities": probabilities}))
    joined = {name: np.concatenate([each[name] for each in kept]) for name in kept[0]}
    return task.results({"examples": 3.0}, joined, source)


def test_results():
    _, task, _ = detecting()
    source = labelled()
    found = results(task, source)
    assert found.metrics == {"mAP": 1.0, "mAP_first": 1.0, "mAP_others": 1.0}
    rows = found.tables["per_class.csv"]
    assert [row["average_precision"] for row in rows] == [1.0, 1.0, 1.0, None, None]
    lines = "".join(found.texts["detections.csv"]).splitlines()
    assert len(lines) == 3 * 5
    assert lines[0] == "a,0902,0.100,0.100,0.400,0.600,1,0.9000"


def test_an_example_that_cannot_be_read_is_not_scored():
    _, task, _ = detecting()
    assert results(task, labelled(), unread=[0]).metrics["mAP_first"] == 1.0
    missing = labelled()
    truth = missing.boxes.truth
    more = Truth(
        np.append(truth.keys, "c,0902"),  # a person that the detector did not find
        np.vstack([truth.sides, [0, 0, 1, 1]]),
        np.append(truth.classes, 0),
    )
    missing.boxes = dataclasses.replace(missing.boxes, truth=more)
    found = results(task, missing).tables["per_class.csv"]
    np.testing.assert_allclose(found[0]["average_precision"], 2 / 3)


def test_wrong_data_and_settings_are_refused():
    _, task, _ = detecting()
    unlabelled = types.SimpleNamespace(class_names=("a",), name_of="{}.mp4".format)
    with pytest.raises(RecipeError, match=r"needs examples with boxes.*0\.mp4 has none"):
        task.check_labels("data", unlabelled)
    with pytest.raises(RecipeError, match="num_classes=5, but the boxes of data have 3 classes"):
        task.check_labels("data", labelled(3))
    source = labelled()
    source.boxes = dataclasses.replace(source.boxes, truth=None)
    task.check_labels("data", source)
    with pytest.raises(RecipeError, match="eval_data: it has no ground truth"):
        task.check_labels("eval_data", source)
    with pytest.raises(ValueError, match="scorer='coco': expected slowfast or activitynet"):
        Score("coco")
