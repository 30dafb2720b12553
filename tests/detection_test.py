from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from maskfeat_jax.detection import (
    SCORERS,
    Detections,
    average_precisions,
    detections_csv,
    mean_ap,
)

A, B = (0.1, 0.1, 0.5, 0.9), (0.6, 0.1, 0.9, 0.9)
C, D, E = (0, 0, 0.5, 0.5), (0.2, 0.2, 0.6, 0.6), (0.62, 0.1, 0.9, 0.9)
TRUE = [("902", A, 1), ("902", A, 3), ("902", B, 1), ("903", C, 1), ("904", D, 3), ("905", D, 2)]
FOUND = [
    ("902", (0.1, 0.1, 0.5, 0.8), {1: 0.9}),
    ("902", A, {1: 0.8}),
    ("902", E, {1: 0.3}),
    ("902", A, {3: 0.2}),
    ("902", E, {3: 0.6}),
    ("903", (0.3, 0, 0.8, 0.5), {1: 0.95}),
    ("903", (0, 0, 0.5, 0.4), {1: 0.1}),
    ("904", D, {3: 0.7}),
    ("906", D, {1: 0.99, 3: 0.05}),
]


class Truth(NamedTuple):
    keys: np.ndarray
    sides: np.ndarray
    classes: np.ndarray
    excluded: frozenset[str] = frozenset()
    scored: tuple[int, ...] | None = None
    empty: frozenset[str] = frozenset()


def truth(rows, **settings) -> Truth:
    """Of rows (key, sides, class from 1)."""
    keys, sides, classes = zip(*rows, strict=True)
    return Truth(np.array(keys), np.array(sides, float), np.array(classes) - 1, **settings)


def detections(rows, classes=4) -> Detections:
    """Of rows (key, sides, {class from 1: score}); they detect no other classes."""
    scores = np.full((len(rows), classes), -np.inf, np.float32)
    for row, (_, _, some) in zip(scores, rows, strict=True):
        for number, score in some.items():
            row[number - 1] = score
    keys = np.array([row[0] for row in rows], str)
    return Detections(keys, np.array([row[1] for row in rows], float).reshape(-1, 4), scores)


@pytest.mark.parametrize(
    ("scorer", "excluded", "expected"),
    [
        ("slowfast", [], (0.5, 5 / 6, 2 / 3)),
        ("slowfast", ["906"], (0.6, 5 / 6, 43 / 60)),
        ("slowfast", ["904"], (0.5, 0.5, 0.5)),
        ("slowfast", ["906", "907"], (0.6, 5 / 6, 43 / 60)),
        ("activitynet", [], (0.6, 5 / 6, 43 / 60)),
        ("activitynet", ["904"], (0.6, 5 / 6, 43 / 60)),  # it has no such option
    ],
)
def test_worked_example(scorer, excluded, expected):
    true = truth(TRUE, excluded=frozenset(excluded), scored=(0, 2, 3))
    found = average_precisions(true, detections(FOUND), scorer)
    one, three, mean = expected
    np.testing.assert_allclose(found, [one, np.nan, three, np.nan], rtol=1e-12)
    assert mean_ap(found, {})["mAP"] == pytest.approx(mean)


def first(scorer, true, found, **settings) -> float:
    """Average precision of the first class."""
    return average_precisions(truth(true, **settings), detections(found), scorer)[0]


def test_slowfast_keeps_the_order_inside_a_key_and_activitynet_sorts():
    found = [("902", A, {1: 0.2}), ("902", A, {1: 0.8})]
    assert first("slowfast", [("902", A, 1)], found) == 0.5
    assert first("activitynet", [("902", A, 1)], found) == 1


@pytest.mark.parametrize("scorer", SCORERS)
def test_of_equal_scores_the_last_one_comes_first(scorer):
    true = [("902", A, 1), ("903", A, 1)]
    found = [("902", A, {1: 0.5}), ("903", B, {1: 0.5}), ("903", A, {1: 0.4})]
    assert first(scorer, true, found) == pytest.approx(2 / 3)
    # The place of a key is where it appears first, so all of 903 is before 902 here.
    found = [("903", A, {1: 0.4}), ("902", A, {1: 0.5}), ("903", B, {1: 0.5})]
    assert first(scorer, true, found) == pytest.approx(5 / 6)


