from __future__ import annotations

import re

import cv2
import numpy as np
import pytest

from input_pipeline.bad_inputs import BadMedia
from input_pipeline.decode.frame_folder import FrameFolder
from input_pipeline.decode.images import open_picture
from input_pipeline.source import Limits
from tests.input_pipeline.samples import encode, picture

NAMES = [f"{i}.jpg" for i in range(4)]


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(encode(picture(number)))
    return tmp_path


def test_frames_are_the_files(folder):
    with FrameFolder(str(folder), NAMES, 30.0).open() as video:
        assert (video.num_frames, video.fps) == (4, 30.0)
        assert (video.height, video.width) == (60, 81)
        frames = video.frames([0, 2, 2, 3])
    pictures = [open_picture((folder / NAMES[i]).read_bytes()).whole() for i in (0, 2, 2, 3)]
    np.testing.assert_array_equal(frames, np.stack([np.asarray(p) for p in pictures]))


def test_only_requested_frames_are_read(folder):
    (folder / NAMES[0]).unlink()
    with FrameFolder(str(folder), NAMES, 30.0, sized_by=2).open() as video:
        assert video.frames([1, 2]).shape == (2, 60, 81, 3)
        with pytest.raises(BadMedia, match=r"missing: 0\.jpg: FileNotFoundError"):
            video.frames([0])


@pytest.mark.parametrize("side", [30, 90])
def test_frames_are_scaled(folder, side):
    with FrameFolder(str(folder), NAMES, 30.0).open() as video:
        scaled, whole = video.frames([1], short_side=side), video.frames([1])
    assert scaled.shape == (1, side, int(81 * side / 60), 3)
    method = cv2.INTER_AREA if side < 60 else cv2.INTER_CUBIC
    expected = cv2.resize(whole[0], scaled.shape[2:0:-1], interpolation=method)
    np.testing.assert_array_equal(scaled[0], expected)


def test_wrong_files_are_bad_inputs_and_named(folder):
    (folder / NAMES[1]).write_bytes(encode(picture(1, 30, 40)))
    (folder / NAMES[2]).write_bytes((folder / NAMES[2]).read_bytes()[:-200])
    (folder / NAMES[3]).write_bytes(b"text")
    with FrameFolder(str(folder), NAMES, 30.0).open() as video:
        for index, words in (
            (1, "decode_error: 1.jpg has 40x30 pixels, 0.jpg has 81x60"),
            (2, "decode_error: 2.jpg: "),
            (3, "not_media: 3.jpg: "),
        ):
            with pytest.raises(BadMedia, match=re.escape(words)):
                video.frames([index])
        with pytest.raises(ValueError, match="frame 4 of a video of 4"):
            video.frames([4])


def test_limits(folder):
    video = FrameFolder(str(folder), NAMES, 30.0)
    with pytest.raises(BadMedia, match=r"too_large: 4 frames, the limit is 3 \(max_frames\)"):
        video.open(Limits(max_frames=3)).__enter__()
    with pytest.raises(BadMedia, match=r"too_large: 0.jpg: 81x60 pixels, the limit is 100"):
        video.open(Limits(max_pixels=100)).__enter__()
