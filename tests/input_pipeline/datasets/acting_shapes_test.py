from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from input_pipeline import EvalView, Loader
from input_pipeline.datasets import acting_shapes
from input_pipeline.datasets.acting_shapes import ActingShapes
from maskfeat_jax.detection import Detections, average_precisions, mean_ap
from tests.input_pipeline.video_samples import decode_all

SIZE, KEY, EXAMPLES = 64, 4, 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("acting_shapes"))


@pytest.fixture(scope="module")
def source(folder) -> ActingShapes:
    return ActingShapes("validation", path=folder, num_examples=EXAMPLES)


@pytest.fixture(scope="module")
def detected(source, folder) -> ActingShapes:
    return ActingShapes("validation", path=folder, num_examples=EXAMPLES, detector=True)


def boxes_of(source, index) -> tuple[np.ndarray, np.ndarray]:
    """Sides and classes of the boxes of an example."""
    rows = slice(*source.boxes.first[index : index + 2])
    return source.boxes.sides[rows], source.boxes.classes[rows]


def drawn(source, index, which) -> np.ndarray:
    """The frames of an example with some of its shapes only."""
    shapes = ActingShapes._shapes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ActingShapes, "_shapes", lambda self, i: shapes(self, i)[which])
        return source.draw(index).astype(int)


def test_boxes_surround_the_shapes(source):
    for index in range(EXAMPLES):
        sides, _ = boxes_of(source, index)
        assert 2 <= len(sides) <= 4
        for shape in range(len(sides)):
            key = drawn(source, index, slice(shape, shape + 1))[KEY]
            rows, columns = np.nonzero((key != key[0, 0]).any(-1))
            found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            np.testing.assert_allclose(SIZE * sides[shape], found, atol=1)


def test_shapes_of_the_key_frame_are_apart(source):
    for index in range(EXAMPLES):
        alone = [
            (key != key[0, 0]).any(-1)
            for shape in range(len(boxes_of(source, index)[0]))
            for key in [drawn(source, index, slice(shape, shape + 1))[KEY]]
        ]
        assert np.sum(alone, 0).max() == 1


def test_classes_agree_with_the_motions_that_are_seen(source):
    rows, columns = np.mgrid[:SIZE, :SIZE]
    seen = set()
    for index in range(EXAMPLES):
        for shape, classes in enumerate(boxes_of(source, index)[1]):
            video = drawn(source, index, slice(shape, shape + 1))
            masks = (video != video[0, 0, 0]).any(-1)
            if masks[:, [0, -1]].any() or masks[:, :, [0, -1]].any():
                continue  # it leaves the frame
            area = masks.sum((1, 2))
            right, down = ((x * masks).sum((1, 2)) / area for x in (columns, rows))
            x, y = (v[-1] - v[0] for v in (right, down))
            growth = area[-1] / area[0]
            moved, resized = max(abs(x), abs(y)) > 4, not 0.75 < growth < 1.33
            (name,) = np.array(source.class_names[:7])[classes[:7]]
            expected = {
                "left": moved and x < -2 * abs(y),
                "right": moved and x > 2 * abs(y),
                "up": moved and y < -2 * abs(x),
                "down": moved and y > 2 * abs(x),
                "growing": growth > 1.33,
                "shrinking": growth < 0.75,
                "turning": not moved and not resized and (masks[0] != masks[-1]).sum() > 10,
            }
            assert expected[name]
            assert (moved, resized) == (
                name in ("left", "right", "up", "down"),
                name in ("growing", "shrinking"),
            )
            seen.add(name)
    assert seen == set(source.class_names[:7])


def test_the_key_frame_is_the_same_with_other_motions(source, monkeypatch):
    before = [source.draw(index) for index in range(EXAMPLES)]
    others = dict(
        zip(acting_shapes._MOTIONS, [*acting_shapes._MOTIONS.values()][::-1], strict=True)
    )
    others["right"] = (0, 0, 0, 0.1)  # else the one in the middle would stay
    monkeypatch.setattr(acting_shapes, "_MOTIONS", others)
    for index in range(EXAMPLES):
        now = source.draw(index)
        np.testing.assert_array_equal(now[KEY], before[index][KEY])
        assert not np.array_equal(now[0], before[index][0])