def test_activitynet_reads_the_fifty_best_pairs_of_a_key():
    true = [("902", A, 1), ("902", B, 3)]
    for others, ap in ((49, 1.0), (50, 0.0)):
        found = [("902", D, {3: 0.5 + i / 200}) for i in range(others)] + [("902", A, {1: 0.4})]
        assert first("activitynet", true, found) == ap
        assert first("slowfast", true, found) == 1
        # Classes that do not count take no place.
        assert first("activitynet", true, found, scored=(0, 1)) == 1


@pytest.mark.parametrize("scorer", SCORERS)
def test_a_box_looks_only_at_the_true_box_of_most_overlap(scorer):
    true = [("902", (0, 0, 1, 1), 1), ("902", (0, 0, 1, 0.7), 1)]
    found = [("902", (0, 0, 1, 1), {1: 0.9}), ("902", (0, 0.4, 1, 1), {1: 0.8})]
    assert first(scorer, true, found) == 0.5  # the first also overlaps the other, with 0.7


@pytest.mark.parametrize("scorer", SCORERS)
def test_the_threshold_is_an_iou_of_a_half(scorer):
    true = [("902", (0, 0, 1, 1), 1)]
    assert first(scorer, true, [("902", (0, 0, 0.5, 1), {1: 0.9})]) == 1
    assert first(scorer, true, [("902", (0, 0, 0.49, 1), {1: 0.9})]) == 0


@pytest.mark.parametrize("scorer", SCORERS)
def test_boxes_without_area_are_left_out(scorer):
    flat = [("902", (0.1, 0.5, 0.5, 0.5), {1: 0.9}), ("902", (0.5, 0.1, 0.1, 0.9), {1: 0.9})]
    assert first(scorer, [("902", A, 1)], [*flat, ("902", A, {1: 0.1})]) == 1


@pytest.mark.parametrize("scorer", SCORERS)
def test_a_class_without_detections_has_zero_and_one_without_truth_none(scorer):
    found = average_precisions(truth([("902", A, 1), ("902", B, 4)]), detections([]), scorer)
    np.testing.assert_array_equal(found, [0, np.nan, np.nan, 0])


def test_a_key_with_classes_that_do_not_count_is_part_of_the_truth():
    true = [("902", A, 1), ("903", A, 2)]
    found = [("903", A, {1: 0.9}), ("902", A, {1: 0.8})]
    assert first("activitynet", true, found, scored=(0,)) == 0.5


def test_refuses_an_unknown_scorer():
    with pytest.raises(ValueError, match="scorer 'coco' is not one of slowfast, activitynet"):
        average_precisions(truth(TRUE), detections(FOUND), "coco")


def test_means_of_groups():
    found = mean_ap(np.array([0.2, np.nan, 0.6, 0.1]), {"pose": (0, 1, 2), "object": (1,)})
    assert found == {
        "mAP": pytest.approx(0.3),
        "mAP_pose": pytest.approx(0.4),
        "mAP_object": pytest.approx(np.nan, nan_ok=True),
    }


def test_csv_has_the_columns_of_ava():
    found = detections([("abc,0902", (0.0776, 0.1514, 0.2834, 1), {1: 0.98763, 3: 0.00004})], 3)
    box = "abc,0902,0.078,0.151,0.283,1.000"
    assert list(detections_csv(found, (0, 1, 2))) == [f"{box},1,0.9876\n{box},3,0.0000\n"]
    assert list(detections_csv(found, (2,))) == [f"{box},3,0.0000\n"]


