from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pytest

from input_pipeline import BadInput, BadInputs, EvalView, FullFrameLoader, Loader, TrainView
from input_pipeline.bad_inputs import BadMedia
from input_pipeline.boxes import LabelledBoxes
from input_pipeline.source import Example
from input_pipeline.views import crops
from input_pipeline.views.eval import FrameView

SIDES = np.array([[0.1, 0.2, 0.4, 0.9], [0.55, 0.1, 0.95, 0.45], [0.3, 0.3, 0.5, 0.5]])


@dataclasses.dataclass
class Drawn:
    """Boxes of their own colours on a black frame, and a video of as many such frames."""

    height: int = 120
    width: int = 200
    num_frames: int = 9
    fps: float = 30.0
    key_frame: int = 4

    @contextlib.contextmanager
    def open(self, limits=None):
        yield self

    def frames(self, indices, short_side=None):
        frame = np.zeros((self.height, self.width, 3), np.uint8)
        for channel, (left, top, right, bottom) in enumerate(SIDES[:2]):
            rows = slice(round(top * self.height), round(bottom * self.height))
            frame[rows, round(left * self.width) : round(right * self.width), channel] = 255
        return np.stack([frame] * len(indices))


class KeyFrames:
    """Examples with two boxes, one box, and none; the last cannot be read."""

    class_names, num_examples, fingerprint = ("sit", "run", "talk"), 4, "drawn"
    boxes = LabelledBoxes(
        keys=("a,0902", "a,0903", "b,0902", "b,0903"),
        first=np.array([0, 2, 3, 3, 3]),
        sides=SIDES,
        classes=np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], bool),
    )

    def name_of(self, index):
        return self.boxes.keys[index]

    def read(self, index):
        if index == 3:
            raise BadMedia("missing", "no frames")
        return Example(Drawn(), None)


def placed(height, width, size, window=None):
    """The boxes of a frame whose shorter side is scaled to a size; perhaps of a window of it."""
    scaled = crops.short_side(height, width, size)
    window = window or crops.Window(0, 0, *scaled)
    box = window.within(*scaled)
    return crops.Placement(height, width, box, (window.height, window.width), True)


# Numbers of PySlowFast's own functions.
@pytest.mark.parametrize(
    ("height", "width", "size", "centre", "box", "expected"),
    [
        (480, 854, 224, False, (0.1, 0.2, 0.4, 0.9), (39.8, 44.74, 159.2, 201.3302)),
        (480, 854, 224, True, (0.1, 0.2, 0.4, 0.9), (0, 44.74, 72.2, 201.3302)),
        (480, 854, 224, True, (0, 0, 1, 1), (0, 0, 223, 223)),
        (360, 480, 256, False, (0.25, 0.25, 0.75, 0.75), (85.25, 63.9375, 255.75, 191.8125)),
        (720, 404, 224, True, (0.25, 0.25, 0.75, 0.75), (55.9708, 11.75, 167.9125, 211.25)),
    ],
)
def test_boxes_move_with_the_frame(height, width, size, centre, box, expected):
    window = None
    if centre:
        (window,) = crops.along_longer_side(*crops.short_side(height, width, size), size, 1)
    found = placed(height, width, size, window).boxes(np.array([box]))
    np.testing.assert_allclose(found, [expected], atol=1e-4)


def test_boxes_outside_the_crop_have_no_width():
    window = crops.Window(0, 174, 224, 224)
    (box,) = placed(480, 854, 224, window).boxes(np.array([[0.1, 0.2, 0.4, 0.9]]))
    assert box[0] == box[2] == 0


VIEWS = (
    TrainView(size=48, frames=3, sampling="centred", crop_area=(0.3, 0.6)),
    TrainView(size=48, frames=3, sampling="centred", scale_jitter=(60, 80), repeats=2),
    EvalView(size=48, frames=3, sampling="centred", resize=64),
    FrameView(size=48, frames=3, sampling="centred", resize=50, frame=(50, 83)),
)


@pytest.mark.parametrize("view", VIEWS)
def test_boxes_surround_what_they_did_before_the_crop(view):
    source = KeyFrames()
    cut = view.cut(Drawn(), np.random.default_rng(3))
    read = source.boxes.read(0, cut)
    for clip, boxes in zip(cut.video, read["boxes"], strict=True):
        for channel, (left, top, right, bottom) in enumerate(boxes):
            rows, columns = np.nonzero(clip[1, ..., channel] > 127)
            if not len(rows):  # outside the crop
                assert right - left < 1.5 or bottom - top < 1.5
                continue
            found = columns.min(), rows.min(), columns.max(), rows.max()
            np.testing.assert_allclose(found, [left, top, right, bottom], atol=2)