def test_each_box_has_a_motion_and_an_outline_and_may_be_near_another(source):
    for index in range(EXAMPLES):
        sides, classes = boxes_of(source, index)
        assert (classes[:, :7].sum(1) == 1).all()
        assert (classes[:, 7:10].sum(1) == 1).all()
        for i, a in enumerate(sides):
            gaps = [
                max(b[0] - a[2], a[0] - b[2], b[1] - a[3], a[1] - b[3])
                for j, b in enumerate(sides)
                if j != i
            ]
            assert classes[i, 10] == (min(gaps) < 0.06)
    assert 0.1 < source.boxes.classes[:, 10].mean() < 0.9


def test_groups_are_all_classes(source):
    groups = source.boxes.truth.groups
    assert [source.class_names[k] for k in groups["outline"]] == ["cross", "square", "triangle"]
    assert sorted(sum(groups.values(), ())) == list(range(len(source.class_names)))


def test_videos_are_a_function_of_seed_split_and_index(source, tmp_path):
    again, seed = (
        ActingShapes("validation", path=str(tmp_path), num_examples=2, seed=k) for k in (0, 1)
    )
    test = ActingShapes("test", path=str(tmp_path), num_examples=2)
    for index in range(2):
        frames = decode_all(source.read(index).data)
        assert np.array_equal(decode_all(again.read(index).data), frames)
        assert np.abs(frames.astype(int) - source.draw(index)).mean() < 4
        for other in (seed, test):
            assert not np.array_equal(decode_all(other.read(index).data), frames)
            assert not np.array_equal(other.boxes.sides[:1], source.boxes.sides[:1])
    np.testing.assert_array_equal(again.boxes.sides, source.boxes.sides[: again.boxes.first[-1]])
    assert len({s.fingerprint for s in (again, seed, test, source)}) == 4


def test_clips_have_the_key_frame_and_its_boxes_in_pixels(source):
    view = EvalView(size=32, resize=32, crops=1, frames=4, stride=2, sampling="centred")
    batch = next(Loader(source, view, batch_size=4).eval_batches())
    sides, classes = boxes_of(source, 1)
    assert not np.allclose(sides, boxes_of(source, 0)[0][0])
    valid = batch["box_valid"][1]
    assert valid.sum() == len(sides)
    np.testing.assert_allclose(batch["boxes"][1][valid], (32 * sides).clip(0, 31), atol=0.6)
    np.testing.assert_array_equal(batch["box_classes"][1][valid], classes)
    small = source.draw(1)[::2].reshape(4, 32, 2, 32, 2, 3).mean((2, 4))
    errors = np.abs(batch["video"][1][2].astype(float) - small).mean((1, 2, 3))
    assert errors.argmin() == 2


def ious(a, b) -> np.ndarray:
    common = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    common = common.clip(0).prod(-1)
    areas = [(x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b)]
    return common / (areas[0][:, None] + areas[1] - common)


def test_a_detector_displaces_boxes_and_finds_some_that_are_false(source, detected):
    found, false = [], 0
    for index in range(EXAMPLES):
        (true, classes), (boxes, some) = boxes_of(source, index), boxes_of(detected, index)
        number = len(true)
        overlap = ious(boxes, true)
        found += overlap[range(number), range(number)].tolist()
        np.testing.assert_array_equal(some[:number], classes)
        assert not overlap[number:].any()
        assert not some[number:].any()
        false += len(boxes) - number
    assert 0.7 < np.mean(found) < 0.95
    assert min(found) > 0.3
    assert 5 < false < 2 * EXAMPLES
    assert detected.boxes.most >= source.boxes.most
    assert detected.fingerprint != source.fingerprint
    assert detected.name_of(0) == source.name_of(0)


def test_score_of_perfect_classes(source, detected):
    """1 for the true boxes, a little less for those of the detector, whose IoU may be below 0.5."""
    for boxes, least, most in ((source.boxes, 1, 1), (detected.boxes, 0.85, 1)):
        keys = np.repeat(boxes.keys, np.diff(boxes.first))
        scores = boxes.classes.astype(np.float32)
        found = average_precisions(boxes.truth, Detections(keys, boxes.sides, scores))
        means = mean_ap(found, boxes.truth.groups)
        assert set(means) == {"mAP", "mAP_motion", "mAP_outline", "mAP_company"}
        assert all(least <= mean <= most for mean in means.values())


def test_files_are_the_same_wherever_they_are_made(tmp_path):
    """The encoder must not depend on what its memory held before."""
    made = [ActingShapes(path=str(tmp_path / folder), num_examples=60, size=32) for folder in "ab"]
    files = [[Path(each.name_of(i)).read_bytes() for i in range(60)] for each in made]
    assert files[0] == files[1]