def scene(seed, keys=40, classes=7) -> tuple[Truth, Detections]:
    """Truth with several boxes a key, and boxes around them and elsewhere; some keys lack either.

    The scores are all different.
    """
    rng = np.random.default_rng(seed)
    true, found = [], []
    for name in map(str, rng.permutation(keys) + 902):
        for _ in range(rng.integers(0, 4)):
            corner, size = rng.uniform(0, 0.5, 2), rng.uniform(0.1, 0.5, 2)
            sides = np.concatenate([corner, corner + size])
            actions = 1 + rng.choice(classes, rng.integers(0, 4), False)
            for twin in (sides, sides + rng.normal(0, 0.02, 4))[: rng.integers(1, 3)]:
                true += [(name, twin, k) for k in actions]
            for _ in range(rng.integers(0, 4)):
                found.append((name, sides + rng.normal(0, 0.04, 4), {}))
        if rng.uniform() < 0.4:
            found.append((name, np.sort(rng.uniform(size=4)), {}))
    boxes = detections(found, classes)
    levels = rng.permutation(boxes.scores.size).reshape(boxes.scores.shape)
    boxes.scores[:] = levels / levels.size
    excluded = frozenset(map(str, range(902, 905)))
    scored = tuple(k for k in range(classes) if k not in (3, 5))
    return truth(true, excluded=excluded, scored=scored), boxes


def permuted(rows, order):
    """A truth or detections with its rows in another order."""
    return rows._replace(**{name: getattr(rows, name)[order] for name in rows._fields[:3]})


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_keys_and_of_true_boxes_does_not_matter(scorer, seed):
    true, found = scene(seed)
    before = average_precisions(true, found, scorer)
    rng = np.random.default_rng(seed)
    place = dict(zip(np.unique(found.keys), rng.permutation(len(found.keys)), strict=False))
    by_key = np.argsort([place[key] for key in found.keys], kind="stable")
    after = average_precisions(
        permuted(true, rng.permutation(len(true.keys))), permuted(found, by_key), scorer
    )
    np.testing.assert_array_equal(after, before)
    assert not np.array_equal(by_key, np.arange(len(by_key)))


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("seed", range(4))
def test_a_rise_of_all_scores_changes_nothing(scorer, seed):
    true, found = scene(seed)
    risen = found._replace(scores=np.sqrt(found.scores.astype(float)))
    expected = average_precisions(true, found, scorer)
    np.testing.assert_array_equal(average_precisions(true, risen, scorer), expected)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("seed", range(4))
def test_a_box_below_all_others_never_lowers_precision(scorer, seed):
    """It is read last, so it can only add recall: if it is right, or nothing."""
    true, found = scene(seed)
    before = average_precisions(true, found, scorer)
    for i in range(0, len(true.keys), 9):
        keys = np.append(found.keys, true.keys[i])
        sides = np.append(found.sides, true.sides[i : i + 1], 0)
        scores = np.append(found.scores, np.full((1, found.scores.shape[1]), -1, np.float32), 0)
        after = average_precisions(true, Detections(keys, sides, scores), scorer)
        others = np.arange(len(after)) != true.classes[i]
        same_box = (true.keys == true.keys[i]) & (true.sides == true.sides[i]).all(1)
        others[true.classes[same_box]] = False
        assert (after >= before)[~np.isnan(before)].all()
        near = (true.keys == true.keys[i]) & ~same_box
        others[true.classes[near]] = False
        np.testing.assert_array_equal(after[others], before[others])


@pytest.mark.parametrize("scorer", SCORERS)
def test_the_truth_itself_is_perfect(scorer):
    true, _ = scene(0)
    true = true._replace(excluded=frozenset())
    rows = [(key, sides, {k + 1: 1.0}) for key, sides, k in zip(*true[:3], strict=True)]
    found = average_precisions(true, detections(rows, 7), scorer)
    assert set(found[~np.isnan(found)]) == {1.0}


def test_activitynet_counts_boxes_on_keys_that_were_annotated_without_one():
    """Numbers of its own scorer, of a list with a row `video,second`."""
    found = detections([("903", D, {1: 0.9}), ("902", A, {1: 0.8})], classes=1)
    true = truth([("902", A, 1)])
    assert average_precisions(true, found, "activitynet") == [1.0]
    assert average_precisions(true._replace(empty=frozenset(["903"])), found, "activitynet") == 0.5
    assert average_precisions(true, found, "slowfast") == 0.5