def test_a_batch_has_boxes_instead_of_labels():
    bad = BadInputs(max_fraction=1.0)
    loader = Loader(KeyFrames(), VIEWS[2], batch_size=4, bad_inputs=bad)
    (batch,) = loader.eval_batches("skip")
    assert "label" not in batch
    shapes = {name: (x.shape, x.dtype) for name, x in batch.items() if name.startswith("box")}
    assert shapes == {
        "boxes": ((4, 2, 4), np.float32),
        "box_classes": ((4, 2, 3), np.bool_),
        "box_valid": ((4, 2), np.bool_),
    }
    assert batch["box_valid"].tolist() == [[True, True], [True, False], [False] * 2, [False] * 2]
    assert batch["valid"].tolist() == [True, True, True, False]
    assert batch["box_classes"][0].tolist() == [[True, False, True], [False] * 3]
    assert not batch["boxes"][~batch["box_valid"]].any()
    assert batch["boxes"][0].any(1).all()


def test_repeats_have_the_boxes_of_their_own_crops():
    loader = Loader(KeyFrames(), VIEWS[1], batch_size=8, bad_inputs=BadInputs(max_fraction=1.0))
    batch = next(loader.train_batches())
    of_first = batch["boxes"][batch["index"] == 0]
    assert len(of_first) == 2
    assert (of_first[0] != of_first[1]).any()


class TwoShapes(KeyFrames):
    """The frames of the second video are tall, and that of the third cannot be read."""

    boxes = dataclasses.replace(
        KeyFrames.boxes,
        keys=("a,0902", "a,0903", "b,0902", "c,0902"),
        first=np.array([0, 2, 2, 3, 3]),
    )

    def read(self, index):
        example = super().read(index)
        return example._replace(data=Drawn(200, 120)) if index == 2 else example


FULL = EvalView(size=48, frames=3, sampling="centred", resize=48, full_frame=True)


def test_whole_frames_come_by_shape():
    loader = FullFrameLoader(TwoShapes(), FULL, batch_size=2)
    batches = list(loader.eval_batches("skip"))
    assert len(batches) == loader.eval_steps == 3
    shapes = [batch["video"].shape[1:4] for batch in batches]
    assert shapes == [(3, 48, 80), (3, 48, 80), (3, 80, 48)]
    assert [batch["index"].tolist() for batch in batches] == [[0, 1], [3, -1], [2, -1]]
    assert [batch["valid"].tolist() for batch in batches] == [
        [True, True],
        [False, False],
        [True, False],
    ]
    expected = crops.Placement(120, 200, (0, 0, 1, 1), (48, 80), True).boxes(SIDES[:2])
    np.testing.assert_allclose(batches[0]["boxes"][0], expected)
    tall = crops.Placement(200, 120, (0, 0, 1, 1), (80, 48), True).boxes(SIDES[2:])
    np.testing.assert_allclose(batches[2]["boxes"][0, :1], tall)
    assert loader.load(0, 2).video.shape == (1, 3, 48, 48, 3)
    with pytest.raises(BadInput, match=r"c,0902 cannot be used \(missing: no frames"):
        list(loader.eval_batches())


def test_frames_of_a_video_that_change_their_shape_are_bad_inputs():
    class Changing(TwoShapes):
        boxes = dataclasses.replace(KeyFrames.boxes, keys=("a,1", "a,2", "a,3", "b,1"))

    with pytest.raises(BadInput, match="a,3 .*80x48 pixels, but the first that.* has 48x80"):
        list(FullFrameLoader(Changing(), FULL, batch_size=4).eval_batches())


def test_boxes_have_one_view():
    for changes, words in (
        ({"crops": 3}, "clips=1, crops=3: expected 1 of each"),
        ({"clips": 2}, "clips=2, crops=1"),
        ({"full_frame": True, "sampling": "dense"}, "full_frame=True needs sampling="),
    ):
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(VIEWS[2], **changes)


def test_boxes_need_clips_around_key_frames():
    dense = dataclasses.replace(VIEWS[2], sampling="dense")
    with pytest.raises(ValueError, match="view.sampling is 'dense'; a dataset with boxes"):
        Loader(KeyFrames(), dense, batch_size=4)
